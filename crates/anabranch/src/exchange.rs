//! Two open replicas, no server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anabranch_core::wire::Envelope;
use anabranch_core::{EntityId, Heads, SpaceName};

use crate::error::Error;
use crate::replica::Replica;

/// Changes that are handed over in one commit, unless transactions join more.
const BATCH_CHANGES: usize = 1_000;

/// Every entity's heads.
type AllHeads = BTreeMap<EntityId, Heads>;

/// What an exchange moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exchanged {
    /// Changes the other replica took.
    pub sent: usize,
    /// Changes this replica took.
    pub received: usize,
}

impl Replica {
    /// Exchanges changes with another open replica, both ways, until both hold the same (unless something is
    /// written meanwhile). Blocks; each side commits as it goes, so an interruption loses nothing.
    ///
    /// # Errors
    /// If one of the files cannot be read or written.
    pub fn exchange(&self, other: &Self) -> Result<Exchanged, Error> {
        let ours = self.store().read(|read| read.spaces())?;
        let theirs = other.store().read(|read| read.spaces())?;
        let mut exchanged = Exchanged::default();
        for space in ours.into_iter().chain(theirs).collect::<BTreeSet<_>>() {
            let our_heads = self.heads(&space)?;
            let their_heads = other.heads(&space)?;
            exchanged.sent += self.hand_over(other, &space, &our_heads, &their_heads)?;
            exchanged.received += other.hand_over(self, &space, &their_heads, &our_heads)?;
        }
        Ok(exchanged)
    }

    fn heads(&self, space: &SpaceName) -> Result<Arc<AllHeads>, Error> {
        Ok(Arc::new(self.store().read(|read| read.heads(space))?.into_iter().collect()))
    }

    /// Hands over what the other lacks. A batch never ends inside a transaction: what a transaction joins is
    /// collected and applied together.
    fn hand_over(
        &self,
        other: &Self,
        space: &SpaceName,
        ours: &AllHeads,
        theirs: &Arc<AllHeads>,
    ) -> Result<usize, Error> {
        let (mut handed_over, mut batch, mut done) = (0, Vec::new(), BTreeSet::new());
        for (id, heads) in ours {
            if theirs.get(id) == Some(heads) || done.contains(id) {
                continue;
            }
            let (of, id, known) = (space.clone(), *id, Arc::clone(theirs));
            let together = self.store().write(move |write| write.changes_beyond_together(&of, id, &known)).wait()?;
            done.extend(together.iter().map(|envelope| envelope.entity));
            batch.extend(together);
            if batch.len() >= BATCH_CHANGES {
                handed_over += other.take_over(space, std::mem::take(&mut batch))?;
            }
        }
        Ok(handed_over + other.take_over(space, batch)?)
    }

    fn take_over(&self, space: &SpaceName, batch: Vec<Envelope>) -> Result<usize, Error> {
        if batch.is_empty() {
            return Ok(0);
        }
        let space = space.clone();
        let received = self.store().write(move |write| write.apply_peer(&space, batch)).wait()?;
        Ok(received.applied)
    }
}
