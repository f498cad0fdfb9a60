//! Two open replicas, no server.

use std::collections::{BTreeMap, BTreeSet};

use anabranch_core::{EntityId, Heads, SpaceName};

use crate::error::Error;
use crate::replica::Replica;

/// Changes that are handed over in one transaction.
const BATCH_CHANGES: usize = 1_000;

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

    fn heads(&self, space: &SpaceName) -> Result<BTreeMap<EntityId, Heads>, Error> {
        Ok(self.store().read(|read| read.heads(space))?.into_iter().collect())
    }

    fn hand_over(
        &self,
        other: &Self,
        space: &SpaceName,
        ours: &BTreeMap<EntityId, Heads>,
        theirs: &BTreeMap<EntityId, Heads>,
    ) -> Result<usize, Error> {
        let nothing = Heads::default();
        let (mut handed_over, mut batch) = (0, Vec::new());
        for (id, heads) in ours {
            let known = theirs.get(id).unwrap_or(&nothing);
            if known == heads {
                continue;
            }
            let (of, id, known) = (space.clone(), *id, known.clone());
            batch.extend(self.store().write(move |write| write.changes_beyond(&of, id, &known)).wait()?);
            if batch.len() >= BATCH_CHANGES {
                handed_over += other.take_over(space, std::mem::take(&mut batch))?;
            }
        }
        Ok(handed_over + other.take_over(space, batch)?)
    }

    fn take_over(&self, space: &SpaceName, batch: Vec<anabranch_core::wire::Envelope>) -> Result<usize, Error> {
        if batch.is_empty() {
            return Ok(0);
        }
        let space = space.clone();
        let received = self.store().write(move |write| write.apply_peer(&space, batch)).wait()?;
        Ok(received.applied)
    }
}
