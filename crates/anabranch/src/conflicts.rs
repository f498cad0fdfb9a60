//! Conflicts that people can see and settle.

use std::fmt;

use anabranch_core::{EntityId, document};
use anabranch_store::{Conflict, ConflictKind, ConflictValue};
use serde_json::Value;

use crate::Commit;
use crate::collection::Space;
use crate::error::Error;
use crate::watch::{Scope, Watch};

type Merge = Box<dyn FnOnce(&[ConflictValue]) -> Value + Send>;

/// How a person settles a conflict.
pub enum Choice {
    /// With the contender at this place of the conflict's list.
    This(usize),
    /// With another value.
    Value(Value),
    /// With what a function makes of all contenders.
    Merge(Merge),
}

impl Choice {
    /// With what `merge` makes of all contenders, the one that is shown first.
    pub fn merge(merge: impl FnOnce(&[ConflictValue]) -> Value + Send + 'static) -> Self {
        Self::Merge(Box::new(merge))
    }
}

impl fmt::Debug for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A value never reaches a log.
        f.write_str(match self {
            Self::This(_) => "This",
            Self::Value(_) => "Value",
            Self::Merge(_) => "Merge",
        })
    }
}

impl Space {
    /// Everything that is contested or broken in an entity: what waits for a person first, then what a policy has
    /// settled. Every losing value is in there, with who wrote it and when. Loads no document.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn conflicts(&self, id: EntityId) -> Result<Vec<Conflict>, Error> {
        Ok(self.replica().store().read(|read| read.conflicts(self.name(), id))?)
    }

    /// The queue: what waits for a person in this space, at most `limit` of it. It is the same on every replica
    /// that holds the same changes and schema version.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn open_conflicts(&self, limit: u32) -> Result<Vec<Conflict>, Error> {
        Ok(self.replica().store().read(|read| read.open_conflicts(self.name(), limit))?)
    }

    /// Watches the queue.
    #[must_use]
    pub fn watch_conflicts(&self, limit: u32) -> Watch<Vec<Conflict>> {
        let space = self.clone();
        Watch::new(self.replica(), Scope::Everything, move || space.open_conflicts(limit))
    }

    /// Settles a conflict among values. Two people who settle the same one apart end with one outcome, the later
    /// decision, and nothing left in the queue; both decisions stay in the history.
    ///
    /// A broken rule or an orphaned reference is not settled by a choice but by an edit of the field.
    ///
    /// # Errors
    /// The commit fails, and stores nothing, if the conflict is no longer the one given: a value that has come
    /// since would be overwritten unseen. Look again then. It also fails if the value breaks a rule.
    pub fn resolve(&self, conflict: &Conflict, choice: Choice) -> Commit<()> {
        let (space, entity, id, kind) = (self.name().clone(), conflict.entity, conflict.id, conflict.kind);
        let choice = match choice {
            Choice::This(place) => document::Choice::This(place),
            Choice::Value(value) => document::Choice::Value(value),
            Choice::Merge(merge) => document::Choice::Value(merge(&conflict.contenders)),
        };
        self.replica().store().write(move |write| {
            if kind != ConflictKind::Values {
                return Err(Error::invalid("a broken rule or reference is settled by an edit of the field"));
            }
            Ok(write.resolve(&space, entity, &id, &choice)?)
        })
    }

    /// Purges a deleted entity: once the server has agreed, its history goes for good, here and everywhere, and
    /// its id cannot be used again. The server agrees if it holds nothing of the entity that this replica has
    /// not seen. A change that another replica has not pushed by then is set aside there.
    ///
    /// # Errors
    /// The commit fails if the entity is not deleted, or not all of it is on every server it syncs with; see
    /// [`EntityRecord::can_purge`](anabranch_store::EntityRecord::can_purge).
    pub fn purge(&self, id: EntityId) -> Commit<()> {
        let space = self.name().clone();
        self.replica().store().write(move |write| Ok(write.purge(&space, id)?))
    }
}
