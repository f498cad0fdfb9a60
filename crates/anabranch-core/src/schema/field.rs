//! Fields: what they are in the document, and what may be said of them.

use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};

use super::lens::Lens;
use super::policy::Policy;
use super::rules::{Rules, ValueType, compile};
use crate::name::{CollectionName, FieldName};

/// One field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Flat", into = "Flat")]
pub struct Field {
    /// What the field is, and so how concurrent writes to it merge.
    pub kind: Kind,
    /// How contested values settle; `None` for the collection's policy.
    pub policy: Option<Policy>,
    /// The name under which documents hold the field, if it is not the field's own: the name it had first.
    pub key: Option<FieldName>,
    /// Whether the store keeps an SQL index on the field.
    pub indexed: bool,
    /// The collection that a `reference` points into.
    pub to: Option<CollectionName>,
    /// Whether the entity that a `reference` names is this one's parent: it is pushed first.
    pub parent: bool,
    /// What becomes of this entity when the one that a `reference` names is deleted.
    pub on_delete: OnDelete,
    /// What a register shows while it has no value.
    pub default: Option<Value>,
    /// What a local write must fulfil.
    pub rules: Rules,
    /// How values of older schema versions are read.
    pub lens: Option<Lens>,
}

impl Field {
    /// A field of this kind with everything else at its default.
    #[must_use]
    pub const fn of(kind: Kind) -> Self {
        Self {
            kind,
            policy: None,
            key: None,
            indexed: false,
            to: None,
            parent: false,
            on_delete: OnDelete::Keep,
            default: None,
            rules: Rules::NONE,
            lens: None,
        }
    }

    /// The key under which documents hold the field, if this is its name.
    #[must_use]
    pub fn key_under<'a>(&'a self, name: &'a FieldName) -> &'a FieldName {
        self.key.as_ref().unwrap_or(name)
    }

    /// Checks the rules that concern the field alone.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let Rules { value_type, min, max, min_length, max_length, pattern, one_of, .. } = &self.rules;
        let is_register = matches!(self.kind, Kind::Register | Kind::Reference);
        if self.policy.is_some() && !self.kind.settles() {
            return Err("texts, counters and sets merge; they have no `policy`");
        }
        if matches!(self.policy, Some(Policy::Custom(_))) && !is_register {
            return Err("only registers and references can have a custom `policy`");
        }
        if !is_register && (self.default.is_some() || self.lens.is_some() || value_type.is_some() || one_of.is_some()) {
            return Err("only a register has `type`, `one_of`, `default` or a `lens`");
        }
        if self.kind == Kind::Reference && self.lens.is_some() {
            return Err("a reference has no `lens`");
        }
        if self.kind == Kind::Counter && self.rules.required {
            return Err("a counter always has a value; it is not `required`");
        }
        let unfit = |value: &Value| !value.is_null() && self.rules.broken_by(value).is_some();
        if self.lens.as_ref().is_some_and(|lens| lens.map.values().chain(&lens.otherwise).any(unfit)) {
            return Err("what the `lens` reads breaks the field's own rules");
        }
        if (min.is_some() || max.is_some()) && !matches!(self.kind, Kind::Register | Kind::Counter) {
            return Err("only registers and counters have `min` and `max`");
        }
        if (min_length.is_some() || max_length.is_some()) && matches!(self.kind, Kind::Counter | Kind::Reference) {
            return Err("counters and references have no length");
        }
        if let Some(pattern) = pattern {
            if !matches!(self.kind, Kind::Register | Kind::Text) {
                return Err("only registers and texts have a `pattern`");
            }
            compile(pattern)?;
        }
        match &self.default {
            Some(value) if self.rules.broken_by(value).is_some() => Err("the `default` breaks the field's own rules"),
            _ => Ok(()),
        }
    }
}

/// What a field is in the document, and so how concurrent writes to it merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One value, written as a whole; contested values settle by the field's [`Policy`].
    Register,
    /// A sum of increments.
    Counter,
    /// Text that merges character by character.
    Text,
    /// A sequence that merges element by element.
    List,
    /// Keys and values that merge key by key.
    Map,
    /// Members; a concurrent addition wins over a removal.
    Set,
    /// The id of another entity, as a register.
    Reference,
}

impl Kind {
    /// Whether fields of this kind live in a container (or counter) that is born in a genesis change.
    #[must_use]
    pub const fn has_genesis(self) -> bool {
        !matches!(self, Self::Register | Self::Reference)
    }

    /// Whether fields of this kind have slots in which concurrent values are contested, and so a policy.
    #[must_use]
    pub const fn settles(self) -> bool {
        matches!(self, Self::Register | Self::Reference | Self::List | Self::Map)
    }

    /// The kind's name, as in a schema file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Counter => "counter",
            Self::Text => "text",
            Self::List => "list",
            Self::Map => "map",
            Self::Set => "set",
            Self::Reference => "reference",
        }
    }
}

/// What becomes of an entity when the one that it refers to is deleted.
///
/// A deletion that meets a reference it did not know of (two replicas were apart) deletes nothing and clears
/// nothing: the entity that refers is flagged, and a person decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDelete {
    /// Nothing: the reference stays as it is, and nothing is flagged unless it is a `parent`.
    #[default]
    Keep,
    /// The deletion is refused.
    Restrict,
    /// The entity is deleted, too, in the same transaction.
    Cascade,
    /// The reference is cleared, in the same transaction.
    Nullify,
}

/// A field as a schema file has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Flat {
    kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    policy: Option<Policy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<FieldName>,
    #[serde(default, skip_serializing_if = "is_default")]
    indexed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<CollectionName>,
    #[serde(default, skip_serializing_if = "is_default")]
    parent: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    on_delete: OnDelete,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    default: Option<Value>,
    #[serde(default, skip_serializing_if = "is_default")]
    required: bool,
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    value_type: Option<ValueType>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    min: Option<Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max: Option<Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    min_length: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_length: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pattern: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    one_of: Option<Vec<Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    check: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lens: Option<Lens>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl From<Flat> for Field {
    fn from(flat: Flat) -> Self {
        let Flat { kind, policy, key, indexed, to, parent, on_delete, default, lens, .. } = flat;
        let Flat { required, value_type, min, max, min_length, max_length, pattern, one_of, check, .. } = flat;
        let check = check.map(Into::into);
        let rules = Rules { required, value_type, min, max, min_length, max_length, pattern, one_of, check };
        Self { kind, policy, key, indexed, to, parent, on_delete, default, rules, lens }
    }
}

impl From<Field> for Flat {
    fn from(field: Field) -> Self {
        let Field { kind, policy, key, indexed, to, parent, on_delete, default, rules, lens } = field;
        let Rules { required, value_type, min, max, min_length, max_length, pattern, one_of, check } = rules;
        let check = check.map(|check| check.name().to_owned());
        Self {
            kind,
            policy,
            key,
            indexed,
            to,
            parent,
            on_delete,
            default,
            required,
            value_type,
            min,
            max,
            min_length,
            max_length,
            pattern,
            one_of,
            check,
            lens,
        }
    }
}
