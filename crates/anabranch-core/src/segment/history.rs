//! What of a change follows from the changes of its entity before it.

use std::collections::HashMap;

use crate::change::Change;
use crate::id::{Actor, ChangeHash, Heads};

/// An entity's history so far, as writer and reader of a segment both know it.
#[derive(Debug, Default)]
pub(super) struct Before {
    heads: Heads,
    max_op: u64,
    last: HashMap<Actor, (u64, ChangeHash)>,
}

impl Before {
    /// The dependencies of a change that has seen everything: the heads, and its actor's previous change.
    pub(super) fn dependencies(&self, actor: &Actor) -> Vec<ChangeHash> {
        let mut hashes = self.heads.hashes().to_vec();
        hashes.extend(self.last.get(actor).map(|(_, hash)| *hash));
        hashes.sort_unstable();
        hashes.dedup();
        hashes
    }

    pub(super) fn next_seq(&self, actor: &Actor) -> u64 {
        self.last.get(actor).map_or(1, |(seq, _)| seq.saturating_add(1))
    }

    pub(super) const fn next_op(&self) -> u64 {
        self.max_op + 1
    }

    pub(super) fn add(&mut self, change: &Change) {
        self.heads.advance(change.hash(), change.dependencies());
        self.max_op = self.max_op.max(change.max_op());
        self.last.insert(change.actor().clone(), (change.seq(), change.hash()));
    }

    pub(super) fn clear(&mut self) {
        self.heads = Heads::default();
        self.max_op = 0;
        self.last.clear();
    }
}
