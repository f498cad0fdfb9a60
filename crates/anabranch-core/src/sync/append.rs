//! Appending to a space's log: the decisions, without the storage.
//!
//! A backend calls [`append`] inside the transaction that will store the rows, with an index over what it
//! holds. The sequence has no gaps, and each place is chained to all places before it.

mod tail;

use sha2::{Digest as _, Sha256};

use crate::change::{Change, Rewrite};
use crate::id::{Actor, ChangeHash, Digest, EntityId, Heads, TransactionId};
use crate::name::CollectionName;
use crate::wire::{Answer, Envelope, Mark, RejectCode};

use self::tail::{Recent, Tail};

/// The most changes that one transaction may hold. Every server takes as many in one push.
pub const MAX_TRANSACTION_CHANGES: usize = 1_000;
/// The most bytes of changes that one transaction may hold. Every server takes as many in one push.
pub const MAX_TRANSACTION_BYTES: usize = 256 << 10;

/// Whether a transaction of this many changes, with this many bytes in all, keeps its limits. A single change
/// always does.
#[must_use]
pub const fn fits_transaction(changes: usize, bytes: usize) -> bool {
    changes <= 1 || (changes <= MAX_TRANSACTION_CHANGES && bytes <= MAX_TRANSACTION_BYTES)
}

/// A change that has been offered to the log: read and checked by itself, not yet against the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    /// The entity it belongs to.
    pub entity: EntityId,
    /// The entity's collection.
    pub collection: CollectionName,
    /// An entity that must be in the log first.
    pub parent: Option<EntityId>,
    /// The transaction it is part of.
    pub transaction: Option<TransactionId>,
    /// The change.
    pub change: Change,
    /// It is a purge marker that was agreed to before: it is taken, whatever the log holds.
    pub agreed: bool,
}

impl Offered {
    /// Reads an envelope's change.
    ///
    /// # Errors
    /// What to answer if it is not a change that is admitted.
    pub fn open(envelope: Envelope) -> Result<Self, Unreadable> {
        let Envelope { entity, collection, parent, transaction, change } = envelope;
        match Change::parse(change) {
            Ok(change) => Ok(Self { entity, collection, parent, transaction, change, agreed: false }),
            Err(error) => {
                let answer =
                    Answer::Rejected { code: RejectCode::Malformed, message: error.to_string(), retryable: false };
                Err(Unreadable { transaction, answer })
            }
        }
    }
}

impl From<Offered> for Envelope {
    fn from(offered: Offered) -> Self {
        let Offered { entity, collection, parent, transaction, change, agreed: _ } = offered;
        Self { entity, collection, parent, transaction, change: change.into_bytes() }
    }
}

/// What was offered and is no change. It still belongs to its transaction, which must not go on without it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The transaction it was part of.
    pub transaction: Option<TransactionId>,
    /// What to answer.
    pub answer: Answer,
}

/// A change that is offered, or what has been found wrong with it already.
pub type Pushable = Result<Offered, Unreadable>;

/// What a backend already holds of one space.
pub trait LogIndex {
    /// The backend's error.
    type Error;
    /// The place of a change, if the log has it.
    ///
    /// # Errors
    /// If the backend cannot say.
    fn seq_of(&mut self, entity: &EntityId, hash: &ChangeHash) -> Result<Option<u64>, Self::Error>;
    /// The collection of an entity, if the log has any change of it.
    ///
    /// # Errors
    /// If the backend cannot say.
    fn collection_of(&mut self, entity: &EntityId) -> Result<Option<CollectionName>, Self::Error>;
    /// The change that an actor wrote as its `seq`-th to an entity, if the log has it.
    ///
    /// # Errors
    /// If the backend cannot say.
    fn hash_at(&mut self, entity: &EntityId, actor: &Actor, seq: u64) -> Result<Option<ChangeHash>, Self::Error>;
    /// The heads of an entity as [`advance_heads`] moves them; none if the log has no change of it.
    ///
    /// # Errors
    /// If the backend cannot say.
    fn heads(&mut self, entity: &EntityId) -> Result<Heads, Self::Error>;
    /// Whether the log has a change of the entity that was written from this one (the same part of it).
    ///
    /// # Errors
    /// If the backend cannot say.
    fn rewritten(&mut self, entity: &EntityId, of: &Rewrite) -> Result<bool, Self::Error>;
    /// Whether the log has a purge marker of an entity.
    ///
    /// # Errors
    /// If the backend cannot say.
    fn purged(&mut self, entity: &EntityId) -> Result<bool, Self::Error>;
    /// What the server has against a change that the protocol allows: its quotas, for instance. Asked last, so a
    /// duplicate is never objected to. `added` is what the batch has added so far.
    ///
    /// # Errors
    /// If the backend cannot say.
    fn policy(&mut self, _offered: &Offered, _added: Added) -> Result<Option<Answer>, Self::Error> {
        Ok(None)
    }
}

/// What a batch has added to a log so far, in [`stored_bytes`](crate::sync::policy::stored_bytes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// To the entity in question.
    pub entity: u64,
    /// To the space.
    pub space: u64,
}

/// Moves an entity's heads over a change that has been appended to the log. A purge marker takes the place of
/// everything before it; further markers stand beside it.
pub fn advance_heads(heads: &mut Heads, purged: &mut bool, change: &Change) {
    if change.purge_of().is_some() && !std::mem::replace(purged, true) {
        *heads = Heads::default();
    }
    heads.advance(change.hash(), change.dependencies());
}

/// A row to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRow {
    /// Its place and chain.
    pub mark: Mark,
    /// The change.
    pub offered: Offered,
}

/// What came of an append, once it is committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppendOutcome {
    /// One answer per offered change, in order.
    pub answers: Vec<Answer>,
    /// The places of the accepted changes, in order.
    pub marks: Vec<Mark>,
    /// The end of the log right after them, if any of the offered changes is in it now.
    pub head: Option<Mark>,
}

impl Appended {
    /// The outcome for whoever offered the changes, to a log that ended at `head`.
    #[must_use]
    pub fn outcome(&self, head: Mark) -> AppendOutcome {
        let marks: Vec<_> = self.rows.iter().map(|row| row.mark).collect();
        let stored = |answer: &Answer| matches!(answer, Answer::Accepted { .. } | Answer::Duplicate { .. });
        let head = self.answers.iter().any(stored).then(|| marks.last().copied().unwrap_or(head));
        AppendOutcome { answers: self.answers.clone(), marks, head }
    }
}

/// What [`append`] decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// One answer per offered change, in order.
    pub answers: Vec<Answer>,
    /// The rows to store, in order, right after the head.
    pub rows: Vec<LogRow>,
}

/// The chain value of the place after one with the chain `previous`.
#[must_use]
pub fn next_chain(
    previous: &Digest,
    entity: &EntityId,
    hash: &ChangeHash,
    transaction: Option<&TransactionId>,
) -> Digest {
    let mut hasher = Sha256::new();
    hasher.update(previous.as_bytes());
    hasher.update(entity.as_bytes());
    hasher.update(hash.as_bytes());
    if let Some(transaction) = transaction {
        hasher.update(transaction.as_bytes());
    }
    Digest::from_bytes(hasher.finalize().into())
}

/// Decides what becomes of a batch of changes offered to one space, whose log ends at `head`.
///
/// Changes that share a transaction and stand next to each other are accepted together or not at all, within
/// [`MAX_TRANSACTION_CHANGES`] and [`MAX_TRANSACTION_BYTES`].
///
/// # Errors
/// The index's error; nothing has been decided then.
pub fn append<I: LogIndex>(index: &mut I, head: Mark, batch: Vec<Pushable>) -> Result<Appended, I::Error> {
    let mut log = Tail { index, head, recent: Recent::default() };
    let mut appended = Appended::default();
    let mut batch = batch.into_iter().peekable();
    while let Some(first) = batch.next() {
        let transaction = transaction_of(&first);
        let mut group = vec![first];
        while let Some(next) = batch.next_if(|next| transaction.is_some() && transaction_of(next) == transaction) {
            group.push(next);
        }
        log.append_group(group, &mut appended)?;
    }
    Ok(appended)
}

fn transaction_of(offered: &Pushable) -> Option<TransactionId> {
    match offered {
        Ok(offered) => offered.transaction,
        Err(unreadable) => unreadable.transaction,
    }
}
