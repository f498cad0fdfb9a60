//! Schemas as files, and as spaces carry them.

use std::path::Path;

use anabranch_core::{Effect, Schema, SchemaError, SplitMix64};
use anabranch_store::{Engine, StoreError};
use serde_json::{Map, Value, json};

use super::Input;
use crate::clock::{Machine, VirtualTime, WallClock};

/// What stands between two schemas of which the second follows the first.
const UPGRADE: &str = "\n===\n";

/// Reads the bytes as a schema file, as two of which one follows the other, or as a schema that a space carries.
///
/// # Panics
/// If a schema that passes its checks is not written and read as the same, or no file can be opened with it: that is
/// what the fuzzer looks for.
pub fn schema_parse(bytes: &[u8]) {
    let mut input = Input(bytes);
    let carried = input.next() == b'#';
    let Ok(text) = std::str::from_utf8(if carried { input.0 } else { bytes }) else { return };
    if carried {
        let state = Map::from_iter([("schema".to_owned(), Value::from(text))]);
        let _version: Option<u32> = Schema::carried_version(&state);
        if let Some(schema) = Schema::from_carried(&state) {
            check(&schema);
        }
        return;
    }
    let mut schemas = text.splitn(2, UPGRADE).filter_map(|text| match Schema::from_toml(text) {
        Ok(schema) => Some(schema),
        Err(error) => {
            drop(error.to_string());
            None
        }
    });
    let (old, new) = (schemas.next(), schemas.next());
    if let (Some(old), Some(new)) = (&old, &new) {
        let changes = old.changes_to(new);
        let refused = changes.iter().any(|change| change.effect == Effect::Refused);
        assert_eq!(old.check_upgrade(new).is_err(), refused);
    }
    old.iter().chain(&new).for_each(check);
}

fn check(schema: &Schema) {
    let text = schema.to_toml().expect("a checked schema is TOML");
    assert_eq!(Schema::from_toml(&text).as_ref(), Ok(schema), "{text}");
    assert_eq!(Schema::from_carried(&schema.to_carried()).as_ref(), Some(schema));
    assert_eq!(Schema::carried_version(&schema.to_carried()), Some(schema.version));
    assert_eq!(schema.changes_to(schema), []);
    let fields = Map::from_iter([("title".to_owned(), json!("a"))]);
    for field in schema.collections.values().flat_map(|collection| collection.fields.values()) {
        for value in [json!(null), json!(true), json!(-1.5), json!("aaaaaaaaaaaaaaaaaaaaaaaa!"), json!([1]), json!({})]
        {
            if let Some(rule) = field.rules.broken(Some(&value), &fields) {
                drop(rule.to_string());
            }
            if let Some(lens) = &field.lens {
                drop(lens.read(value, &field.rules));
            }
        }
    }
    open(schema);
}

/// A file has a view for each collection, and indexes.
fn open(schema: &Schema) {
    let environment = Box::new(Machine { clock: WallClock::new(&VirtualTime::new()), entropy: SplitMix64::new(1) });
    match Engine::open(Path::new(":memory:"), Some(schema.clone()), environment) {
        Ok(_) => {}
        // It names functions that the application registers.
        Err(StoreError::Schema(SchemaError::Unregistered(_))) => {}
        Err(error) => panic!("a checked schema is refused by the store: {error}"),
    }
}
