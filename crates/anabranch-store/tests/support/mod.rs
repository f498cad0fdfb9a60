//! What the store's tests share.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use anabranch_core::document::Edit;
use anabranch_core::{
    CollectionName, EntityId, Entropy, Environment, FieldName, Schema, SpaceName, SplitMix64, UnixMillis,
};
use anabranch_store::{OpenMode, Store, StoreError};
use serde_json::{Map, Value};

pub(crate) const SCHEMA: &str = r#"
    version = 1
    [collections.folders.fields]
    title = { kind = "register" }
    parent = { kind = "reference", to = "folders", parent = true }
    [collections.notes.fields]
    title = { kind = "register", indexed = true }
    body = { kind = "text" }
    stars = { kind = "counter" }
    tags = { kind = "set" }
    items = { kind = "list" }
    extra = { kind = "map" }
"#;

pub(crate) fn schema() -> Schema {
    Schema::from_toml(SCHEMA).expect("the tests' schema")
}

/// A clock that stands still until it is set, and randomness that repeats.
pub(crate) struct Fixed {
    now: Arc<AtomicI64>,
    entropy: SplitMix64,
}

impl Environment for Fixed {
    fn now(&self) -> UnixMillis {
        self.now.load(Ordering::Relaxed)
    }

    fn entropy(&mut self) -> &mut dyn Entropy {
        &mut self.entropy
    }
}

/// The time at which every clock starts.
const START: UnixMillis = 1_800_000_000_000;

static SEED: AtomicU64 = AtomicU64::new(1);

pub(crate) fn environment() -> Box<dyn Environment> {
    let seed = SEED.fetch_add(1, Ordering::Relaxed);
    Box::new(Fixed { now: Arc::new(AtomicI64::new(START)), entropy: SplitMix64::new(seed) })
}

pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    pub(crate) fn open(&self, file: &str) -> Store {
        Store::open(&self.path(file), OpenMode::Either(schema()), environment()).expect("a replica")
    }

    /// A replica with a clock to set, whose every write follows from `seed`.
    pub(crate) fn open_at(&self, file: &str, seed: u64) -> (Store, Arc<AtomicI64>) {
        let now = Arc::new(AtomicI64::new(START));
        let environment = Fixed { now: Arc::clone(&now), entropy: SplitMix64::new(seed) };
        let store = Store::open(&self.path(file), OpenMode::Either(schema()), Box::new(environment));
        (store.expect("a replica"), now)
    }
}

pub(crate) fn space(name: &str) -> SpaceName {
    SpaceName::new(name).expect("a space name")
}

pub(crate) fn name(name: &str) -> CollectionName {
    CollectionName::new(name).expect("a collection name")
}

pub(crate) fn field(name: &str) -> FieldName {
    FieldName::new(name).expect("a field name")
}

pub(crate) fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

pub(crate) fn create(store: &Store, value: Value) -> Result<EntityId, StoreError> {
    store.write(move |write| write.create(&space("main"), &name("notes"), None, &fields(value))).wait()
}

pub(crate) fn edit(store: &Store, id: EntityId, edits: Vec<Edit>) -> Result<bool, StoreError> {
    store.write(move |write| write.edit(&space("main"), id, &edits)).wait()
}

/// Seals an entity's row as it is now, as the store would: what is written to it is then no damage, but a lie.
pub(crate) fn seal(connection: &rusqlite::Connection, id: &str) {
    let sealed = "key, space, id, collection, state, digest, heads, created_at, updated_at, deleted, born, pending, \
                  dirty_fields, conflicts, last_sync_at, log_bytes, items, purged, damaged";
    let seals = row_seals(connection, &format!("SELECT {sealed} FROM entities WHERE id = '{id}'"));
    connection.execute("UPDATE entities SET seal = ? WHERE id = ?", (seals[0], id)).expect("it takes the seal");
}

/// Seals the table of settings as it is now.
pub(crate) fn seal_meta(connection: &rusqlite::Connection) {
    let sum = row_seals(connection, "SELECT key, value FROM meta").into_iter().fold(0, |sum, seal| sum ^ seal);
    connection.execute("UPDATE seals SET sum = ? WHERE name = 'meta'", [sum]).expect("it takes the seal");
}

fn row_seals(connection: &rusqlite::Connection, select: &str) -> Vec<i64> {
    let mut select = connection.prepare(select).expect("a query");
    let columns = select.column_count();
    let seals = select.query_map([], |row| {
        (0..columns).map(|place| row.get(place)).collect::<Result<Vec<_>, _>>().map(|row| seal_of(&row))
    });
    seals.expect("rows").map(|seal| seal.expect("a row")).collect()
}

fn seal_of(row: &[rusqlite::types::Value]) -> i64 {
    use rusqlite::types::Value;
    let mut bytes = Vec::new();
    let mut add = |kind: u8, value: &[u8]| {
        bytes.push(kind);
        bytes.extend_from_slice(&u64::try_from(value.len()).expect("a length").to_le_bytes());
        bytes.extend_from_slice(value);
    };
    for value in row {
        match value {
            Value::Null => add(0, &[]),
            Value::Integer(number) => add(1, &number.to_le_bytes()),
            Value::Real(number) => add(2, &number.to_bits().to_le_bytes()),
            Value::Text(text) => add(3, text.as_bytes()),
            Value::Blob(blob) => add(4, blob),
        }
    }
    let digest = anabranch_core::Digest::of(&bytes);
    i64::from_le_bytes(digest.as_bytes()[..8].try_into().expect("eight bytes"))
}
