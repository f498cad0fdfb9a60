//! What these tests share: replicas with clocks to set, who meet without a server.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use anabranch_core::document::{Choice, Edit, State};
use anabranch_core::wire::Envelope;
use anabranch_core::{
    CollectionName, Digest, EntityId, Entropy, Environment, FieldName, Functions, Heads, Schema, SpaceName, SplitMix64,
    UnixMillis,
};
use anabranch_store::{Conflict, EntityRecord, OpenMode, Received, Store, StoreError};
use serde_json::{Map, Value};

/// The time at which all clocks start.
pub(crate) const NOW: i64 = 1_800_000_000_000;

pub(crate) type Outcome = Result<(), StoreError>;

struct Machine {
    now: Arc<AtomicI64>,
    entropy: SplitMix64,
}

impl Environment for Machine {
    fn now(&self) -> UnixMillis {
        self.now.load(Ordering::Relaxed)
    }

    fn entropy(&mut self) -> &mut dyn Entropy {
        &mut self.entropy
    }
}

/// Makes replicas in a temporary folder.
pub(crate) struct Fleet {
    folder: tempfile::TempDir,
    functions: Functions,
    opened: AtomicU64,
}

impl Fleet {
    pub(crate) fn new() -> Self {
        let mut functions = Functions::default();
        functions.policy("longest", 1, |all| {
            let text = |value: &Value| value.as_str().map_or(0, str::len);
            all.iter().map(|one| one.value.clone()).max_by_key(text).unwrap_or_default()
        });
        functions.check("even", |value, _| match value.as_i64() {
            Some(number) if number % 2 != 0 => Err("it is odd".to_owned()),
            _ => Ok(()),
        });
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self { folder, functions, opened: AtomicU64::new(1) }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn try_open(&self, name: &str, schema: &Schema, functions: &Functions) -> Result<Replica, StoreError> {
        let now = Arc::new(AtomicI64::new(NOW));
        // The same seeds in every run.
        let seed = self.opened.fetch_add(1, Ordering::Relaxed);
        let machine = Machine { now: Arc::clone(&now), entropy: SplitMix64::new(seed) };
        let mode = OpenMode::Either(schema.clone());
        let store = Store::open_with(&self.path(name), mode, functions, Box::new(machine))?;
        Ok(Replica { store, now })
    }

    pub(crate) fn open(&self, name: &str, schema: &Schema) -> Replica {
        self.try_open(name, schema, &self.functions).expect("a replica")
    }

    /// Replicas with the same schema.
    pub(crate) fn replicas<const N: usize>(&self, schema: &Schema) -> [Replica; N] {
        std::array::from_fn(|number| self.open(&format!("{number}.db"), schema))
    }
}

/// A replica, as the person in front of it has it.
pub(crate) struct Replica {
    pub(crate) store: Store,
    now: Arc<AtomicI64>,
}

impl Replica {
    pub(crate) fn set_clock(&self, now: i64) {
        self.now.store(now, Ordering::Relaxed);
    }

    pub(crate) fn create(&self, collection: &str, value: Value) -> Result<EntityId, StoreError> {
        self.create_as(collection, None, value)
    }

    pub(crate) fn create_as(
        &self,
        collection: &str,
        id: Option<EntityId>,
        value: Value,
    ) -> Result<EntityId, StoreError> {
        let collection = name(collection);
        self.store.write(move |write| write.create(&space(), &collection, id, &fields(value))).wait()
    }

    pub(crate) fn edit(&self, id: EntityId, edits: Vec<Edit>) -> Result<bool, StoreError> {
        self.store.write(move |write| write.edit(&space(), id, &edits)).wait()
    }

    pub(crate) fn set(&self, id: EntityId, field: &str, value: Value) -> Result<bool, StoreError> {
        self.edit(id, vec![set(field, value)])
    }

    pub(crate) fn delete(&self, id: EntityId) -> Result<usize, StoreError> {
        self.store.write_on_rows(move |write| write.delete(&space(), id)).wait()
    }

    pub(crate) fn restore(&self, id: EntityId) -> Outcome {
        self.store.write(move |write| write.restore(&space(), id)).wait()
    }

    pub(crate) fn purge(&self, id: EntityId) -> Outcome {
        self.store.write(move |write| write.purge(&space(), id)).wait()
    }

    pub(crate) fn resolve(&self, id: EntityId, conflict: Digest, choice: Choice) -> Outcome {
        self.store.write(move |write| write.resolve(&space(), id, &conflict, &choice)).wait()
    }

    /// The state that the document itself gives, which the row must agree with.
    pub(crate) fn document_state(&self, id: EntityId) -> Result<State, StoreError> {
        self.store.write(move |write| write.state(&space(), id)).wait()
    }

    pub(crate) fn record(&self, id: EntityId) -> EntityRecord {
        let found = self.store.read(|read| read.entity(&space(), id)).expect("a row that can be read");
        found.expect("the entity")
    }

    pub(crate) fn get(&self, id: EntityId, field: &str) -> Value {
        self.record(id).state.get(field).cloned().unwrap_or_default()
    }

    pub(crate) fn deleted(&self, id: EntityId) -> bool {
        self.record(id).deleted
    }

    pub(crate) fn conflicts(&self, id: EntityId) -> Vec<Conflict> {
        self.store.read(|read| read.conflicts(&space(), id)).expect("the conflicts")
    }

    /// What waits for a person.
    pub(crate) fn queue(&self) -> Vec<Conflict> {
        self.store.read(|read| read.open_conflicts(&space(), 1_000)).expect("the queue")
    }

    pub(crate) fn query(&self, sql: &str) -> Vec<Map<String, Value>> {
        self.store.read(|read| read.query(sql, &[])).expect("a query")
    }

    pub(crate) fn count(&self, table: &str) -> i64 {
        self.query(&format!("SELECT count(*) AS n FROM {table}"))[0]["n"].as_i64().expect("a number")
    }

    /// All that replicas with the same changes and the same schema agree on, byte by byte.
    pub(crate) fn shown(&self) -> Shown {
        let rows = self.query(
            "SELECT id, collection, state, hex(digest) AS digest, deleted, purged, born, conflicts, items, \
             created_at, updated_at FROM entities ORDER BY id",
        );
        let conflicts = self.query("SELECT * FROM \"$conflicts\" ORDER BY id, conflict");
        let digest = self.store.read(|read| read.state_digest(&space())).expect("a digest");
        Shown { rows, conflicts, digest }
    }

    /// The changes of an entity that a replica with these heads lacks.
    pub(crate) fn changes(&self, id: EntityId, beyond: Heads) -> Result<Vec<Envelope>, StoreError> {
        self.store.write(move |write| write.changes_beyond(&space(), id, &beyond)).wait()
    }

    pub(crate) fn receive(&self, changes: Vec<Envelope>) -> Result<Received, StoreError> {
        self.store.write(move |write| write.apply_peer(&space(), changes)).wait()
    }

    fn heads(&self) -> BTreeMap<EntityId, Heads> {
        self.store.read(|read| read.heads(&space())).expect("the heads").into_iter().collect()
    }

    /// Takes in all that another replica has.
    pub(crate) fn pull(&self, from: &Self) -> Outcome {
        let ours = self.heads();
        for (id, heads) in from.heads() {
            let known = ours.get(&id).cloned().unwrap_or_default();
            if known != heads {
                self.receive(from.changes(id, known)?)?;
            }
        }
        Ok(())
    }
}

/// See [`Replica::shown`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shown {
    rows: Vec<Map<String, Value>>,
    conflicts: Vec<Map<String, Value>>,
    digest: Digest,
}

/// Brings everything to everyone, in this order, and demands that all show the same.
pub(crate) fn meet(replicas: &[&Replica]) -> Outcome {
    exchange(replicas)?;
    let first = replicas[0].shown();
    for replica in &replicas[1..] {
        assert_eq!(replica.shown(), first);
    }
    Ok(())
}

/// As [`meet`], for replicas that need not show the same.
pub(crate) fn exchange(replicas: &[&Replica]) -> Outcome {
    for _ in 0..2 {
        for one in replicas {
            for other in replicas.iter().filter(|other| !std::ptr::eq(**other, *one)) {
                one.pull(other)?;
            }
        }
    }
    Ok(())
}

pub(crate) fn schema(collections: &str) -> Schema {
    Schema::from_toml(&format!("version = 1\n{collections}")).expect("a schema")
}

/// The same text as another version.
pub(crate) fn version(number: u32, collections: &str) -> Schema {
    Schema::from_toml(&format!("version = {number}\n{collections}")).expect("a schema")
}

pub(crate) fn space() -> SpaceName {
    SpaceName::new("main").expect("a space name")
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

pub(crate) fn set(name: &str, value: Value) -> Edit {
    Edit::Set { field: field(name), value }
}

pub(crate) fn type_at(name: &str, at: usize, insert: &str) -> Edit {
    Edit::Splice { field: field(name), at, delete: 0, insert: insert.to_owned() }
}

pub(crate) fn increment(name: &str, by: i64) -> Edit {
    Edit::Increment { field: field(name), by }
}
