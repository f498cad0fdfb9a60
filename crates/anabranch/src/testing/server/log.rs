//! One space's log.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::convert::Infallible;

use anabranch_core::sync::reconcile::{Item, ReconcileIndex, SketchError, is_among, reply};
use anabranch_core::sync::{
    AppendOutcome, LogIndex, LogPage, LogRow, Offered, PAGE_BYTES, PAGE_CHANGES, Pushable, SpaceDigest, advance_heads,
    append,
};
use anabranch_core::wire::{Answer, Ask, Envelope, Mark, RejectCode, Reply};
use anabranch_core::{Actor, ChangeHash, CollectionName, Digest, EntityId, Heads, Rewrite};

#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    rows: Vec<(Mark, Envelope)>,
    seqs: HashMap<(EntityId, ChangeHash), u64>,
    by_actor: HashMap<(EntityId, Actor, u64), ChangeHash>,
    entities: BTreeMap<EntityId, Entity>,
    /// The changes that others have been written from.
    rewritten: HashSet<(EntityId, Rewrite)>,
}

#[derive(Clone, Debug)]
struct Entity {
    collection: CollectionName,
    heads: Heads,
    purged: bool,
}

pub(super) fn rejected(message: &str, retryable: bool) -> Answer {
    let code = if retryable { RejectCode::Unavailable } else { RejectCode::Forbidden };
    Answer::Rejected { code, message: message.to_owned(), retryable }
}

impl Log {
    pub(super) const fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn head(&self) -> Mark {
        self.rows.last().map_or(Mark::START, |(mark, _)| *mark)
    }

    pub(super) fn entities(&self) -> Vec<EntityId> {
        let mut seen = HashSet::new();
        self.rows.iter().map(|(_, envelope)| envelope.entity).filter(|id| seen.insert(*id)).collect()
    }

    pub(super) fn digest(&self) -> Digest {
        let mut digest = SpaceDigest::default();
        self.entities.iter().for_each(|(id, entity)| digest.add(id, &entity.heads));
        digest.finish()
    }

    pub(super) fn append(&mut self, batch: Vec<Pushable>) -> AppendOutcome {
        let head = self.head();
        let Ok(appended) = append(&mut &mut *self, head, batch);
        let outcome = appended.outcome(head);
        appended.rows.into_iter().for_each(|row| self.store(row));
        outcome
    }

    /// Answers a question of a reconcile.
    pub(super) fn reconcile(&self, ask: &Ask) -> (Mark, Result<Reply, SketchError>) {
        let Ok(reply) = reply(&mut &*self, ask, PAGE_BYTES, PAGE_CHANGES);
        (self.head(), reply)
    }

    fn store(&mut self, row: LogRow) {
        let LogRow { mark, offered } = row;
        let (id, change) = (offered.entity, offered.change);
        self.seqs.insert((id, change.hash()), mark.seq);
        self.by_actor.insert((id, change.actor().clone(), change.seq()), change.hash());
        self.rewritten.extend(change.rewrite_of().map(|rewrite| (id, rewrite)));
        let collection = offered.collection.clone();
        let fresh = Entity { collection, heads: Heads::default(), purged: false };
        let entity = self.entities.entry(id).or_insert(fresh);
        advance_heads(&mut entity.heads, &mut entity.purged, &change);
        let envelope = Envelope {
            entity: id,
            collection: offered.collection,
            parent: offered.parent,
            transaction: offered.transaction,
            change: change.into_bytes(),
        };
        self.rows.push((mark, envelope));
    }

    pub(super) fn read(&self, after: Mark, check: &[Mark]) -> LogPage {
        if !self.has_all(check) {
            return LogPage::Unknown;
        }
        let start = usize::try_from(after.seq).unwrap_or(usize::MAX).min(self.rows.len());
        let rest = &self.rows[start..];
        let (mut count, mut bytes) = (0, 0);
        while let Some((_, envelope)) = rest.get(count) {
            // A page never ends inside a transaction.
            let joined =
                count > 0 && envelope.transaction.is_some() && rest[count - 1].1.transaction == envelope.transaction;
            if !joined && count > 0 && (count >= PAGE_CHANGES || bytes + envelope.change.len() > PAGE_BYTES) {
                break;
            }
            bytes += envelope.change.len();
            count += 1;
        }
        LogPage::Rows { rows: rest[..count].to_vec(), more: count < rest.len() }
    }

    pub(super) fn has_all(&self, marks: &[Mark]) -> bool {
        marks.iter().all(|mark| mark.seq == 0 || self.has(*mark))
    }

    fn has(&self, mark: Mark) -> bool {
        let place = usize::try_from(mark.seq).unwrap_or(usize::MAX).wrapping_sub(1);
        self.rows.get(place).is_some_and(|(own, _)| *own == mark)
    }
}

impl LogIndex for &mut Log {
    type Error = Infallible;

    fn seq_of(&mut self, entity: &EntityId, hash: &ChangeHash) -> Result<Option<u64>, Infallible> {
        Ok(self.seqs.get(&(*entity, *hash)).copied())
    }

    fn collection_of(&mut self, entity: &EntityId) -> Result<Option<CollectionName>, Infallible> {
        Ok(self.entities.get(entity).map(|entity| entity.collection.clone()))
    }

    fn hash_at(&mut self, entity: &EntityId, actor: &Actor, seq: u64) -> Result<Option<ChangeHash>, Infallible> {
        Ok(self.by_actor.get(&(*entity, actor.clone(), seq)).copied())
    }

    fn heads(&mut self, entity: &EntityId) -> Result<Heads, Infallible> {
        Ok(self.entities.get(entity).map(|entity| entity.heads.clone()).unwrap_or_default())
    }

    fn rewritten(&mut self, entity: &EntityId, of: &Rewrite) -> Result<bool, Infallible> {
        Ok(self.rewritten.contains(&(*entity, *of)))
    }

    fn purged(&mut self, entity: &EntityId) -> Result<bool, Infallible> {
        Ok(self.entities.get(entity).is_some_and(|entity| entity.purged))
    }
}

impl ReconcileIndex for &Log {
    type Error = Infallible;

    fn items(&mut self, of: Option<&[CollectionName]>) -> Result<Vec<Item>, Infallible> {
        let asked = self.entities.iter().filter(|(_, entity)| is_among(of, &entity.collection));
        Ok(asked.map(|(id, entity)| Item::new(*id, &entity.heads)).collect())
    }

    fn heads(&mut self, entity: &EntityId) -> Result<Heads, Infallible> {
        Ok(self.entities.get(entity).map(|entity| entity.heads.clone()).unwrap_or_default())
    }

    fn newest_first(&mut self, entity: &EntityId, each: &mut dyn FnMut(Offered) -> bool) -> Result<(), Infallible> {
        for (_, envelope) in self.rows.iter().rev().filter(|(_, envelope)| envelope.entity == *entity) {
            // What is in the log has been read before.
            if Offered::open(envelope.clone()).is_ok_and(&mut *each) {
                continue;
            }
            break;
        }
        Ok(())
    }
}
