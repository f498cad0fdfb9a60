//! The client's session under clocks and servers that cannot be relied on.

use anabranch_core::sync::{Access, Call, CallResult, LogPage, ServerConfig, ServerEvent, ServerSession};
use anabranch_core::sync::{
    Adopt, ClientConfig, ClientEvent, ClientSession, LinkCommand, MAX_BACKOFF_MILLIS, SpaceProgress, SyncEvent,
};
use anabranch_core::wire::{
    ClientMessage, Cursor, Envelope, Hello, Limits, MAX_PULL_COLLECTIONS, Mark, Pull, RefusalCode, ServerMessage,
    Welcome,
};
use anabranch_core::{Actor, CollectionName, Digest, EntityId, Lineage, ReplicaId, SpaceName, SplitMix64};

/// Found by simulation: the clock was ten years ahead when the connection failed, and was put right; the next
/// attempt was ten years away.
#[test]
fn a_clock_that_is_set_back_does_not_put_off_the_next_attempt() {
    let (now, years) = (1_800_000_000_000, 10 * 365 * 24 * 60 * 60 * 1_000);
    let mut entropy = SplitMix64::new(1);
    let replica = ReplicaId::mint(now, &mut entropy);
    let config =
        ClientConfig { replica, actor: Actor::mint(&replica, &mut entropy), schema_version: 1, adopt: Adopt::Nothing };
    let mut session = ClientSession::new(config, None, Vec::new(), 20);
    drop(session.handle(now + years, &mut entropy, ClientEvent::Start));
    let lost = ClientEvent::Disconnected { reason: "gone".to_owned(), retry_after_millis: None };
    let wait = session.handle(now + years, &mut entropy, lost).deadline.expect("a wait") - (now + years);
    let put_right = session.handle(now, &mut entropy, ClientEvent::Timer).deadline.expect("a wait");
    assert_eq!(put_right - now, wait);
    assert!(wait <= MAX_BACKOFF_MILLIS);
    assert_eq!(session.handle(put_right, &mut entropy, ClientEvent::Timer).link, Some(LinkCommand::Open));
}

fn main_space() -> SpaceName {
    SpaceName::new("main").expect("a space name")
}

fn session(entropy: &mut SplitMix64) -> ClientSession {
    let replica = ReplicaId::mint(NOW, entropy);
    let config =
        ClientConfig { replica, actor: Actor::mint(&replica, entropy), schema_version: 1, adopt: Adopt::Nothing };
    let progress = SpaceProgress::begin(main_space());
    ClientSession::new(config, None, vec![progress], 0)
}

const NOW: i64 = 1_800_000_000_000;

fn welcome() -> ClientEvent {
    let limits = Limits { push_changes: 10, push_bytes: 1_000 };
    ClientEvent::Message(ServerMessage::Welcome(Welcome { lineage: Lineage::from_bytes([1; 16]), now: NOW, limits }))
}

fn nothing_new() -> ClientEvent {
    let cursor = Cursor(vec![1]);
    ClientEvent::Message(ServerMessage::Changes { space: main_space(), changes: Vec::new(), cursor, more: false })
}

/// Found in review: the welcome ended the backoff, so a server that could say nothing else was asked twice a second.
#[test]
fn a_server_that_only_says_welcome_is_asked_less_and_less() {
    let mut entropy = SplitMix64::new(1);
    let mut session = session(&mut entropy);
    let mut now = NOW;
    for attempt in 1..=8 {
        drop(session.handle(now, &mut entropy, ClientEvent::Start));
        drop(session.handle(now, &mut entropy, ClientEvent::Connected));
        drop(session.handle(now, &mut entropy, welcome()));
        let refused = ServerMessage::Refused {
            code: RefusalCode::Unavailable,
            message: "the disk is full".to_owned(),
            retry_after_millis: None,
        };
        let step = session.handle(now, &mut entropy, ClientEvent::Message(refused));
        assert_eq!(session.failures(), attempt);
        now = step.deadline.expect("another attempt");
    }
}

/// Found in review: what waited for its next attempt counted as done.
#[test]
fn a_session_is_not_caught_up_while_something_waits_for_its_next_attempt() {
    let mut entropy = SplitMix64::new(1);
    let mut session = session(&mut entropy);
    for event in [ClientEvent::Start, ClientEvent::Connected, welcome(), nothing_new()] {
        drop(session.handle(NOW, &mut entropy, event));
    }
    let waiting = ClientEvent::Outbox { space: main_space(), items: Vec::new(), retry_at: Some(NOW + 500) };
    let step = session.handle(NOW, &mut entropy, waiting);
    assert_eq!((session.is_caught_up(), step.deadline, step.events.len()), (false, Some(NOW + 500), 0));
    let retry = session.handle(NOW + 500, &mut entropy, ClientEvent::Timer);
    assert_eq!(retry.reads.len(), 1);
    let empty = ClientEvent::Outbox { space: main_space(), items: Vec::new(), retry_at: None };
    let done = session.handle(NOW + 500, &mut entropy, empty);
    assert_eq!(done.events, [SyncEvent::CaughtUp]);
    assert!(session.is_caught_up() && session.failures() == 0);
}

struct Everyone;

impl Access for Everyone {
    fn may_read(&self, _: &SpaceName) -> bool {
        true
    }

    fn may_write(&self, _: &SpaceName) -> bool {
        true
    }
}

fn page(count: u64) -> Vec<Envelope> {
    let collection = CollectionName::new("notes").expect("a name");
    let envelope = |_| Envelope {
        entity: EntityId::from_bytes([1; 16]),
        collection: collection.clone(),
        parent: None,
        transaction: None,
        change: Vec::new(),
    };
    (0..count).map(envelope).collect()
}

/// A pull that takes several pages: the server says once how many changes are still to come.
#[test]
fn a_pull_of_several_pages_is_told_how_far_it_is_behind() {
    let limits = Limits { push_changes: 10, push_bytes: 1_000 };
    let config = ServerConfig { lineage: Lineage::from_bytes([1; 16]), empty: false, limits };
    let mut server = ServerSession::new(config);
    let mut entropy = SplitMix64::new(1);
    let replica = ReplicaId::mint(NOW, &mut entropy);
    let actor = Actor::mint(&replica, &mut entropy);
    let hello = ClientMessage::Hello(Hello { replica, actor, schema_version: 1, lineage: None });
    let pull = ClientMessage::Pull(Pull::all(main_space(), None, None));
    drop(server.handle(NOW, &Everyone, ServerEvent::Message(hello)));
    drop(server.handle(NOW, &Everyone, ServerEvent::Message(pull)));
    let mark = |seq| Mark { seq, chain: Digest::from_bytes([0; 32]) };
    let mut read = |from: u64, more| {
        let rows = page(10).into_iter().zip(from..).map(|(envelope, seq)| (mark(seq), envelope)).collect();
        let outcome = Some(LogPage::Rows { rows, more });
        server.handle(NOW, &Everyone, ServerEvent::Result(CallResult::Read { space: main_space(), outcome })).calls
    };
    let asks = |calls: &[Call]| calls.iter().filter(|call| matches!(call, Call::Head { .. })).count();
    assert_eq!((asks(&read(1, true)), asks(&read(11, true)), asks(&read(21, true))), (1, 0, 0), "once");
    let result = CallResult::Head { space: main_space(), outcome: Some(mark(35)) };
    let said = server.handle(NOW, &Everyone, ServerEvent::Result(result)).send;
    assert_eq!(said, [ServerMessage::Behind { space: main_space(), changes: 5 }]);

    let mut client = session(&mut entropy);
    let changes = |count, more| {
        let cursor = Cursor(vec![u8::try_from(count).expect("small")]);
        ClientEvent::Message(ServerMessage::Changes { space: main_space(), changes: page(count), cursor, more })
    };
    let mut behind = |event| {
        drop(client.handle(NOW, &mut entropy, event));
        client.behind()
    };
    for event in [ClientEvent::Start, ClientEvent::Connected, welcome()] {
        assert_eq!(behind(event), None, "nothing has been said");
    }
    assert_eq!(behind(changes(10, true)), None);
    assert_eq!(behind(ClientEvent::Message(said[0].clone())), Some(5));
    assert_eq!(behind(changes(3, true)), Some(2));
    assert_eq!(behind(changes(1, false)), Some(0), "the rest was this replica's own");
}

#[test]
fn a_session_remembers_only_so_many_names_of_collections() {
    let config = ServerConfig {
        lineage: Lineage::from_bytes([1; 16]),
        empty: false,
        limits: Limits { push_changes: 10, push_bytes: 1_000 },
    };
    let mut session = ServerSession::new(config);
    let mut entropy = SplitMix64::new(1);
    let replica = ReplicaId::mint(NOW, &mut entropy);
    let actor = Actor::mint(&replica, &mut entropy);
    let hello = ClientMessage::Hello(Hello { replica, actor, schema_version: 1, lineage: None });
    assert!(!session.handle(NOW, &Everyone, ServerEvent::Message(hello)).close);
    let mut pull = |space: u32| {
        let collections = Some(vec![CollectionName::new("notes").expect("a name"); MAX_PULL_COLLECTIONS]);
        let space = SpaceName::new(format!("space{space}")).expect("a name");
        let message = ClientMessage::Pull(Pull { collections, ..Pull::all(space, None, None) });
        session.handle(NOW, &Everyone, ServerEvent::Message(message)).close
    };
    // Again and again of the same spaces is no more; of another one it is.
    for space in 0..96 {
        assert!(!pull(space % 32), "{space}");
    }
    assert!(pull(32));
}
