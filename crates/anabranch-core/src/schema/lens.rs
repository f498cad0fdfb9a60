//! Lenses: how a register written under an older schema version is read under this one.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};

use super::rules::{Rules, ValueType};
use crate::document::canonical_json;

/// How values that an older schema version wrote are read, when the field's type has been narrowed since.
///
/// A value that fits the field's rules is left alone. Another is looked up in `map`; else converted, if that
/// loses nothing (`"12"` as an integer, `3` as a string); else it is `otherwise`, if there is one. What none of
/// these takes is shown as it is, and flagged. The document keeps what was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lens {
    /// Old values (strings as they are, others as JSON text) and what each is read as.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub map: IndexMap<String, Value>,
    /// What every other value is read as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otherwise: Option<Value>,
}

impl Lens {
    /// The value as a field with these rules reads it.
    #[must_use]
    pub fn read(&self, value: Value, rules: &Rules) -> Value {
        if value.is_null() || rules.broken_by(&value).is_none() {
            return value;
        }
        let mapped = match &value {
            Value::String(text) => self.map.get(text),
            other => self.map.get(&canonical_json(other)),
        };
        let converted = || rules.value_type.and_then(|wanted| convert(&value, wanted));
        mapped.cloned().or_else(converted).or_else(|| self.otherwise.clone()).unwrap_or(value)
    }
}

/// A conversion that can be undone.
fn convert(value: &Value, wanted: ValueType) -> Option<Value> {
    match (wanted, value) {
        (ValueType::String, Value::Bool(_) | Value::Number(_)) => Some(Value::String(value.to_string())),
        (ValueType::Boolean, Value::String(text)) => text.parse::<bool>().ok().map(Value::Bool),
        (ValueType::Integer, Value::String(text)) => text.parse::<i64>().ok().map(Value::from),
        (ValueType::Number, Value::String(text)) => text
            .parse::<i64>()
            .ok()
            .map(Value::from)
            .or_else(|| text.parse::<f64>().ok().and_then(Number::from_f64).map(Value::Number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn old_values_are_mapped_then_converted_then_replaced() {
        let lens = Lens {
            map: IndexMap::from([("high".to_owned(), json!(3)), ("true".to_owned(), json!(1))]),
            otherwise: Some(json!(0)),
        };
        let integer = Rules { value_type: Some(ValueType::Integer), ..Rules::NONE };
        for (old, read) in [
            (json!("high"), json!(3)),
            (json!(true), json!(1)),
            (json!("12"), json!(12)),
            (json!(7), json!(7)),
            (json!("none"), json!(0)),
            (json!(1.5), json!(0)),
            (json!(null), json!(null)),
        ] {
            assert_eq!(lens.read(old.clone(), &integer), read, "{old}");
        }
        let strict = Lens::default();
        assert_eq!(strict.read(json!("none"), &integer), json!("none"), "nothing is lost");
        let string = Rules { value_type: Some(ValueType::String), ..Rules::NONE };
        assert_eq!(strict.read(json!(3), &string), json!("3"));
    }
}
