//! The server's side of a session.

mod reconcile;
mod segments;

use std::collections::BTreeMap;
use std::mem;

use crate::environment::UnixMillis;
use crate::id::{Digest, Lineage, ReplicaId};
use crate::name::{CollectionName, SpaceName};
use crate::segment::Piece;
use crate::sync::append::{AppendOutcome, Pushable, fits_transaction};
use crate::sync::cursor::{CursorContent, seal_cursor};
use crate::sync::policy::open_batch;
use crate::sync::reconcile::SketchError;
use crate::wire::{
    Answer, Ask, ClientMessage, Cursor, Envelope, Hello, Limits, MAX_PRESENCE_BYTES, MAX_PULL_COLLECTIONS, Mark, Pull,
    Push, Pushed, RefusalCode, RejectCode, Reply, ServerMessage, Welcome,
};

/// Pages that a session sends before the client has confirmed the first of them.
pub const WINDOW_PAGES: u32 = 4;
/// The target size of a page of changes, in bytes; a larger change, or transaction, travels alone.
pub const PAGE_BYTES: usize = 256 << 10;
/// The most changes in a page.
pub const PAGE_CHANGES: usize = 2_000;

/// The most spaces that one session reads.
const MAX_SPACES: usize = 1_024;
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

/// What the driver asks the backend on the session's behalf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Append to a space's log.
    Append {
        /// The push's id.
        id: u64,
        /// The space.
        space: SpaceName,
        /// Who pushes.
        replica: ReplicaId,
        /// What is pushed.
        batch: Vec<Pushable>,
    },
    /// Read a page of a space's log.
    Read {
        /// The space.
        space: SpaceName,
        /// Read what follows this place.
        after: Mark,
        /// Places the log must have, with these chains; else the answer is "unknown".
        check: Vec<Mark>,
    },
    /// Answer a question of a reconcile from what the space holds.
    Reconcile {
        /// The space.
        space: SpaceName,
        /// The question; it keeps the limits.
        ask: Ask,
    },
    /// Which segments does the space have?
    Manifest {
        /// The space.
        space: SpaceName,
        /// Places the log must have, with these chains.
        check: Vec<Mark>,
    },
    /// Fetch a segment.
    Segment {
        /// The space.
        space: SpaceName,
        /// The segment's name.
        digest: Digest,
    },
    /// Find the end of a space's log.
    Head {
        /// The space.
        space: SpaceName,
    },
}

/// The backend's answer to a [`Call`].
#[derive(Clone, Debug)]
pub enum CallResult {
    /// To [`Call::Append`], after the commit. `None`: the backend failed and nothing is known.
    Appended {
        /// The push's id.
        id: u64,
        /// The space.
        space: SpaceName,
        /// What came of it.
        outcome: Option<AppendOutcome>,
    },
    /// To [`Call::Read`]. `None`: the backend failed.
    Read {
        /// The space.
        space: SpaceName,
        /// The page.
        outcome: Option<LogPage>,
    },
    /// To [`Call::Reconcile`]. `None`: the backend failed.
    Reconciled {
        /// The space.
        space: SpaceName,
        /// The end of the log at that moment, and the reply.
        outcome: Option<(Mark, Result<Reply, SketchError>)>,
    },
    /// To [`Call::Manifest`].
    Manifest {
        /// The space.
        space: SpaceName,
        /// Whether the log has the marks that were to be checked.
        known: bool,
        /// The segments, and the place in the log that they go up to. `None`: there are none, or none that can be
        /// read.
        outcome: Option<(Mark, Vec<Piece>)>,
    },
    /// To [`Call::Segment`].
    Segment {
        /// The space.
        space: SpaceName,
        /// The segment's name.
        digest: Digest,
        /// Its bytes. `None`: it is not there, or not any more.
        outcome: Option<Vec<u8>>,
    },
    /// To [`Call::Head`]. `None`: the backend failed.
    Head {
        /// The space.
        space: SpaceName,
        /// Where the log ends.
        outcome: Option<Mark>,
    },
}

/// A page of a space's log.
#[derive(Clone, Debug)]
pub enum LogPage {
    /// The log does not have one of the marks that were to be checked.
    Unknown,
    /// What follows.
    Rows {
        /// The changes with their places.
        rows: Vec<(Mark, Envelope)>,
        /// Whether there is more.
        more: bool,
    },
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

/// The flow of one space's changes to the client.
#[derive(Debug)]
struct Feed {
    sent: Mark,
    live: bool,
    reading: bool,
    /// The answer to a pull must come, even if it is empty.
    answer_due: bool,
    /// The client has been told how much more there is.
    told_behind: bool,
    unconfirmed: u32,
    /// The client has been told that more waits than its window lets through.
    poked: bool,
    more: bool,
    /// The log is known to reach this far.
    known_head: u64,
    collections: Option<Vec<CollectionName>>,
    /// Places that this session itself pushed.
    own: BTreeMap<u64, Mark>,
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

    fn on_push(&mut self, access: &dyn Access, replica: ReplicaId, push: Push, step: &mut ServerStep) {
        let Push { id, space, changes, agreed } = push;
        if !access.may_write(&space) {
            let answer = Answer::Rejected {
                code: RejectCode::Forbidden,
                message: "no right to write to this space".to_owned(),
                retryable: false,
            };
            let answers = vec![answer; changes.len()];
            return step.send.push(ServerMessage::Pushed(Pushed { id, space, answers, mark: None, cursor: None }));
        }
        if !self.takes(&changes) {
            return self.refuse(RefusalCode::Protocol, "the push is larger than this server's limits", step);
        }
        let mut batch = open_batch(changes);
        for place in agreed {
            if let Some(Ok(offered)) = usize::try_from(place).ok().and_then(|place| batch.get_mut(place)) {
                offered.agreed = true;
            }
        }
        step.calls.push(Call::Append { id, space, replica, batch });
    }

    /// Whether a push keeps the limits. A single change, or a single transaction, cannot be divided: it keeps
    /// those of the protocol instead.
    fn takes(&self, changes: &[Envelope]) -> bool {
        let bytes: usize = changes.iter().map(|envelope| envelope.change.len()).sum();
        let within = |most: u32, value: usize| u32::try_from(value).is_ok_and(|value| value <= most);
        let Limits { push_changes, push_bytes } = self.config.limits;
        let transaction = changes.first().and_then(|envelope| envelope.transaction);
        let whole = transaction.is_some() && changes.iter().all(|envelope| envelope.transaction == transaction);
        let indivisible = (whole || changes.len() == 1) && fits_transaction(changes.len(), bytes);
        indivisible || (within(push_changes, changes.len()) && within(push_bytes, bytes))
    }

    fn on_pull(&mut self, access: &dyn Access, pull: Pull, step: &mut ServerStep) {
        if !access.may_read(&pull.space) {
            return self.refuse(RefusalCode::Forbidden, "no right to read this space", step);
        }
        if pull.collections.as_ref().is_some_and(|names| names.len() > MAX_PULL_COLLECTIONS) {
            return self.refuse(RefusalCode::Protocol, "too many collections in one pull", step);
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

    fn on_appended(&mut self, id: u64, space: SpaceName, outcome: Option<AppendOutcome>, step: &mut ServerStep) {
        let Some(AppendOutcome { answers, marks, head }) = outcome else {
            return self.refuse(RefusalCode::Unavailable, "the server could not store the changes", step);
        };
        let mut cursor = None;
        let elsewhere: usize =
            self.feeds.iter().filter(|(other, _)| **other != space).map(|(_, it)| it.own.len()).sum();
        if let Some(feed) = self.feeds.get_mut(&space) {
            feed.own.extend(marks.into_iter().map(|mark| (mark.seq, mark)));
            while !feed.own.is_empty() && feed.own.len() + elsewhere > MAX_OWN_SEQS {
                feed.own.pop_first();
            }
            if feed.skip_own() {
                cursor = Some(seal_cursor(self.config.lineage, &space, feed.sent));
            }
        }
        step.send.push(ServerMessage::Pushed(Pushed { id, space: space.clone(), answers, mark: head, cursor }));
        if let Some(feed) = self.feeds.get_mut(&space) {
            feed.known_head = feed.known_head.max(head.map_or(0, |mark| mark.seq));
            feed.pump(&space, step);
        }
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

impl Feed {
    fn send_page(
        &mut self,
        lineage: Lineage,
        space: &SpaceName,
        rows: Vec<(Mark, Envelope)>,
        more: bool,
        step: &mut ServerStep,
    ) {
        if let Some((last, _)) = rows.last() {
            self.sent = *last;
            self.known_head = self.known_head.max(last.seq);
        }
        self.more = more;
        if more && !std::mem::replace(&mut self.told_behind, more) {
            step.calls.push(Call::Head { space: space.clone() });
        }
        self.told_behind &= more;
        let moved = !rows.is_empty();
        let mut changes = Vec::with_capacity(rows.len());
        for (mark, envelope) in rows {
            if self.own.remove(&mark.seq).is_none() && self.wants(&envelope.collection) {
                changes.push(envelope);
            }
        }
        let skipped = self.skip_own();
        if moved || skipped || mem::take(&mut self.answer_due) {
            // Whoever is told "more" is told when there is no more.
            self.answer_due = more;
            self.unconfirmed += u32::from(!changes.is_empty());
            let cursor = seal_cursor(lineage, space, self.sent);
            step.send.push(ServerMessage::Changes { space: space.clone(), changes, cursor, more: self.more });
        }
        self.pump(space, step);
    }

    /// Whether changes of a collection are sent. What the system keeps in a space is everybody's.
    fn wants(&self, collection: &CollectionName) -> bool {
        collection.is_system() || self.collections.as_ref().is_none_or(|wanted| wanted.contains(collection))
    }

    /// Moves over places that this session pushed itself and that come right after what was sent.
    fn skip_own(&mut self) -> bool {
        if self.reading {
            return false; // the page under way starts after the old place
        }
        let before = self.sent.seq;
        while let Some(mark) = self.own.remove(&(self.sent.seq + 1)) {
            self.sent = mark;
        }
        self.sent.seq > before
    }

    /// Reads on if there is something to read and the client keeps up.
    fn pump(&mut self, space: &SpaceName, step: &mut ServerStep) {
        let behind = self.live && self.known_head > self.sent.seq;
        if self.reading || !(self.more || behind) {
            return;
        }
        if self.unconfirmed < WINDOW_PAGES {
            self.reading = true;
            self.poked = false;
            step.calls.push(Call::Read { space: space.clone(), after: self.sent, check: Vec::new() });
        } else if !self.more && !mem::replace(&mut self.poked, true) {
            // It thinks that it has everything.
            step.send.push(ServerMessage::Poke { space: space.clone() });
        }
    }
}
