//! A space's log that makes a real server's decisions, in memory.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;

use anabranch_core::sync::{LogIndex, LogRow, Offered, advance_heads, append};
use anabranch_core::wire::{Answer, Envelope, Mark};
use anabranch_core::{Actor, ChangeHash, CollectionName, EntityId, Heads, Rewrite};

/// A space's log on a server.
#[derive(Clone, Default)]
pub(crate) struct Log {
    pub(crate) rows: Vec<LogRow>,
    seqs: HashMap<(EntityId, ChangeHash), u64>,
    pub(crate) entities: HashMap<EntityId, (CollectionName, Heads, bool)>,
    by_actor: HashMap<(EntityId, Actor, u64), ChangeHash>,
    rewritten: HashSet<(EntityId, Rewrite)>,
}

impl LogIndex for Log {
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

impl Log {
    /// Appends a push.
    pub(crate) fn append(&mut self, batch: Vec<Envelope>) -> Vec<Answer> {
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

    /// All of it, in order.
    pub(crate) fn envelopes(&self) -> Vec<Envelope> {
        let envelope = |LogRow { offered, .. }: &LogRow| Envelope {
            entity: offered.entity,
            collection: offered.collection.clone(),
            parent: offered.parent,
            transaction: offered.transaction,
            change: offered.change.bytes().to_vec(),
        };
        self.rows.iter().map(envelope).collect()
    }
}
