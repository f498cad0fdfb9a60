//! JSON and Automerge's scalars, there and back without loss; the canonical form of JSON; the order of values.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt::Write as _;

use automerge::{ScalarValue, hydrate};
use serde_json::{Map, Number, Value};

pub use crate::change::MAX_DEPTH;

/// The first byte of an array or object that is written as a whole, into a register.
const OPAQUE_JSON: u8 = 0x01;

/// A JSON value as text with sorted keys and no spaces: equal values have equal text.
///
/// ```
/// use anabranch_core::document::canonical_json;
/// let value = serde_json::json!({ "b": [1, 2.5], "a": null });
/// assert_eq!(canonical_json(&value), r#"{"a":null,"b":[1,2.5]}"#);
/// ```
#[must_use]
pub fn canonical_json(value: &Value) -> String {
    let mut text = String::new();
    write_canonical(value, &mut text);
    text
}

fn write_canonical(value: &Value, text: &mut String) {
    match value {
        Value::Array(items) => {
            text.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    text.push(',');
                }
                write_canonical(item, text);
            }
            text.push(']');
        }
        Value::Object(entries) => {
            let mut sorted: Vec<_> = entries.iter().collect();
            sorted.sort_unstable_by_key(|(key, _)| *key);
            text.push('{');
            for (at, (key, item)) in sorted.into_iter().enumerate() {
                if at > 0 {
                    text.push(',');
                }
                append(text, &Value::String(key.clone()));
                text.push(':');
                write_canonical(item, text);
            }
            text.push('}');
        }
        // With serde_json's arbitrary precision a number keeps its own spelling; this one spelling wins.
        Value::Number(number) => append(text, &plain_number(number).map_or(Value::Null, Value::Number)),
        scalar => append(text, scalar),
    }
}

fn append(text: &mut String, scalar: &Value) {
    // Writing to a string cannot fail.
    if write!(text, "{scalar}").is_err() {
        unreachable!("a string takes everything");
    }
}

/// The number as an `i64`, `u64` or finite `f64`, whichever fits first.
fn plain_number(number: &Number) -> Option<Number> {
    if let Some(int) = number.as_i64() {
        return Some(int.into());
    }
    if let Some(uint) = number.as_u64() {
        return Some(uint.into());
    }
    number.as_f64().and_then(Number::from_f64)
}

/// Why a JSON value cannot be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Defect {
    TooDeep,
    NotFinite,
}

/// The value with numbers in their one form, if it has at most `levels` levels of arrays and objects.
pub(super) fn checked(value: &Value, levels: usize) -> Result<Value, Defect> {
    Ok(match value {
        Value::Number(number) => Value::Number(plain_number(number).ok_or(Defect::NotFinite)?),
        Value::Array(items) => {
            let levels = levels.checked_sub(1).ok_or(Defect::TooDeep)?;
            Value::Array(items.iter().map(|item| checked(item, levels)).collect::<Result<_, _>>()?)
        }
        Value::Object(entries) => {
            let levels = levels.checked_sub(1).ok_or(Defect::TooDeep)?;
            let entry = |(key, item): (&String, &Value)| Ok((key.clone(), checked(item, levels)?));
            Value::Object(entries.iter().map(entry).collect::<Result<Map<_, _>, _>>()?)
        }
        scalar => scalar.clone(),
    })
}

/// A checked value as one scalar; arrays and objects become opaque.
pub(super) fn to_scalar(value: &Value) -> ScalarValue {
    match value {
        Value::Null => ScalarValue::Null,
        Value::Bool(flag) => ScalarValue::Boolean(*flag),
        Value::String(text) => ScalarValue::Str(text.as_str().into()),
        Value::Number(number) => to_number(number),
        container => {
            let mut bytes = vec![OPAQUE_JSON];
            bytes.extend_from_slice(canonical_json(container).as_bytes());
            ScalarValue::Bytes(bytes)
        }
    }
}

fn to_number(number: &Number) -> ScalarValue {
    if let Some(int) = number.as_i64() {
        return ScalarValue::Int(int);
    }
    if let Some(uint) = number.as_u64() {
        return ScalarValue::Uint(uint);
    }
    number.as_f64().map_or(ScalarValue::Null, ScalarValue::F64)
}

/// What a scalar means as JSON. Total: scalars that only a foreign writer makes have a form as well.
pub(super) fn from_scalar(scalar: &ScalarValue) -> Value {
    match scalar {
        ScalarValue::Null => Value::Null,
        ScalarValue::Boolean(flag) => Value::Bool(*flag),
        ScalarValue::Str(text) => Value::String(text.to_string()),
        ScalarValue::Int(int) | ScalarValue::Timestamp(int) => (*int).into(),
        ScalarValue::Uint(uint) => (*uint).into(),
        ScalarValue::F64(float) => Number::from_f64(*float).map_or(Value::Null, Value::Number),
        ScalarValue::Counter(counter) => i64::from(counter).into(),
        ScalarValue::Bytes(bytes) => from_opaque(bytes).unwrap_or_else(|| foreign(bytes)),
        ScalarValue::Unknown { bytes, .. } => foreign(bytes),
    }
}

fn from_opaque(bytes: &[u8]) -> Option<Value> {
    let (&OPAQUE_JSON, json) = bytes.split_first()? else { return None };
    let value = serde_json::from_slice(json).ok()?;
    checked(&value, MAX_DEPTH).ok()
}

fn foreign(bytes: &[u8]) -> Value {
    let mut object = Map::new();
    object.insert("$bytes".to_owned(), Value::String(hex::encode(bytes)));
    Value::Object(object)
}

/// A checked value as nested objects, for a slot of a list or map.
pub(super) fn to_nested(value: &Value) -> hydrate::Value {
    match value {
        Value::Array(items) => items.iter().map(to_nested).collect::<Vec<_>>().into(),
        Value::Object(entries) => {
            let entries = entries.iter().map(|(key, item)| (key.clone(), to_nested(item)));
            hydrate::Value::Map(entries.collect::<HashMap<_, _>>().into())
        }
        scalar => hydrate::Value::Scalar(to_scalar(scalar)),
    }
}

/// The key under which a set holds a checked member, if it can be a member.
pub(super) fn member_key(member: &Value) -> Option<String> {
    matches!(member, Value::Bool(_) | Value::Number(_) | Value::String(_)).then(|| canonical_json(member))
}

/// The member that a set's key stands for, if the key is in its one canonical form.
pub(super) fn member_of(key: &str) -> Option<Value> {
    let member = serde_json::from_str(key).ok()?;
    (member_key(&member)? == key).then_some(member)
}

/// A total order over JSON scalars: null, then booleans, numbers by size, strings; arrays and objects last.
pub(crate) fn compare(a: &Value, b: &Value) -> Ordering {
    let class = |value: &Value| match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Number(_) => 2,
        Value::String(_) => 3,
        Value::Array(_) => 4,
        Value::Object(_) => 5,
    };
    class(a).cmp(&class(b)).then_with(|| match (a, b) {
        (Value::Number(a), Value::Number(b)) => compare_numbers(a, b),
        (Value::String(a), Value::String(b)) => a.cmp(b),
        _ => canonical_json(a).cmp(&canonical_json(b)),
    })
}

fn compare_numbers(a: &Number, b: &Number) -> Ordering {
    // Great integers share a float, so the exact integer comes second, and the text settles 1 and 1.0.
    let float = |number: &Number| number.as_f64().unwrap_or(0.0);
    let exact = |number: &Number| number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
    (float(a).total_cmp(&float(b)))
        .then_with(|| exact(a).cmp(&exact(b)))
        .then_with(|| a.to_string().cmp(&b.to_string()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn scalars() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_filter("finite", |float| float.is_finite()).prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
        ]
    }

    fn values() -> impl Strategy<Value = Value> {
        scalars().prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(".{0,6}", inner, 0..4)
                    .prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_register_reads_as_it_was_written(value in values()) {
            prop_assert_eq!(from_scalar(&to_scalar(&value)), value);
        }

        #[test]
        fn canonical_text_reads_as_the_value(value in values()) {
            let text = canonical_json(&value);
            let back: Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(canonical_json(&back), text);
            prop_assert_eq!(back, value);
        }

        #[test]
        fn members_survive_their_key(member in scalars()) {
            match member_key(&member) {
                None => prop_assert!(member.is_null()),
                Some(key) => prop_assert_eq!(member_of(&key), Some(member)),
            }
        }

        #[test]
        fn the_order_is_total(a in scalars(), b in scalars(), c in scalars()) {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            if compare(&a, &b).is_le() && compare(&b, &c).is_le() {
                prop_assert!(compare(&a, &c).is_le());
            }
            prop_assert_eq!(compare(&a, &b).is_eq(), canonical_json(&a) == canonical_json(&b));
        }

        #[test]
        fn any_bytes_have_a_form(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            drop(canonical_json(&from_scalar(&ScalarValue::Bytes(bytes))));
        }
    }

    #[test]
    fn numbers_sort_by_size() {
        let mut members = vec![json!("a"), json!(10), json!(9.5), json!(-1), json!(u64::MAX), json!(true), json!(1.0)];
        members.sort_by(compare);
        assert_eq!(json!(members), json!([true, -1, 1.0, 9.5, 10, u64::MAX, "a"]));
    }

    #[test]
    fn depth_is_bounded_at_its_limit() {
        let nested = |levels| (0..levels).fold(json!(1), |inner, _| json!([inner]));
        assert!(checked(&nested(MAX_DEPTH), MAX_DEPTH).is_ok());
        assert_eq!(checked(&nested(MAX_DEPTH + 1), MAX_DEPTH), Err(Defect::TooDeep));
    }
}
