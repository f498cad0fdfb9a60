//! The server's segments: built anew whenever a client asks, as of the log's end.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anabranch_core::segment::{Piece, SegmentBuilder};
use anabranch_core::sync::LogRow;
use anabranch_core::wire::Mark;
use anabranch_core::{Change, CollectionName, Digest, EntityId};

/// Fewer changes are not worth it: those clients replay the log.
const WORTH: usize = 12;
/// Entities in a segment: few, so that every first sync takes several.
const ENTITIES: usize = 3;

/// What clients may fetch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Segments(HashMap<Digest, Vec<u8>>);

impl Segments {
    /// The segments of a log, and the place that they go up to.
    pub(crate) fn manifest(&mut self, rows: &[LogRow]) -> Option<(Mark, Vec<Piece>)> {
        let mark = rows.last().filter(|_| rows.len() >= WORTH)?.mark;
        let mut histories: BTreeMap<(CollectionName, EntityId), Vec<&Change>> = BTreeMap::new();
        for LogRow { offered, .. } in rows {
            let key = (offered.collection.clone(), offered.entity);
            histories.entry(key).or_default().push(&offered.change);
        }
        let collections: BTreeSet<_> = histories.keys().map(|(collection, _)| collection.clone()).collect();
        let mut pieces = Vec::new();
        for collection in collections {
            let own: Vec<_> = histories.iter().filter(|((of, _), _)| *of == collection).collect();
            for part in own.chunks(ENTITIES) {
                let mut builder = SegmentBuilder::new(collection.clone());
                let all = part.iter().flat_map(|((_, id), changes)| changes.iter().map(move |change| (*id, *change)));
                if !all.into_iter().all(|(id, change)| builder.add(id, change)) {
                    return None;
                }
                let built = builder.finish()?;
                self.0.insert(built.piece.digest, built.bytes);
                pieces.push(built.piece);
            }
        }
        Some((mark, pieces))
    }

    pub(crate) fn get(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.0.get(digest).cloned()
    }
}
