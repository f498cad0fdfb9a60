//! What it means to go from one version of a schema to another.

use std::fmt;

use serde::Serialize;

use super::{Collection, Field, Kind, Schema, SchemaError};
use crate::name::{CollectionName, FieldName};

/// What a difference between two schema versions does to data that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Nothing.
    None,
    /// The same data is shown or settled differently; replicas of both versions go on together.
    ReadsDifferently,
    /// What stayed in the file so far is pushed to servers, and cannot be called back.
    Shared,
    /// Data stays in the documents and is kept in sync, but this version does not show it as a column.
    Hidden,
    /// The new version cannot be used on a file of the old one.
    Refused,
}

/// One difference between two versions of a schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SchemaChange {
    /// `collection` or `collection.field`.
    pub place: String,
    /// What has changed, for a person.
    pub what: String,
    /// What it does.
    pub effect: Effect,
}

impl fmt::Display for SchemaChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

impl Schema {
    /// Everything that differs in `new`, in the order of the old schema, then what is added.
    #[must_use]
    pub fn changes_to(&self, new: &Self) -> Vec<SchemaChange> {
        let mut changes = Vec::new();
        for (name, old) in &self.collections {
            match new.collections.get(name) {
                Some(new) => compare_collections(name, old, new, &mut changes),
                None if old.local => {
                    changes.push(change(name, "removed: its entities stay here, and have no view", Effect::Hidden));
                }
                None => changes.push(change(
                    name,
                    "removed: its entities are kept and synced, and have no view",
                    Effect::Hidden,
                )),
            }
        }
        for name in new.collections.keys().filter(|name| !self.collections.contains_key(*name)) {
            changes.push(change(name, "added", Effect::None));
        }
        changes
    }

    /// Whether a file of this version can be opened with `new`.
    ///
    /// # Errors
    /// [`SchemaError::Upgrade`] names what stands against it.
    pub fn check_upgrade(&self, new: &Self) -> Result<(), SchemaError> {
        let mut changes = self.changes_to(new).into_iter();
        match changes.find(|change| change.effect == Effect::Refused) {
            Some(refused) => Err(SchemaError::Upgrade(refused.to_string())),
            None => Ok(()),
        }
    }
}

fn change(place: impl fmt::Display, what: impl Into<String>, effect: Effect) -> SchemaChange {
    SchemaChange { place: place.to_string(), what: what.into(), effect }
}

fn compare_collections(name: &CollectionName, old: &Collection, new: &Collection, changes: &mut Vec<SchemaChange>) {
    if old.deletion != new.deletion {
        let what = "another `deletion` policy: entities that were edited and deleted at once come or go";
        changes.push(change(name, what, Effect::ReadsDifferently));
    }
    match (old.local, new.local) {
        (true, false) => changes.push(change(name, "no longer `local`: its entities leave this file", Effect::Shared)),
        (false, true) => {
            let what = "cannot become `local`: what others have cannot be called back. Add another collection";
            changes.push(change(name, what, Effect::Refused));
        }
        _ => {}
    }
    if old.policy != new.policy {
        changes.push(change(name, "another default `policy`: contested values settle anew", Effect::ReadsDifferently));
    }
    for (field_name, field) in &old.fields {
        let place = format!("{name}.{field_name}");
        let key = field.key_under(field_name);
        match new.field_at(key.as_str()) {
            None => changes.push(change(
                place,
                "removed: its values stay in the documents, and in `state` as an unknown field",
                Effect::Hidden,
            )),
            Some((now_name, now)) => {
                if now_name != field_name {
                    let what = format!("shown as `{now_name}`; documents keep the key `{key}`");
                    changes.push(change(&place, what, Effect::ReadsDifferently));
                }
                compare_fields(&place, field, now, changes);
            }
        }
    }
    for (field_name, field) in &new.fields {
        if old.field_at(field.key_under(field_name).as_str()).is_none() {
            added(name, field_name, field, old, changes);
        }
    }
}

fn added(
    collection: &CollectionName,
    name: &FieldName,
    field: &Field,
    old: &Collection,
    changes: &mut Vec<SchemaChange>,
) {
    let place = format!("{collection}.{name}");
    if old.fields.contains_key(name) {
        let what = "the name of a field that had another key: values do not come along";
        changes.push(change(place, what, Effect::ReadsDifferently));
    } else if field.rules.required && field.default.is_none() {
        let what = "added and required: entities that have no value are flagged until one is written";
        changes.push(change(place, what, Effect::ReadsDifferently));
    } else if field.default.is_some() {
        changes.push(change(place, "added, with a default that older entities show", Effect::ReadsDifferently));
    } else {
        changes.push(change(place, "added", Effect::None));
    }
}

fn compare_fields(place: &str, old: &Field, new: &Field, changes: &mut Vec<SchemaChange>) {
    let scalar = |kind| matches!(kind, Kind::Register | Kind::Reference);
    if old.kind != new.kind && !(scalar(old.kind) && scalar(new.kind)) {
        let what = format!(
            "a {} cannot become a {}: what it holds would be hidden. Add a field with another name",
            old.kind.as_str(),
            new.kind.as_str()
        );
        changes.push(change(place, what, Effect::Refused));
        return;
    }
    let mut differs = |what: &str, is: bool, effect| {
        if is {
            changes.push(change(place, what, effect));
        }
    };
    differs("a register becomes a reference, or the other way round", old.kind != new.kind, Effect::ReadsDifferently);
    differs("another `policy`: contested values settle anew", old.policy != new.policy, Effect::ReadsDifferently);
    differs("another `default`", old.default != new.default, Effect::ReadsDifferently);
    differs(
        "other rules: entities that break them are flagged, and their next edit of the field must fulfil them",
        old.rules != new.rules,
        Effect::ReadsDifferently,
    );
    differs("another `lens`: old values are read differently", old.lens != new.lens, Effect::ReadsDifferently);
    differs(
        "another target or `on_delete`",
        (&old.to, old.parent, old.on_delete) != (&new.to, new.parent, new.on_delete),
        Effect::ReadsDifferently,
    );
    differs("another `indexed`: an index is made or dropped", old.indexed != new.indexed, Effect::None);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(fields: &str) -> Schema {
        Schema::from_toml(&format!("version = 1\n[collections.notes.fields]\n{fields}\n")).unwrap()
    }

    fn effects(old: &str, new: &str) -> Vec<(String, Effect)> {
        let changes = schema(old).changes_to(&schema(new));
        changes.into_iter().map(|change| (change.place, change.effect)).collect()
    }

    #[test]
    fn what_stays_may_leave_later_but_not_the_other_way_round() {
        let schema = |local: bool| {
            let text = format!("version = 1\n[collections.drafts]\nlocal = {local}\n[collections.drafts.fields]\n");
            Schema::from_toml(&text).unwrap()
        };
        let effect = |from, to| schema(from).changes_to(&schema(to)).into_iter().map(|c| c.effect).collect::<Vec<_>>();
        assert_eq!(effect(true, false), [Effect::Shared]);
        assert_eq!(effect(false, true), [Effect::Refused]);
        assert!(schema(false).check_upgrade(&schema(true)).is_err());
        assert_eq!(effect(true, true), []);
    }

    #[test]
    fn every_difference_is_told_with_its_effect() {
        let title = "title = { kind = \"register\" }";
        let one = |place: &str, effect| vec![(place.to_owned(), effect)];
        assert_eq!(effects(title, title), []);
        assert_eq!(effects(title, &format!("{title}\nbody = {{ kind = \"text\" }}")), one("notes.body", Effect::None));
        let renamed = "headline = { kind = \"register\", key = \"title\" }";
        assert_eq!(effects(title, renamed), one("notes.title", Effect::ReadsDifferently));
        let text = "title = { kind = \"text\" }";
        assert_eq!(effects(title, text), one("notes.title", Effect::Refused));
        assert!(schema(title).check_upgrade(&schema(text)).unwrap_err().to_string().contains("cannot become a text"));
        assert!(schema(title).check_upgrade(&schema(renamed)).is_ok());
        let body = "body = { kind = \"text\" }";
        let expected = [("notes.title".to_owned(), Effect::Hidden), ("notes.body".to_owned(), Effect::None)];
        assert_eq!(effects(title, body), expected);
        let narrowed = "title = { kind = \"register\", max_length = 3 }";
        assert_eq!(effects(title, narrowed), one("notes.title", Effect::ReadsDifferently));
        let required = format!("{title}\nby = {{ kind = \"register\", required = true }}");
        assert_eq!(effects(title, &required), one("notes.by", Effect::ReadsDifferently));
    }
}
