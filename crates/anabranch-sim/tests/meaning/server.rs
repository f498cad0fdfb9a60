//! A server in memory that decides as the real ones do.

use std::collections::HashMap;
use std::convert::Infallible;

use anabranch_core::sync::{LogIndex, LogRow, Offered, advance_heads, append};
use anabranch_core::wire::{Answer, Envelope, Mark};
use anabranch_core::{Actor, ChangeHash, CollectionName, EntityId, Heads, Rewrite};

#[derive(Default)]
pub(crate) struct Server {
    rows: Vec<LogRow>,
    heads: HashMap<EntityId, (Heads, bool)>,
}

impl Server {
    /// Takes in a push, and answers for each change.
    pub(crate) fn push(&mut self, envelopes: Vec<Envelope>) -> Vec<Answer> {
        let head = self.rows.last().map_or(Mark::START, |row| row.mark);
        let batch = envelopes.into_iter().map(Offered::open).collect();
        let Ok(appended) = append(self, head, batch);
        for row in appended.rows {
            let (heads, purged) = self.heads.entry(row.offered.entity).or_default();
            advance_heads(heads, purged, &row.offered.change);
            self.rows.push(row);
        }
        appended.answers
    }

    /// What follows a place in the log, and the log's end.
    pub(crate) fn after(&self, place: usize) -> (Vec<Envelope>, usize) {
        let envelope = |row: &LogRow| Envelope {
            entity: row.offered.entity,
            collection: row.offered.collection.clone(),
            parent: row.offered.parent,
            transaction: row.offered.transaction,
            change: row.offered.change.bytes().to_vec(),
        };
        (self.rows[place..].iter().map(envelope).collect(), self.rows.len())
    }

    fn of<'a>(&'a self, entity: &'a EntityId) -> impl Iterator<Item = &'a LogRow> {
        self.rows.iter().filter(move |row| row.offered.entity == *entity)
    }
}

impl LogIndex for Server {
    type Error = Infallible;

    fn seq_of(&mut self, entity: &EntityId, hash: &ChangeHash) -> Result<Option<u64>, Infallible> {
        Ok(self.of(entity).find(|row| row.offered.change.hash() == *hash).map(|row| row.mark.seq))
    }

    fn collection_of(&mut self, entity: &EntityId) -> Result<Option<CollectionName>, Infallible> {
        Ok(self.of(entity).next().map(|row| row.offered.collection.clone()))
    }

    fn hash_at(&mut self, entity: &EntityId, actor: &Actor, seq: u64) -> Result<Option<ChangeHash>, Infallible> {
        let changes = self.of(entity).map(|row| &row.offered.change);
        Ok(changes
            .into_iter()
            .find(|change| change.actor() == actor && change.seq() == seq)
            .map(|change| change.hash()))
    }

    fn heads(&mut self, entity: &EntityId) -> Result<Heads, Infallible> {
        Ok(self.heads.get(entity).map(|(heads, _)| heads.clone()).unwrap_or_default())
    }

    fn rewritten(&mut self, entity: &EntityId, of: &Rewrite) -> Result<bool, Infallible> {
        Ok(self.of(entity).any(|row| row.offered.change.rewrite_of() == Some(*of)))
    }

    fn purged(&mut self, entity: &EntityId) -> Result<bool, Infallible> {
        Ok(self.heads.get(entity).is_some_and(|(_, purged)| *purged))
    }
}
