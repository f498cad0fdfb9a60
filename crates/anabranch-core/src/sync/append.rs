//! Appending to a space's log: the decisions, without the storage.
//!
//! A backend calls [`append`] inside the transaction that will store the rows, with an index over what it
//! holds. The sequence has no gaps, and each place is chained to all places before it.

use std::collections::{HashMap, HashSet};

use sha2::{Digest as _, Sha256};

use crate::change::{Change, Rewrite};
use crate::id::{Actor, ChangeHash, Digest, EntityId, Heads, TransactionId};
use crate::name::CollectionName;
use crate::sync::policy::stored_bytes;
use crate::wire::{Answer, Envelope, Mark, Missing, RejectCode};

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

/// What a batch has added to a log so far, in [`stored_bytes`].
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

/// The log's end while a batch is being decided: what is stored, and what this batch has added.
struct Tail<'a, I> {
    index: &'a mut I,
    head: Mark,
    recent: Recent,
}

#[derive(Default)]
struct Recent {
    seqs: HashMap<(EntityId, ChangeHash), u64>,
    collections: HashMap<EntityId, CollectionName>,
    by_actor: HashMap<(EntityId, Actor, u64), ChangeHash>,
    purged: HashSet<EntityId>,
    rewritten: HashSet<(EntityId, Rewrite)>,
    /// Of each entity, and of all of them, in [`stored_bytes`].
    bytes: HashMap<EntityId, u64>,
    all_bytes: u64,
}

impl Recent {
    fn add(&mut self, row: &LogRow) {
        let (entity, change) = (row.offered.entity, &row.offered.change);
        *self.bytes.entry(entity).or_default() += stored_bytes(change);
        self.all_bytes += stored_bytes(change);
        self.seqs.insert((entity, change.hash()), row.mark.seq);
        self.collections.insert(entity, row.offered.collection.clone());
        self.by_actor.insert((entity, change.actor().clone(), change.seq()), change.hash());
        if change.purge_of().is_some() {
            self.purged.insert(entity);
        }
        self.rewritten.extend(change.rewrite_of().map(|rewrite| (entity, rewrite)));
    }
}

impl<I: LogIndex> Tail<'_, I> {
    fn append_group(&mut self, group: Vec<Pushable>, appended: &mut Appended) -> Result<(), I::Error> {
        let bytes = group.iter().flatten().map(|offered| offered.change.bytes().len()).sum();
        if !fits_transaction(group.len(), bytes) {
            let answer = rejected(RejectCode::Transaction, "the transaction is larger than one may be");
            appended.answers.extend(group.iter().map(|_| answer.clone()));
            return Ok(());
        }
        let (head, rows, first_answer) = (self.head, appended.rows.len(), appended.answers.len());
        let alone = group.len() == 1;
        for offered in group {
            let answer = match offered {
                Ok(offered) => self.append_one(offered, &mut appended.rows)?,
                Err(unreadable) => unreadable.answer,
            };
            appended.answers.push(answer);
        }
        let failed = |answer: &Answer| matches!(answer, Answer::Held { .. } | Answer::Rejected { .. });
        if !alone && appended.answers[first_answer..].iter().any(failed) {
            // A group that fails leaves no trace in what the next ones see.
            appended.rows.truncate(rows);
            self.head = head;
            self.recent = Recent::default();
            appended.rows.iter().for_each(|row| self.recent.add(row));
            for answer in &mut appended.answers[first_answer..] {
                if matches!(answer, Answer::Accepted { .. }) {
                    *answer = Answer::Rejected {
                        code: RejectCode::Transaction,
                        message: "another change of the transaction was not accepted".to_owned(),
                        retryable: true,
                    };
                }
            }
        }
        Ok(())
    }

    fn append_one(&mut self, offered: Offered, rows: &mut Vec<LogRow>) -> Result<Answer, I::Error> {
        if let Some(answer) = self.objection(&offered, rows)? {
            return Ok(answer);
        }
        let (entity, hash) = (offered.entity, offered.change.hash());
        let chain = next_chain(&self.head.chain, &entity, &hash, offered.transaction.as_ref());
        self.head = Mark { seq: self.head.seq + 1, chain };
        let row = LogRow { mark: self.head, offered };
        self.recent.add(&row);
        rows.push(row);
        Ok(Answer::Accepted { seq: self.head.seq })
    }

    fn objection(&mut self, offered: &Offered, rows: &[LogRow]) -> Result<Option<Answer>, I::Error> {
        let (entity, change) = (offered.entity, &offered.change);
        if let Some(seq) = self.seq_of(entity, change.hash())? {
            return Ok(Some(Answer::Duplicate { seq }));
        }
        match self.collection_of(entity)? {
            Some(collection) if collection != offered.collection => {
                return Ok(Some(rejected(RejectCode::WrongCollection, "the entity belongs to another collection")));
            }
            _ => {}
        }
        // Before anything is held: nothing that is missing will come.
        if let Some(answer) = self.purge_objection(offered, rows)? {
            return Ok(Some(answer));
        }
        for dependency in change.dependencies() {
            if self.seq_of(entity, *dependency)?.is_none() {
                return Ok(Some(Answer::Held { missing: Missing::Change(*dependency) }));
            }
        }
        if let Some(parent) = offered.parent
            && parent != entity
            && self.collection_of(parent)?.is_none()
        {
            return Ok(Some(Answer::Held { missing: Missing::Parent(parent) }));
        }
        if self.is_superseded(entity, change)? {
            // The replica finds the other of the two in what it pulls; until then this one waits.
            let message = "the same is here already, in another form".to_owned();
            return Ok(Some(Answer::Rejected { code: RejectCode::Superseded, message, retryable: true }));
        }
        if self.hash_at(entity, change.actor(), change.seq())?.is_some() {
            return Ok(Some(rejected(RejectCode::Fork, "the writer has written something else in this place")));
        }
        if !self.follows(entity, change)? {
            let message = "the change does not build on the previous change of its actor";
            return Ok(Some(rejected(RejectCode::Malformed, message)));
        }
        let added = self.recent.bytes.get(&entity).copied().unwrap_or_default();
        self.index.policy(offered, Added { entity: added, space: self.recent.all_bytes })
    }

    /// Whether its actor's previous change is one of its dependencies, if it is not the first: else no replica takes it.
    fn follows(&mut self, entity: EntityId, change: &Change) -> Result<bool, I::Error> {
        if change.seq() == 1 {
            return Ok(true);
        }
        let previous = self.hash_at(entity, change.actor(), change.seq() - 1)?;
        Ok(previous.is_some_and(|previous| change.dependencies().binary_search(&previous).is_ok()))
    }

    /// Of a change and all that was written from it, only one is taken.
    fn is_superseded(&mut self, entity: EntityId, change: &Change) -> Result<bool, I::Error> {
        let (of, original) = match change.rewrite_of() {
            Some(of) => (of, self.seq_of(entity, of.original)?),
            None => (Rewrite { original: change.hash(), part: 0 }, None),
        };
        Ok(original.is_some() || self.recent.rewritten.contains(&(entity, of)) || self.index.rewritten(&entity, &of)?)
    }

    /// A marker purges the version that it names, and no other; after it, there are only markers.
    fn purge_objection(&mut self, offered: &Offered, rows: &[LogRow]) -> Result<Option<Answer>, I::Error> {
        let (entity, change) = (offered.entity, &offered.change);
        let purged = self.recent.purged.contains(&entity) || self.index.purged(&entity)?;
        let Some(version) = change.purge_of() else {
            return Ok(purged.then(|| rejected(RejectCode::Purged, "the entity has been purged")));
        };
        if purged || offered.agreed || self.collection_of(entity)?.is_none() {
            return Ok(None);
        }
        let mut heads = self.index.heads(&entity)?;
        for row in rows.iter().filter(|row| row.offered.entity == entity) {
            heads.advance(row.offered.change.hash(), row.offered.change.dependencies());
        }
        let seen = heads.version() == version;
        Ok((!seen).then(|| rejected(RejectCode::Stale, "the entity has changes that its purge has not seen")))
    }

    fn seq_of(&mut self, entity: EntityId, hash: ChangeHash) -> Result<Option<u64>, I::Error> {
        match self.recent.seqs.get(&(entity, hash)) {
            Some(seq) => Ok(Some(*seq)),
            None => self.index.seq_of(&entity, &hash),
        }
    }

    fn hash_at(&mut self, entity: EntityId, actor: &Actor, seq: u64) -> Result<Option<ChangeHash>, I::Error> {
        let key = (entity, actor.clone(), seq);
        match self.recent.by_actor.get(&key) {
            Some(hash) => Ok(Some(*hash)),
            None => self.index.hash_at(&entity, actor, seq),
        }
    }

    fn collection_of(&mut self, entity: EntityId) -> Result<Option<CollectionName>, I::Error> {
        match self.recent.collections.get(&entity) {
            Some(collection) => Ok(Some(collection.clone())),
            None => self.index.collection_of(&entity),
        }
    }
}

fn rejected(code: RejectCode, message: &str) -> Answer {
    Answer::Rejected { code, message: message.to_owned(), retryable: false }
}
