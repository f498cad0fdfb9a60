//! The body of a segment: its changes, field by field, so that like stands beside like and deflates well.

use bincode::{Decode, Encode};

use crate::id::Actor;
use crate::name::CollectionName;

/// The version of the layout.
pub(super) const VERSION: u8 = 1;

/// The change is one that several entities have, by its place among those.
pub(super) const SHARED: u8 = 1;
/// Its dependencies are given; else they are the entity's heads so far, and the actor's previous change.
pub(super) const DEPENDENCIES: u8 = 2;
/// Its sequence number is given; else it follows the actor's previous change.
pub(super) const SEQ: u8 = 4;
/// Its first op is given; else it follows the last op of the entity so far.
pub(super) const START: u8 = 8;
/// It has a message.
pub(super) const MESSAGE: u8 = 16;
/// It names other actors.
pub(super) const OTHERS: u8 = 32;

/// One list per field. Lists of optional fields have entries only for the changes whose form says so.
#[derive(Debug, Default, Encode, Decode)]
pub(super) struct Columns {
    /// Actors, by place.
    pub(super) actors: Vec<Actor>,
    /// Changes that several entities have, whole.
    pub(super) shared: Vec<Vec<u8>>,
    /// For each entity, how many bytes its id has in common with the one before; ids ascend.
    pub(super) common: Vec<u8>,
    /// The rest of all ids.
    pub(super) ids: Vec<u8>,
    /// For each entity, how many changes it has.
    pub(super) counts: Vec<u32>,
    /// For each change, what is given and what follows.
    pub(super) forms: Vec<u8>,
    pub(super) shared_places: Vec<u32>,
    /// For each change that is not shared, its actor's place.
    pub(super) authors: Vec<u32>,
    /// Its stamp's milliseconds, less those of the one before.
    pub(super) millis: Vec<i64>,
    /// Its stamp's counter.
    pub(super) counters: Vec<u16>,
    pub(super) dependency_counts: Vec<u32>,
    /// 32 bytes each.
    pub(super) dependencies: Vec<u8>,
    pub(super) seqs: Vec<u64>,
    pub(super) starts: Vec<u64>,
    pub(super) messages: Vec<String>,
    pub(super) other_counts: Vec<u32>,
    pub(super) others: Vec<u32>,
    /// The lengths of its columns.
    pub(super) lengths: Vec<u32>,
    /// The tables of columns and the columns, one after the other.
    pub(super) ops: Vec<u8>,
}

/// A segment's body.
#[derive(Debug, Encode, Decode)]
pub(super) struct Body {
    pub(super) version: u8,
    pub(super) collection: CollectionName,
    pub(super) columns: Columns,
}
