//! Building a segment.

use std::collections::HashMap;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::DeflateEncoder;

use super::columns::{Body, Columns, DEPENDENCIES, MESSAGE, OTHERS, SEQ, SHARED, START, VERSION};
use super::history::Before;
use super::{
    MAX_SEGMENT_CHANGES, MAX_SEGMENT_EXPANDED, MAX_SEGMENT_INFLATED, MAX_SEGMENT_OPS, Piece, SEGMENT_BYTES,
    SEGMENT_CHANGES, SEGMENT_ENTITIES, SEGMENT_EXPANDED, SEGMENT_OPS,
};
use crate::change::{Change, Parts};
use crate::id::{Actor, ChangeHash, Digest, EntityId};
use crate::name::CollectionName;

/// What a change costs at most, beside its bytes.
const OVERHEAD: usize = 64;

/// A segment that has been built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// How a manifest lists it.
    pub piece: Piece,
    /// The first of its entities.
    pub first: EntityId,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Collects entities of one collection, in ascending order of their ids, until a segment is full.
#[derive(Debug)]
pub struct SegmentBuilder {
    collection: CollectionName,
    columns: Columns,
    first: Option<EntityId>,
    last: EntityId,
    actors: HashMap<Actor, u32>,
    shared: HashMap<ChangeHash, u32>,
    before: Before,
    last_millis: i64,
    /// The body's size, rather more than less.
    size: usize,
    ops: usize,
    expanded: usize,
    max_entities: usize,
}

impl SegmentBuilder {
    /// An empty one.
    #[must_use]
    pub fn new(collection: CollectionName) -> Self {
        Self {
            collection,
            columns: Columns::default(),
            first: None,
            last: EntityId::from_bytes([0; 16]),
            actors: HashMap::new(),
            shared: HashMap::new(),
            before: Before::default(),
            last_millis: 0,
            size: 256,
            ops: 0,
            expanded: 0,
            max_entities: SEGMENT_ENTITIES,
        }
    }

    /// The same, full at this number of entities already; at least one, at most [`SEGMENT_ENTITIES`].
    #[must_use]
    pub fn with_max_entities(mut self, most: usize) -> Self {
        self.max_entities = most.clamp(1, SEGMENT_ENTITIES);
        self
    }

    /// Whether nothing has been added.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Whether the segment is large enough to be finished.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let Columns { counts, forms, .. } = &self.columns;
        self.size >= SEGMENT_BYTES
            || counts.len() >= self.max_entities
            || forms.len() >= SEGMENT_CHANGES
            || self.ops >= SEGMENT_OPS
            || self.expanded >= SEGMENT_EXPANDED
    }

    /// Whether a change of the entity that was added last still has room.
    fn takes(&self, change: &Change) -> bool {
        let bytes = change.bytes().len();
        self.size + bytes + OVERHEAD + 32 * change.dependencies().len() <= MAX_SEGMENT_INFLATED
            && self.columns.forms.len() < MAX_SEGMENT_CHANGES
            && self.ops + change.op_count() <= MAX_SEGMENT_OPS
            && self.expanded + bytes <= MAX_SEGMENT_EXPANDED
    }

    /// Adds a change to an entity, after those that it depends on. `false`, and nothing is added, if there is no
    /// room for it, or the entity's id is not the last one's or after it: the segment must be finished first.
    pub fn add(&mut self, entity: EntityId, change: &Change) -> bool {
        let is_new = self.first.is_none() || entity != self.last;
        if !self.is_empty() && (!self.takes(change) || entity < self.last || (is_new && self.is_full())) {
            return false;
        }
        if is_new {
            self.begin(entity);
        }
        if let Some(count) = self.columns.counts.last_mut() {
            *count += 1;
        }
        self.size += OVERHEAD / 4;
        self.ops += change.op_count();
        self.expanded += change.bytes().len();
        match change.parts() {
            // Geneses: nobody's edits, and the same for all entities.
            Ok(parts) if !(change.actor().is_derived() && parts.dependencies.is_empty()) => self.write(&parts),
            _ => self.share(change),
        }
        self.before.add(change);
        true
    }

    fn begin(&mut self, entity: EntityId) {
        let alike = self.last.as_bytes().iter().zip(entity.as_bytes()).take_while(|(a, b)| a == b).count();
        let alike = if self.first.is_none() { 0 } else { alike.min(15) };
        self.columns.common.push(u8::try_from(alike).unwrap_or(0));
        self.columns.ids.extend_from_slice(&entity.as_bytes()[alike..]);
        self.columns.counts.push(0);
        self.first = self.first.or(Some(entity));
        self.last = entity;
        self.before.clear();
        self.size += 18;
    }

    fn share(&mut self, change: &Change) {
        let next = place(self.columns.shared.len());
        let known = *self.shared.entry(change.hash()).or_insert(next);
        if known == next {
            self.size += change.bytes().len();
            self.columns.shared.push(change.bytes().to_vec());
        }
        self.columns.forms.push(SHARED);
        self.columns.shared_places.push(known);
    }

    fn write(&mut self, parts: &Parts<'_>) {
        let Parts { dependencies, actor, seq, start_op, stamp, message, others, columns } = parts;
        let mut form = 0;
        let mut given = |flag: u8, given: bool| {
            form |= if given { flag } else { 0 };
            given
        };
        let author = self.actor(actor);
        if given(DEPENDENCIES, self.before.dependencies(actor) != *dependencies) {
            self.columns.dependency_counts.push(place(dependencies.len()));
            dependencies.iter().for_each(|hash| self.columns.dependencies.extend_from_slice(hash.as_bytes()));
            self.size += 32 * dependencies.len();
        }
        if given(SEQ, self.before.next_seq(actor) != *seq) {
            self.columns.seqs.push(*seq);
        }
        if given(START, self.before.next_op() != *start_op) {
            self.columns.starts.push(*start_op);
        }
        if given(MESSAGE, !message.is_empty()) {
            self.columns.messages.push((*message).to_owned());
        }
        if given(OTHERS, !others.is_empty()) {
            self.columns.other_counts.push(place(others.len()));
            let others: Vec<u32> =
                others.iter().filter_map(|bytes| Actor::from_bytes(bytes)).map(|other| self.actor(&other)).collect();
            self.size += 5 * others.len();
            self.columns.others.extend(others);
        }
        self.columns.forms.push(form);
        self.columns.authors.push(author);
        let millis = stamp.raw() >> 16;
        self.columns.millis.push(millis - self.last_millis);
        self.last_millis = millis;
        self.columns.counters.push(u16::try_from(stamp.raw() & 0xffff).unwrap_or(0));
        self.columns.lengths.push(place(columns.len()));
        self.columns.ops.extend_from_slice(columns);
        self.size += columns.len() + message.len();
    }

    fn actor(&mut self, actor: &Actor) -> u32 {
        if let Some(place) = self.actors.get(actor) {
            return *place;
        }
        let place = place(self.columns.actors.len());
        self.columns.actors.push(actor.clone());
        self.actors.insert(actor.clone(), place);
        self.size += actor.as_bytes().len() + 5;
        place
    }

    /// The segment; `None` if nothing has been added, or memory fails.
    #[must_use]
    pub fn finish(self) -> Option<Built> {
        let Self { collection, columns, first, .. } = self;
        let first = first?;
        let entities = place(columns.counts.len());
        let body = Body { version: VERSION, collection: collection.clone(), columns };
        let body = bincode::encode_to_vec(&body, bincode::config::standard()).ok()?;
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&body).ok()?;
        let bytes = encoder.finish().ok()?;
        let piece = Piece { digest: Digest::of(&bytes), collection, entities, bytes: place(bytes.len()) };
        Some(Built { piece, first, bytes })
    }
}

/// A place or length in a segment; its bounds keep all of them within 32 bits.
fn place(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
