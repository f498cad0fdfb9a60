//! The client's session under clocks and servers that cannot be relied on.

use anabranch_core::sync::reconcile::answer_sketch;
use anabranch_core::sync::{
    Adopt, ClientConfig, ClientEvent, ClientSession, Halt, LinkCommand, Look, MAX_BACKOFF_MILLIS, OutboxItem, Reoffer,
    SpaceProgress, SyncEvent,
};
use anabranch_core::wire::{
    Answer, Ask, ClientMessage, Cursor, Envelope, Limits, Mark, Pull, Pushed, RefusalCode, Reply, ServerMessage,
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
    let progress = SpaceProgress { space: main_space(), cursor: None, ack: None };
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

fn mark(n: u8) -> Mark {
    Mark { seq: u64::from(n), chain: Digest::from_bytes([n; 32]) }
}

/// A session that has been told that the server does not know the client's cursor, while a push was under way.
fn lost(entropy: &mut SplitMix64) -> ClientSession {
    let replica = ReplicaId::mint(NOW, entropy);
    let actor = Actor::mint(&replica, entropy);
    let config = ClientConfig { replica, actor, schema_version: 1, adopt: Adopt::Nothing };
    let progress = SpaceProgress { space: main_space(), cursor: Some(Cursor(vec![7])), ack: Some(mark(9)) };
    let mut session = ClientSession::new(config, None, vec![progress], 0);
    for event in [ClientEvent::Start, ClientEvent::Connected, welcome()] {
        drop(session.handle(NOW, entropy, event));
    }
    let envelope = Envelope {
        entity: EntityId::from_bytes([1; 16]),
        collection: CollectionName::new("notes").expect("a name"),
        parent: None,
        transaction: None,
        change: Vec::new(),
    };
    let items = vec![OutboxItem { key: 1, envelope, agreed: false }];
    let pushed = session.handle(NOW, entropy, ClientEvent::Outbox { space: main_space(), items, retry_at: None });
    assert!(matches!(pushed.send[..], [ClientMessage::Push(_)]));
    let step = session.handle(NOW, entropy, unknown());
    assert_eq!((step.batch, step.reads.len()), (None, 0), "cursor and ack mark stay as they are");
    assert_eq!(step.looks, [Look::Items { space: main_space() }]);
    session
}

fn unknown() -> ClientEvent {
    ClientEvent::Message(ServerMessage::CursorUnknown { space: main_space() })
}

/// Otherwise a session that ends in the middle would leave an ack mark of the new history behind, and the next would
/// not see that anything was lost.
#[test]
fn g10_the_old_marks_stay_until_the_reconcile_is_over() {
    let mut entropy = SplitMix64::new(1);
    let mut session = lost(&mut entropy);
    let answered = Pushed {
        id: 1,
        space: main_space(),
        answers: vec![Answer::Accepted { seq: 3 }],
        mark: Some(mark(3)),
        cursor: Some(Cursor(vec![3])),
    };
    let step = session.handle(NOW, &mut entropy, ClientEvent::Message(ServerMessage::Pushed(answered)));
    let batch = step.batch.expect("the answer is stored");
    assert_eq!((batch.answered.len(), batch.ack, batch.cursor, step.reads.len()), (1, None, None, 0));
    let written = session.handle(NOW, &mut entropy, ClientEvent::LocalWrite { space: main_space() });
    assert!(written.reads.is_empty(), "nothing is pushed before the end");

    let items = ClientEvent::Items { space: main_space(), items: Vec::new() };
    let step = session.handle(NOW, &mut entropy, items);
    let [ClientMessage::Reconcile { ask: Ask::Sketch(sketch), .. }] = &step.send[..] else { panic!("{step:?}") };
    let reply = Reply::Sketch(answer_sketch(Vec::new(), sketch).expect("an answer"));
    let fresh = (Cursor(vec![4]), mark(4));
    let answer = ServerMessage::Reconciled { space: main_space(), reply, at: Some(fresh.clone()) };
    let step = session.handle(NOW, &mut entropy, ClientEvent::Message(answer));
    let batch = step.batch.expect("the end");
    assert_eq!((batch.cursor, batch.ack, batch.reoffer), (Some(fresh.0.clone()), Some(fresh.1), Reoffer::Refused));
    let pull = Pull { space: main_space(), cursor: Some(fresh.0), ack: Some(fresh.1), live: true };
    assert_eq!((step.send, step.reads.len()), (vec![ClientMessage::Pull(pull)], 1));
}

#[test]
fn a_server_that_never_knows_its_log_is_asked_less_and_less() {
    let mut entropy = SplitMix64::new(1);
    let mut session = lost(&mut entropy);
    let step = session.handle(NOW, &mut entropy, unknown());
    assert_eq!((step.link, session.failures()), (Some(LinkCommand::Close), 1));
    assert!(step.deadline.is_some_and(|at| at <= NOW + MAX_BACKOFF_MILLIS));
}

#[test]
fn g10_only_the_lineage_that_a_person_named_is_adopted_and_only_once() {
    let mut entropy = SplitMix64::new(1);
    let (old, wanted, other) =
        (Lineage::from_bytes([1; 16]), Lineage::from_bytes([2; 16]), Lineage::from_bytes([3; 16]));
    let refusal = |lineage| {
        let code = RefusalCode::OtherLineage { lineage, empty: false };
        let message = "another history".to_owned();
        ClientEvent::Message(ServerMessage::Refused { code, message, retry_after_millis: None })
    };
    let mut greeting = |adopt| {
        let replica = ReplicaId::mint(NOW, &mut entropy);
        let config = ClientConfig { replica, actor: Actor::mint(&replica, &mut entropy), schema_version: 1, adopt };
        let progress = SpaceProgress { space: main_space(), cursor: Some(Cursor(vec![7])), ack: None };
        let mut session = ClientSession::new(config, Some(old), vec![progress], 0);
        drop(session.handle(NOW, &mut SplitMix64::new(2), ClientEvent::Start));
        drop(session.handle(NOW, &mut SplitMix64::new(2), ClientEvent::Connected));
        session
    };
    for (adopt, met, goes_on) in [
        (Adopt::Nothing, wanted, false),
        (Adopt::Only(wanted), wanted, true),
        (Adopt::Only(wanted), other, false),
        (Adopt::Any, other, true),
    ] {
        let mut session = greeting(adopt);
        let step = session.handle(NOW, &mut SplitMix64::new(2), refusal(met));
        assert_eq!(step.link, Some(if goes_on { LinkCommand::Open } else { LinkCommand::Close }));
        assert_eq!(step.events == [SyncEvent::Halted(Halt::OtherLineage(met))], !goes_on);
        if goes_on {
            let batch = step.batch.expect("the lineage is stored");
            assert_eq!((batch.lineage, batch.reoffer, batch.cursor), (met, Reoffer::Nothing, None));
            let hello = session.handle(NOW, &mut SplitMix64::new(2), ClientEvent::Connected).send;
            assert!(matches!(&hello[0], ClientMessage::Hello(hello) if hello.lineage == Some(met)));
            let again = session.handle(NOW, &mut SplitMix64::new(2), refusal(old));
            assert_eq!(again.events, [SyncEvent::Halted(Halt::OtherLineage(old))]);
        }
    }
}
