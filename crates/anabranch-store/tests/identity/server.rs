//! A server that makes a real server's decisions, with its log in memory.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::atomic::Ordering;

use anabranch_core::sync::{LogIndex, LogRow, Offered, OutboxRead, SpaceDigest, WriteBatch, advance_heads, append};
use anabranch_core::wire::{Answer, Envelope, Mark, RejectCode};
use anabranch_core::{Actor, ChangeHash, CollectionName, Digest, EntityId, Heads, Lineage, Rewrite};
use anabranch_store::{Received, StoreError};

use crate::device::{Device, Outcome, space};

const LINEAGE: Lineage = Lineage::from_bytes([7; 16]);

/// A space's log.
#[derive(Clone, Default)]
pub(crate) struct Server {
    pub(crate) rows: Vec<LogRow>,
    seqs: HashMap<(EntityId, ChangeHash), u64>,
    entities: HashMap<EntityId, (CollectionName, Heads, bool)>,
    by_actor: HashMap<(EntityId, Actor, u64), ChangeHash>,
    rewritten: HashSet<(EntityId, Rewrite)>,
}

impl LogIndex for Server {
    type Error = Infallible;

    fn seq_of(&mut self, entity: &EntityId, hash: &ChangeHash) -> Result<Option<u64>, Infallible> {
        Ok(self.seqs.get(&(*entity, *hash)).copied())
    }

    fn collection_of(&mut self, entity: &EntityId) -> Result<Option<CollectionName>, Infallible> {
        Ok(self.entities.get(entity).map(|(collection, ..)| collection.clone()))
    }

    fn hash_at(&mut self, entity: &EntityId, actor: &Actor, seq: u64) -> Result<Option<ChangeHash>, Infallible> {
        Ok(self.by_actor.get(&(*entity, actor.clone(), seq)).copied())
    }

    fn heads(&mut self, entity: &EntityId) -> Result<Heads, Infallible> {
        Ok(self.entities.get(entity).map(|(_, heads, _)| heads.clone()).unwrap_or_default())
    }

    fn rewritten(&mut self, entity: &EntityId, of: &Rewrite) -> Result<bool, Infallible> {
        Ok(self.rewritten.contains(&(*entity, *of)))
    }

    fn purged(&mut self, entity: &EntityId) -> Result<bool, Infallible> {
        Ok(self.entities.get(entity).is_some_and(|(.., purged)| *purged))
    }
}

impl Server {
    fn append(&mut self, batch: Vec<Envelope>) -> Vec<Answer> {
        let head = self.rows.last().map_or(Mark::START, |row| row.mark);
        let Ok(appended) = append(self, head, batch.into_iter().map(Offered::open).collect());
        for row in appended.rows {
            let (entity, change) = (row.offered.entity, &row.offered.change);
            self.seqs.insert((entity, change.hash()), row.mark.seq);
            self.by_actor.insert((entity, change.actor().clone(), change.seq()), change.hash());
            self.rewritten.extend(change.rewrite_of().map(|rewrite| (entity, rewrite)));
            let fresh = || (row.offered.collection.clone(), Heads::default(), false);
            let (_, heads, purged) = self.entities.entry(entity).or_insert_with(fresh);
            advance_heads(heads, purged, change);
            self.rows.push(row);
        }
        appended.answers
    }

    /// Takes one page of what waits, but for what it refuses. `false` if nothing could be pushed now.
    pub(crate) fn push_page(&mut self, from: &Device, refuses: impl Fn(&Envelope) -> bool) -> Result<bool, StoreError> {
        let answered = self.take_page(from, refuses)?;
        let some = !answered.is_empty();
        Self::answer(from, answered)?;
        Ok(some)
    }

    /// As [`Server::push_page`], but the answers are still on their way.
    pub(crate) fn take_page(
        &mut self,
        from: &Device,
        refuses: impl Fn(&Envelope) -> bool,
    ) -> Result<Vec<(i64, Answer)>, StoreError> {
        let read = OutboxRead { space: space(), changes: 500, bytes: 1 << 20 };
        let items = from.store.outbox_page(1, read).wait()?.items;
        let mut answered = Vec::with_capacity(items.len());
        for item in &items {
            let answer = match refuses(&item.envelope) {
                true => Answer::Rejected {
                    code: RejectCode::Forbidden,
                    message: "not on my watch".to_owned(),
                    retryable: false,
                },
                false => self.append(vec![item.envelope.clone()]).remove(0),
            };
            answered.push((item.key, answer));
        }
        Ok(answered)
    }

    pub(crate) fn answer(to: &Device, answered: Vec<(i64, Answer)>) -> Outcome {
        let batch = WriteBatch { answered, ..WriteBatch::empty(space(), LINEAGE) };
        to.store.write(move |write| write.apply_batch(1, batch)).wait().map(drop)
    }

    /// Takes all that waits, also what was put off.
    pub(crate) fn push(&mut self, from: &Device) -> Outcome {
        self.push_but(from, |_| false)
    }

    pub(crate) fn push_but(&mut self, from: &Device, refuses: impl Fn(&Envelope) -> bool) -> Outcome {
        for _ in 0..4 {
            while self.push_page(from, &refuses)? {}
            from.clock.fetch_add(400_000, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Sends its whole log.
    pub(crate) fn pull(&self, to: &Device) -> Result<Received, StoreError> {
        let envelope = |LogRow { offered, .. }: &LogRow| Envelope {
            entity: offered.entity,
            collection: offered.collection.clone(),
            parent: offered.parent,
            transaction: offered.transaction,
            change: offered.change.bytes().to_vec(),
        };
        let incoming = self.rows.iter().map(envelope).collect();
        let batch = WriteBatch { incoming, ..WriteBatch::empty(space(), LINEAGE) };
        to.store.write(move |write| write.apply_batch(1, batch)).wait()
    }

    pub(crate) fn digest(&self) -> Digest {
        let mut entities: Vec<_> = self.entities.iter().collect();
        entities.sort_by_key(|(id, _)| id.to_string());
        let mut digest = SpaceDigest::default();
        entities.into_iter().for_each(|(id, (_, heads, _))| digest.add(id, heads));
        digest.finish()
    }
}
