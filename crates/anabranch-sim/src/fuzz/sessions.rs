//! A server's sessions with clients that say anything, over the real SQLite backend.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anabranch_core::segment::SegmentBuilder;
use anabranch_core::sync::{
    Access, Call, CallResult, LogPage, ServerConfig, ServerEvent, ServerSession, ServerStep, WINDOW_PAGES, next_chain,
};
use anabranch_core::wire::{self, ClientMessage, Cursor, Limits, Mark, ServerMessage};
use anabranch_core::{Change, SpaceName, SplitMix64};
use anabranch_server::{Backend as _, PageBudget, SqliteBackend};
use tokio::runtime::Runtime;

use super::Input;
use super::honest::{self, ENVELOPES};
use super::messages::message;
use crate::clock::{Machine, VirtualTime, WallClock};

/// The most things that one input has said or done.
const MAX_TURNS: usize = 64;
/// Small, so that short inputs reach every limit.
const LIMITS: Limits = Limits { push_changes: 8, push_bytes: 2_000 };
const PAGE: PageBudget = PageBudget { bytes: 600, changes: 3 };

/// The spaces that there are rights for, and what may be done there: read, write.
pub(super) const SPACES: [(&str, bool, bool); 4] =
    [("home", true, true), ("read", true, false), ("drop", false, true), ("shut", false, false)];

/// Reads from the bytes what two clients say, and lets a server's sessions answer.
///
/// # Panics
/// If a session tells what it may not, or wrongly, or a log is not what it should be afterwards: that is what the
/// fuzzer looks for.
pub fn server_session(bytes: &[u8]) {
    let mut input = Input(bytes);
    let server = Server::new();
    let mut clients = [server.accept(), server.accept()];
    for _ in 0..MAX_TURNS {
        if input.0.is_empty() {
            break;
        }
        let turn = input.next();
        let client = &mut clients[usize::from(turn & 1)];
        match turn >> 1 {
            // A right ends while the session lasts, or comes back.
            0 => client.rights.suspended ^= true,
            1 => server.hint(client),
            _ => {
                let message = message(&mut input, &client.cursors);
                client.say(&server, message);
            }
        }
    }
    let honest = server.accept();
    server.check(honest);
}

/// What a client may do.
#[derive(Default)]
struct Rights {
    suspended: bool,
}

impl Rights {
    fn of(&self, space: &SpaceName) -> (bool, bool) {
        let known = SPACES.iter().find(|(name, ..)| *name == space.as_str() && !self.suspended);
        known.map_or((false, false), |(_, read, write)| (*read, *write))
    }
}

impl Access for Rights {
    fn may_read(&self, space: &SpaceName) -> bool {
        self.of(space).0
    }

    fn may_write(&self, space: &SpaceName) -> bool {
        self.of(space).1
    }
}

struct Server {
    backend: SqliteBackend,
    runtime: Runtime,
}

/// A connection, with what its server's end must keep to.
struct Client {
    session: ServerSession,
    rights: Rights,
    closed: bool,
    /// Cursors that it has been given.
    cursors: Vec<Cursor>,
    /// Pushes that wait for their answers: how many each has to hold.
    pushed: VecDeque<(u64, usize)>,
    /// Pages of each space that it has not confirmed.
    pages: BTreeMap<SpaceName, u32>,
}

impl Server {
    fn new() -> Self {
        let machine = Machine { clock: WallClock::new(&VirtualTime::new()), entropy: SplitMix64::new(1) };
        let backend = SqliteBackend::open_in_memory(Box::new(machine)).expect("a backend in memory");
        Self { backend, runtime: tokio::runtime::Builder::new_current_thread().build().expect("a runtime") }
    }

    fn accept(&self) -> Client {
        let config = ServerConfig { lineage: self.backend.lineage(), empty: true, limits: LIMITS };
        Client {
            session: ServerSession::new(config),
            rights: Rights::default(),
            closed: false,
            cursors: Vec::new(),
            pushed: VecDeque::new(),
            pages: BTreeMap::new(),
        }
    }

    /// What a backend that works answers: it fails on nothing that a client can say.
    fn call(&self, call: Call) -> CallResult {
        let backend = &self.backend;
        self.runtime.block_on(async {
            match call {
                Call::Append { id, space, replica, batch } => {
                    let outcome = Some(backend.append(space.clone(), replica, batch).await.expect("an append"));
                    CallResult::Appended { id, space, outcome }
                }
                Call::Read { space, after, check } => {
                    let outcome = Some(backend.read(space.clone(), after, check, PAGE).await.expect("a page"));
                    CallResult::Read { space, outcome }
                }
                Call::Reconcile { space, ask } => {
                    let outcome = Some(backend.reconcile(space.clone(), ask, PAGE).await.expect("an answer"));
                    CallResult::Reconciled { space, outcome }
                }
                Call::Manifest { space, check } => {
                    let known = check.is_empty();
                    let head = backend.head(space.clone()).await.expect("a head");
                    CallResult::Manifest { space, known, outcome: (head.seq > 2).then_some((head, Vec::new())) }
                }
                Call::Segment { space, digest } => CallResult::Segment {
                    space,
                    digest,
                    outcome: SegmentBuilder::new(honest::notes()).finish().map(|it| it.bytes),
                },
                Call::Head { space } => {
                    let outcome = Some(backend.head(space.clone()).await.expect("a head"));
                    CallResult::Head { space, outcome }
                }
            }
        })
    }

    /// Tells a client's session how far the spaces have come that it follows.
    fn hint(&self, client: &mut Client) {
        let live: Vec<_> = client.session.live_spaces().cloned().collect();
        for space in live {
            let head = self.runtime.block_on(self.backend.head(space.clone())).expect("a head");
            client.take(self, ServerEvent::Committed { space, seq: head.seq });
        }
    }

    /// After all that was said, every log is whole, and takes what an honest client pushes.
    fn check(&self, mut honest: Client) {
        for (name, _, write) in SPACES {
            let rows = self.log(&honest::space(name));
            assert!(write || rows.is_empty(), "something was written to {name}");
        }
        honest.say(self, ClientMessage::Hello(honest::hello(99, None)));
        let space = honest::space("home");
        // What others have written to the same entities may stand in the way of a change, but never of all.
        let fresh = ENVELOPES.iter().filter(|envelope| envelope.entity == honest::entity(1));
        let changes: Vec<_> = fresh.map(|it| wire::Envelope { entity: honest::entity(99), ..it.clone() }).collect();
        let before = self.log(&space).len();
        let count = changes.len();
        honest.say(self, ClientMessage::Push(wire::Push { id: 7, space: space.clone(), changes, agreed: Vec::new() }));
        assert!(!honest.closed);
        assert_eq!(self.log(&space).len(), before + count, "an honest push is taken");
    }

    /// The changes of a space's log, if it is as it should be.
    fn log(&self, space: &SpaceName) -> Vec<Change> {
        let (mut after, mut rows) = (Mark::START, Vec::new());
        let (mut known, mut collections) = (BTreeSet::new(), BTreeMap::new());
        loop {
            let read = self.backend.read(space.clone(), after, vec![], PAGE);
            let page = self.runtime.block_on(read).expect("a page");
            let LogPage::Rows { rows: page, more } = page else { panic!("the log does not know its own place") };
            for (mark, envelope) in page {
                let change = Change::parse(envelope.change).expect("what is stored is a change");
                let chain = next_chain(&after.chain, &envelope.entity, &change.hash(), envelope.transaction.as_ref());
                assert_eq!(mark, Mark { seq: after.seq + 1, chain });
                let entity = envelope.entity;
                assert!(
                    change.dependencies().iter().all(|hash| known.contains(&(entity, *hash))),
                    "a child came first"
                );
                assert!(known.insert((entity, change.hash())), "a change is stored once");
                let collection = collections.entry(entity).or_insert_with(|| envelope.collection.clone());
                assert_eq!(*collection, envelope.collection, "an entity has one collection");
                after = mark;
                rows.push(change);
            }
            if !more {
                return rows;
            }
        }
    }
}

impl Client {
    fn say(&mut self, server: &Server, message: ClientMessage) {
        match &message {
            ClientMessage::Push(push) => self.pushed.push_back((push.id, push.changes.len())),
            ClientMessage::Received { space } => {
                self.pages.entry(space.clone()).and_modify(|pages| *pages = pages.saturating_sub(1));
            }
            // It begins anew.
            ClientMessage::Pull(pull) => drop(self.pages.remove(&pull.space)),
            _ => {}
        }
        self.take(server, ServerEvent::Message(message));
    }

    /// An event, and all calls that follow from it.
    fn take(&mut self, server: &Server, event: ServerEvent) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let ServerStep { calls, send, show, close } = self.session.handle(1, &self.rights, event);
            if self.closed {
                assert!(calls.is_empty() && send.is_empty() && show.is_none() && !close, "a session that is over");
            }
            send.into_iter().for_each(|message| self.hear(message));
            if let Some(showing) = show {
                assert!(self.rights.may_read(&showing.space) && !close);
            }
            self.closed |= close;
            let calls = calls.into_iter().filter(|_| !close);
            events.extend(calls.map(|call| ServerEvent::Result(server.call(call))));
        }
    }

    /// Checks that the message may be said, and is what the session owes.
    fn hear(&mut self, message: ServerMessage) {
        wire::encode(&message).expect("every message fits a frame");
        match message {
            ServerMessage::Pushed(pushed) => {
                let due = self.pushed.pop_front();
                assert_eq!(due, Some((pushed.id, pushed.answers.len())), "an answer for each change");
                if !self.rights.may_write(&pushed.space) {
                    assert_eq!((pushed.mark, pushed.cursor), (None, None));
                }
            }
            ServerMessage::Changes { space, changes, cursor, .. } => {
                self.may_hear(&space);
                self.cursors.push(cursor);
                let pages = self.pages.entry(space).or_default();
                *pages += u32::from(!changes.is_empty());
                assert!(*pages <= WINDOW_PAGES, "more pages than the client has room for");
            }
            ServerMessage::Manifest { space, manifest } => {
                self.may_hear(&space);
                self.cursors.push(manifest.cursor);
            }
            ServerMessage::CursorUnknown { space }
            | ServerMessage::Poke { space }
            | ServerMessage::Presence { space, .. }
            | ServerMessage::Reconciled { space, .. }
            | ServerMessage::Segment { space, .. }
            | ServerMessage::Behind { space, .. } => self.may_hear(&space),
            ServerMessage::Welcome(_) | ServerMessage::Refused { .. } => {}
        }
    }

    fn may_hear(&self, space: &SpaceName) {
        assert!(self.rights.may_read(space), "{space} is not for this client");
    }
}
