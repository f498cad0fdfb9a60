//! Handing changes over to another replica: what it lacks, in the order of this log, and never a part of a transaction.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};

use anabranch_core::sync::reconcile::{Visit, Walk};
use anabranch_core::sync::{MAX_TRANSACTION_BYTES, MAX_TRANSACTION_CHANGES};
use anabranch_core::wire::{Envelope, Wanted};
use anabranch_core::{Change, ChangeHash, Heads, SpaceName, TransactionId};

use crate::cache::EntityKey;
use crate::engine::Write;
use crate::error::StoreError;
use crate::rows::{self, EntityRow};
use crate::transaction::transaction_of;

/// The target size of a batch, in changes. It goes over it for the sake of a transaction.
pub const BATCH_CHANGES: usize = MAX_TRANSACTION_CHANGES;
/// The target size of a batch, in bytes of changes.
pub const BATCH_BYTES: usize = MAX_TRANSACTION_BYTES;
/// Beyond so many times its target size a batch ends, even inside a transaction: this replica's log has then torn it
/// further apart than it could be held together.
pub const MOST_BATCHES_AT_ONCE: usize = 8;

/// A change of this file that another replica lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lacked {
    entity: EntityKey,
    hash: ChangeHash,
    /// Its place in the log; folded changes have none, and come first.
    seq: Option<i64>,
    transaction: Option<TransactionId>,
    bytes: usize,
    /// Its bytes, if it has been folded and there is room: to extract it again takes a pass over the document.
    kept: Option<Vec<u8>>,
}

impl Lacked {
    /// How many bytes are kept of it until it is handed over.
    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        self.kept.as_ref().map_or(0, Vec::len)
    }
}

/// What is to be handed over, in batches. Each can be applied in one commit.
#[derive(Clone, Debug, Default)]
pub struct Handover(VecDeque<Vec<Lacked>>);

impl Handover {
    /// Puts what is lacked into the order of the log, and cuts it where no transaction is under way.
    #[must_use]
    pub fn of(mut lacked: Vec<Lacked>) -> Self {
        // Stable: folded changes stay in causal order.
        lacked.sort_by_key(|change| change.seq);
        let mut ends: HashMap<TransactionId, usize> = HashMap::new();
        for (place, change) in lacked.iter().enumerate() {
            ends.extend(change.transaction.map(|transaction| (transaction, place)));
        }
        let (mut batches, mut batch, mut bytes, mut whole_at) = (VecDeque::new(), Vec::new(), 0, 0);
        for (place, change) in lacked.into_iter().enumerate() {
            whole_at = change.transaction.map_or(whole_at, |transaction| whole_at.max(ends[&transaction]));
            bytes += change.bytes;
            batch.push(change);
            let full = batch.len() >= BATCH_CHANGES || bytes >= BATCH_BYTES;
            let too_full =
                batch.len() >= MOST_BATCHES_AT_ONCE * BATCH_CHANGES || bytes >= MOST_BATCHES_AT_ONCE * BATCH_BYTES;
            if too_full || (full && whole_at <= place) {
                batches.push_back(std::mem::take(&mut batch));
                bytes = 0;
            }
        }
        if !batch.is_empty() {
            batches.push_back(batch);
        }
        Self(batches)
    }

    /// Leaves out what comes after the batch with which so many changes, or bytes of them, are reached. `true` if that is
    /// something.
    pub fn cut(&mut self, most_changes: usize, most_bytes: usize) -> bool {
        let (mut changes, mut bytes) = (0, 0);
        let within = self.0.iter().take_while(|batch| {
            let goes_on = changes < most_changes && bytes < most_bytes;
            changes += batch.len();
            bytes += batch.iter().map(|change| change.bytes).sum::<usize>();
            goes_on
        });
        let kept = within.count();
        let is_cut = kept < self.0.len();
        self.0.truncate(kept);
        is_cut
    }

    /// The next batch, and whether it is the last.
    pub fn next_batch(&mut self) -> Option<(Vec<Lacked>, bool)> {
        let batch = self.0.pop_front()?;
        Some((batch, self.0.is_empty()))
    }
}

impl Write<'_> {
    /// What another side lacks of these entities, given what it has of each. Of what has been folded, at most `room`
    /// bytes are kept until they are handed over; the rest is extracted batch by batch.
    ///
    /// # Errors
    /// If the database fails, or a document cannot be loaded: only what has been folded needs one.
    pub fn lacked(&mut self, space: &SpaceName, wanted: &[Wanted], mut room: usize) -> Result<Vec<Lacked>, StoreError> {
        let Some(space) = rows::space_key(&self.engine.connection, space)? else { return Ok(Vec::new()) };
        let mut lacked = Vec::new();
        for wanted in wanted {
            if let Some(row) = rows::find_shared_entity(&self.engine.connection, space, wanted.entity)? {
                self.lacked_of(&row, &wanted.known, &mut room, &mut lacked)?;
            }
        }
        Ok(lacked)
    }

    fn lacked_of(
        &mut self,
        row: &EntityRow,
        known: &[ChangeHash],
        room: &mut usize,
        lacked: &mut Vec<Lacked>,
    ) -> Result<(), StoreError> {
        let mut walk = Walk::new(&rows::entity_heads(&self.engine.connection, row.key)?, known);
        let mut logged = Vec::new();
        let mut statement = self
            .engine
            .connection
            .prepare_cached("SELECT seq, bytes, txn FROM changes WHERE entity = ? ORDER BY seq DESC")?;
        let mut rows = statement.query([row.key])?;
        while !walk.is_over()
            && let Some(found) = rows.next()?
        {
            let change = Change::parse(found.get(1)?).map_err(|_| StoreError::DamagedRow("a change cannot be read"))?;
            if walk.visit(change.hash(), change.dependencies()) == Visit::Lacked {
                let transaction: Option<Vec<u8>> = found.get(2)?;
                logged.push(Lacked {
                    entity: row.key,
                    hash: change.hash(),
                    seq: Some(found.get(0)?),
                    transaction: transaction.and_then(|id| rows::transaction_id(&id)),
                    bytes: change.bytes().len(),
                    kept: None,
                });
            }
        }
        drop(rows);
        drop(statement);
        if !walk.is_over() {
            self.lacked_of_fold(row, known, &logged, room, lacked)?;
        }
        logged.reverse();
        lacked.extend(logged);
        Ok(())
    }

    /// What is lacked and is not in the log any more.
    fn lacked_of_fold(
        &mut self,
        row: &EntityRow,
        known: &[ChangeHash],
        logged: &[Lacked],
        room: &mut usize,
        lacked: &mut Vec<Lacked>,
    ) -> Result<(), StoreError> {
        let document = self.engine.take_document(row)?;
        let all = document.changes_since(&Heads::new(known.to_vec()));
        self.engine.cache.put(row.key, document);
        let all = all.map_err(|source| StoreError::Damaged { entity: row.id, source })?;
        let logged: HashSet<_> = logged.iter().map(|lacked| lacked.hash).collect();
        let folded = all.into_iter().filter(|change| !logged.contains(&change.hash()));
        lacked.extend(folded.map(|change| {
            let (hash, bytes) = (change.hash(), change.bytes().len());
            let kept = bytes <= *room;
            *room -= if kept { bytes } else { 0 };
            let kept = kept.then(|| change.into_bytes());
            Lacked { entity: row.key, hash, seq: None, transaction: None, bytes, kept }
        }));
        Ok(())
    }

    /// The changes of a batch. What has been purged since it was planned is left out.
    ///
    /// # Errors
    /// If the database fails, or a document cannot be loaded: only what has been folded needs one.
    pub fn hand_over(&mut self, batch: &[Lacked]) -> Result<Vec<Envelope>, StoreError> {
        let mut envelopes = Vec::with_capacity(batch.len());
        let mut rows: HashMap<EntityKey, EntityRow> = HashMap::new();
        let mut extracted: HashMap<EntityKey, HashMap<ChangeHash, Change>> = HashMap::new();
        for lacked in batch {
            if !rows.contains_key(&lacked.entity) {
                rows.extend(rows::entity_by_key(&self.engine.connection, lacked.entity)?.map(|row| (row.key, row)));
            }
            let Some(row) = rows.get(&lacked.entity) else { continue };
            let change = match &lacked.kept {
                Some(kept) if !self.is_purged(row)? => Some(kept.clone()),
                Some(_) => None,
                None => self.change_of(row, lacked, batch, &mut extracted)?,
            };
            let Some(change) = change else { continue };
            envelopes.push(Envelope {
                entity: row.id,
                collection: row.collection.clone(),
                parent: None,
                transaction: transaction_of(&self.engine.connection, row.key, &lacked.hash)?,
                change,
            });
        }
        Ok(envelopes)
    }

    /// A change out of the log or, if compaction has folded it, out of the document: with all others of the batch.
    fn change_of(
        &mut self,
        row: &EntityRow,
        lacked: &Lacked,
        batch: &[Lacked],
        extracted: &mut HashMap<EntityKey, HashMap<ChangeHash, Change>>,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        if let Some(change) = rows::logged_change(&self.engine.connection, row.key, &lacked.hash)? {
            return Ok(Some(change.into_bytes()));
        }
        let changes = match extracted.entry(row.key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let document = self.engine.take_document(row)?;
                let of_entity = batch.iter().filter(|other| other.entity == row.key && other.kept.is_none());
                let changes = document.changes(of_entity.map(|other| other.hash));
                self.engine.cache.put(row.key, document);
                let changes = changes.map_err(|source| StoreError::Damaged { entity: row.id, source })?;
                place.insert(changes.into_iter().map(|change| (change.hash(), change)).collect())
            }
        };
        Ok(changes.remove(&lacked.hash).map(Change::into_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(seq: i64, transaction: Option<u8>) -> Lacked {
        let transaction = transaction.map(|n| TransactionId::from_bytes([n; 16]));
        Lacked { entity: 1, hash: ChangeHash::from_bytes([0; 32]), seq: Some(seq), transaction, bytes: 100, kept: None }
    }

    fn sizes(lacked: Vec<Lacked>) -> Vec<usize> {
        let mut handover = Handover::of(lacked);
        std::iter::from_fn(|| handover.next_batch()).map(|(batch, _)| batch.len()).collect()
    }

    #[test]
    fn a_batch_ends_where_no_transaction_is_under_way() {
        assert_eq!(sizes((0..2_500).map(|n| change(n, None)).collect()), [1_000, 1_000, 500]);
        // One whose changes stand apart, as when they came in one page with others.
        let lacked = (0..2_500).map(|n| change(n, (n == 990 || n == 1_400).then_some(1)));
        assert_eq!(sizes(lacked.collect()), [1_401, 1_000, 99]);
        assert_eq!(sizes(Vec::new()), [0usize; 0]);
    }

    #[test]
    fn a_handover_is_cut_between_batches() {
        let of = |changes| Handover::of((0..changes).map(|n| change(n, None)).collect());
        for (most, left, cut) in
            [(1, 1, true), (1_000, 1, true), (1_001, 2, true), (2_001, 3, false), (9_999, 3, false)]
        {
            let mut handover = of(2_500);
            assert_eq!((handover.cut(most, usize::MAX), handover.0.len()), (cut, left), "{most} changes");
            let mut handover = of(2_500);
            assert_eq!((handover.cut(usize::MAX, most * 100), handover.0.len()), (cut, left), "{most} hundred bytes");
        }
        assert!(!of(0).cut(1, 1));
    }

    #[test]
    fn no_batch_is_larger_than_a_few() {
        let lacked = (0..20_000).map(|n| change(n, (n == 5 || n == 19_000).then_some(1)));
        let most = MOST_BATCHES_AT_ONCE * BATCH_CHANGES;
        assert!(sizes(lacked.collect()).iter().all(|size| *size <= most));
    }
}
