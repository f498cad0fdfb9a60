//! The entities that these tests share.

use std::collections::BTreeMap;

use anabranch::{Collection, Counter, Entity, Error, List, Map, Reference, Replica, Set, Text, schema};
use serde::{Deserialize, Serialize};

use crate::support::Folder as Files;

#[derive(Clone, Debug, Default, PartialEq, Entity, Serialize, Deserialize)]
pub(crate) struct Folder {
    pub(crate) name: String,
    pub(crate) above: Option<Reference<Folder>>,
}

/// An element of a list, with what a struct usually has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Step {
    pub(crate) text: String,
    pub(crate) done: bool,
    #[serde(default)]
    pub(crate) hints: Vec<String>,
}

/// Every kind of field.
#[derive(Clone, Debug, Default, PartialEq, Entity, Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) title: String,
    pub(crate) body: Text,
    pub(crate) stars: Counter,
    pub(crate) tags: Set<String>,
    pub(crate) steps: List<Step>,
    pub(crate) numbers: List<u32>,
    pub(crate) prices: Map<f64>,
    pub(crate) table: Map<List<i64>>,
    pub(crate) rows: List<Map<String>>,
    pub(crate) due: Option<String>,
    pub(crate) settings: BTreeMap<String, bool>,
    pub(crate) folder: Option<Reference<Folder>>,
}

pub(crate) fn replica(files: &Files, name: &str) -> Replica {
    Replica::open(files.path(name), schema![Note, Folder]).expect("a replica")
}

pub(crate) fn notes(replica: &Replica) -> Collection<Note> {
    replica.space("main").expect("a space").collection()
}

/// A note, its collection on one replica, and on another that has it, too.
pub(crate) fn shared(files: &Files, note: Note) -> Result<Pair, Error> {
    let (phone, laptop) = (replica(files, "phone.db"), replica(files, "laptop.db"));
    let id = notes(&phone).create(note).wait()?;
    phone.exchange(&laptop)?;
    let (here, there) = (notes(&phone), notes(&laptop));
    Ok(Pair { id, here, there })
}

pub(crate) struct Pair {
    pub(crate) id: anabranch::EntityId,
    pub(crate) here: Collection<Note>,
    pub(crate) there: Collection<Note>,
}

impl Pair {
    /// Brings the two together; both then have the same note.
    pub(crate) fn meet(&self) -> Result<Note, Error> {
        let (phone, laptop) = (self.here.space().replica(), self.there.space().replica());
        phone.exchange(laptop)?;
        let note = self.here.get(self.id)?.expect("the note").value;
        assert_eq!(self.there.get(self.id)?.expect("the note").value, note);
        Ok(note)
    }
}
