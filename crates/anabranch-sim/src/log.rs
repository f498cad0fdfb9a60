//! The server's log in memory: a backend as simple as can be. Core decides, this stores.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::convert::Infallible;

use anabranch_core::sync::reconcile::{Item, ReconcileIndex, SketchError, is_among, reply};
use anabranch_core::sync::{AppendOutcome, LogIndex, LogPage, LogRow, Offered, Pushable, advance_heads, append};
use anabranch_core::wire::{Ask, Envelope, Mark, Reply};
use anabranch_core::{Actor, ChangeHash, CollectionName, Digest, EntityId, Heads, Rewrite, SpaceName};

use crate::bug::{Bug, Planted};

/// Rows in a page: few, so that every run sees many pages.
pub(crate) const PAGE_ROWS: usize = 5;
/// The same, for what a reconcile brings.
pub(crate) const PAGE_BYTES: usize = 2_000;

/// All spaces' logs. A clone is a backup.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    spaces: BTreeMap<SpaceName, SpaceLog>,
    planted: Planted,
}

#[derive(Clone, Debug, Default)]
struct SpaceLog {
    rows: Vec<LogRow>,
    seqs: HashMap<(EntityId, ChangeHash), u64>,
    collections: HashMap<EntityId, CollectionName>,
    by_actor: HashMap<(EntityId, Actor, u64), ChangeHash>,
    /// Each entity's heads, and whether it has been purged.
    heads: HashMap<EntityId, (Heads, bool)>,
    forgetful: bool,
    /// The changes that others have been written from.
    rewritten: HashSet<(EntityId, Rewrite)>,
}

impl Log {
    pub(crate) fn new(planted: Planted) -> Self {
        Self { spaces: BTreeMap::new(), planted }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.spaces.values().all(|space| space.rows.is_empty())
    }

    pub(crate) fn spaces(&self) -> impl Iterator<Item = (&SpaceName, &[LogRow])> {
        self.spaces.iter().map(|(name, space)| (name, space.rows.as_slice()))
    }

    pub(crate) fn rows(&self, space: &SpaceName) -> &[LogRow] {
        self.spaces.get(space).map_or(&[], |space| space.rows.as_slice())
    }

    /// Appends a batch and returns the answers and the places of what was accepted.
    pub(crate) fn append(&mut self, space: &SpaceName, batch: Vec<Pushable>) -> AppendOutcome {
        let planted = self.planted;
        let log = self.spaces.entry(space.clone()).or_default();
        log.forgetful = planted.is(Bug::StoreDuplicates);
        let mut head = log.head();
        if planted.is(Bug::SequenceGap) && head.seq > 0 && head.seq.is_multiple_of(7) {
            head.seq += 1;
        }
        let Ok(mut appended) = append(log, head, batch);
        if planted.is(Bug::ChainOverHashAlone) {
            for row in &mut appended.rows {
                row.mark.chain = Digest::of(row.offered.change.hash().as_bytes());
            }
        }
        let outcome = appended.outcome(head);
        appended.rows.into_iter().for_each(|row| log.store(row));
        outcome
    }

    /// Loses up to so many of the newest rows of each space, transactions whole.
    pub(crate) fn lose_tail(&mut self, mut most: impl FnMut() -> usize) {
        for log in self.spaces.values_mut() {
            let mut end = log.rows.len().saturating_sub(most());
            while end > 0
                && end < log.rows.len()
                && log.rows[end].offered.transaction.is_some()
                && log.rows[end].offered.transaction == log.rows[end - 1].offered.transaction
            {
                end -= 1;
            }
            let rows = std::mem::take(log).rows;
            rows.into_iter().take(end).for_each(|row| log.store(row));
        }
    }

    /// Answers a question of a reconcile, with small pages.
    pub(crate) fn reconcile(&self, space: &SpaceName, ask: &Ask) -> (Mark, Result<Reply, SketchError>) {
        let empty = SpaceLog::default();
        let mut log = self.spaces.get(space).unwrap_or(&empty);
        let head = log.head();
        let Ok(reply) = reply(&mut log, ask, PAGE_BYTES, PAGE_ROWS);
        (head, reply)
    }

    /// Whether a space's log has these marks.
    pub(crate) fn has(&self, space: &SpaceName, marks: &[Mark]) -> bool {
        let empty = SpaceLog::default();
        let log = self.spaces.get(space).unwrap_or(&empty);
        marks.iter().all(|mark| log.has(*mark))
    }

    /// A page of what follows `after`, if the log has all marks that are to be checked.
    pub(crate) fn page(&self, space: &SpaceName, after: Mark, check: &[Mark]) -> LogPage {
        let empty = SpaceLog::default();
        let log = self.spaces.get(space).unwrap_or(&empty);
        if !check.iter().chain([&after]).all(|mark| log.has(*mark)) {
            return LogPage::Unknown;
        }
        let skipped = usize::from(self.planted.is(Bug::CursorOffByOne) && !check.is_empty());
        let start = log.rows.partition_point(|row| row.mark.seq <= after.seq) + skipped;
        let following = log.rows.get(start..).unwrap_or_default();
        let mut end = PAGE_ROWS.min(following.len());
        // A transaction is sent whole.
        while end < following.len()
            && following[end].offered.transaction.is_some()
            && following[end].offered.transaction == following[end - 1].offered.transaction
        {
            end += 1;
        }
        let mut rows: Vec<_> = following[..end].iter().map(|row| (row.mark, envelope(row))).collect();
        if self.planted.is(Bug::CrossSpaceRow)
            && let Some((last, _)) = rows.last()
            && let Some(foreign) =
                self.spaces.iter().filter(|(name, _)| *name != space).find_map(|(_, log)| log.rows.first())
        {
            rows.push((*last, envelope(foreign)));
        }
        LogPage::Rows { rows, more: following.len() > end }
    }
}

impl SpaceLog {
    fn head(&self) -> Mark {
        self.rows.last().map_or(Mark::START, |row| row.mark)
    }

    fn has(&self, mark: Mark) -> bool {
        if mark.seq == 0 {
            return mark == Mark::START;
        }
        let place = self.rows.partition_point(|row| row.mark.seq < mark.seq);
        self.rows.get(place).is_some_and(|row| row.mark == mark)
    }

    fn store(&mut self, row: LogRow) {
        let (entity, change) = (row.offered.entity, &row.offered.change);
        self.seqs.insert((entity, change.hash()), row.mark.seq);
        self.collections.insert(entity, row.offered.collection.clone());
        self.by_actor.insert((entity, change.actor().clone(), change.seq()), change.hash());
        self.rewritten.extend(change.rewrite_of().map(|rewrite| (entity, rewrite)));
        let (heads, purged) = self.heads.entry(entity).or_default();
        advance_heads(heads, purged, change);
        self.rows.push(row);
    }
}

impl LogIndex for SpaceLog {
    type Error = Infallible;

    fn seq_of(&mut self, entity: &EntityId, hash: &ChangeHash) -> Result<Option<u64>, Infallible> {
        let seq = self.seqs.get(&(*entity, *hash)).copied();
        // With the bug, the newest row is always taken for a new one.
        let newest = seq.is_some() && seq == self.rows.last().map(|row| row.mark.seq);
        Ok(seq.filter(|_| !(self.forgetful && newest)))
    }

    fn collection_of(&mut self, entity: &EntityId) -> Result<Option<CollectionName>, Infallible> {
        Ok(self.collections.get(entity).cloned())
    }

    fn hash_at(&mut self, entity: &EntityId, actor: &Actor, seq: u64) -> Result<Option<ChangeHash>, Infallible> {
        Ok(self.by_actor.get(&(*entity, actor.clone(), seq)).copied().filter(|_| !self.forgetful))
    }

    fn heads(&mut self, entity: &EntityId) -> Result<Heads, Infallible> {
        Ok(self.heads.get(entity).map(|(heads, _)| heads.clone()).unwrap_or_default())
    }

    fn rewritten(&mut self, entity: &EntityId, of: &Rewrite) -> Result<bool, Infallible> {
        Ok(self.rewritten.contains(&(*entity, *of)))
    }

    fn purged(&mut self, entity: &EntityId) -> Result<bool, Infallible> {
        Ok(self.heads.get(entity).is_some_and(|(_, purged)| *purged))
    }
}

impl ReconcileIndex for &SpaceLog {
    type Error = Infallible;

    fn items(&mut self, of: Option<&[CollectionName]>) -> Result<Vec<Item>, Infallible> {
        let is_among = |entity: &EntityId| self.collections.get(entity).is_none_or(|its| is_among(of, its));
        let items = self.heads.iter().filter(|(entity, _)| is_among(entity));
        Ok(items.map(|(entity, (heads, _))| Item::new(*entity, heads)).collect())
    }

    fn heads(&mut self, entity: &EntityId) -> Result<Heads, Infallible> {
        Ok(self.heads.get(entity).map(|(heads, _)| heads.clone()).unwrap_or_default())
    }

    fn newest_first(&mut self, entity: &EntityId, each: &mut dyn FnMut(Offered) -> bool) -> Result<(), Infallible> {
        let rows = self.rows.iter().rev().filter(|row| row.offered.entity == *entity);
        for row in rows {
            if !each(row.offered.clone()) {
                break;
            }
        }
        Ok(())
    }
}

fn envelope(row: &LogRow) -> Envelope {
    let offered = &row.offered;
    Envelope {
        entity: offered.entity,
        collection: offered.collection.clone(),
        parent: offered.parent,
        transaction: offered.transaction,
        change: offered.change.bytes().to_vec(),
    }
}
