//! The client's side of a session: push, pull and live changes over one link, with backoff.

mod first_sync;
mod give_way;
mod link;
mod pull;
mod push;
mod reconcile;
mod step;

use std::collections::BTreeMap;

use crate::environment::{Entropy, UnixMillis};
use crate::id::Lineage;
use crate::name::SpaceName;
use crate::sync::backoff::Backoff;
use crate::sync::server::Showing;
use crate::wire::{ClientMessage, Cursor, Limits, Mark, ServerMessage};

use self::reconcile::Reconciling;

pub use first_sync::SegmentReply;
pub use step::{
    Adopt, ClientConfig, ClientEvent, ClientStep, FirstSync, FirstSyncStep, Halt, LinkCommand, Look, OutboxItem,
    OutboxRead, Reoffer, SpaceProgress, SyncEvent, WriteBatch,
};

/// The most changes that a client puts in one push.
pub const MAX_PUSH_CHANGES: u32 = 1_000;
/// The target size of a push, in bytes of changes; a larger change, or transaction, travels alone.
pub const MAX_PUSH_BYTES: u32 = 256 << 10;

/// The sync of one replica with one server.
#[derive(Debug)]
pub struct ClientSession {
    config: ClientConfig,
    lineage: Option<Lineage>,
    spaces: BTreeMap<SpaceName, SpaceSync>,
    link: Link,
    backoff: Backoff,
    next_push: u64,
    told_caught_up: bool,
    /// Another lineage was adopted, and the server has not said welcome since.
    adopted: bool,
    /// The time of the last event, by a clock that may be set back.
    last_now: UnixMillis,
    /// The server asked to be left alone until then.
    asked_until: Option<UnixMillis>,
    /// A push of more bytes than this has been too large for something on the way.
    push_bytes: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Idle,
    Opening,
    Waiting {
        until: UnixMillis,
    },
    /// `Hello` has been sent.
    Greeting,
    Open {
        limits: Limits,
    },
    Halted,
}

#[derive(Debug)]
struct SpaceSync {
    cursor: Option<Cursor>,
    ack: Option<Mark>,
    pulled: bool,
    /// In this session, the server has shown that its log goes on from the cursor and the ack mark.
    verified: bool,
    reconciling: Option<Reconciling>,
    /// In this session.
    has_reconciled: bool,
    /// As [`SpaceProgress::owes_reconcile`]. There is neither cursor nor ack mark then, but those of acknowledgements since.
    owes_reconcile: bool,
    /// Changes that the server has said are still to come.
    behind: Option<u64>,
    outbox: Outbox,
    retry_at: Option<UnixMillis>,
    /// Of what is wanted, as it was when the session began.
    subset_revision: u64,
    first: first_sync::First,
}

/// Where the pushing of one space stands. One push is in flight at a time: the answers to it decide what
/// may follow.
#[derive(Debug)]
enum Outbox {
    /// Everything known has been pushed.
    Empty,
    /// A read is under way; `again` if something was written meanwhile.
    Reading { again: bool },
    /// A push is in flight.
    Pushing { id: u64, keys: Vec<i64>, bytes: usize },
    /// It must be looked at once the session is open.
    Unknown,
}

impl ClientSession {
    /// A session with what the store remembers of this remote.
    #[must_use]
    pub fn new(config: ClientConfig, lineage: Option<Lineage>, spaces: Vec<SpaceProgress>, failures: u32) -> Self {
        Self {
            config,
            lineage,
            spaces: spaces.into_iter().map(SpaceSync::begin).collect(),
            link: Link::Idle,
            backoff: Backoff::after(failures),
            next_push: 1,
            told_caught_up: false,
            adopted: false,
            last_now: UnixMillis::MIN,
            asked_until: None,
            push_bytes: MAX_PUSH_BYTES,
        }
    }

    /// Whether nothing is pending and nothing is left to pull.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        matches!(self.link, Link::Open { .. })
            && self
                .spaces
                .values()
                .all(|space| space.pulled && matches!(space.outbox, Outbox::Empty) && space.retry_at.is_none())
    }

    /// What it may still adopt: a session that takes its place must not adopt more.
    #[must_use]
    pub const fn adopt_left(&self) -> Adopt {
        self.config.adopt
    }

    /// Failed attempts in a row.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.backoff.failures()
    }

    /// Takes in an event and says what to do.
    pub fn handle(&mut self, now: UnixMillis, entropy: &mut dyn Entropy, event: ClientEvent) -> ClientStep {
        let mut step = ClientStep::default();
        self.follow_clock(now);
        match event {
            ClientEvent::Start => match self.link {
                Link::Idle | Link::Waiting { .. } => self.open(&mut step),
                _ => {}
            },
            ClientEvent::Timer => self.on_timer(now, &mut step),
            ClientEvent::Follow(progress) => self.on_follow(progress, &mut step),
            ClientEvent::Connected => self.on_connected(&mut step),
            ClientEvent::Disconnected { reason, retry_after_millis } => {
                self.on_disconnected(now, entropy, reason, retry_after_millis, &mut step);
            }
            ClientEvent::Message(message) => self.on_message(now, entropy, message, &mut step),
            ClientEvent::Segment { space, digest, segment } => self.on_segment(space, digest, segment, &mut step),
            ClientEvent::Outbox { space, items, retry_at } => self.on_outbox(space, items, retry_at, &mut step),
            ClientEvent::Show { space, data } => {
                if let Link::Open { .. } = self.link {
                    step.send.push(ClientMessage::Presence { space, data });
                }
            }
            ClientEvent::Items { space, items } => self.on_items(space, items, &mut step),
            ClientEvent::Compared { space, compared } => self.on_compared(space, compared, &mut step),
            ClientEvent::LocalWrite { space } => self.on_local_write(&space, &mut step),
            ClientEvent::Stop => self.halt(Halt::Stopped, &mut step),
            ClientEvent::Suspend => self.suspend(&mut step),
            ClientEvent::TooLarge { reason } => self.on_too_large(now, entropy, reason, &mut step),
        }
        self.note_caught_up(now, &mut step);
        if let Some(batch) = &mut step.batch {
            batch.subset_revision = self.spaces.get(&batch.space).map_or(0, |space| space.subset_revision);
        }
        step.deadline = match self.link {
            Link::Waiting { until } => Some(until),
            Link::Open { .. } => self.spaces.values().filter_map(|space| space.retry_at).min(),
            _ => None,
        };
        step
    }

    /// What was to happen in a while still happens in that while when the clock is set back, be it by years.
    fn follow_clock(&mut self, now: UnixMillis) {
        let back = self.last_now.saturating_sub(now);
        self.last_now = now;
        if back <= 0 {
            return;
        }
        if let Link::Waiting { until } = &mut self.link {
            *until = until.saturating_sub(back);
        }
        if let Some(until) = &mut self.asked_until {
            *until = until.saturating_sub(back);
        }
        for at in self.spaces.values_mut().filter_map(|space| space.retry_at.as_mut()) {
            *at = at.saturating_sub(back);
        }
    }

    fn on_timer(&mut self, now: UnixMillis, step: &mut ClientStep) {
        match self.link {
            Link::Waiting { until } if until <= now => self.open(step),
            Link::Open { limits } => {
                for (name, space) in &mut self.spaces {
                    if space.retry_at.is_some_and(|at| at <= now) {
                        space.retry_at = None;
                        match &mut space.outbox {
                            Outbox::Empty => space.read_outbox(name, limits, step),
                            Outbox::Reading { again } => *again = true,
                            Outbox::Pushing { .. } | Outbox::Unknown => {}
                        }
                    }
                }
            }
            _ => {}
        }
    }

    fn on_follow(&mut self, progress: SpaceProgress, step: &mut ClientStep) {
        if self.spaces.contains_key(&progress.space) {
            return;
        }
        let (name, mut space) = SpaceSync::begin(progress);
        self.told_caught_up = false;
        if let Link::Greeting | Link::Open { .. } = self.link {
            space.greet(&name, step);
        }
        if let Link::Open { limits } = self.link {
            space.welcome(&name, limits, step);
        }
        self.spaces.insert(name, space);
    }

    fn on_message(
        &mut self,
        now: UnixMillis,
        entropy: &mut dyn Entropy,
        message: ServerMessage,
        step: &mut ClientStep,
    ) {
        match (message, self.link) {
            (ServerMessage::Welcome(welcome), Link::Greeting) => self.on_welcome(&welcome, step),
            (ServerMessage::Refused { code, message, retry_after_millis }, Link::Greeting | Link::Open { .. }) => {
                self.on_refused(now, entropy, code, message, retry_after_millis, step);
            }
            (ServerMessage::Pushed(pushed), Link::Open { .. }) => self.on_pushed(pushed, step),
            (ServerMessage::Changes { space, changes, cursor, more }, Link::Open { .. }) => {
                self.on_changes(space, changes, cursor, more, step);
            }
            (ServerMessage::Behind { space, changes }, Link::Open { .. }) => self.on_behind(&space, changes),
            (ServerMessage::Poke { space }, Link::Open { .. }) => {
                // It comes by itself: the pages that fill the window are confirmed as they are committed.
                if let Some(space) = self.spaces.get_mut(&space) {
                    space.pulled = false;
                }
            }
            (ServerMessage::Presence { space, replica, data }, Link::Open { .. }) => {
                step.events.push(SyncEvent::Shown(Showing { space, replica, data }));
            }
            (ServerMessage::CursorUnknown { space }, Link::Open { .. }) => {
                self.on_cursor_unknown(now, entropy, space, step);
            }
            (ServerMessage::Reconciled { space, reply, at }, Link::Open { .. }) => {
                self.on_reconciled(space, reply, at, step);
            }
            (ServerMessage::Manifest { space, manifest }, Link::Open { .. }) => self.on_manifest(space, manifest, step),
            (ServerMessage::Segment { space, digest, bytes }, Link::Open { .. }) => {
                self.on_segment(space, digest, first_sync::read(&digest, bytes), step);
            }
            (_, Link::Greeting) => self.halt(Halt::Protocol("the server did not say welcome".to_owned()), step),
            // Late words of a link that is already given up.
            _ => {}
        }
    }

    fn note_caught_up(&mut self, now: UnixMillis, step: &mut ClientStep) {
        if !self.is_caught_up() {
            self.told_caught_up = false;
            return;
        }
        if std::mem::replace(&mut self.told_caught_up, true) {
            return;
        }
        self.backoff.succeed();
        // The next session may go another way.
        self.push_bytes = MAX_PUSH_BYTES;
        step.events.push(SyncEvent::CaughtUp);
        if let (Some(name), Some(lineage)) = (self.spaces.keys().next(), self.lineage) {
            let batch = step.batch.get_or_insert_with(|| WriteBatch::empty(name.clone(), lineage));
            batch.caught_up_at = Some(now);
        }
    }
}

impl SpaceSync {
    fn begin(progress: SpaceProgress) -> (SpaceName, Self) {
        let SpaceProgress { space, cursor, ack, owes_reconcile, collections, had, subset_revision, first_sync } =
            progress;
        let mut begun = Self {
            cursor,
            ack,
            pulled: false,
            behind: None,
            verified: false,
            reconciling: None,
            has_reconciled: false,
            owes_reconcile,
            outbox: Outbox::Unknown,
            retry_at: None,
            subset_revision,
            first: first_sync::First::new(collections, had, first_sync),
        };
        begun.begin_link();
        (space, begun)
    }

    /// A link is opened: nothing has been said over it.
    fn begin_link(&mut self) {
        self.pulled = false;
        self.reconciling = None;
        self.has_reconciled = false;
        self.outbox = Outbox::Unknown;
        if self.owes_reconcile {
            self.owe_reconcile();
        }
        // Where nothing is known of the server's log, it has nothing to contradict.
        self.verified = self.cursor.is_none() && self.ack.is_none();
    }
}
