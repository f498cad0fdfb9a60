//! Answering: from an index over what a space holds, and without a document.

use crate::id::{EntityId, Heads};
use crate::name::CollectionName;
use crate::sync::append::Offered;
use crate::sync::reconcile::{HEADS_BYTES, Item, SketchError, Visit, Walk, answer_sketch};
use crate::wire::{Ask, Envelope, Reply, Wanted};

/// What a side that answers holds of one space.
pub trait ReconcileIndex {
    /// The storage's error.
    type Error;
    /// Every entity's item, in any order; one more than [`MAX_ITEMS`](super::MAX_ITEMS) at most. With `of`, those
    /// only whose collection [is among these](is_among).
    ///
    /// # Errors
    /// If the storage cannot say.
    fn items(&mut self, of: Option<&[CollectionName]>) -> Result<Vec<Item>, Self::Error>;
    /// The heads of an entity; none if nothing of it is here.
    ///
    /// # Errors
    /// If the storage cannot say.
    fn heads(&mut self, entity: &EntityId) -> Result<Heads, Self::Error>;
    /// Goes through the log of an entity from its end, as long as `each` returns `true`.
    ///
    /// # Errors
    /// If the storage cannot be read.
    fn newest_first(&mut self, entity: &EntityId, each: &mut dyn FnMut(Offered) -> bool) -> Result<(), Self::Error>;
}

/// Whether a reconcile of these collections is about this one: what the system keeps belongs to all.
#[must_use]
pub fn is_among(of: Option<&[CollectionName]>, collection: &CollectionName) -> bool {
    of.is_none_or(|names| collection.is_system() || names.contains(collection))
}

/// Answers a question from what `index` holds, with at most so many bytes of changes, and so many changes: a single
/// change may go over both.
///
/// # Errors
/// The index's error; inside, what is wrong with the question.
pub fn reply<I: ReconcileIndex>(
    index: &mut I,
    ask: &Ask,
    bytes: usize,
    changes: usize,
) -> Result<Result<Reply, SketchError>, I::Error> {
    match ask {
        Ask::Sketch(message) => Ok(answer_sketch(index.items(None)?, message).map(Reply::Sketch)),
        Ask::SketchOf { collections, message } => {
            Ok(answer_sketch(index.items(Some(collections))?, message).map(Reply::Sketch))
        }
        Ask::Heads(entities) => heads_reply(entities.iter().map(|entity| index.heads(entity))).map(Ok),
        Ask::Changes { wanted, skip } => Page::default().fill(index, wanted, *skip, bytes, changes).map(Ok),
    }
}

/// Answers with these heads, or with as many of them as one answer may hold.
///
/// # Errors
/// Those of the heads.
pub fn heads_reply<E>(all: impl Iterator<Item = Result<Heads, E>>) -> Result<Reply, E> {
    let (mut found, mut bytes) = (Vec::new(), 0);
    for heads in all {
        let heads = heads?.hashes().to_vec();
        bytes += heads.len() * 32;
        if bytes > HEADS_BYTES && !found.is_empty() {
            break;
        }
        found.push(heads);
    }
    Ok(Reply::Heads(found))
}

#[derive(Default)]
struct Page {
    changes: Vec<Envelope>,
    bytes: usize,
}

impl Page {
    fn fill<I: ReconcileIndex>(
        mut self,
        index: &mut I,
        wanted: &[Wanted],
        skip: u32,
        bytes: usize,
        changes: usize,
    ) -> Result<Reply, I::Error> {
        let mut skip = usize::try_from(skip).unwrap_or(usize::MAX);
        for (done, wanted) in wanted.iter().enumerate() {
            let lacked = lacked(index, wanted)?;
            for (place, offered) in lacked.into_iter().enumerate().skip(skip) {
                let length = offered.change.bytes().len();
                let full = self.bytes + length > bytes || self.changes.len() >= changes;
                if full && !self.changes.is_empty() {
                    return Ok(Reply::Changes { changes: self.changes, done: count(done), skip: count(place) });
                }
                self.bytes += length;
                self.changes.push(offered.into());
            }
            skip = 0;
        }
        Ok(Reply::Changes { changes: self.changes, done: count(wanted.len()), skip: 0 })
    }
}

/// The changes of an entity that the other side lacks, in the order of the log.
fn lacked<I: ReconcileIndex>(index: &mut I, wanted: &Wanted) -> Result<Vec<Offered>, I::Error> {
    let mut walk = Walk::new(&index.heads(&wanted.entity)?, &wanted.known);
    let mut lacked = Vec::new();
    if !walk.is_over() {
        index.newest_first(&wanted.entity, &mut |offered| {
            if walk.visit(offered.change.hash(), offered.change.dependencies()) == Visit::Lacked {
                lacked.push(offered);
            }
            !walk.is_over()
        })?;
    }
    lacked.reverse();
    Ok(lacked)
}

/// Pages and questions are far smaller than this.
fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
