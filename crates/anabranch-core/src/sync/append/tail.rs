//! The log's end, while a batch is being decided.

use std::collections::{HashMap, HashSet};

use super::{Added, Appended, LogIndex, LogRow, Offered, Pushable, fits_transaction, next_chain};
use crate::change::{Change, Rewrite};
use crate::id::{Actor, ChangeHash, EntityId};
use crate::name::CollectionName;
use crate::sync::policy::stored_bytes;
use crate::wire::{Answer, Mark, Missing, RejectCode};

/// The log's end while a batch is being decided: what is stored, and what this batch has added.
pub(super) struct Tail<'a, I> {
    pub(super) index: &'a mut I,
    pub(super) head: Mark,
    pub(super) recent: Recent,
}

#[derive(Default)]
pub(super) struct Recent {
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
    pub(super) fn append_group(&mut self, group: Vec<Pushable>, appended: &mut Appended) -> Result<(), I::Error> {
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

    pub(super) fn seq_of(&mut self, entity: EntityId, hash: ChangeHash) -> Result<Option<u64>, I::Error> {
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

    pub(super) fn collection_of(&mut self, entity: EntityId) -> Result<Option<CollectionName>, I::Error> {
        match self.recent.collections.get(&entity) {
            Some(collection) => Ok(Some(collection.clone())),
            None => self.index.collection_of(&entity),
        }
    }
}

fn rejected(code: RejectCode, message: &str) -> Answer {
    Answer::Rejected { code, message: message.to_owned(), retryable: false }
}
