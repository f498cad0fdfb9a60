//! What a server adds to the protocol's own rules: how much it keeps, and whose changes a session may bring.

use crate::change::{Change, MAX_CHANGE_OPS};
use crate::id::ReplicaId;
use crate::sync::append::{Offered, Pushable, Unreadable};
use crate::wire::{Answer, Envelope, RejectCode};

/// The most ops that are read of one push, about: a change of 70 bytes may have [`MAX_CHANGE_OPS`], and reading it takes
/// its time. A page of changes ends before it has more, unless one change has.
pub const MAX_BATCH_OPS: usize = 1 << 20;

/// Reads the changes of a push. Those that come after [`MAX_BATCH_OPS`] are to be pushed again.
#[must_use]
pub fn open_batch(envelopes: Vec<Envelope>) -> Vec<Pushable> {
    let mut ops = 0;
    let open = |envelope: Envelope| {
        if ops > MAX_BATCH_OPS {
            let answer = Answer::Rejected {
                code: RejectCode::Unavailable,
                message: "the push takes too much work at once".to_owned(),
                retryable: true,
            };
            return Err(Unreadable { transaction: envelope.transaction, answer });
        }
        let opened = Offered::open(envelope);
        // What cannot be read may have been read almost to its end.
        ops += opened.as_ref().map_or(MAX_CHANGE_OPS, |it| it.change.op_count());
        opened
    };
    envelopes.into_iter().map(open).collect()
}

/// What a stored change is counted with beside its own bytes: its row, its index entries.
pub const ROW_BYTES: u64 = 256;

/// What a change counts against a [`Quota`]: its bytes and [`ROW_BYTES`].
#[must_use]
pub fn stored_bytes(change: &Change) -> u64 {
    u64::try_from(change.bytes().len()).unwrap_or(u64::MAX).saturating_add(ROW_BYTES)
}

/// Whose changes a session may bring to a space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Relay {
    /// Any writer may bring any member's changes: they may have come from a peer. Authorship is as trustworthy as
    /// the space's writers.
    #[default]
    Members,
    /// A session brings the changes of its own replica only, and those of derived actors, which certify themselves.
    Own,
}

impl Relay {
    /// What is to be said against a change that a session of `replica` brings, whose principal the replica `belongs`
    /// to. It may be accepted later: as a duplicate, once its author has brought it.
    #[must_use]
    pub fn objection(self, replica: &ReplicaId, belongs: bool, change: &Change) -> Option<Answer> {
        let own = change.actor().is_derived() || (belongs && change.actor().is_of(replica));
        (self == Self::Own && !own).then(|| Answer::Rejected {
            code: RejectCode::Forbidden,
            message: "this space takes a replica's changes from itself only".to_owned(),
            retryable: true,
        })
    }
}

/// How much a server keeps, in [`stored_bytes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Of one entity.
    pub entity: u64,
    /// Of one space.
    pub space: u64,
    /// Of what one principal has pushed, in all spaces.
    pub principal: u64,
}

impl Default for Quota {
    /// 256 MiB for an entity, 8 GiB for a space, 32 GiB for a principal.
    fn default() -> Self {
        Self { entity: 256 << 20, space: 8 << 30, principal: 32 << 30 }
    }
}

/// How much is kept already, in [`stored_bytes`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Of the entity.
    pub entity: u64,
    /// Of the space.
    pub space: u64,
    /// Of the principal.
    pub principal: u64,
}

impl Used {
    /// With this much added everywhere, of which `entity` is the entity's.
    #[must_use]
    pub const fn and(self, entity: u64, all: u64) -> Self {
        Self {
            entity: self.entity.saturating_add(entity),
            space: self.space.saturating_add(all),
            principal: self.principal.saturating_add(all),
        }
    }
}

impl Quota {
    /// What is to be said against one more change. An entity that has grown too large can still be purged.
    #[must_use]
    pub fn objection(&self, used: Used, change: &Change) -> Option<Answer> {
        let bytes = stored_bytes(change);
        let Used { entity, space, principal } = used.and(bytes, bytes);
        let message = if entity > self.entity && change.purge_of().is_none() {
            "the entity has reached the size that this server keeps of one"
        } else if space > self.space {
            "the space has reached the size that this server keeps of one"
        } else if principal > self.principal {
            "you have reached the size that this server keeps of one person's changes"
        } else {
            return None;
        };
        // Waiting does not help: somebody has to raise the limit, or to do without.
        Some(Answer::Rejected { code: RejectCode::Quota, message: message.to_owned(), retryable: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::EntityId;
    use crate::name::CollectionName;

    #[test]
    fn a_push_is_read_until_it_has_taken_its_time() {
        let envelope = Envelope {
            entity: EntityId::from_bytes([1; 16]),
            collection: CollectionName::new("notes").unwrap(),
            parent: None,
            transaction: None,
            change: vec![0],
        };
        let answers: Vec<_> = open_batch(vec![envelope; 1_000]).into_iter().map(|it| it.unwrap_err().answer).collect();
        let is_read = |answer: &Answer| matches!(answer, Answer::Rejected { code: RejectCode::Malformed, .. });
        let read = answers.iter().take_while(|answer| is_read(answer)).count();
        assert_eq!(read, MAX_BATCH_OPS / MAX_CHANGE_OPS + 1);
        assert!(answers[read..].iter().all(|it| matches!(it, Answer::Rejected { retryable: true, .. })));
    }
}
