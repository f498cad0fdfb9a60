//! Replicas on real files, with clocks that are anything but in step.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use anabranch_core::document::State;
use anabranch_core::sync::{OutboxRead, WriteBatch};
use anabranch_core::wire::{Envelope, Wanted};
use anabranch_core::{
    EntityId, Entropy, Environment, ErrorKind, Heads, Lineage, Schema, SpaceName, SplitMix64, UnixMillis,
};
use anabranch_sim::Dice;
use anabranch_store::{Handover, OpenMode, Store, StoreError};
use serde_json::{Map, Value};

use super::acts::{Act, Known, carry_out};
use super::schemas::functions;
use super::server::Server;

const NOW: i64 = 1_800_000_000_000;
const LINEAGE: Lineage = Lineage::from_bytes([7; 16]);

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

pub(crate) fn space() -> SpaceName {
    SpaceName::new("main").expect("a space name")
}

pub(crate) struct Replica {
    path: PathBuf,
    /// `None` only while it is opened again.
    store: Option<Store>,
    now: Arc<AtomicI64>,
    opens: u64,
    seed: u64,
    /// How far it has pulled.
    place: usize,
}

/// All that replicas with the same changes and the same schema version agree on, byte by byte.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shown {
    entities: Vec<Map<String, Value>>,
    conflicts: Vec<Map<String, Value>>,
    digest: anabranch_core::Digest,
}

impl Replica {
    pub(crate) fn new(folder: &Path, number: usize, schema: &Schema) -> Self {
        let seed = u64::try_from(number).expect("a small number");
        let path = folder.join(format!("{number}.db"));
        let now = Arc::new(AtomicI64::new(NOW));
        let mut replica = Self { path, store: None, now, opens: 0, seed, place: 0 };
        replica.open(schema);
        replica
    }

    /// Opens the file, again if it is open.
    pub(crate) fn open(&mut self, schema: &Schema) {
        self.store = None;
        self.opens += 1;
        let entropy = SplitMix64::new(self.seed * 1_000 + self.opens);
        let machine = Machine { now: Arc::clone(&self.now), entropy };
        let mode = OpenMode::Either(schema.clone());
        let store = Store::open_with(&self.path, mode, &functions(), Box::new(machine)).expect("a replica");
        self.store = Some(store);
    }

    pub(crate) fn store(&self) -> &Store {
        self.store.as_ref().expect("it is open")
    }

    pub(crate) fn version(&self) -> u32 {
        self.store().schema().version
    }

    /// Its clock stands somewhere within twenty years.
    pub(crate) fn set_clock(&self, dice: &mut Dice) {
        let decade = 10 * 365 * 86_400_000;
        let skew = [0, 0, 1, 60_000, -60_000, decade, -decade][dice.below(7)];
        self.now.store(NOW + skew, Ordering::Relaxed);
    }

    pub(crate) fn known(&self) -> Known {
        let rows = self.query("SELECT id, collection FROM entities WHERE born = 1 ORDER BY id");
        let text = |row: &Map<String, Value>, name: &str| row[name].as_str().expect("a text").to_owned();
        let entities: Vec<(EntityId, _)> = rows
            .iter()
            .map(|row| {
                let collection = anabranch_core::CollectionName::new(text(row, "collection")).expect("a name");
                (text(row, "id").parse().expect("an id"), collection)
            })
            .collect();
        let conflicts = self.store().read(|read| {
            let all = entities.iter().map(|(id, _)| read.conflicts(&space(), *id)).collect::<Result<Vec<_>, _>>()?;
            Ok(all.into_iter().flatten().collect())
        });
        Known { space: space(), entities, conflicts: conflicts.expect("the conflicts") }
    }

    /// Does something here. What is refused must have a good reason, and change nothing.
    pub(crate) fn act(&self, act: Act, pick: u64) {
        let (known, before) = (self.known(), self.shown());
        let mut dice = Dice::new(pick);
        self.set_clock(&mut dice);
        let done = self.store().write_on_rows(move |write| carry_out(write, act, &mut dice, &known)).wait();
        if let Err(error) = done {
            self.check_refusal(&error, &before);
        }
    }

    fn check_refusal(&self, error: &StoreError, before: &Shown) {
        let reasons = [ErrorKind::Invalid, ErrorKind::NotFound, ErrorKind::Refused];
        assert!(reasons.contains(&error.kind()), "{error}");
        assert_eq!(self.shown(), *before, "a refused write has changed something: {error}");
    }

    /// Asks for an entity's history to be purged.
    pub(crate) fn purge(&self, pick: u64) {
        let (known, before) = (self.known(), self.shown());
        let gone = self.query("SELECT id FROM entities WHERE deleted = 1 ORDER BY id");
        let mut dice = Dice::new(pick);
        let Some(id) = dice.one_of(&gone).and_then(|row| row["id"].as_str()?.parse().ok()) else { return };
        let done = self.store().write(move |write| write.purge(&known.space, id)).wait();
        if let Err(error) = done {
            self.check_refusal(&error, &before);
        }
    }

    /// Pushes what waits, and hears the answers.
    pub(crate) fn push(&self, server: &mut Server) {
        for _ in 0..20 {
            let read = OutboxRead { space: space(), changes: 7, bytes: 1 << 20 };
            let items = self.store().outbox_page(1, read).wait().expect("a page").items;
            if items.is_empty() {
                return;
            }
            let (keys, envelopes): (Vec<_>, Vec<_>) = items.into_iter().map(|item| (item.key, item.envelope)).unzip();
            let answered = keys.into_iter().zip(server.push(envelopes)).collect();
            self.take(WriteBatch { answered, ..WriteBatch::empty(space(), LINEAGE) });
        }
    }

    pub(crate) fn pull(&mut self, server: &Server) {
        let (incoming, place) = server.after(self.place);
        self.take(WriteBatch { incoming, ..WriteBatch::empty(space(), LINEAGE) });
        self.place = place;
    }

    fn take(&self, batch: WriteBatch) {
        let received = self.store().write(move |write| write.apply_batch(1, batch)).wait().expect("a batch");
        assert_eq!(received.quarantined, 0);
    }

    pub(crate) fn heads(&self) -> BTreeMap<EntityId, Heads> {
        self.store().read(|read| read.heads(&space())).expect("the heads").into_iter().collect()
    }

    /// What a replica with these heads lacks, transactions whole.
    pub(crate) fn beyond(&self, theirs: BTreeMap<EntityId, Heads>) -> Vec<Envelope> {
        let ours = self.heads();
        let lacking: Vec<_> =
            ours.into_iter().filter(|(id, heads)| theirs.get(id) != Some(heads)).map(|(id, _)| id).collect();
        let work = move |write: &mut anabranch_store::Write<'_>| {
            let known =
                |id| Wanted { entity: id, known: theirs.get(&id).map_or_else(Vec::new, |h| h.hashes().to_vec()) };
            let wanted: Vec<_> = lacking.into_iter().map(known).collect();
            let mut handover = Handover::of(write.lacked(&space(), &wanted, 0)?);
            let mut all = Vec::new();
            while let Some((batch, _)) = handover.next_batch() {
                all.extend(write.hand_over(&batch)?);
            }
            Ok::<_, StoreError>(all)
        };
        self.store().write(work).wait().expect("changes")
    }

    pub(crate) fn receive(&self, changes: Vec<Envelope>) {
        let received = self.store().write(move |write| write.apply_peer(&space(), changes)).wait().expect("a parcel");
        assert_eq!(received.quarantined, 0);
    }

    pub(crate) fn query(&self, sql: &str) -> Vec<Map<String, Value>> {
        self.store().read(|read| read.query(sql, &[])).expect("a query")
    }

    pub(crate) fn shown(&self) -> Shown {
        Shown {
            entities: self.query(
                "SELECT id, collection, state, hex(digest) AS digest, deleted, purged, born, conflicts, items, \
                 created_at, updated_at FROM entities WHERE born = 1 ORDER BY id",
            ),
            conflicts: self.query("SELECT * FROM \"$conflicts\" ORDER BY id, conflict"),
            digest: self.store().read(|read| read.state_digest(&space())).expect("a digest"),
        }
    }

    /// An entity's state at some of its heads; `None` if it does not have them (any more).
    pub(crate) fn state_at(&self, id: EntityId, heads: Heads) -> Option<State> {
        let found = self.store().write(move |write| write.state_at(&space(), id, &heads)).wait();
        match found {
            Ok(state) => Some(state),
            Err(StoreError::UnknownVersion(_) | StoreError::NoEntity(_)) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// The rows say what the documents say.
    pub(crate) fn check_rows(&self) {
        for (id, _) in self.known().entities {
            let record = self.store().read(|read| read.entity(&space(), id)).expect("a row").expect("the entity");
            let state = self.store().write(move |write| write.state(&space(), id)).wait().expect("a state");
            assert_eq!(record.state, state.fields);
            assert_eq!(record.deleted, state.deleted || record.purged);
        }
    }
}
