//! The server's side of a session.

mod call;
mod feed;
mod push;
mod reconcile;
mod segments;

use std::collections::BTreeMap;

use crate::environment::UnixMillis;
use crate::id::{Lineage, ReplicaId};
use crate::name::SpaceName;
use crate::sync::cursor::CursorContent;
use crate::wire::{
    ClientMessage, Cursor, Hello, Limits, MAX_PRESENCE_BYTES, MAX_PULL_COLLECTIONS, Mark, Pull, RefusalCode,
    ServerMessage, Welcome,
};
use feed::Feed;

pub use call::{Call, CallResult, LogPage};

/// Pages that a session sends before the client has confirmed the first of them.
pub const WINDOW_PAGES: u32 = 4;
/// The target size of a page of changes, in bytes; a larger change, or transaction, travels alone.
pub const PAGE_BYTES: usize = 256 << 10;
/// The most changes in a page.
pub const PAGE_CHANGES: usize = 2_000;

/// The most spaces that one session reads.
const MAX_SPACES: usize = 1_024;
/// The most collections that the pulls of one session name, all together.
const MAX_NAMED_COLLECTIONS: usize = 8_192;
/// Accepted places that a session remembers in all its spaces, so as not to send them back. Beyond it they are
/// sent; the client ignores what it has.
const MAX_OWN_SEQS: usize = 16_384;

/// What a server tells every session.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The server's history.
    pub lineage: Lineage,
    /// Whether it held no change at all when the session began.
    pub empty: bool,
    /// What it takes in one push.
    pub limits: Limits,
}

/// What a session may do in a space. Asked on every message, so a revoked right ends at once.
pub trait Access {
    /// Whether the session may read the space.
    fn may_read(&self, space: &SpaceName) -> bool;
    /// Whether the session may write to the space.
    fn may_write(&self, space: &SpaceName) -> bool;
    /// When all rights end, if they do. It may come closer while the session lasts: what is revoked has ended.
    fn ends_at(&self) -> Option<UnixMillis> {
        None
    }
    /// Who has the rights, where that is known: whose quota and rate count.
    fn principal(&self) -> Option<&str> {
        None
    }
}

/// What happens to a session.
#[derive(Clone, Debug)]
pub enum ServerEvent {
    /// The client said something.
    Message(ClientMessage),
    /// The backend answered.
    Result(CallResult),
    /// A hint that a space's log has reached this place.
    Committed {
        /// The space.
        space: SpaceName,
        /// The place.
        seq: u64,
    },
    /// Somebody shows something else in a space, or nothing any more.
    Presence(Showing),
    /// The session's rights may have ended, or be others: look.
    Rights,
}

/// What a replica shows in a space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Showing {
    /// The space.
    pub space: SpaceName,
    /// Who shows it.
    pub replica: ReplicaId,
    /// What; `None` if nothing any more.
    pub data: Option<Vec<u8>>,
}

/// What the driver does next: first the calls' results come back as events, messages go out at once.
#[derive(Clone, Debug, Default)]
pub struct ServerStep {
    /// Asked of the backend, in order.
    pub calls: Vec<Call>,
    /// Sent to the client, in order.
    pub send: Vec<ServerMessage>,
    /// Shown to the others who follow the space, until the session ends.
    pub show: Option<Showing>,
    /// The session ends after the messages.
    pub close: bool,
}

/// One client's session.
#[derive(Debug)]
pub struct ServerSession {
    config: ServerConfig,
    replica: Option<ReplicaId>,
    feeds: BTreeMap<SpaceName, Feed>,
    /// Pulls that will be answered by segments, if there are any.
    asked: BTreeMap<SpaceName, Pull>,
    closed: bool,
}

impl ServerSession {
    /// A session that has just been connected.
    #[must_use]
    pub const fn new(config: ServerConfig) -> Self {
        Self { config, replica: None, feeds: BTreeMap::new(), asked: BTreeMap::new(), closed: false }
    }

    /// The spaces that the session follows: it wants to hear of commits there.
    pub fn live_spaces(&self) -> impl Iterator<Item = &SpaceName> {
        self.feeds.iter().filter(|(_, feed)| feed.live).map(|(space, _)| space)
    }

    /// Takes in an event and says what to do.
    pub fn handle(&mut self, now: UnixMillis, access: &dyn Access, event: ServerEvent) -> ServerStep {
        let mut step = ServerStep::default();
        if self.closed {
            return step;
        }
        // What has been stored is answered all the same, and nothing after it.
        let stored = matches!(event, ServerEvent::Result(CallResult::Appended { .. }));
        if !stored && access.ends_at().is_some_and(|end| now >= end) {
            self.refuse(RefusalCode::Expired, "the session's rights have ended", &mut step);
            return step;
        }
        match event {
            ServerEvent::Message(message) => self.on_message(now, access, message, &mut step),
            ServerEvent::Result(CallResult::Appended { id, space, outcome }) => {
                self.on_appended(id, space, outcome, &mut step);
            }
            ServerEvent::Result(CallResult::Read { space, outcome }) => {
                if access.may_read(&space) {
                    self.on_read(&space, outcome, &mut step);
                } else {
                    self.refuse(RefusalCode::Forbidden, "the right to read has ended", &mut step);
                }
            }
            ServerEvent::Result(CallResult::Reconciled { space, outcome }) => {
                self.on_reconciled(access, space, outcome, &mut step);
            }
            ServerEvent::Result(CallResult::Manifest { space, known, outcome }) => {
                self.on_manifest(access, &space, known, outcome, &mut step);
            }
            ServerEvent::Result(CallResult::Segment { space, digest, outcome }) => {
                self.on_segment(access, space, digest, outcome, &mut step);
            }
            ServerEvent::Result(CallResult::Head { space, outcome }) => self.on_head(access, space, outcome, &mut step),
            ServerEvent::Committed { space, seq } => {
                if let Some(feed) = self.feeds.get_mut(&space) {
                    feed.known_head = feed.known_head.max(seq);
                    feed.pump(&space, &mut step);
                }
            }
            ServerEvent::Presence(showing) => self.on_showing(access, showing, &mut step),
            ServerEvent::Rights => {
                if self.feeds.keys().any(|space| !access.may_read(space)) {
                    self.refuse(RefusalCode::Forbidden, "the right to read has ended", &mut step);
                }
            }
        }
        step
    }

    fn on_message(&mut self, now: UnixMillis, access: &dyn Access, message: ClientMessage, step: &mut ServerStep) {
        match (message, self.replica) {
            (ClientMessage::Hello(hello), None) => self.on_hello(now, &hello, step),
            (ClientMessage::Push(push), Some(replica)) => self.on_push(access, replica, push, step),
            (ClientMessage::Pull(pull), Some(_)) => self.on_pull(access, pull, step),
            (ClientMessage::Received { space }, Some(_)) => {
                if let Some(feed) = self.feeds.get_mut(&space) {
                    feed.unconfirmed = feed.unconfirmed.saturating_sub(1);
                    feed.pump(&space, step);
                }
            }
            (ClientMessage::Presence { space, data }, Some(replica)) => {
                self.on_presence(access, Showing { space, replica, data }, step);
            }
            (ClientMessage::Reconcile { space, ask }, Some(_)) => self.on_reconcile(access, space, ask, step),
            (ClientMessage::Segment { space, digest }, Some(_)) => self.on_segment_wanted(access, space, digest, step),
            (ClientMessage::Hello(_), Some(_)) => {
                self.refuse(RefusalCode::Protocol, "a session has one hello", step);
            }
            (_, None) => self.refuse(RefusalCode::Protocol, "a session starts with hello", step),
        }
    }

    fn on_hello(&mut self, now: UnixMillis, hello: &Hello, step: &mut ServerStep) {
        if let Some(theirs) = hello.lineage
            && theirs != self.config.lineage
        {
            // Whatever follows in the same flight is ignored: nothing of one tenant may reach another's server.
            let code = RefusalCode::OtherLineage { lineage: self.config.lineage, empty: self.config.empty };
            return self.refuse(code, "this server has another history than the one you synced with", step);
        }
        self.replica = Some(hello.replica);
        let Self { config: ServerConfig { lineage, limits, .. }, .. } = *self;
        step.send.push(ServerMessage::Welcome(Welcome { lineage, now, limits }));
    }

    fn on_pull(&mut self, access: &dyn Access, pull: Pull, step: &mut ServerStep) {
        if !access.may_read(&pull.space) {
            return self.refuse(RefusalCode::Forbidden, "no right to read this space", step);
        }
        if pull.collections.as_ref().is_some_and(|names| names.len() > MAX_PULL_COLLECTIONS) {
            return self.refuse(RefusalCode::Protocol, "too many collections in one pull", step);
        }
        let named = |names: &Option<Vec<_>>| names.as_ref().map_or(0, Vec::len);
        let elsewhere = self.feeds.iter().filter(|(space, _)| **space != pull.space);
        let elsewhere: usize = elsewhere.map(|(_, feed)| named(&feed.collections)).sum();
        if elsewhere + named(&pull.collections) > MAX_NAMED_COLLECTIONS {
            return self.refuse(RefusalCode::Protocol, "too many collections in one session", step);
        }
        if pull.segments {
            return self.ask_for_segments(pull, step);
        }
        self.pull_log(pull, step);
    }

    fn pull_log(&mut self, pull: Pull, step: &mut ServerStep) {
        let Pull { space, cursor, ack, live, collections, .. } = pull;
        if self.feeds.len() >= MAX_SPACES && !self.feeds.contains_key(&space) {
            return self.refuse(RefusalCode::Protocol, "too many spaces in one session", step);
        }
        let Some(after) = self.start_of(&space, cursor.as_ref()) else {
            return step.send.push(ServerMessage::CursorUnknown { space });
        };
        let check = [Some(after), ack].into_iter().flatten().filter(|mark| mark.seq > 0).collect();
        // A second pull of a space replaces the first; what this session pushed stays known.
        let own = self.feeds.remove(&space).map(|feed| feed.own).unwrap_or_default();
        let feed = Feed {
            sent: after,
            live,
            reading: true,
            answer_due: true,
            told_behind: false,
            unconfirmed: 0,
            poked: false,
            more: false,
            known_head: after.seq,
            collections,
            own,
        };
        self.feeds.insert(space.clone(), feed);
        step.calls.push(Call::Read { space, after, check });
    }

    /// Where a pull starts, or `None` if the cursor is of another server, space or history.
    fn start_of(&self, space: &SpaceName, cursor: Option<&Cursor>) -> Option<Mark> {
        let Some(cursor) = cursor else { return Some(Mark::START) };
        let content = CursorContent::open(cursor)?;
        (content.lineage == self.config.lineage && content.space == *space).then_some(content.mark)
    }

    fn on_read(&mut self, space: &SpaceName, outcome: Option<LogPage>, step: &mut ServerStep) {
        let lineage = self.config.lineage;
        let Some(feed) = self.feeds.get_mut(space) else { return };
        feed.reading = false;
        match outcome {
            None => self.refuse(RefusalCode::Unavailable, "the server could not read its log", step),
            Some(LogPage::Unknown) => {
                self.feeds.remove(space);
                step.send.push(ServerMessage::CursorUnknown { space: space.clone() });
            }
            Some(LogPage::Rows { rows, more }) => {
                feed.send_page(lineage, space, rows, more, step);
                if !feed.live && !feed.more && !feed.reading {
                    self.feeds.remove(space);
                }
            }
        }
    }

    fn on_presence(&mut self, access: &dyn Access, showing: Showing, step: &mut ServerStep) {
        if !access.may_read(&showing.space) {
            return self.refuse(RefusalCode::Forbidden, "no right to read this space", step);
        }
        if showing.data.as_ref().is_some_and(|data| data.len() > MAX_PRESENCE_BYTES) {
            return self.refuse(RefusalCode::Protocol, "more is shown than this server passes on", step);
        }
        // Only where the session is itself: that bounds how much it can show.
        if self.feeds.get(&showing.space).is_some_and(|feed| feed.live) {
            step.show = Some(showing);
        }
    }

    fn on_showing(&self, access: &dyn Access, showing: Showing, step: &mut ServerStep) {
        let Showing { space, replica, data } = showing;
        // A right that has ended is told with the next message.
        let live = self.feeds.get(&space).is_some_and(|feed| feed.live);
        if live && self.replica != Some(replica) && access.may_read(&space) {
            step.send.push(ServerMessage::Presence { space, replica, data });
        }
    }

    fn on_head(&self, access: &dyn Access, space: SpaceName, head: Option<Mark>, step: &mut ServerStep) {
        let sent = self.feeds.get(&space).filter(|_| access.may_read(&space)).map(|feed| feed.sent.seq);
        if let (Some(head), Some(sent)) = (head, sent) {
            step.send.push(ServerMessage::Behind { space, changes: head.seq.saturating_sub(sent) });
        }
    }

    fn refuse(&mut self, code: RefusalCode, message: &str, step: &mut ServerStep) {
        step.send.push(ServerMessage::Refused { code, message: message.to_owned(), retry_after_millis: None });
        step.close = true;
        self.closed = true;
    }
}
