//! Answering: from an index over what a space holds, and without a document.

use std::collections::VecDeque;

use crate::change::Change;
use crate::id::{EntityId, Heads};
use crate::name::CollectionName;
use crate::sync::append::Offered;
use crate::sync::policy::MAX_BATCH_OPS;
use crate::sync::reconcile::{HEADS_BYTES, Item, MAX_VISITED, SketchError, Visit, Walk, answer_sketch};
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

/// Answers a question from what `index` holds, with at most so many bytes of changes, so many changes, and
/// [`MAX_BATCH_OPS`] ops: a single change may go over all three. No more than that of a history is held in memory.
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
        Ask::Changes { wanted, skip } => {
            Page::new(Size { changes, bytes, ops: MAX_BATCH_OPS }).fill(index, wanted, *skip).map(Ok)
        }
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

/// What fits a page, and what is in it.
#[derive(Clone, Copy, Default)]
struct Size {
    changes: usize,
    bytes: usize,
    ops: usize,
}

impl Size {
    fn of(change: &Change) -> Self {
        Self { changes: 1, bytes: change.bytes().len(), ops: change.op_count() }
    }

    const fn and(self, other: Self) -> Self {
        Self { changes: self.changes + other.changes, bytes: self.bytes + other.bytes, ops: self.ops + other.ops }
    }

    const fn without(self, other: Self) -> Self {
        Self { changes: self.changes - other.changes, bytes: self.bytes - other.bytes, ops: self.ops - other.ops }
    }

    const fn fits(self, most: Self) -> bool {
        self.changes <= most.changes && self.bytes <= most.bytes && self.ops <= most.ops
    }
}

/// An answer to a question about changes.
struct Page {
    most: Size,
    size: Size,
    changes: Vec<Envelope>,
    /// How many changes have been looked at.
    visited: usize,
}

impl Page {
    const fn new(most: Size) -> Self {
        Self { most, size: Size { changes: 0, bytes: 0, ops: 0 }, changes: Vec::new(), visited: 0 }
    }

    fn fill<I: ReconcileIndex>(mut self, index: &mut I, wanted: &[Wanted], skip: u32) -> Result<Reply, I::Error> {
        let mut skip = usize::try_from(skip).unwrap_or(usize::MAX);
        for (done, wanted) in wanted.iter().enumerate() {
            if self.visited > MAX_VISITED {
                return Ok(self.end(done, 0));
            }
            let window = self.window(index, wanted, skip)?;
            let mut place = skip;
            for offered in window.changes {
                let size = self.size.and(Size::of(&offered.change));
                if !size.fits(self.most) && !self.changes.is_empty() {
                    return Ok(self.end(done, place));
                }
                self.size = size;
                self.changes.push(offered.into());
                place += 1;
            }
            if window.is_cut {
                return Ok(self.end(done, place));
            }
            skip = 0;
        }
        Ok(self.end(wanted.len(), 0))
    }

    fn end(self, done: usize, skip: usize) -> Reply {
        // Pages and questions are far smaller than this.
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Reply::Changes { changes: self.changes, done: count(done), skip: count(skip) }
    }

    /// What comes next of an entity's changes that the other side lacks. The log is read from its end, and what is sent
    /// comes from the beginning, so no more of it is kept meanwhile than a page may hold.
    fn window<I: ReconcileIndex>(&mut self, index: &mut I, wanted: &Wanted, skip: usize) -> Result<Window, I::Error> {
        let mut left = usize::MAX;
        if skip > 0 {
            let mut all = 0_usize;
            self.visited += lacked(index, wanted, &mut |_| all += 1)?;
            left = all.saturating_sub(skip);
        }
        let mut window = Window::default();
        let most = self.most;
        self.visited += lacked(index, wanted, &mut |offered| {
            if left > 0 {
                left -= 1;
                window.add(offered, most);
            }
        })?;
        Ok(window)
    }
}

/// The first of some changes, found from their end.
#[derive(Default)]
struct Window {
    changes: VecDeque<Offered>,
    size: Size,
    /// There are more after them.
    is_cut: bool,
}

impl Window {
    fn add(&mut self, offered: Offered, most: Size) {
        self.size = self.size.and(Size::of(&offered.change));
        self.changes.push_front(offered);
        while !self.size.fits(most)
            && self.changes.len() > 1
            && let Some(last) = self.changes.pop_back()
        {
            self.size = self.size.without(Size::of(&last.change));
            self.is_cut = true;
        }
    }
}

/// Goes through the changes of an entity that the other side lacks, from the end of the log. Returns how many changes
/// were looked at.
fn lacked<I: ReconcileIndex>(index: &mut I, wanted: &Wanted, each: &mut dyn FnMut(Offered)) -> Result<usize, I::Error> {
    let mut walk = Walk::new(&index.heads(&wanted.entity)?, &wanted.known);
    let mut visited = 0;
    if !walk.is_over() {
        index.newest_first(&wanted.entity, &mut |offered| {
            visited += 1;
            if walk.visit(offered.change.hash(), offered.change.dependencies()) == Visit::Lacked {
                each(offered);
            }
            !walk.is_over()
        })?;
    }
    Ok(visited)
}
