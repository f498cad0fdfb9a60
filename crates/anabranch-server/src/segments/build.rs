//! Building the segments of a space as of a place in its log.
//!
//! Segments are cut by ranges of entity ids. Where nothing has changed since the last time, the segment is the same
//! as it was, and is used again.

use std::collections::BTreeSet;

use anabranch_core::segment::{Built, SegmentBuilder};
use anabranch_core::wire::Mark;
use anabranch_core::{Change, CollectionName, EntityId, SpaceName};

use super::shelf::{Made, Part, Shelf};
use crate::backend::{Backend, Histories, PageBudget};
use crate::error::BackendError;

/// What is read of a log at once: a read that is soon over, so that others get their turn.
const STEP: PageBudget = PageBudget { bytes: 2 << 20, changes: 8_192 };
/// Places of a log that are looked at at once for what has changed.
const SEQ_STEP: u64 = 16_384;
/// Fewer segments than this are never too many.
const FEW: usize = 16;

/// A range of ids, and the segments that it was made into the last time, unless something in it has changed.
struct Range {
    from: EntityId,
    to: Option<EntityId>,
    clean: Option<Vec<Part>>,
}

const LEAST: EntityId = EntityId::from_bytes([0; 16]);

/// `None` if they are more than may be kept.
pub(super) async fn build(
    backend: &dyn Backend,
    shelf: &Shelf,
    max_entities: usize,
    space: &SpaceName,
    head: Mark,
) -> Result<Option<Made>, BackendError> {
    let before = shelf.peek(space).filter(|made| made.mark.seq <= head.seq && !is_fragmented(&made.pieces));
    let touched = match &before {
        Some(made) => touched(backend, space, made.mark.seq, head.seq).await?,
        None => BTreeSet::new(),
    };
    let source = Source { backend, shelf, space, head, max_entities };
    let mut pieces = Vec::new();
    for collection in backend.collections(space.clone()).await? {
        let parts = before.iter().flat_map(|made| &made.pieces).filter(|part| part.piece.collection == collection);
        for range in ranges(parts.cloned().collect(), &collection, &touched) {
            match range.clean {
                Some(parts) => pieces.extend(parts),
                None => source.rebuild(&collection, (range.from, range.to), &mut pieces).await?,
            }
            if is_too_much(&pieces, shelf.max_bytes()) {
                return Ok(None);
            }
        }
    }
    Ok(Some(Made { mark: head, pieces, checked: true }))
}

fn is_too_much(parts: &[Part], max_bytes: u64) -> bool {
    parts.iter().map(|part| u64::from(part.piece.bytes)).sum::<u64>() > max_bytes
}

/// Whether the segments have become many small ones.
fn is_fragmented(parts: &[Part]) -> bool {
    let largest = parts.iter().map(|part| part.piece.bytes).max().unwrap_or(0);
    let small = parts.iter().filter(|part| part.piece.bytes < largest / 4).count();
    parts.len() > FEW && small > parts.len() / 2
}

async fn touched(
    backend: &dyn Backend,
    space: &SpaceName,
    after: u64,
    up_to: u64,
) -> Result<BTreeSet<(CollectionName, EntityId)>, BackendError> {
    let mut touched = BTreeSet::new();
    let mut at = after;
    while at < up_to {
        let end = up_to.min(at + SEQ_STEP);
        touched.extend(backend.touched(space.clone(), at, end).await?);
        at = end;
    }
    Ok(touched)
}

/// Divides a collection's ids by the segments that there are; neighbours that have changed become one range. What
/// one segment begins and the next goes on with belongs to one range.
fn ranges(parts: Vec<Part>, collection: &CollectionName, touched: &BTreeSet<(CollectionName, EntityId)>) -> Vec<Range> {
    let mut units: Vec<Vec<Part>> = Vec::new();
    for part in parts {
        match units.last_mut() {
            Some(unit) if part.continues => unit.push(part),
            _ => units.push(vec![part]),
        }
    }
    let begins = |unit: &Vec<Part>| unit.first().map(|part| part.first);
    let starts: Vec<_> = units.iter().map(begins).collect();
    let mut ranges: Vec<Range> = Vec::new();
    for (place, unit) in units.into_iter().enumerate() {
        let from = if place == 0 { LEAST } else { starts[place].unwrap_or(LEAST) };
        let to = starts.get(place + 1).copied().flatten();
        let mut within = touched.range((collection.clone(), from)..);
        let dirty = within.next().is_some_and(|(of, id)| of == collection && to.is_none_or(|to| *id < to));
        match ranges.last_mut() {
            Some(last) if dirty && last.clean.is_none() => last.to = to,
            _ => ranges.push(Range { from, to, clean: (!dirty).then_some(unit) }),
        }
    }
    if ranges.is_empty() {
        ranges.push(Range { from: LEAST, to: None, clean: None });
    }
    ranges
}

/// What segments are built from, and where they go.
struct Source<'a> {
    backend: &'a dyn Backend,
    shelf: &'a Shelf,
    space: &'a SpaceName,
    head: Mark,
    max_entities: usize,
}

impl Source<'_> {
    async fn rebuild(
        &self,
        collection: &CollectionName,
        (from, to): (EntityId, Option<EntityId>),
        pieces: &mut Vec<Part>,
    ) -> Result<(), BackendError> {
        let mut cutter = Cutter::new(collection.clone(), self.max_entities);
        let mut next = Some((from, 0));
        while let Some(from) = next {
            let range = Histories { collection: collection.clone(), from, to, up_to: self.head.seq };
            let page = self.backend.histories(self.space.clone(), range, STEP).await?;
            next = page.next;
            let is_last = next.is_none();
            // Deflating takes its time: that is done where it keeps nobody waiting.
            let cut = tokio::task::spawn_blocking(move || {
                cutter.take(page.changes);
                if is_last {
                    cutter.finish();
                }
                cutter
            });
            cutter = cut.await.map_err(|_| BackendError::internal("building a segment panicked"))?;
            for (Built { piece, first, bytes }, continues) in std::mem::take(&mut cutter.done) {
                if !self.shelf.store(&piece.digest, bytes).await {
                    return Err(BackendError::internal("a segment could not be kept"));
                }
                pieces.push(Part { piece, first, continues });
            }
            if is_too_much(pieces, self.shelf.max_bytes()) {
                return Ok(()); // whoever asked for it looks, too
            }
        }
        Ok(())
    }
}

/// Cuts a range of entities into segments.
struct Cutter {
    collection: CollectionName,
    max_entities: usize,
    builder: SegmentBuilder,
    /// The segment begins in the middle of an entity's history.
    continues: bool,
    last: Option<EntityId>,
    /// Segments that are finished, and whether they begin in the middle of a history.
    done: Vec<(Built, bool)>,
}

impl Cutter {
    fn new(collection: CollectionName, max_entities: usize) -> Self {
        let builder = SegmentBuilder::new(collection.clone()).with_max_entities(max_entities);
        Self { collection, max_entities, builder, continues: false, last: None, done: Vec::new() }
    }

    fn take(&mut self, changes: Vec<(EntityId, Change)>) {
        for (entity, change) in changes {
            if !self.builder.add(entity, &change) {
                self.finish();
                self.continues = self.last == Some(entity);
                self.builder.add(entity, &change);
            }
            self.last = Some(entity);
        }
    }

    fn finish(&mut self) {
        let next = SegmentBuilder::new(self.collection.clone()).with_max_entities(self.max_entities);
        let full = std::mem::replace(&mut self.builder, next);
        self.done.extend(full.finish().map(|built| (built, self.continues)));
    }
}
