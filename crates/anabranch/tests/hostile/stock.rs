//! Honest notes, and hostile changes among theirs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anabranch_core::document::Document;
use anabranch_core::sync::reconcile::{Item, answer_sketch};
use anabranch_core::wire::{Ask, Envelope, Reply};
use anabranch_core::{Actor, Change, ChangeHash, CollectionName, Digest, EntityId, Heads, Stamp};
use serde_json::{Value, json};

use super::support;

/// The hostile changes, with their names.
pub(crate) fn hostile() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../anabranch-core/tests/hostile");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|it| it == "change"));
    files.sort();
    assert!(files.len() >= 24, "the corpus is there");
    let name = |path: &PathBuf| path.file_stem().expect("a name").to_string_lossy().into_owned();
    files.iter().map(|path| (name(path), std::fs::read(path).expect("a file"))).collect()
}

pub(crate) fn notes() -> CollectionName {
    CollectionName::new("notes").expect("a name")
}

/// The changes of an honest note.
pub(crate) fn honest(number: usize) -> Vec<Envelope> {
    let number = u8::try_from(number).expect("a small number");
    let schema = support::schema();
    let collection = &schema.collections["notes"];
    let stamp = |at: i64| Stamp::from_raw(at << 16).expect("a stamp");
    let mut document = Document::new(&Actor::from_bytes(&[1, number]).expect("an actor"));
    let Value::Object(fields) = json!({ "title": "honest", "body": "text", "items": [1] }) else { return Vec::new() };
    document.create(&notes(), collection, stamp(1), &fields).expect("a note");
    document.delete(stamp(2)).expect("deleted");
    document.restore(stamp(3)).expect("restored");
    let changes = document.changes_since(&Heads::default()).expect("changes");
    let envelope = |change: Change| Envelope {
        entity: EntityId::from_bytes([number; 16]),
        collection: notes(),
        parent: None,
        transaction: None,
        change: change.into_bytes(),
    };
    changes.into_iter().map(envelope).collect()
}

/// The last change of an honest note under another writer's name. It claims to be that one's third change: by itself it
/// is fine, and the two before it are nowhere.
pub(crate) fn out_of_place(number: usize) -> Vec<u8> {
    let mut bytes = honest(number).pop().expect("a change").change;
    let actor = [2, 1, u8::try_from(number).expect("a small number")];
    let at = bytes.windows(3).position(|it| it == actor).expect("its actor, after the length");
    bytes[at + 1] = 9;
    let checksum = Digest::of(&bytes[8..]);
    bytes[4..8].copy_from_slice(&checksum.as_bytes()[..4]);
    assert!(Change::parse(bytes.clone()).is_ok_and(|change| change.seq() > 1));
    bytes
}

/// The changes of one note, some of them hostile.
#[derive(Clone)]
pub(crate) struct Batch {
    pub(crate) entity: EntityId,
    pub(crate) changes: Vec<Envelope>,
    /// How many of them are honest.
    pub(crate) honest: u64,
    hostile: Option<Vec<u8>>,
}

impl Batch {
    pub(crate) fn of(changes: Vec<Envelope>) -> Self {
        let honest = u64::try_from(changes.len()).expect("a count");
        Self { entity: changes[0].entity, changes, honest, hostile: None }
    }

    /// An honest note, and a hostile change between its changes.
    pub(crate) fn around(number: usize, hostile: &[u8]) -> Self {
        let mut batch = Self::of(honest(number));
        let at = number % (batch.changes.len() + 1);
        batch.changes.insert(at, Envelope { change: hostile.to_vec(), ..batch.changes[0].clone() });
        batch.hostile = Some(hostile.to_vec());
        batch
    }

    /// The honest changes, and the hostile one.
    pub(crate) fn parts(&self) -> (Vec<Change>, Option<&[u8]>) {
        let honest = self.changes.iter().filter(|it| Some(&it.change) != self.hostile.as_ref());
        let honest = honest.map(|it| Change::parse(it.change.clone()).expect("a change"));
        (honest.collect(), self.hostile.as_deref())
    }

    /// Only what is honest about it.
    pub(crate) fn settle(&mut self) {
        let hostile = self.hostile.take();
        self.changes.retain(|it| Some(&it.change) != hostile.as_ref());
    }

    /// What it claims to be the note's heads.
    fn heads(&self) -> Heads {
        let (honest, hostile) = self.parts();
        let mut heads = Heads::default();
        honest.iter().for_each(|change| heads.advance(change.hash(), change.dependencies()));
        if let Some(bytes) = hostile {
            heads.advance(ChangeHash::from_bytes(*Digest::of(bytes).as_bytes()), &[]);
        }
        heads
    }
}

/// What somebody claims to have, and answers questions about.
#[derive(Clone, Default)]
pub(crate) struct Stock(BTreeMap<EntityId, Batch>);

impl Stock {
    pub(crate) fn add(&mut self, batch: Batch) {
        self.0.insert(batch.entity, batch);
    }

    pub(crate) fn settle(&mut self) {
        self.0.values_mut().for_each(Batch::settle);
    }

    pub(crate) fn changes(&self, entity: &EntityId) -> Vec<Envelope> {
        self.0.get(entity).map(|batch| batch.changes.clone()).unwrap_or_default()
    }

    pub(crate) fn reply(&self, ask: Ask) -> Reply {
        match ask {
            Ask::Sketch(message) | Ask::SketchOf { message, .. } => {
                let items = self.0.iter().map(|(id, batch)| Item::new(*id, &batch.heads())).collect();
                Reply::Sketch(answer_sketch(items, &message).expect("an honest question"))
            }
            Ask::Heads(ids) => {
                let heads = |id: &EntityId| self.0.get(id).map(|it| it.heads().hashes().to_vec()).unwrap_or_default();
                Reply::Heads(ids.iter().map(heads).collect())
            }
            Ask::Changes { wanted, .. } => Reply::Changes {
                changes: wanted.iter().flat_map(|wanted| self.changes(&wanted.entity)).collect(),
                done: u32::try_from(wanted.len()).expect("a count"),
                skip: 0,
            },
        }
    }
}
