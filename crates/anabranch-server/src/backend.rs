//! What a server stores, and how it is asked: the [`Backend`] trait.

use std::future::Future;
use std::pin::Pin;

use anabranch_core::sync::{LogPage, Pushable, Quota, Relay};
use anabranch_core::wire::{Answer, Mark};
use anabranch_core::{Digest, Lineage, ReplicaId, SpaceName};
use tokio::sync::broadcast;

use crate::error::BackendError;

/// What a [`Backend`] returns: a boxed future, so that the trait can be used as `dyn Backend`.
pub type BackendFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, BackendError>> + Send + 'a>>;

/// The outcome of an append: one answer per offered change, and the places of the accepted ones, in order.
pub type AppendOutcome = (Vec<Answer>, Vec<Mark>);

/// Who appends, and within which bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    /// The replica that speaks.
    pub replica: ReplicaId,
    /// Whose session it is, where that is known. A replica belongs to the principal whose change of it is the first
    /// that is stored.
    pub principal: Option<String>,
    /// Whose changes it may bring.
    pub relay: Relay,
    /// How much is kept. A backend answers what is beyond it by [`Quota::objection`].
    pub quota: Quota,
}

impl Author {
    /// A replica of nobody in particular, within the default bounds.
    #[must_use]
    pub fn new(replica: ReplicaId) -> Self {
        Self { replica, principal: None, relay: Relay::default(), quota: Quota::default() }
    }
}

/// A hint that a space's log has reached a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The space.
    pub space: SpaceName,
    /// The place of its last change.
    pub seq: u64,
}

/// What a space holds, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceOverview {
    /// The end of its log.
    pub head: Mark,
    /// How many entities it has.
    pub entities: u64,
    /// How many changes are stored.
    pub changes: u64,
    /// The [`SpaceDigest`](anabranch_core::sync::SpaceDigest) of its entities.
    pub digest: Digest,
}

/// How much a page of a log may hold. Always at least one change, and never a part of a transaction: a page
/// goes over its budget rather than be empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageBudget {
    /// The most bytes of changes.
    pub bytes: usize,
    /// The most changes.
    pub changes: usize,
}

/// Where a server keeps the logs of its spaces.
///
/// Each space has a sequence without gaps, starting at 1, and a chain over it (see
/// [`next_chain`](anabranch_core::sync::next_chain)). An implementation decides by
/// [`append`](anabranch_core::sync::append), inside the transaction that stores the rows, and must pass the
/// conformance suite in this crate's tests.
pub trait Backend: Send + Sync + 'static {
    /// The id of this history. It never changes, and survives backups.
    fn lineage(&self) -> Lineage;

    /// Whether no space holds any change.
    ///
    /// # Errors
    /// [`BackendError`] if the storage cannot say.
    fn is_empty(&self) -> BackendFuture<'_, bool>;

    /// Names of spaces whose logs are not empty, in ascending order: at most `most`, those after `after`.
    ///
    /// # Errors
    /// [`BackendError`] if the storage cannot say.
    fn spaces(&self, after: Option<SpaceName>, most: usize) -> BackendFuture<'_, Vec<SpaceName>>;

    /// Appends a batch to a space's log, for an author within bounds. Resolves once the accepted changes are durable.
    ///
    /// Dropping the future does not undo it.
    ///
    /// # Errors
    /// [`BackendError`]; whether anything was stored is then unknown, and pushing the batch again is safe.
    fn append_by(&self, space: SpaceName, author: Author, batch: Vec<Pushable>) -> BackendFuture<'_, AppendOutcome>;

    /// [`append_by`](Self::append_by) a replica of nobody in particular, within the default bounds.
    ///
    /// # Errors
    /// As there.
    fn append(&self, space: SpaceName, replica: ReplicaId, batch: Vec<Pushable>) -> BackendFuture<'_, AppendOutcome> {
        self.append_by(space, Author::new(replica), batch)
    }

    /// Reads a page of a space's log: what follows `after`.
    ///
    /// The answer is [`LogPage::Unknown`] if the log does not hold `after` or one of `check`, with just
    /// these chains.
    ///
    /// # Errors
    /// [`BackendError`], also if what is stored is not what was stored.
    fn read(&self, space: SpaceName, after: Mark, check: Vec<Mark>, budget: PageBudget) -> BackendFuture<'_, LogPage>;

    /// The end of a space's log; [`Mark::START`] if there is none.
    ///
    /// # Errors
    /// [`BackendError`] if the storage cannot say.
    fn head(&self, space: SpaceName) -> BackendFuture<'_, Mark>;

    /// What a space holds. All zeros (and the digest of nothing) for a space that was never written to.
    ///
    /// # Errors
    /// [`BackendError`] if the storage cannot say.
    fn overview(&self, space: SpaceName) -> BackendFuture<'_, SpaceOverview>;

    /// Hints of commits, from now on. A receiver that lags has lost some, and looks at the
    /// [`head`](Backend::head) of every space that it cares about.
    fn commits(&self) -> broadcast::Receiver<Commit>;
}
