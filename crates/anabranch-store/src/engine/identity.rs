//! Under which name this open writes, and what its witness saw.

use std::sync::{Arc, Mutex, PoisonError};

use anabranch_core::Actor;
use tracing::warn;

use super::Engine;
use crate::error::StoreError;

impl Engine {
    /// Takes the actor of the last open if the witness knows this file, or else a new one. A file that was copied or
    /// restored must not write under its original's name.
    pub(super) fn choose_actor(&mut self) -> Result<(), StoreError> {
        let witness = self.witness.as_mut();
        let kept = witness.map(|witness| witness.take_over(&self.connection, &self.replica)).transpose()?.flatten();
        let actor = kept.unwrap_or_else(|| Actor::mint(&self.replica, self.environment.entropy()));
        self.set_actor(actor);
        Ok(())
    }

    /// Takes a new actor if this one is ours: somebody else has written under it, so it is not ours alone.
    pub(crate) fn renew_actor_if(&mut self, forked: &Actor) {
        if *forked == self.actor {
            let actor = Actor::mint(&self.replica, self.environment.entropy());
            self.set_actor(actor);
            warn!(new = %self.actor, "another copy of this file writes under the same actor; taking a new one");
        }
    }

    /// Takes a new actor if a change of this one's is taken back: others may have it, so its place must stay empty.
    pub(crate) fn retire_actor_if(&mut self, author: &Actor) {
        if *author == self.actor {
            self.retire_actor();
        }
    }

    /// Takes a new actor: what this one has written where is not known here any more.
    pub(crate) fn retire_actor(&mut self) {
        let actor = Actor::mint(&self.replica, self.environment.entropy());
        self.set_actor(actor);
    }

    pub(crate) fn set_actor(&mut self, actor: Actor) {
        self.actor = actor.clone();
        self.session_actors.push(actor.clone());
        *self.shared_actor.lock().unwrap_or_else(PoisonError::into_inner) = actor;
    }

    pub(crate) fn shared_actor(&self) -> Arc<Mutex<Actor>> {
        Arc::clone(&self.shared_actor)
    }

    /// Keeps the witness in the file's folder up to date, now and then.
    pub(crate) fn note_sight(&mut self, at_once: bool) {
        let now = self.environment.now();
        if let Some(witness) = &mut self.witness {
            witness.look(&self.connection, self.replica, now, at_once);
        }
    }
}
