//! Reading a segment. Its bytes come from outside: everything is bounded, and every change is read as any other.

use std::io::Read as _;

use flate2::read::DeflateDecoder;

use super::columns::{Body, Columns, DEPENDENCIES, MESSAGE, OTHERS, SEQ, SHARED, START, VERSION};
use super::history::Before;
use super::{
    MAX_SEGMENT_BYTES, MAX_SEGMENT_CHANGES, MAX_SEGMENT_EXPANDED, MAX_SEGMENT_INFLATED, MAX_SEGMENT_OPS,
    SEGMENT_ENTITIES,
};
use crate::change::{Change, ChangeError, Parts};
use crate::document::{Plain, PlainReader};
use crate::id::{Actor, ChangeHash, Digest, EntityId};
use crate::name::CollectionName;
use crate::schema::Schema;
use crate::stamp::Stamp;

/// Why some bytes are not the segment that was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// The bytes are others than those that were asked for.
    #[error("the segment does not have its digest")]
    Digest,
    /// Larger than [`MAX_SEGMENT_BYTES`], or than [`MAX_SEGMENT_INFLATED`] once inflated.
    #[error("the segment is too large")]
    TooLarge,
    /// It cannot be inflated or read.
    #[error("the segment cannot be read")]
    Unreadable,
    /// It is of another version.
    #[error("the segment's version {0} is not supported")]
    Version(u8),
    /// Its parts contradict each other.
    #[error("the segment contradicts itself: {0}")]
    Inconsistent(&'static str),
    /// A change in it is none.
    #[error("a change in the segment is not admitted: {0}")]
    Change(#[from] ChangeError),
}

/// A segment that has been read.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// Its name.
    pub digest: Digest,
    /// Its size as it came.
    pub bytes: u32,
    /// The collection of its entities.
    pub collection: CollectionName,
    /// Its entities, in ascending order of their ids.
    pub entities: Vec<SegmentEntity>,
}

/// An entity in a segment.
#[derive(Clone, Debug, PartialEq)]
pub struct SegmentEntity {
    /// Its id.
    pub id: EntityId,
    /// Its changes, each after those that it depends on, as far as the segment has them.
    pub changes: Vec<Change>,
    /// What they come to under the schema that the segment was read with, if they are a plain history.
    pub plain: Option<Plain>,
}

const SHORT: SegmentError = SegmentError::Inconsistent("lists of different lengths");

impl Segment {
    /// Reads a segment. With a schema, the states of plain histories are derived as well.
    ///
    /// # Errors
    /// [`SegmentError`]; no input panics, and none takes more memory than a few times [`MAX_SEGMENT_INFLATED`].
    pub fn open(digest: &Digest, bytes: &[u8], schema: Option<&Schema>) -> Result<Self, SegmentError> {
        if bytes.len() > MAX_SEGMENT_BYTES {
            return Err(SegmentError::TooLarge);
        }
        if Digest::of(bytes) != *digest {
            return Err(SegmentError::Digest);
        }
        Self::read(digest, bytes, schema)
    }

    fn read(digest: &Digest, bytes: &[u8], schema: Option<&Schema>) -> Result<Self, SegmentError> {
        let body = inflate(bytes)?;
        let config = bincode::config::standard().with_limit::<{ 4 * MAX_SEGMENT_INFLATED }>();
        let version = *body.first().ok_or(SegmentError::Unreadable)?;
        if version != VERSION {
            return Err(SegmentError::Version(version));
        }
        let (decoded, read): (Body, _) =
            bincode::decode_from_slice(&body, config).map_err(|_| SegmentError::Unreadable)?;
        if read != body.len() {
            return Err(SegmentError::Unreadable);
        }
        let Body { collection, columns, .. } = decoded;
        let size = u32::try_from(bytes.len()).map_err(|_| SegmentError::TooLarge)?;
        let mut entities = Reading::new(&columns)?.all()?;
        if let Some(schema) = schema {
            let reader = PlainReader::new(&collection, schema.collection(collection.as_str()));
            for entity in &mut entities {
                entity.plain = reader.read(&entity.changes);
            }
        }
        Ok(Self { digest: *digest, bytes: size, collection, entities })
    }
}

fn inflate(bytes: &[u8]) -> Result<Vec<u8>, SegmentError> {
    let limit = u64::try_from(MAX_SEGMENT_INFLATED + 1).map_err(|_| SegmentError::TooLarge)?;
    let mut inflated = Vec::new();
    DeflateDecoder::new(bytes).take(limit).read_to_end(&mut inflated).map_err(|_| SegmentError::Unreadable)?;
    if inflated.len() > MAX_SEGMENT_INFLATED { Err(SegmentError::TooLarge) } else { Ok(inflated) }
}

/// A list, from which values are taken one after the other.
struct List<'a, T>(std::slice::Iter<'a, T>);

impl<'a, T: Copy> List<'a, T> {
    fn next(&mut self) -> Result<T, SegmentError> {
        self.0.next().copied().ok_or(SHORT)
    }

    fn take(&mut self, count: usize) -> Result<&'a [T], SegmentError> {
        let (taken, rest) = self.0.as_slice().split_at_checked(count).ok_or(SHORT)?;
        self.0 = rest.iter();
        Ok(taken)
    }
}

/// A segment's body while it is read.
struct Reading<'a> {
    actors: &'a [Actor],
    shared: Vec<Change>,
    common: List<'a, u8>,
    ids: List<'a, u8>,
    counts: List<'a, u32>,
    forms: List<'a, u8>,
    shared_places: List<'a, u32>,
    authors: List<'a, u32>,
    millis: List<'a, i64>,
    counters: List<'a, u16>,
    dependency_counts: List<'a, u32>,
    dependencies: List<'a, u8>,
    seqs: List<'a, u64>,
    starts: List<'a, u64>,
    messages: std::slice::Iter<'a, String>,
    other_counts: List<'a, u32>,
    others: List<'a, u32>,
    lengths: List<'a, u32>,
    ops: List<'a, u8>,
    last_millis: i64,
    before: Before,
}

impl<'a> Reading<'a> {
    fn new(columns: &'a Columns) -> Result<Self, SegmentError> {
        let shared: Result<Vec<_>, _> = columns.shared.iter().map(|bytes| Change::parse(bytes.clone())).collect();
        Ok(Self {
            actors: &columns.actors,
            shared: shared?,
            common: List(columns.common.iter()),
            ids: List(columns.ids.iter()),
            counts: List(columns.counts.iter()),
            forms: List(columns.forms.iter()),
            shared_places: List(columns.shared_places.iter()),
            authors: List(columns.authors.iter()),
            millis: List(columns.millis.iter()),
            counters: List(columns.counters.iter()),
            dependency_counts: List(columns.dependency_counts.iter()),
            dependencies: List(columns.dependencies.iter()),
            seqs: List(columns.seqs.iter()),
            starts: List(columns.starts.iter()),
            messages: columns.messages.iter(),
            other_counts: List(columns.other_counts.iter()),
            others: List(columns.others.iter()),
            lengths: List(columns.lengths.iter()),
            ops: List(columns.ops.iter()),
            last_millis: 0,
            before: Before::default(),
        })
    }

    fn all(mut self) -> Result<Vec<SegmentEntity>, SegmentError> {
        if self.common.0.len() > SEGMENT_ENTITIES || self.forms.0.len() > MAX_SEGMENT_CHANGES {
            return Err(SegmentError::TooLarge);
        }
        let mut entities: Vec<SegmentEntity> = Vec::new();
        let (mut ops, mut expanded) = (0, 0);
        while let Some(common) = self.common.0.next() {
            let common = usize::from(*common);
            let mut id = entities.last().map_or([0; 16], |entity| *entity.id.as_bytes());
            let rest = self.ids.take(16usize.checked_sub(common).ok_or(SHORT)?)?;
            id[common..].copy_from_slice(rest);
            let id = EntityId::from_bytes(id);
            if entities.last().is_some_and(|last| last.id >= id) {
                return Err(SegmentError::Inconsistent("the order of the ids"));
            }
            let count = self.counts.next()?;
            if count == 0 {
                return Err(SegmentError::Inconsistent("an entity without changes"));
            }
            self.before.clear();
            let mut changes = Vec::new();
            for _ in 0..count {
                let change = self.change()?;
                ops += change.op_count();
                expanded += change.bytes().len();
                if ops > MAX_SEGMENT_OPS || expanded > MAX_SEGMENT_EXPANDED {
                    return Err(SegmentError::TooLarge);
                }
                self.before.add(&change);
                changes.push(change);
            }
            entities.push(SegmentEntity { id, changes, plain: None });
        }
        // A list that goes on would be a second spelling of the same segment.
        let ends = [self.ids.0.len(), self.counts.0.len(), self.forms.0.len(), self.ops.0.len(), self.lengths.0.len()];
        if ends.iter().any(|left| *left > 0) { Err(SHORT) } else { Ok(entities) }
    }

    fn change(&mut self) -> Result<Change, SegmentError> {
        let form = self.forms.next()?;
        if form & SHARED != 0 {
            let place = index(self.shared_places.next()?);
            return self.shared.get(place).cloned().ok_or(SHORT);
        }
        let actors = self.actors;
        let actor = actors.get(index(self.authors.next()?)).ok_or(SHORT)?;
        let dependencies = if form & DEPENDENCIES != 0 {
            let count = index(self.dependency_counts.next()?);
            let hashes = self.dependencies.take(count.checked_mul(32).ok_or(SHORT)?)?;
            hashes.chunks_exact(32).map(ChangeHash::try_from).collect::<Result<_, _>>().map_err(|_| SHORT)?
        } else {
            self.before.dependencies(actor)
        };
        let seq = if form & SEQ != 0 { self.seqs.next()? } else { self.before.next_seq(actor) };
        let start_op = if form & START != 0 { self.starts.next()? } else { self.before.next_op() };
        let message = if form & MESSAGE != 0 { self.messages.next().ok_or(SHORT)?.as_str() } else { "" };
        let others = if form & OTHERS != 0 {
            let count = index(self.other_counts.next()?);
            let places = self.others.take(count)?.iter();
            places.map(|place| actors.get(index(*place)).map(Actor::as_bytes)).collect::<Option<_>>().ok_or(SHORT)?
        } else {
            Vec::new()
        };
        let stamp = self.stamp()?;
        let length = index(self.lengths.next()?);
        let columns = self.ops.take(length)?;
        let parts = Parts { dependencies: &dependencies, actor, seq, start_op, stamp, message, others, columns };
        Ok(parts.assemble()?)
    }

    fn stamp(&mut self) -> Result<Stamp, SegmentError> {
        const STAMP: SegmentError = SegmentError::Inconsistent("a stamp is out of range");
        self.last_millis = self.last_millis.checked_add(self.millis.next()?).ok_or(STAMP)?;
        let high = self.last_millis.checked_mul(1 << 16).ok_or(STAMP)?;
        let raw = high.checked_add(i64::from(self.counters.next()?)).ok_or(STAMP)?;
        Stamp::from_raw(raw).ok_or(STAMP)
    }
}

/// A place or length that a segment gives; what is not there is found out where it is used.
fn index(place: u32) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}
