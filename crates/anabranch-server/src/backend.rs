//! What a server stores, and how it is asked: the [`Backend`] trait.

use std::future::Future;
use std::pin::Pin;

use anabranch_core::sync::reconcile::SketchError;
use anabranch_core::sync::{AppendOutcome, LogPage, Pushable, Quota, Relay};
use anabranch_core::wire::{Ask, Mark, Reply};
use anabranch_core::{Change, CollectionName, Digest, EntityId, Lineage, ReplicaId, SpaceName};
use tokio::sync::broadcast;

use crate::error::BackendError;

/// What a [`Backend`] returns: a boxed future, so that the trait can be used as `dyn Backend`.
pub type BackendFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, BackendError>> + Send + 'a>>;

/// The answer to a question of a reconcile, with the end of the log at the moment it was answered; or what is wrong
/// with the question.
pub type Reconciled = (Mark, Result<Reply, SketchError>);

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

/// Which histories to read: those of a range of a collection's entities, as of a place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histories {
    /// The collection.
    pub collection: CollectionName,
    /// The first entity, and the place after which its changes begin.
    pub from: (EntityId, u64),
    /// The entity before which the range ends; `None` for no end.
    pub to: Option<EntityId>,
    /// The place up to which changes count.
    pub up_to: u64,
}

/// A page of histories.
#[derive(Clone, Debug, Default)]
pub struct HistoryPage {
    /// Changes with their entities: in ascending order of entities, and each entity's in the order of the log.
    pub changes: Vec<(EntityId, Change)>,
    /// Where the next page begins, as [`Histories::from`]; `None` at the end.
    pub next: Option<(EntityId, u64)>,
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

    /// Answers a question of a reconcile, by [`reply`](anabranch_core::sync::reconcile::reply) over what the space
    /// holds at one moment, with a page of changes of at most this budget. No document is loaded.
    ///
    /// # Errors
    /// [`BackendError`] if the storage cannot say.
    fn reconcile(&self, space: SpaceName, ask: Ask, budget: PageBudget) -> BackendFuture<'_, Reconciled>;

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

    /// The collections of a space's entities, in ascending order.
    ///
    /// # Errors
    /// [`BackendError`] if the storage cannot say.
    fn collections(&self, space: SpaceName) -> BackendFuture<'_, Vec<CollectionName>>;

    /// The entities that have changes after one place and up to another.
    ///
    /// # Errors
    /// [`BackendError`] if the storage cannot say.
    fn touched(&self, space: SpaceName, after: u64, up_to: u64) -> BackendFuture<'_, Vec<(CollectionName, EntityId)>>;

    /// Reads a page of histories: what segments are made of. Always at least one change, if there is one.
    ///
    /// # Errors
    /// [`BackendError`], also if what is stored is not what was stored.
    fn histories(&self, space: SpaceName, range: Histories, budget: PageBudget) -> BackendFuture<'_, HistoryPage>;

    /// Hints of commits, from now on. A receiver that lags has lost some, and looks at the
    /// [`head`](Backend::head) of every space that it cares about.
    fn commits(&self) -> broadcast::Receiver<Commit>;
}
