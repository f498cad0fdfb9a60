//! Devices whose files can be copied, with clocks and randomness that the test decides.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use anabranch_core::document::Edit;
use anabranch_core::{
    CollectionName, Digest, EntityId, Entropy, Environment, FieldName, Schema, SpaceName, SplitMix64, UnixMillis,
};
use anabranch_store::{Discarded, OpenMode, OutboxEntry, Store, StoreError};
use serde_json::{Map, Value};

pub(crate) type Outcome = Result<(), StoreError>;

/// The time at which all clocks start.
pub(crate) const NOW: i64 = 1_800_000_000_000;

const SCHEMA: &str = r#"
    version = 1
    [collections.notes.fields]
    title = { kind = "register" }
    body = { kind = "text" }
    stars = { kind = "counter" }
    folder = { kind = "reference", to = "notes", parent = true }
"#;

pub(crate) fn schema() -> Schema {
    Schema::from_toml(SCHEMA).expect("a schema")
}

struct Machine {
    now: Arc<AtomicI64>,
    entropy: SplitMix64,
}

impl Environment for Machine {
    fn now(&self) -> UnixMillis {
        self.now.fetch_add(1, Ordering::Relaxed)
    }

    fn entropy(&mut self) -> &mut dyn Entropy {
        &mut self.entropy
    }
}

/// A device with its file open. Two that are opened with the same seed write under the same actor.
pub(crate) struct Device {
    pub(crate) store: Store,
    path: PathBuf,
    pub(crate) clock: Arc<AtomicI64>,
}

/// A device with a new file in a folder of its own.
pub(crate) fn device(name: &str, seed: u64) -> (tempfile::TempDir, Device) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let device = Device::open(&folder.path().join(name), seed);
    (folder, device)
}

pub(crate) fn stars(by: i64) -> Edit {
    Edit::Increment { field: field("stars"), by }
}

impl Device {
    pub(crate) fn open(path: &Path, seed: u64) -> Self {
        let clock = Arc::new(AtomicI64::new(NOW));
        let machine = Machine { now: Arc::clone(&clock), entropy: SplitMix64::new(seed) };
        let store = Store::open(path, OpenMode::Either(schema()), Box::new(machine)).expect("a replica");
        Self { store, path: path.to_owned(), clock }
    }

    /// Closes the file, and copies it.
    pub(crate) fn copy_to(self, path: &Path) {
        drop(self.store);
        std::fs::copy(&self.path, path).expect("a copy");
    }

    pub(crate) fn create(&self, value: Value) -> Result<EntityId, StoreError> {
        let collection = CollectionName::new("notes").expect("a name");
        self.store.write(move |write| write.create(&space(), &collection, None, &fields(value))).wait()
    }

    pub(crate) fn edit(&self, id: EntityId, edits: Vec<Edit>) -> Result<bool, StoreError> {
        self.store.write(move |write| write.edit(&space(), id, &edits)).wait()
    }

    pub(crate) fn title(&self, id: EntityId, title: &str) -> Result<bool, StoreError> {
        self.edit(id, vec![Edit::Set { field: field("title"), value: title.into() }])
    }

    /// Gives up all that was refused of an entity.
    pub(crate) fn discard(&self, id: EntityId) -> Result<Discarded, StoreError> {
        self.store.write(move |write| write.discard(&space(), id, None)).wait()
    }

    pub(crate) fn state(&self, id: EntityId) -> Result<Map<String, Value>, StoreError> {
        let record = self.store.read(|read| read.entity(&space(), id))?;
        Ok(record.map(|record| record.state).unwrap_or_default())
    }

    pub(crate) fn digests(&self) -> Result<(Digest, Digest), StoreError> {
        self.store.read(|read| Ok((read.space_digest(&space())?, read.state_digest(&space())?)))
    }

    pub(crate) fn outbox(&self) -> Result<Vec<OutboxEntry>, StoreError> {
        self.store.read(|read| read.outbox(false, 100_000, self.clock.load(Ordering::Relaxed)))
    }

    pub(crate) fn refused(&self) -> Result<Vec<OutboxEntry>, StoreError> {
        self.store.read(|read| read.outbox(true, 100_000, self.clock.load(Ordering::Relaxed)))
    }

    /// Gives the other everything that it lacks.
    pub(crate) fn hand_over(&self, to: &Self) -> Outcome {
        let theirs: std::collections::BTreeMap<_, _> =
            to.store.read(|read| read.heads(&space()))?.into_iter().collect();
        for (id, heads) in self.store.read(|read| read.heads(&space()))? {
            let known = theirs.get(&id).cloned().unwrap_or_default();
            if known != heads {
                let changes = self.store.write(move |write| write.changes_beyond(&space(), id, &known)).wait()?;
                to.store.write(move |write| write.apply_peer(&space(), changes)).wait()?;
            }
        }
        Ok(())
    }
}

pub(crate) fn space() -> SpaceName {
    SpaceName::new("main").expect("a name")
}

pub(crate) fn field(name: &str) -> FieldName {
    FieldName::new(name).expect("a name")
}

pub(crate) fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}
