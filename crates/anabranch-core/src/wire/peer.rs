//! What two replicas say to each other without a server.

use bincode::{Decode, Encode};

use crate::id::{ChangeHash, EntityId, ReplicaId};
use crate::name::SpaceName;
use crate::wire::{Ask, Envelope, Reply, Wanted};

/// What a replica says to another. The one that has dialled leads: it asks, and the other answers.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum PeerMessage {
    /// The first message of both sides.
    Hello(PeerHello),
    /// The second: that it knows the token.
    Proof([u8; 32]),
    /// The spaces that may be exchanged; the answer is the same of the other side.
    Spaces {
        /// Their names.
        spaces: Vec<SpaceName>,
        /// Whether no others may.
        only: bool,
    },
    /// A question of a reconcile: [`Ask::Sketch`] or [`Ask::Heads`].
    Ask {
        /// The space.
        space: SpaceName,
        /// The question.
        ask: Ask,
    },
    /// The answer.
    Reply(Reply),
    /// Entities of which something is lacking. After the last of them, the changes come.
    Want {
        /// The space.
        space: SpaceName,
        /// The entities, and what is there of each.
        wanted: Vec<Wanted>,
        /// Whether there are no more.
        last: bool,
    },
    /// Changes, each after those that it depends on.
    Changes {
        /// The space.
        space: SpaceName,
        /// The changes.
        changes: Vec<Envelope>,
        /// Whether those that have come since the last commit are to be committed now. The answer is `Received`.
        whole: bool,
        /// Whether there are no more.
        last: bool,
    },
    /// A batch of changes has been committed.
    Received {
        /// How many of them were new.
        taken: u64,
    },
    /// Something was written in this space: it is worth a look.
    Poke(SpaceName),
    /// Some of the changes of the batch were discarded here before. Comes before `Received`.
    Declined {
        /// The space.
        space: SpaceName,
        /// Their entities and hashes; of one that was written from another, the hash of that.
        changes: Vec<(EntityId, ChangeHash)>,
    },
}

/// The first message of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PeerHello {
    /// The replica that speaks.
    pub replica: ReplicaId,
    /// Random bytes that no session before has seen.
    pub nonce: [u8; 32],
}
