//! Looks for numbers that JSON does not have. It would write them as null, which here means "no value".

use std::fmt::{self, Display};

use serde::Serialize;
use serde::ser::{self, Serializer};

/// Checks that every number in a value is finite. What else may be wrong with it shows when it is serialised.
pub(super) fn check(value: &impl Serialize) -> Result<(), Infinite> {
    value.serialize(Check)
}

/// A number that is infinite or none (NaN), and the way to it.
#[derive(Debug)]
pub(super) struct Infinite {
    /// The innermost name comes last.
    path: Vec<&'static str>,
    reason: String,
}

impl Infinite {
    fn within(mut self, name: &'static str) -> Self {
        self.path.insert(0, name);
        self
    }
}

impl Display for Infinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path.join("."))?;
        }
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Infinite {}

impl ser::Error for Infinite {
    fn custom<T: Display>(reason: T) -> Self {
        Self { path: Vec::new(), reason: reason.to_string() }
    }
}

/// Serialises into nothing.
struct Check;

macro_rules! passes {
    ($($method:ident($($type:ty),*);)*) => {
        $(fn $method(self, $(_: $type),*) -> Result<(), Infinite> {
            Ok(())
        })*
    };
}

macro_rules! opens {
    ($($method:ident($($type:ty),*);)*) => {
        $(fn $method(self, $(_: $type),*) -> Result<Self, Infinite> {
            Ok(self)
        })*
    };
}

impl Serializer for Check {
    type Ok = ();
    type Error = Infinite;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    fn serialize_f32(self, number: f32) -> Result<(), Infinite> {
        self.serialize_f64(number.into())
    }

    fn serialize_f64(self, number: f64) -> Result<(), Infinite> {
        if number.is_finite() { Ok(()) } else { Err(ser::Error::custom("a number must be finite")) }
    }

    passes! {
        serialize_bool(bool);
        serialize_i8(i8);
        serialize_i16(i16);
        serialize_i32(i32);
        serialize_i64(i64);
        serialize_i128(i128);
        serialize_u8(u8);
        serialize_u16(u16);
        serialize_u32(u32);
        serialize_u64(u64);
        serialize_u128(u128);
        serialize_char(char);
        serialize_str(&str);
        serialize_bytes(&[u8]);
        serialize_none();
        serialize_unit();
        serialize_unit_struct(&'static str);
        serialize_unit_variant(&'static str, u32, &'static str);
    }

    opens! {
        serialize_seq(Option<usize>);
        serialize_tuple(usize);
        serialize_tuple_struct(&'static str, usize);
        serialize_tuple_variant(&'static str, u32, &'static str, usize);
        serialize_map(Option<usize>);
        serialize_struct(&'static str, usize);
        serialize_struct_variant(&'static str, u32, &'static str, usize);
    }

    fn collect_str<T: Display + ?Sized>(self, _: &T) -> Result<(), Infinite> {
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Infinite> {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Infinite> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Result<(), Infinite> {
        value.serialize(self)
    }
}

macro_rules! elements {
    ($($kind:ident: $($method:ident),*;)*) => {
        $(impl ser::$kind for Check {
            type Ok = ();
            type Error = Infinite;

            $(fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Infinite> {
                value.serialize(Check)
            })*

            fn end(self) -> Result<(), Infinite> {
                Ok(())
            }
        })*
    };
}

elements! {
    SerializeSeq: serialize_element;
    SerializeTuple: serialize_element;
    SerializeTupleStruct: serialize_field;
    SerializeTupleVariant: serialize_field;
    SerializeMap: serialize_key, serialize_value;
}

macro_rules! fields {
    ($($kind:ident),*) => {
        $(impl ser::$kind for Check {
            type Ok = ();
            type Error = Infinite;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Infinite> {
                value.serialize(Check).map_err(|infinite| infinite.within(name))
            }

            fn end(self) -> Result<(), Infinite> {
                Ok(())
            }
        })*
    };
}

fields!(SerializeStruct, SerializeStructVariant);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Serialize)]
    struct Outer {
        name: &'static str,
        inner: Inner,
        shape: Shape,
    }

    #[derive(Serialize)]
    struct Inner {
        parts: Vec<Option<(u8, f32)>>,
        named: BTreeMap<String, f64>,
    }

    #[derive(Serialize)]
    enum Shape {
        Nothing,
        Round(f64),
        Square { side: f64 },
    }

    fn outer(part: f32, named: f64, shape: Shape) -> Outer {
        let inner = Inner { parts: vec![None, Some((1, part))], named: [("a".to_owned(), named)].into() };
        Outer { name: "n", inner, shape }
    }

    #[test]
    fn what_is_not_finite_is_found_wherever_it_is() {
        assert!(check(&outer(1.0, f64::MAX, Shape::Nothing)).is_ok());
        for (value, expected) in [
            (outer(f32::NAN, 0.0, Shape::Nothing), "inner.parts"),
            (outer(0.0, f64::INFINITY, Shape::Nothing), "inner.named"),
            (outer(0.0, 0.0, Shape::Round(f64::NAN)), "shape"),
            (outer(0.0, 0.0, Shape::Square { side: f64::NEG_INFINITY }), "shape.side"),
        ] {
            assert_eq!(check(&value).unwrap_err().to_string(), format!("{expected}: a number must be finite"));
        }
    }
}
