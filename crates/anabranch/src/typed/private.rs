//! What the expansion of the macros needs. Not for use by hand, and free to change.

pub use anabranch_core::{Collection, CustomPolicy, Deletion, OnDelete, Policy, ValueType};
pub use serde_json::json;

use anabranch_core::{CollectionName, FieldName, Lens, RESERVED_COLLECTIONS, Schema};
use serde_json::{Number, Value};

use super::Entity;
use super::entity::Object;
pub use super::shape::{Absent, Changes, Converted, Kinded, NoDefault, Register, Shape};

/// The fields of an entity that has been read.
#[derive(Debug)]
pub struct Fields(pub(super) Object);

impl Fields {
    /// Gives a field that has no value this one, if there is one.
    pub fn fill(&mut self, name: &str, value: impl FnOnce() -> Option<Value>) {
        if !self.0.contains_key(name) {
            self.0.extend(value().map(|value| (name.to_owned(), value)));
        }
    }
}

/// Fails at compile time if the store has a table of this name. (The derive has checked the rest.)
pub const fn check_collection_name(name: &str) {
    let mut at = 0;
    while at < RESERVED_COLLECTIONS.len() {
        assert!(
            !same(name, RESERVED_COLLECTIONS[at]),
            "the store has a table of this name: choose another with `#[entity(collection = \"…\")]`"
        );
        at += 1;
    }
    let prefix = name.len() >= 7 && same(name.split_at(7).0, "sqlite_");
    assert!(!prefix, "SQLite has taken names that begin with `sqlite_`");
}

/// Fails at compile time if two collections have one name.
pub const fn check_distinct(names: &[&str]) {
    let mut at = 0;
    while at < names.len() {
        let mut other = at + 1;
        while other < names.len() {
            assert!(
                !same(names[at], names[other]),
                "two entities of the schema have the same collection: name one with `#[entity(collection = \"…\")]`"
            );
            other += 1;
        }
        at += 1;
    }
}

const fn same(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// The name of a collection that the derive has checked.
#[must_use]
pub fn collection_name(name: &'static str) -> CollectionName {
    CollectionName::new(name).unwrap_or_else(|error| unreachable!("{error}"))
}

/// The name of a field that the derive has checked.
#[must_use]
pub fn field_name(name: &'static str) -> FieldName {
    FieldName::new(name).unwrap_or_else(|error| unreachable!("{error}"))
}

/// A rule's bound.
#[must_use]
pub fn number(value: &Value) -> Option<Number> {
    value.as_number().cloned()
}

/// A rule's values.
#[must_use]
pub fn values(value: Value) -> Option<Vec<Value>> {
    if let Value::Array(values) = value { Some(values) } else { None }
}

/// A lens.
#[must_use]
pub fn lens(map: Value, otherwise: Option<Value>) -> Lens {
    let map = if let Value::Object(map) = map { map.into_iter().collect() } else { Default::default() };
    Lens { map, otherwise }
}

/// A collection of a schema.
#[must_use]
pub fn entry<E: Entity>() -> (CollectionName, Collection) {
    (collection_name(E::COLLECTION), E::describe())
}

/// A schema of collections.
#[must_use]
pub fn schema<const N: usize>(version: u32, collections: [(CollectionName, Collection); N]) -> Schema {
    Schema { version, collections: collections.into_iter().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_that_are_refused_at_compile_time_are_those_the_schema_refuses() {
        let refused = |name: &str| {
            let name = name.to_owned();
            std::panic::catch_unwind(move || check_collection_name(&name)).is_err()
        };
        let folder = tempfile::tempdir().unwrap();
        let replica = crate::Replica::open(folder.path().join("a.db"), schema(1, [])).unwrap();
        let tables = replica.query("SELECT name FROM sqlite_master", &[]).unwrap();
        let tables = tables.iter().filter_map(|row| row["name"].as_str());
        let own = ["notes", "Changes", "sqlite_master", "sqlite", "SQLITE_x"];
        for name in tables.chain(RESERVED_COLLECTIONS.iter().copied()).chain(own).filter(|name| !name.contains('$')) {
            assert_eq!(refused(name), CollectionName::new(name).is_err(), "{name}");
        }
    }

    #[test]
    #[should_panic(expected = "the same collection")]
    fn two_collections_of_one_name_are_refused() {
        check_distinct(&["notes", "folders", "Notes"]);
    }
}
