//! Units of work, and what they changed.

use std::collections::BTreeSet;

use anabranch_core::{CollectionName, EntityId, SpaceName};

use super::Write;
use crate::error::StoreError;

/// What a [`Job`] returns to have what it wrote undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undo;

/// A unit of work that shares a transaction with others but succeeds or fails by itself.
pub trait Job: Send {
    /// Does the work.
    ///
    /// # Errors
    /// [`Undo`] to have undone what this job wrote, and only that. The job itself keeps the reason, for
    /// [`Job::finish`].
    fn run(&mut self, write: &mut Write<'_>) -> Result<(), Undo>;
    /// Whether it reads entities' rows, which must then show what the jobs before it have written. Costs those
    /// jobs the sharing of their row's update.
    fn reads_rows(&self) -> bool {
        false
    }
    /// Called once after the commit, with its outcome.
    fn finish(self: Box<Self>, outcome: Result<(), StoreError>);
}

/// What a transaction changed, told after it has been committed.
#[derive(Clone, Debug, Default)]
pub struct Committed {
    /// The entities whose rows changed.
    pub entities: Vec<Touched>,
    /// The spaces in which something was added to the outbox.
    pub pushable: BTreeSet<SpaceName>,
    /// Whether outbox or sync state changed.
    pub sync_state: bool,
    /// Whether the file has been signed out: it takes no more writes.
    pub signed_out: bool,
}

impl Committed {
    /// Whether the file has changed.
    pub(super) fn has_changes(&self) -> bool {
        self.sync_state || !self.entities.is_empty() || !self.pushable.is_empty()
    }
}

/// An entity whose row changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    /// Its space.
    pub space: SpaceName,
    /// Its collection.
    pub collection: CollectionName,
    /// Its id.
    pub id: EntityId,
}
