//! The first half of an edit: everything that can be checked before anything is written.

use std::collections::BTreeMap;
use std::sync::Arc;

use automerge::ScalarValue;
use serde_json::Value;

use super::edit::{Edit, Path, Step};
use super::error::EditError;
use super::genesis::{Genesis, genesis};
use super::value::{Defect, MAX_DEPTH, checked, member_key, to_scalar};
use crate::id::EntityId;
use crate::name::{CollectionName, FieldName};
use crate::schema::{Collection, Field, Kind, Policy};

/// An edit that suits its field.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) field: FieldName,
    /// What the document holds the field under.
    pub(super) key: FieldName,
    /// How what is contested in the field settles.
    pub(super) policy: Policy,
    /// The birth of the field's container or counter, if its kind has one.
    pub(super) genesis: Option<Arc<Genesis>>,
    pub(super) action: Action,
}

/// What to do, with checked values.
#[derive(Debug)]
pub(super) enum Action {
    Register(ScalarValue),
    Count(i64),
    Increment(i64),
    Text(String),
    Splice {
        at: usize,
        delete: usize,
        insert: String,
    },
    /// The set's members, by key.
    Members(BTreeMap<String, Value>),
    Add(String),
    Remove(String),
    /// A list's or map's whole content.
    Content(Value),
    Insert {
        path: Vec<Step>,
        at: usize,
        values: Vec<Value>,
    },
    Put {
        path: Vec<Step>,
        last: Step,
        value: Value,
    },
    /// As `Put`, by the smallest difference.
    Assign {
        path: Vec<Step>,
        last: Step,
        value: Value,
    },
    /// Writes a contested slot, whatever it holds.
    Settle {
        path: Vec<Step>,
        value: Value,
    },
    Delete {
        path: Vec<Step>,
        last: Step,
    },
}

impl Action {
    /// Whether the action needs the field's container, and so gives birth to it if it is not there.
    pub(super) fn bears(&self) -> bool {
        match self {
            Self::Register(_) | Self::Remove(_) => false,
            Self::Count(number) | Self::Increment(number) => *number != 0,
            Self::Text(text) => !text.is_empty(),
            Self::Splice { at, delete, insert } => (*at, *delete) != (0, 0) || !insert.is_empty(),
            Self::Members(members) => !members.is_empty(),
            Self::Content(content) => !is_empty(content),
            Self::Delete { path, last } => !path.is_empty() || matches!(last, Step::Index(_)),
            Self::Settle { path, .. } => !path.is_empty(),
            Self::Add(_) | Self::Insert { .. } | Self::Put { .. } | Self::Assign { .. } => true,
        }
    }
}

/// As [`prepare`], for what another system has done already: rules and write-once fields do not stop it.
pub(super) fn prepare_import(
    name: &CollectionName,
    collection: &Collection,
    edit: &Edit,
) -> Result<Prepared, EditError> {
    let mut prepared = prepare_anyway(name, collection, edit)?;
    if prepared.policy == Policy::FirstWriter {
        prepared.policy = Policy::Lww;
    }
    Ok(prepared)
}

/// Checks an edit against the schema.
pub(super) fn prepare(name: &CollectionName, collection: &Collection, edit: &Edit) -> Result<Prepared, EditError> {
    if let (Edit::Set { value, .. }, Some((field, schema))) = (edit, collection.fields.get_key_value(edit.field())) {
        keeps_rules(field, schema, value)?;
    }
    prepare_anyway(name, collection, edit)
}

/// As [`prepare`], whatever the rules are.
fn prepare_anyway(name: &CollectionName, collection: &Collection, edit: &Edit) -> Result<Prepared, EditError> {
    let (field, schema) = collection
        .fields
        .get_key_value(edit.field())
        .ok_or_else(|| EditError::UnknownField(edit.field().to_string()))?;
    let check = Check { field, kind: schema.kind };
    let action = match edit {
        Edit::Set { value, .. } => check.set(value)?,
        Edit::Increment { by, .. } if check.kind == Kind::Counter => Action::Increment(*by),
        Edit::Splice { at, delete, insert, .. } if check.kind == Kind::Text => {
            Action::Splice { at: *at, delete: *delete, insert: insert.clone() }
        }
        Edit::Add { member, .. } if check.kind == Kind::Set => Action::Add(check.member(member)?.0),
        Edit::Remove { member, .. } if check.kind == Kind::Set => Action::Remove(check.member(member)?.0),
        Edit::Insert { path, at, values, .. } if check.is_nested() => {
            let levels = MAX_DEPTH.saturating_sub(path.0.len() + 1);
            let values = values.iter().map(|value| check.value(value, levels)).collect::<Result<_, _>>()?;
            Action::Insert { path: path.0.clone(), at: *at, values }
        }
        Edit::Put { path, value, .. } if check.is_nested() => {
            let (path, last) = check.split(path)?;
            let value = check.value(value, MAX_DEPTH.saturating_sub(path.len() + 1))?;
            Action::Put { path, last, value }
        }
        Edit::Assign { path, value, .. } if check.is_nested() => {
            let (path, last) = check.split(path)?;
            let value = check.value(value, MAX_DEPTH.saturating_sub(path.len() + 1))?;
            Action::Assign { path, last, value }
        }
        Edit::Delete { path, .. } if check.is_nested() => {
            let (path, last) = check.split(path)?;
            Action::Delete { path, last }
        }
        _ => return Err(check.wrong(own_edits(check.kind))),
    };
    prepared(name, collection, field, schema, action)
}

/// The edit that settles a contested slot of a field.
pub(super) fn settling(
    name: &CollectionName,
    collection: &Collection,
    field: &str,
    path: &Path,
    value: &Value,
) -> Result<Prepared, EditError> {
    let known = collection.fields.get_key_value(field);
    let (field, schema) = known.ok_or_else(|| EditError::UnknownField(field.to_owned()))?;
    let check = Check { field, kind: schema.kind };
    let value = if path.0.is_empty() {
        keeps_rules(field, schema, value)?;
        // A register's value is opaque; a reference must be one.
        check.set(value)?;
        check.value(value, MAX_DEPTH)?
    } else {
        check.value(value, MAX_DEPTH.saturating_sub(path.0.len()))?
    };
    prepared(name, collection, field, schema, Action::Settle { path: path.0.clone(), value })
}

/// What is written into a register keeps the field's rules by itself: read through a lens it may seem to.
fn keeps_rules(field: &FieldName, schema: &Field, value: &Value) -> Result<(), EditError> {
    if schema.kind != Kind::Register || value.is_null() {
        return Ok(());
    }
    let broken = schema.rules.broken_by(value);
    broken.map_or(Ok(()), |rule| Err(EditError::Rule { field: field.clone(), rule }))
}

fn prepared(
    name: &CollectionName,
    collection: &Collection,
    field: &FieldName,
    schema: &Field,
    action: Action,
) -> Result<Prepared, EditError> {
    let key = schema.key_under(field);
    let genesis = match schema.kind.has_genesis() {
        true => Some(genesis(name, key, schema.kind)?),
        false => None,
    };
    let policy = collection.policy_of(schema).clone();
    Ok(Prepared { field: field.clone(), key: key.clone(), policy, genesis, action })
}

const fn own_edits(kind: Kind) -> &'static str {
    match kind {
        Kind::Register | Kind::Reference => "`Set`",
        Kind::Counter => "`Set` and `Increment`",
        Kind::Text => "`Set` and `Splice`",
        Kind::Set => "`Set`, `Add` and `Remove`",
        Kind::List | Kind::Map => "`Set`, `Insert`, `Put`, `Assign` and `Delete`",
    }
}

fn is_empty(content: &Value) -> bool {
    match content {
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        _ => false,
    }
}

/// Checks values for one field.
struct Check<'a> {
    field: &'a FieldName,
    kind: Kind,
}

impl Check<'_> {
    const fn is_nested(&self) -> bool {
        matches!(self.kind, Kind::List | Kind::Map)
    }

    fn wrong(&self, expected: &'static str) -> EditError {
        EditError::WrongKind { field: self.field.clone(), kind: self.kind, expected }
    }

    fn value(&self, value: &Value, levels: usize) -> Result<Value, EditError> {
        let field = || self.field.clone();
        checked(value, levels).map_err(|defect| match defect {
            Defect::TooDeep => EditError::TooDeep { field: field() },
            Defect::NotFinite => EditError::NotFinite { field: field() },
        })
    }

    fn set(&self, value: &Value) -> Result<Action, EditError> {
        let value = self.value(value, MAX_DEPTH)?;
        Ok(match (self.kind, value) {
            (Kind::Register, value) => Action::Register(to_scalar(&value)),
            (Kind::Reference, Value::Null) => Action::Register(ScalarValue::Null),
            (Kind::Reference, Value::String(text)) => {
                // One spelling, so that equal references are equal values.
                let id: EntityId = text.parse().map_err(|_| self.wrong("the id of an entity or null"))?;
                Action::Register(ScalarValue::Str(id.to_string().into()))
            }
            (Kind::Reference, _) => return Err(self.wrong("the id of an entity or null")),
            (Kind::Counter, value) => Action::Count(value.as_i64().ok_or_else(|| self.wrong("an integer"))?),
            (Kind::Text, Value::String(text)) => Action::Text(text),
            (Kind::Text, _) => return Err(self.wrong("a string")),
            (Kind::Set, Value::Array(members)) => {
                Action::Members(members.iter().map(|member| self.member(member)).collect::<Result<_, _>>()?)
            }
            (Kind::List, value @ Value::Array(_)) | (Kind::Map, value @ Value::Object(_)) => Action::Content(value),
            (Kind::Set | Kind::List, _) => return Err(self.wrong("an array")),
            (Kind::Map, _) => return Err(self.wrong("an object")),
        })
    }

    fn member(&self, member: &Value) -> Result<(String, Value), EditError> {
        let member = self.value(member, 0).map_err(|error| match error {
            EditError::TooDeep { .. } => self.wrong("strings, numbers and booleans as members"),
            other => other,
        })?;
        let key = member_key(&member).ok_or_else(|| self.wrong("strings, numbers and booleans as members"))?;
        Ok((key, member))
    }

    /// A path that is not empty, as the way to a container and the last step.
    fn split(&self, path: &Path) -> Result<(Vec<Step>, Step), EditError> {
        let (last, path) = path.0.split_last().ok_or_else(|| EditError::NoSuchElement { field: self.field.clone() })?;
        Ok((path.to_vec(), last.clone()))
    }
}
