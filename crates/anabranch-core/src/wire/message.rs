//! What client and server say to each other.

use bincode::{Decode, Encode};

use crate::environment::UnixMillis;
use crate::id::{Actor, ChangeHash, Digest, EntityId, Lineage, ReplicaId, TransactionId};
use crate::name::{CollectionName, SpaceName};
use crate::segment::Manifest;

/// The longest cursor a client stores, in bytes.
pub const MAX_CURSOR_BYTES: usize = 256;
/// The most bytes that a replica may show of itself in one space.
pub const MAX_PRESENCE_BYTES: usize = 1_024;
/// The most collections that a pull may ask for by name.
pub const MAX_PULL_COLLECTIONS: usize = 256;

/// A change and what everyone between writer and reader needs to know about it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Envelope {
    /// The entity it belongs to.
    pub entity: EntityId,
    /// The entity's collection.
    pub collection: CollectionName,
    /// An entity that must be on the server first.
    pub parent: Option<EntityId>,
    /// The transaction it is part of; its changes stand next to each other.
    pub transaction: Option<TransactionId>,
    /// The Automerge change chunk, never deflated.
    pub change: Vec<u8>,
}

/// A place in a space's log: the chain makes it checkable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Mark {
    /// The place, from 1; 0 is before the first change.
    pub seq: u64,
    /// `H(chain of seq - 1, entity, hash, transaction)`.
    pub chain: Digest,
}

impl Mark {
    /// Before the first change of any log.
    pub const START: Self = Self { seq: 0, chain: Digest::from_bytes([0; 32]) };
}

/// How far a replica has read a space. Opaque to clients: they store it and send it back.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Cursor(pub Vec<u8>);

impl Cursor {
    /// Whether it stands for no place of any log. No server gives such a cursor.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What a client sends.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ClientMessage {
    /// Opens a session; always the first message.
    Hello(Hello),
    /// Offers changes.
    Push(Push),
    /// Asks for a space's changes after a cursor, and for later ones if `live`.
    Pull(Pull),
    /// The client has committed a page of changes: the server may send another.
    Received {
        /// The page's space.
        space: SpaceName,
    },
    /// Shows something to those who follow the space just now, or nothing any more. Never stored.
    Presence {
        /// The space, which this session follows.
        space: SpaceName,
        /// What is shown, at most [`MAX_PRESENCE_BYTES`].
        data: Option<Vec<u8>>,
    },
    /// Asks something to find out how the two sides differ. One question for each space is under way at a time.
    Reconcile {
        /// The space.
        space: SpaceName,
        /// The question.
        ask: Ask,
    },
    /// Asks for a segment that a manifest lists.
    Segment {
        /// The space.
        space: SpaceName,
        /// The segment's name.
        digest: Digest,
    },
}

/// The first message of a session. Tokens travel in the transport's headers, never here.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Hello {
    /// The replica that speaks.
    pub replica: ReplicaId,
    /// The actor that it writes with during this open of its file.
    pub actor: Actor,
    /// The version of its schema.
    pub schema_version: u32,
    /// The server history that it has synced with before. A server of another lineage refuses the session.
    pub lineage: Option<Lineage>,
}

/// A batch of changes of one space.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Push {
    /// Chosen by the client; the answer repeats it.
    pub id: u64,
    /// The space.
    pub space: SpaceName,
    /// The changes, each after those that it depends on.
    pub changes: Vec<Envelope>,
    /// Which of them (their places, from 0) are purge markers that were agreed to before, here or on another server:
    /// these are taken, whatever the log holds.
    pub agreed: Vec<u32>,
}

/// A question of whoever reconciles.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Ask {
    /// The next message of the sketch.
    Sketch(Vec<u8>),
    /// What are the heads of these?
    Heads(Vec<EntityId>),
    /// Send what I lack of these, in this order.
    Changes {
        /// The entities, and what the asking side has of each.
        wanted: Vec<Wanted>,
        /// How many changes of the first have come already.
        skip: u32,
    },
    /// The next message of a sketch of some collections only, and of what the system keeps beside them.
    SketchOf {
        /// The same in all questions of one reconcile.
        collections: Vec<CollectionName>,
        /// The message.
        message: Vec<u8>,
    },
}

/// An entity of which something is lacking.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Wanted {
    /// The entity.
    pub entity: EntityId,
    /// Some of its changes that are there. All that these depend on is there, too.
    pub known: Vec<ChangeHash>,
}

/// The answer to an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Reply {
    /// The answer to a message of the sketch.
    Sketch(Vec<u8>),
    /// The heads of the first entities that were asked about, at least of one; none if nothing of it is here.
    Heads(Vec<Vec<ChangeHash>>),
    /// Changes that were lacking.
    Changes {
        /// The changes, each entity's in causal order.
        changes: Vec<Envelope>,
        /// Of how many of the entities, from the first, there is no more.
        done: u32,
        /// How many changes of the next one have been sent.
        skip: u32,
    },
    /// There is too much here to reconcile. Whoever asked goes the long way: it offers everything, and reads the log.
    TooMany,
}

/// Asks for changes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Pull {
    /// The space.
    pub space: SpaceName,
    /// Where the client's last pull ended; `None` to start at the beginning.
    pub cursor: Option<Cursor>,
    /// The highest place that the server has acknowledged to this client: a server that no longer has it was
    /// restored from a backup.
    pub ack: Option<Mark>,
    /// Whether to go on sending changes as they are committed.
    pub live: bool,
    /// Only these collections, and what the system keeps beside them; `None` for all.
    pub collections: Option<Vec<CollectionName>>,
    /// A pull from the beginning, which may be answered by a manifest of segments: the client asks for those, and
    /// then pulls from the manifest's cursor. A client that has some of the collections already sends its cursor;
    /// the manifest's is then no later one.
    pub segments: bool,
}

impl Pull {
    /// A pull of a whole space by its log, live.
    #[must_use]
    pub const fn all(space: SpaceName, cursor: Option<Cursor>, ack: Option<Mark>) -> Self {
        Self { space, cursor, ack, live: true, collections: None, segments: false }
    }
}

/// What a server sends.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ServerMessage {
    /// The answer to `Hello`.
    Welcome(Welcome),
    /// The answer to `Push`.
    Pushed(Pushed),
    /// Changes in the order of the space's log, without those that this session itself has pushed.
    Changes {
        /// The space.
        space: SpaceName,
        /// The changes.
        changes: Vec<Envelope>,
        /// Where this page ends.
        cursor: Cursor,
        /// Whether there is more right now.
        more: bool,
    },
    /// The cursor or the ack mark is not in this server's log: it was restored from a backup, or replaced.
    CursorUnknown {
        /// The space.
        space: SpaceName,
    },
    /// The session cannot go on.
    Refused {
        /// Why.
        code: RefusalCode,
        /// For a person.
        message: String,
        /// When to try again, if that can help.
        retry_after_millis: Option<u32>,
    },
    /// There is more than the client's window lets through; it comes once the client has confirmed a page.
    Poke {
        /// The space.
        space: SpaceName,
    },
    /// What another replica shows in a space that this session follows. It holds until the next one of the same
    /// replica, or the end of the session.
    Presence {
        /// The space.
        space: SpaceName,
        /// Who shows it.
        replica: ReplicaId,
        /// What; `None` if nothing any more.
        data: Option<Vec<u8>>,
    },
    /// The answer to a question of a reconcile.
    Reconciled {
        /// The space.
        space: SpaceName,
        /// The answer.
        reply: Reply,
        /// The end of the log when the question was answered, as a cursor and as an ack mark; `None` if it was not
        /// answered. A reconcile goes on from the first cursor, and with the last mark: what the server shows to be there
        /// is as good as acknowledged.
        at: Option<(Cursor, Mark)>,
    },
    /// The answer to a pull from the beginning, if the space has segments.
    Manifest {
        /// The space.
        space: SpaceName,
        /// The segments of the collections that the pull asked for.
        manifest: Manifest,
    },
    /// The answer to [`ClientMessage::Segment`].
    Segment {
        /// The space.
        space: SpaceName,
        /// The segment's name.
        digest: Digest,
        /// Its bytes; `None` if the server does not have it any more: it has made others meanwhile.
        bytes: Option<Vec<u8>>,
    },
    /// How far the client is behind: sent once while a pull takes more than a page.
    Behind {
        /// The space.
        space: SpaceName,
        /// Changes of the space's log after the page that was sent last.
        changes: u64,
    },
}

/// The answer to [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Welcome {
    /// The server's history.
    pub lineage: Lineage,
    /// The server's time.
    pub now: UnixMillis,
    /// What the server takes.
    pub limits: Limits,
}

/// What a server takes in one push.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Limits {
    /// The most changes.
    pub push_changes: u32,
    /// The most bytes of changes.
    pub push_bytes: u32,
}

/// The answer to a [`Push`]. Sent only after the accepted changes are committed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Pushed {
    /// The push's id.
    pub id: u64,
    /// The push's space.
    pub space: SpaceName,
    /// One answer per change, in order.
    pub answers: Vec<Answer>,
    /// The end of the log right after the push, if any of the changes is in it now: the client's next ack mark.
    pub mark: Option<Mark>,
    /// A new cursor, if the accepted changes follow right after what this session has been sent.
    pub cursor: Option<Cursor>,
}

/// What became of one pushed change. A partial failure is normal.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Answer {
    /// Committed at this place of the log.
    Accepted {
        /// Its place.
        seq: u64,
    },
    /// It had been committed before, at this place.
    Duplicate {
        /// Its place.
        seq: u64,
    },
    /// Something that must come first is not there; nothing was stored.
    Held {
        /// What is missing.
        missing: Missing,
    },
    /// Refused.
    Rejected {
        /// Why.
        code: RejectCode,
        /// For a person.
        message: String,
        /// Whether the same change may be accepted later.
        retryable: bool,
    },
}

/// What a held change waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Missing {
    /// A change that it depends on.
    Change(ChangeHash),
    /// Its parent entity.
    Parent(EntityId),
}

/// Why a change was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
#[non_exhaustive]
pub enum RejectCode {
    /// The bytes are not a change that is admitted.
    Malformed,
    /// The entity belongs to another collection.
    WrongCollection,
    /// Another change has the same entity, actor and seq: one of the two replicas is a copy of the other.
    Fork,
    /// Another change of the same transaction was refused.
    Transaction,
    /// The session may not write to this space.
    Forbidden,
    /// The server could not store it just now.
    Unavailable,
    /// It purges a version of the entity that is not the one on the server: purge again, what is there now.
    Stale,
    /// The entity has been purged; nothing of it is taken any more.
    Purged,
    /// It is larger than the server takes.
    TooLarge,
    /// It was written by a clock that is too far ahead of the server's.
    Clock,
    /// The change was written from one that is on the server: pull that, and drop this.
    Superseded,
    /// The entity, the space or whoever pushes has reached the size that this server keeps.
    Quota,
}

/// Why a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[non_exhaustive]
pub enum RefusalCode {
    /// The messages break the protocol.
    Protocol,
    /// The session may not read this space, or not at all.
    Forbidden,
    /// The server's history is another one. It is not empty unless the flag says so.
    OtherLineage {
        /// The server's lineage.
        lineage: Lineage,
        /// Whether the server holds no change at all.
        empty: bool,
    },
    /// The server cannot answer now.
    Unavailable,
    /// A frame has been damaged on the way: connect again.
    Damaged,
    /// What the session was opened with is no longer valid: connect again with a fresh token.
    Expired,
}
