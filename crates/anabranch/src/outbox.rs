//! The outbox, as a person sees it: what waits, what a server has refused, and what to do about it.

use anabranch_core::{ChangeHash, EntityId, Environment as _};
use anabranch_store::{Discarded, LostFile, OutboxEntry, Resend};

use crate::Commit;
use crate::collection::Space;
use crate::error::Error;
use crate::replica::Replica;

impl Replica {
    /// What no server has accepted yet, in the order in which it was written, at most `limit`: each with where it
    /// stands, and why.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn outbox(&self, limit: u32) -> Result<Vec<OutboxEntry>, Error> {
        let now = self.inner.environment.now();
        Ok(self.store().read(|read| read.outbox(false, limit, now))?)
    }

    /// The error list: what a server has refused, with its words, at most `limit`. It waits until somebody
    /// [resends](Self::resend) or [discards](Space::discard) it, and the later edits of its entity wait behind it.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn refused(&self, limit: u32) -> Result<Vec<OutboxEntry>, Error> {
        let now = self.inner.environment.now();
        Ok(self.store().read(|read| read.outbox(true, limit, now))?)
    }

    /// Offers refused changes to the server again, and what was put off at once. Resolves to how many.
    pub fn resend(&self, which: Resend) -> Commit<usize> {
        self.store().write(move |write| Ok(write.resend(&which)?))
    }

    /// What is known to have been lost with a file that was in this place before: it vanished, was set back to an
    /// earlier state, or another was put in its place. Ask after opening, tell the person, then
    /// [forget](Self::forget_lost) it; until then every open says it again.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn lost(&self) -> Result<Option<LostFile>, Error> {
        Ok(self.store().lost()?)
    }

    /// The loss has been told.
    pub fn forget_lost(&self) -> Commit<()> {
        self.store().write(|write| Ok(write.forget_lost()?))
    }
}

impl Space {
    /// Gives up what a server has refused of an entity: one change, or all of them. The entity is rebuilt without
    /// it; later edits are written again on top of what is left, and offered to the server. What goes does not come back
    /// from another replica. A transaction goes whole, with what it did to other entities.
    ///
    /// If the refused change created the entity, the entity goes. Children that were held because of it go to the server
    /// then, and name a parent that no replica has; [`Discarded::left_alone`] says how many.
    ///
    /// # Errors
    /// The commit fails if no such change has been refused.
    pub fn discard(&self, id: EntityId, change: Option<ChangeHash>) -> Commit<Discarded> {
        let space = self.name().clone();
        self.replica().store().write(move |write| Ok(write.discard(&space, id, change)?))
    }
}
