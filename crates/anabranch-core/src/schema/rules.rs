//! Rules: what a value must fulfil before it is written, and what is flagged if a merge breaks it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

use crate::document::compare;

/// The longest pattern, in bytes.
pub const MAX_PATTERN_BYTES: usize = 1_024;
/// The memory that a compiled pattern may take, in bytes.
const MAX_COMPILED_BYTES: usize = 1 << 20;
/// Compiled patterns kept per thread.
const MAX_CACHED: usize = 256;

/// What a field's value must fulfil.
///
/// A local write that breaks a rule of a field that it touches is refused. A merge that breaks one is not (it
/// has happened elsewhere already): the entity is flagged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The field has a value: not null, and not empty if it is a text, list, map or set.
    pub required: bool,
    /// The JSON type of a register's value; null is always allowed.
    pub value_type: Option<ValueType>,
    /// The least number.
    pub min: Option<Number>,
    /// The greatest number.
    pub max: Option<Number>,
    /// The least length: characters of a string or text, elements of a list, set or map.
    pub min_length: Option<u32>,
    /// The greatest length.
    pub max_length: Option<u32>,
    /// A regular expression that the whole string or text matches.
    pub pattern: Option<String>,
    /// The values that are allowed.
    pub one_of: Option<Vec<Value>>,
    /// A function of the application's.
    pub check: Option<CustomCheck>,
}

/// The JSON type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueType {
    /// A string.
    String,
    /// A whole number of 64 bits.
    Integer,
    /// Any number.
    Number,
    /// True or false.
    Boolean,
    /// An array.
    Array,
    /// An object.
    Object,
}

impl ValueType {
    /// Whether the value is of this type.
    #[must_use]
    pub fn admits(self, value: &Value) -> bool {
        match self {
            Self::String => value.is_string(),
            Self::Integer => value.is_i64() || value.is_u64(),
            Self::Number => value.is_number(),
            Self::Boolean => value.is_boolean(),
            Self::Array => value.is_array(),
            Self::Object => value.is_object(),
        }
    }
}

/// Says why a value is not allowed, given the value and all fields of the entity.
pub type Check = dyn Fn(&Value, &Map<String, Value>) -> Result<(), String> + Send + Sync;

/// A check of the application's own, known by name.
#[derive(Clone)]
pub struct CustomCheck {
    name: Arc<str>,
    function: Option<Arc<Check>>,
}

impl CustomCheck {
    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether its function has been registered.
    #[must_use]
    pub const fn is_bound(&self) -> bool {
        self.function.is_some()
    }

    pub(crate) fn bind(&mut self, function: Arc<Check>) {
        self.function = Some(function);
    }
}

impl From<String> for CustomCheck {
    fn from(name: String) -> Self {
        Self { name: name.into(), function: None }
    }
}

impl fmt::Debug for CustomCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl PartialEq for CustomCheck {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for CustomCheck {}

/// The rule that a value breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rule {
    /// It is missing or empty.
    Required,
    /// It is of another type.
    Type(ValueType),
    /// It is too small.
    Min(Number),
    /// It is too great.
    Max(Number),
    /// It is too short.
    MinLength(u32),
    /// It is too long.
    MaxLength(u32),
    /// It does not match.
    Pattern(String),
    /// It is not among the allowed values.
    OneOf,
    /// The application's check refuses it.
    Check {
        /// The check.
        name: String,
        /// What it says.
        message: String,
    },
}

impl Rule {
    /// The rule's name, as in a schema file.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Type(_) => "type",
            Self::Min(_) => "min",
            Self::Max(_) => "max",
            Self::MinLength(_) => "min_length",
            Self::MaxLength(_) => "max_length",
            Self::Pattern(_) => "pattern",
            Self::OneOf => "one_of",
            Self::Check { .. } => "check",
        }
    }
}

impl Rule {
    /// How far a value is beyond the rule's bound, if that can be measured.
    pub(crate) fn beyond(&self, value: &Value) -> Option<f64> {
        let length = || length(value).and_then(|length| u32::try_from(length).ok()).map(f64::from);
        match self {
            Self::Min(bound) => Some(bound.as_f64()? - value.as_f64()?),
            Self::Max(bound) => Some(value.as_f64()? - bound.as_f64()?),
            Self::MinLength(bound) => Some(f64::from(*bound) - length()?),
            Self::MaxLength(bound) => Some(length()? - f64::from(*bound)),
            _ => None,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Required => f.write_str("a value is required"),
            Self::Type(wanted) => write!(f, "the type is {wanted:?}"),
            Self::Min(bound) => write!(f, "the least value is {bound}"),
            Self::Max(bound) => write!(f, "the greatest value is {bound}"),
            Self::MinLength(bound) => write!(f, "the least length is {bound}"),
            Self::MaxLength(bound) => write!(f, "the greatest length is {bound}"),
            Self::Pattern(pattern) => write!(f, "the pattern is {pattern}"),
            Self::OneOf => f.write_str("it is not one of the allowed values"),
            Self::Check { name, message } => write!(f, "{name}: {message}"),
        }
    }
}

impl Rules {
    /// No rules.
    pub const NONE: Self = Self {
        required: false,
        value_type: None,
        min: None,
        max: None,
        min_length: None,
        max_length: None,
        pattern: None,
        one_of: None,
        check: None,
    };

    /// Whether there is nothing to fulfil.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::NONE
    }

    /// The first rule that the field breaks in an entity with these fields.
    #[must_use]
    pub fn broken(&self, value: Option<&Value>, fields: &Map<String, Value>) -> Option<Rule> {
        let value = value.filter(|value| !value.is_null());
        if self.required && value.is_none_or(is_empty) {
            return Some(Rule::Required);
        }
        let value = value?;
        if let Some(rule) = self.broken_by(value) {
            return Some(rule);
        }
        let check = self.check.as_ref()?;
        let function = check.function.as_ref()?;
        // What is written elsewhere may surprise it, and must not take the entity away with it.
        let verdict = catch_unwind(AssertUnwindSafe(|| function(value, fields)));
        let message = verdict.unwrap_or_else(|_| Err("the check panicked".to_owned())).err()?;
        Some(Rule::Check { name: check.name.to_string(), message })
    }

    /// The first rule that a value breaks by itself, whatever the rest of the entity is.
    #[must_use]
    pub fn broken_by(&self, value: &Value) -> Option<Rule> {
        if let Some(wanted) = self.value_type.filter(|wanted| !wanted.admits(value)) {
            return Some(Rule::Type(wanted));
        }
        if let Value::Number(_) = value {
            let less = |a: &Value, bound: &Number| compare(a, &Value::Number(bound.clone())).is_lt();
            let greater = |a: &Value, bound: &Number| compare(a, &Value::Number(bound.clone())).is_gt();
            if let Some(bound) = self.min.as_ref().filter(|bound| less(value, bound) && !same(value, bound)) {
                return Some(Rule::Min(bound.clone()));
            }
            if let Some(bound) = self.max.as_ref().filter(|bound| greater(value, bound) && !same(value, bound)) {
                return Some(Rule::Max(bound.clone()));
            }
        }
        if let Some(length) = length(value) {
            let length = u32::try_from(length).unwrap_or(u32::MAX);
            if let Some(bound) = self.min_length.filter(|bound| length < *bound) {
                return Some(Rule::MinLength(bound));
            }
            if let Some(bound) = self.max_length.filter(|bound| length > *bound) {
                return Some(Rule::MaxLength(bound));
            }
        }
        if let (Some(pattern), Value::String(text)) = (&self.pattern, value)
            && !matches(pattern, text)
        {
            return Some(Rule::Pattern(pattern.clone()));
        }
        self.one_of.as_ref().filter(|allowed| !allowed.contains(value)).map(|_| Rule::OneOf)
    }
}

fn is_empty(value: &Value) -> bool {
    length(value) == Some(0)
}

/// `1` and `1.0` are the same number, though not the same JSON.
fn same(value: &Value, bound: &Number) -> bool {
    value.as_f64().is_some_and(|value| bound.as_f64() == Some(value))
}

fn length(value: &Value) -> Option<usize> {
    match value {
        Value::String(text) => Some(text.chars().count()),
        Value::Array(items) => Some(items.len()),
        Value::Object(entries) => Some(entries.len()),
        _ => None,
    }
}

thread_local! {
    static PATTERNS: RefCell<HashMap<String, Option<Regex>>> = RefCell::default();
}

/// Whether the whole text matches. A pattern that cannot be compiled, which a checked schema does not have,
/// matches nothing.
fn matches(pattern: &str, text: &str) -> bool {
    PATTERNS.with_borrow_mut(|cache| {
        if cache.len() >= MAX_CACHED && !cache.contains_key(pattern) {
            cache.clear();
        }
        let compiled = cache.entry(pattern.to_owned()).or_insert_with(|| compile(pattern).ok());
        compiled.as_ref().is_some_and(|regex| regex.is_match(text))
    })
}

/// Compiles a pattern within bounds: a schema may come from another replica.
pub(super) fn compile(pattern: &str) -> Result<Regex, &'static str> {
    if pattern.len() > MAX_PATTERN_BYTES {
        return Err("a `pattern` has at most 1024 bytes");
    }
    let build = |pattern: &str| RegexBuilder::new(pattern).size_limit(MAX_COMPILED_BYTES).build();
    // By itself first: in brackets, `a)|(?:b` would be another pattern than what it says.
    let regex = build(pattern).and_then(|_| build(&format!("^(?:{pattern})$")));
    regex.map_err(|_| "the `pattern` is not a regular expression")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn broken(rules: &Rules, value: Value) -> Option<&'static str> {
        rules.broken(Some(&value), &Map::new()).map(|rule| rule.name())
    }

    #[test]
    fn each_rule_refuses_what_breaks_it_and_nothing_else() {
        let rules = |edit: &dyn Fn(&mut Rules)| {
            let mut rules = Rules::NONE;
            edit(&mut rules);
            rules
        };
        let required = rules(&|r| r.required = true);
        assert_eq!(required.broken(None, &Map::new()), Some(Rule::Required));
        for (value, expected) in [(json!(null), Some("required")), (json!(""), Some("required")), (json!(0), None)] {
            assert_eq!(broken(&required, value), expected);
        }
        let integer = rules(&|r| r.value_type = Some(ValueType::Integer));
        for (value, expected) in [(json!(3), None), (json!(3.5), Some("type")), (json!(null), None)] {
            assert_eq!(broken(&integer, value), expected);
        }
        let range = rules(&|r| (r.min, r.max) = (Some(1.into()), Some(5.into())));
        for (value, expected) in [
            (json!(0), Some("min")),
            (json!(1), None),
            (json!(1.0), None),
            (json!(5.0), None),
            (json!(5.1), Some("max")),
        ] {
            assert_eq!(broken(&range, value), expected);
        }
        let length = rules(&|r| (r.min_length, r.max_length) = (Some(2), Some(3)));
        for (value, expected) in
            [(json!("é"), Some("min_length")), (json!("éé"), None), (json!([1, 2, 3, 4]), Some("max_length"))]
        {
            assert_eq!(broken(&length, value), expected);
        }
        let pattern = rules(&|r| r.pattern = Some("[a-z]+|x1".to_owned()));
        for (value, expected) in [(json!("abc"), None), (json!("x1"), None), (json!("abc1"), Some("pattern"))] {
            assert_eq!(broken(&pattern, value), expected);
        }
        let one_of = rules(&|r| r.one_of = Some(vec![json!("a"), json!(1)]));
        for (value, expected) in [(json!("a"), None), (json!(1), None), (json!("b"), Some("one_of"))] {
            assert_eq!(broken(&one_of, value), expected);
        }
    }

    #[test]
    fn a_check_that_panics_is_a_rule_that_is_broken() {
        let mut check = CustomCheck::from("picky".to_owned());
        check.bind(Arc::new(|value: &Value, _: &Map<String, Value>| {
            value.as_str().map(drop).ok_or_else(|| panic!("no"))
        }));
        let rules = Rules { check: Some(check), ..Rules::NONE };
        assert_eq!(broken(&rules, json!("x")), None);
        assert_eq!(broken(&rules, json!(5)), Some("check"));
    }

    #[test]
    fn a_pattern_is_bounded() {
        assert!(compile("(").is_err());
        assert!(compile(&"a".repeat(MAX_PATTERN_BYTES + 1)).is_err());
        assert!(compile("(a{1000}){1000}").is_err());
        assert!(compile("a)|(?:b").is_err());
    }
}
