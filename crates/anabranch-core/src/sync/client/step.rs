//! What goes into the client's machine, and what comes out of it.

use crate::environment::UnixMillis;
use crate::id::{Actor, Digest, Lineage, ReplicaId};
use crate::name::{CollectionName, SpaceName};
use crate::segment::{Manifest, Segment};
use crate::sync::reconcile::{Compared, Item, Theirs};
use crate::sync::server::Showing;
use crate::wire::{Answer, ClientMessage, Cursor, Envelope, Mark, ServerMessage};

/// Who speaks, and about what.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// This replica.
    pub replica: ReplicaId,
    /// The actor of this open of the file.
    pub actor: Actor,
    /// The version of the application's schema.
    pub schema_version: u32,
    /// Whether to go on with a server of another history.
    pub adopt: Adopt,
}

/// Whether to go on with a server whose history is not the one that was synced with before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Adopt {
    /// Only if it is empty.
    #[default]
    Nothing,
    /// If it is this one.
    Only(Lineage),
    /// Whatever it is, once.
    Any,
}

/// How far one space has come with one remote, as the store remembers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpaceProgress {
    /// The space.
    pub space: SpaceName,
    /// Where the last committed pull ended.
    pub cursor: Option<Cursor>,
    /// The highest place that the server has acknowledged.
    pub ack: Option<Mark>,
    /// The server may lack what it has acknowledged: what is here is to be compared with what it has, before anything
    /// is believed that it says of its log. Cursor and ack mark are of no use then.
    pub owes_reconcile: bool,
    /// The collections that are wanted; `None` for all.
    pub collections: Option<Vec<CollectionName>>,
    /// The collections that the cursor stands for, if these are fewer than those that are wanted: the others
    /// begin at the beginning, and whatever the cursor is, there is a first sync.
    pub had: Option<Vec<CollectionName>>,
    /// Which revision of what is wanted this is; goes into each [`WriteBatch`].
    pub subset_revision: u64,
    /// The first sync that is under way.
    pub first_sync: Option<FirstSync>,
}

impl SpaceProgress {
    /// A space that has never been synced, and is wanted whole.
    #[must_use]
    pub const fn begin(space: SpaceName) -> Self {
        Self {
            space,
            cursor: None,
            ack: None,
            owes_reconcile: false,
            collections: None,
            had: None,
            subset_revision: 0,
            first_sync: None,
        }
    }
}

/// A first sync by segments, as the store remembers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstSync {
    /// What the server offered.
    pub manifest: Manifest,
    /// For each of its pieces, whether it has been applied.
    pub applied: Vec<bool>,
}

/// What a batch does about a first sync.
#[derive(Clone, Debug, PartialEq)]
pub enum FirstSyncStep {
    /// Begin, or go on with other segments: remember this instead of what was there.
    Plan(FirstSync),
    /// Apply a segment, and remember that.
    Apply(Box<Segment>),
}

/// What happens to a session.
#[derive(Clone, Debug)]
pub enum ClientEvent {
    /// Begin, or begin again at once (network regained, or a person asked).
    Start,
    /// The link is open.
    Connected,
    /// The link is gone, or could not be opened.
    Disconnected {
        /// Why, for a person.
        reason: String,
        /// When the other side asked to be tried again.
        retry_after_millis: Option<u32>,
    },
    /// The server said something.
    Message(ServerMessage),
    /// A segment has come, and has been read (or what came is none): the driver may do that beside other work.
    Segment {
        /// The space.
        space: SpaceName,
        /// The segment that was asked for.
        digest: Digest,
        /// What has come; `None` if the server does not have it any more.
        segment: Option<Result<Box<Segment>, String>>,
    },
    /// The answer to an [`OutboxRead`].
    Outbox {
        /// The space.
        space: SpaceName,
        /// What is pending, in the order in which it must be pushed; empty if nothing can be pushed now.
        items: Vec<OutboxItem>,
        /// When something that waits for its next attempt may be pushed.
        retry_at: Option<UnixMillis>,
    },
    /// The answer to [`Look::Items`].
    Items {
        /// The space.
        space: SpaceName,
        /// Every entity that is here.
        items: Vec<Item>,
    },
    /// The answer to [`Look::Compare`].
    Compared {
        /// The space.
        space: SpaceName,
        /// What is lacking here, in the order of the question.
        compared: Vec<Compared>,
    },
    /// From now on this space is synced, too.
    Follow(SpaceProgress),
    /// Something was written locally in this space.
    LocalWrite {
        /// The space.
        space: SpaceName,
    },
    /// This replica shows something else in a space, or nothing any more.
    Show {
        /// The space.
        space: SpaceName,
        /// What.
        data: Option<Vec<u8>>,
    },
    /// The deadline of an earlier step has come.
    Timer,
    /// No more attempts; the link is to be closed.
    Stop,
    /// The link is to be closed until [`ClientEvent::Start`]: this is not the time. Not a failure.
    Suspend,
    /// The link is gone: what was sent last is larger than something on the way takes.
    TooLarge {
        /// Who said so, for a person.
        reason: String,
    },
}

/// A pending change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxItem {
    /// The store's key of it.
    pub key: i64,
    /// The change.
    pub envelope: Envelope,
    /// It is a purge marker that somebody has agreed to before.
    pub agreed: bool,
}

/// A look into what the store holds of a space, while it is reconciled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// Every entity, as an item; comes back as [`ClientEvent::Items`].
    Items {
        /// The space.
        space: SpaceName,
        /// Only those of these collections, and of what the system keeps beside them; `None` for all.
        collections: Option<Vec<CollectionName>>,
    },
    /// What is lacking here of what the server has; comes back as [`ClientEvent::Compared`].
    Compare {
        /// The space.
        space: SpaceName,
        /// The entities, with their heads there.
        theirs: Vec<Theirs>,
    },
}

/// A request for pending changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxRead {
    /// Of this space.
    pub space: SpaceName,
    /// At most this many.
    pub changes: u32,
    /// Of at most this many bytes. A single change, or a single transaction, may go over both.
    pub bytes: u32,
}

/// What is to be committed in one transaction, before anything else happens.
#[derive(Clone, Debug, PartialEq)]
pub struct WriteBatch {
    /// The space.
    pub space: SpaceName,
    /// The server's lineage.
    pub lineage: Lineage,
    /// Changes to admit and apply, in order.
    pub incoming: Vec<Envelope>,
    /// What comes of the space's first sync.
    pub first_sync: Option<FirstSyncStep>,
    /// What the server answered about pending changes, by the store's keys.
    pub answered: Vec<(i64, Answer)>,
    /// The new cursor.
    pub cursor: Option<Cursor>,
    /// The new ack mark.
    pub ack: Option<Mark>,
    /// From now on, and until there is a new cursor, [`SpaceProgress::owes_reconcile`]. Such a batch has no cursor.
    pub owes_reconcile: bool,
    /// What the server has lost, and so must be offered again.
    pub reoffer: Reoffer,
    /// Entities whose changes beyond these heads the server lacks: they are offered.
    pub offers: Vec<Theirs>,
    /// Replica and server agree as of this time.
    pub caught_up_at: Option<UnixMillis>,
    /// The [`SpaceProgress::subset_revision`] that the session began with. If what is wanted of the space has been
    /// changed since, neither the cursor nor a plan is stored: they do not stand for what is wanted now.
    pub subset_revision: u64,
}

/// What is to be offered to a server again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reoffer {
    /// Nothing.
    #[default]
    Nothing,
    /// Every change of the batch's space; its cursor and ack mark are forgotten.
    Space,
    /// Every change of every space; their cursors and ack marks are forgotten.
    Everything,
    /// What the server has refused of the batch's space: it has lost its refusals with its history.
    Refused,
}

/// What the driver does with the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkCommand {
    /// Open it; one that is open is closed first.
    Open,
    /// Close it.
    Close,
}

/// Why a session will not try again by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Halt {
    /// The server has another, non-empty history. A person must adopt it first.
    OtherLineage(Lineage),
    /// The server refuses this replica.
    Forbidden(String),
    /// The two do not understand each other.
    Protocol(String),
    /// It was asked to stop.
    Stopped,
}

/// News for the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyncEvent {
    /// A session is open.
    Online {
        /// The server's time.
        server_now: UnixMillis,
    },
    /// The session is gone; the next attempt is at this time.
    Offline {
        /// Why.
        reason: String,
        /// When.
        retry_at: UnixMillis,
        /// Failed attempts in a row.
        failures: u32,
    },
    /// Nothing is pending and nothing is left to pull in any space.
    CaughtUp,
    /// A segment of the space cannot be used. It is tried again, and then the space is synced by its log.
    SegmentRefused {
        /// The space.
        space: SpaceName,
        /// Why.
        reason: String,
    },
    /// The server's log was restored or replaced; what it lost is offered again.
    ServerLostHistory(SpaceName),
    /// Another replica shows something else in a space, or nothing any more. What is shown ends with the session.
    Shown(Showing),
    /// There will be no more attempts.
    Halted(Halt),
}

/// What to do: commit the batch, *then* the rest.
#[derive(Clone, Debug, Default)]
pub struct ClientStep {
    /// Committed first. If that fails, the machine must be dropped and a new one made from the store.
    pub batch: Option<WriteBatch>,
    /// Sent in order.
    pub send: Vec<ClientMessage>,
    /// Reads of the outbox; the answers come back as [`ClientEvent::Outbox`]. One that comes after the link has been
    /// closed is thrown away: a later session would take it for the answer to its own read.
    pub reads: Vec<OutboxRead>,
    /// Looks into the store; the answers come back as [`ClientEvent::Items`] and [`ClientEvent::Compared`].
    pub looks: Vec<Look>,
    /// For the link.
    pub link: Option<LinkCommand>,
    /// For the application.
    pub events: Vec<SyncEvent>,
    /// Call again with [`ClientEvent::Timer`] at this time.
    pub deadline: Option<UnixMillis>,
}

impl WriteBatch {
    /// A batch that changes nothing but the remote's lineage.
    #[must_use]
    pub const fn empty(space: SpaceName, lineage: Lineage) -> Self {
        Self {
            space,
            lineage,
            incoming: Vec::new(),
            first_sync: None,
            answered: Vec::new(),
            cursor: None,
            ack: None,
            owes_reconcile: false,
            reoffer: Reoffer::Nothing,
            offers: Vec::new(),
            caught_up_at: None,
            subset_revision: 0,
        }
    }
}
