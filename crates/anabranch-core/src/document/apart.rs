//! What one change has in its past and another has not.

use std::collections::{BTreeSet, BinaryHeap, HashMap};

use super::{Document, ours, theirs};
use crate::id::ChangeHash;

/// Whose past a change is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sides {
    one: bool,
    other: bool,
}

impl Document {
    /// The changes up to and with `one` that are not among those up to and with `other`, and the other way round. It
    /// costs as much as there is between them, however long their common past is.
    #[must_use]
    pub fn apart(&self, one: &ChangeHash, other: &ChangeHash) -> (BTreeSet<ChangeHash>, BTreeSet<ChangeHash>) {
        let mut found: HashMap<ChangeHash, (u64, Sides)> = HashMap::new();
        // The latest first: a change has higher numbers than what it depends on, or the same if it has no ops. Below the
        // lowest that was seen on one side, everything is on both.
        let mut open = BinaryHeap::new();
        let mut lowest = u64::MAX;
        let begin = [(*one, Sides { one: true, other: false }), (*other, Sides { one: false, other: true })];
        let mut reached = Vec::from(begin);
        loop {
            for (hash, sides) in reached.drain(..) {
                let Some(meta) = self.automerge.get_change_meta_by_hash(&theirs(hash)) else { continue };
                let (at, known) = found.entry(hash).or_insert((meta.max_op, Sides::default()));
                let now = Sides { one: known.one || sides.one, other: known.other || sides.other };
                if now != *known {
                    *known = now;
                    open.push((*at, hash));
                    lowest = if now.one && now.other { lowest } else { lowest.min(*at) };
                }
            }
            let Some((_, hash)) = open.pop().filter(|(at, _)| *at >= lowest) else { break };
            let sides = found.get(&hash).map(|(_, sides)| *sides).unwrap_or_default();
            let meta = self.automerge.get_change_meta_by_hash(&theirs(hash));
            reached.extend(meta.into_iter().flat_map(|meta| meta.deps).map(|hash| (ours(hash), sides)));
        }
        let of = |side: fn(&Sides) -> bool| {
            let only = |(_, sides): &(u64, Sides)| side(sides) && sides.one != sides.other;
            found.iter().filter(|(_, found)| only(found)).map(|(hash, _)| *hash).collect()
        };
        (of(|sides| sides.one), of(|sides| sides.other))
    }
}
