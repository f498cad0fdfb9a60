//! What each Rust type is as a field, and how an edit of it is recorded.

use std::collections::BTreeSet;
use std::marker::PhantomData;

use anabranch_core::document::{Edit, Path, Step, TextSplice};
use anabranch_core::{Field, FieldName, Kind, ValueType};
use serde::Serialize;
use serde_json::{Map as Fields, Value};

use super::difference::{Differences, aligned};
use super::{Counter, Entity, List, Map, Reference, Set, Text};

/// A type that is a field of a kind of its own, or a register of a known type.
pub trait Kinded {
    /// The field that it is.
    fn field() -> Field;

    /// The edits that lead from the old value to this one.
    fn edits(&self, change: &Change<'_>, edits: &mut Vec<Edit>) {
        change.register(edits);
    }
}

/// What a field's type makes of it: that of [`Kinded`], or else that of [`Register`]. An inherent function is
/// found before a trait's, which is how the derive gets by without knowing the type.
#[derive(Debug)]
pub struct Shape<T: ?Sized>(PhantomData<T>);

impl<T: Kinded> Shape<T> {
    /// The field.
    #[must_use]
    pub fn field() -> Field {
        T::field()
    }

    /// The edits that lead from the old value to this one.
    pub fn edits(value: &T, change: &Change<'_>, edits: &mut Vec<Edit>) {
        value.edits(change, edits);
    }
}

/// Every other type: a register.
pub trait Register {
    /// The type.
    type Value;

    /// The field.
    #[must_use]
    fn field() -> Field {
        Field::of(Kind::Register)
    }

    /// The edits that lead from the old value to this one.
    fn edits(_: &Self::Value, change: &Change<'_>, edits: &mut Vec<Edit>) {
        change.register(edits);
    }
}

impl<T> Register for Shape<T> {
    type Value = T;
}

/// Stands for a field that functions of the application's convert: its Rust type says nothing about the value.
#[derive(Clone, Copy, Debug)]
pub struct Converted;

/// What a field of this type is while it has no value.
#[derive(Debug)]
pub struct Absent<T: ?Sized>(PhantomData<T>);

impl<T: Default + Serialize> Absent<T> {
    /// The type's default.
    #[must_use]
    pub fn value() -> Option<Value> {
        serde_json::to_value(T::default()).ok()
    }
}

/// Types without a default: serde decides, or complains.
pub trait NoDefault {
    /// Nothing.
    #[must_use]
    fn value() -> Option<Value> {
        None
    }
}

impl<T> NoDefault for Absent<T> {}

/// What an edit did to one field.
#[derive(Debug)]
pub struct Change<'a> {
    field: &'a FieldName,
    /// What the document has.
    actual: Option<&'a Value>,
    /// What the type read of it.
    before: &'a Value,
    after: &'a Value,
}

/// What an edit did to an entity.
#[derive(Debug)]
pub struct Changes<'a> {
    pub(super) actual: &'a Fields<String, Value>,
    pub(super) before: &'a Fields<String, Value>,
    pub(super) after: &'a Fields<String, Value>,
    pub(super) edits: Vec<Edit>,
}

impl Changes<'_> {
    /// Records what was done to one field.
    pub fn of(&mut self, name: &'static str, record: impl FnOnce(&Change<'_>, &mut Vec<Edit>)) {
        const NOTHING: &Value = &Value::Null;
        let field = super::private::field_name(name);
        let change = Change {
            field: &field,
            actual: self.actual.get(name),
            before: self.before.get(name).unwrap_or(NOTHING),
            after: self.after.get(name).unwrap_or(NOTHING),
        };
        record(&change, &mut self.edits);
    }
}

impl Change<'_> {
    fn is_none(&self) -> bool {
        self.before == self.after
    }

    /// Sets the field to what it is now, by whatever difference the document finds.
    fn set(&self, edits: &mut Vec<Edit>) {
        edits.push(Edit::Set { field: self.field.clone(), value: self.after.clone() });
    }

    /// Sets a field that merges, and that was read from a default: none of it is in the document.
    fn set_whole(&self, empty: impl Into<Value>, edits: &mut Vec<Edit>) {
        let (empty, field) = (empty.into(), || self.field.clone());
        // Serde may have been told to skip what is empty.
        let value = if self.after.is_null() { &empty } else { self.after };
        if *value == empty {
            // Emptiness leaves no trace where nothing is, and the default would show again.
            edits.push(Edit::Set { field: field(), value: self.before.clone() });
        }
        edits.push(Edit::Set { field: field(), value: value.clone() });
    }

    fn register(&self, edits: &mut Vec<Edit>) {
        if !self.is_none() {
            self.set(edits);
        }
    }
}

fn register(value_type: ValueType) -> Field {
    let mut field = Field::of(Kind::Register);
    field.rules.value_type = Some(value_type);
    field
}

impl Kinded for Text {
    fn field() -> Field {
        Field::of(Kind::Text)
    }

    fn edits(&self, change: &Change<'_>, edits: &mut Vec<Edit>) {
        if change.is_none() {
            return;
        }
        let [actual, before] = [change.actual, Some(change.before)].map(|text| text.and_then(Value::as_str));
        let before = before.unwrap_or_default();
        // A text that was read from a default is not in the document: a splice would have nothing to stand on.
        let splices = self.splices_from(before).filter(|_| actual.unwrap_or_default() == before);
        let Some(splices) = splices else { return change.set_whole("", edits) };
        edits.extend(splices.iter().cloned().map(|TextSplice { at, delete, insert }| {
            let field = change.field.clone();
            Edit::Splice { field, at, delete, insert }
        }));
    }
}

impl Kinded for Counter {
    fn field() -> Field {
        Field::of(Kind::Counter)
    }

    fn edits(&self, change: &Change<'_>, edits: &mut Vec<Edit>) {
        let [actual, before] =
            [change.actual, Some(change.before)].map(|number| number.and_then(Value::as_i64).unwrap_or_default());
        match self.value().checked_sub(before) {
            Some(0) => {}
            Some(by) if actual == before => edits.push(Edit::Increment { field: change.field.clone(), by }),
            _ => change.set_whole(0, edits),
        }
    }
}

impl<T: Serialize + Ord> Kinded for Set<T> {
    fn field() -> Field {
        Field::of(Kind::Set)
    }

    fn edits(&self, change: &Change<'_>, edits: &mut Vec<Edit>) {
        if change.is_none() && self.inserted().is_empty() {
            return;
        }
        let (before, after) = (items(change.before), items(change.after));
        let keys = |members: &[Value]| members.iter().map(Value::to_string).collect::<BTreeSet<_>>();
        let (old, new) = (keys(before), keys(after));
        if !old.is_subset(&keys(change.actual.map_or(&[], items))) {
            return change.set_whole(Vec::<Value>::new(), edits);
        }
        let field = || change.field.clone();
        let removed = before.iter().filter(|member| !new.contains(&member.to_string())).cloned();
        edits.extend(removed.map(|member| Edit::Remove { field: field(), member }));
        // Members are serialised in their own order, so the two run in step.
        let added = after.iter().zip(self.iter());
        let added = added.filter(|(json, member)| self.inserted().contains(member) || !old.contains(&json.to_string()));
        edits.extend(added.map(|(member, _)| Edit::Add { field: field(), member: member.clone() }));
    }
}

impl<T: Serialize> Kinded for List<T> {
    fn field() -> Field {
        Field::of(Kind::List)
    }

    fn edits(&self, change: &Change<'_>, edits: &mut Vec<Edit>) {
        let (before, after) = (items(change.before), items(change.after));
        let actual = change.actual.map_or(&[][..], items);
        if actual.len() != before.len() {
            if before != after {
                change.set_whole(Vec::<Value>::new(), edits);
            }
            return;
        }
        if before == after && self.origins().iter().copied().eq((0..before.len()).map(Some)) {
            return;
        }
        // A list that was not read from this field remembers nothing of it.
        let mut origins = self.origins().to_vec();
        origins.iter_mut().filter(|origin| origin.is_some_and(|at| at >= before.len())).for_each(|it| *it = None);
        if origins.iter().all(Option::is_none) {
            origins = aligned(before, after);
        }
        Differences::new(change.field, edits).list(actual, before, after, &origins);
    }
}

impl<T: Serialize> Kinded for Map<T> {
    fn field() -> Field {
        Field::of(Kind::Map)
    }

    fn edits(&self, change: &Change<'_>, edits: &mut Vec<Edit>) {
        let nothing = Fields::new();
        let [actual, before, after] = [change.actual, Some(change.before), Some(change.after)]
            .map(|value| value.and_then(Value::as_object).unwrap_or(&nothing));
        if change.is_none() && self.inserted().is_empty() {
            return;
        }
        if before.keys().any(|key| !actual.contains_key(key)) {
            return change.set_whole(Fields::new(), edits);
        }
        for key in self.inserted() {
            if let Some(value) = after.get(key).filter(|value| before.get(key) == Some(*value)) {
                let path = Path(vec![Step::Key(key.clone())]);
                edits.push(Edit::Put { field: change.field.clone(), path, value: value.clone() });
            }
        }
        Differences::new(change.field, edits).map(actual, before, after);
    }
}

impl<E: Entity> Kinded for Reference<E> {
    fn field() -> Field {
        let mut field = Option::<Self>::field();
        field.rules.required = true;
        field
    }
}

impl<E: Entity> Kinded for Option<Reference<E>> {
    fn field() -> Field {
        let mut field = Field::of(Kind::Reference);
        field.to = Some(super::private::collection_name(E::COLLECTION));
        field
    }
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

macro_rules! registers {
    ($($value_type:ident: $($type:ty $(, $rule:ident = $bound:expr)*;)*;)*) => {
        $($(
            impl Kinded for $type {
                fn field() -> Field {
                    #[allow(unused_mut, reason = "not every type has bounds")]
                    let mut field = register(ValueType::$value_type);
                    $(field.rules.$rule = Some($bound);)*
                    field
                }
            }

            impl Kinded for Option<$type> {
                fn field() -> Field {
                    <$type as Kinded>::field()
                }
            }
        )*)*
    };
}

registers! {
    String:
        String;
        char, min_length = 1, max_length = 1;;
    // Bounds are those of the type, as far as a number in JSON and TOML can exceed them.
    Integer:
        i8, min = i8::MIN.into(), max = i8::MAX.into();
        i16, min = i16::MIN.into(), max = i16::MAX.into();
        i32, min = i32::MIN.into(), max = i32::MAX.into();
        i64;
        isize;
        u8, min = 0.into(), max = u8::MAX.into();
        u16, min = 0.into(), max = u16::MAX.into();
        u32, min = 0.into(), max = u32::MAX.into();
        u64, min = 0.into();
        usize, min = 0.into();;
    Number:
        f32;
        f64;;
    Boolean:
        bool;;
}
