//! The client's session with a server that has lost history.

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

const NOW: i64 = 1_800_000_000_000;

fn main_space() -> SpaceName {
    SpaceName::new("main").expect("a space name")
}

fn welcome() -> ClientEvent {
    let limits = Limits { push_changes: 10, push_bytes: 1_000 };
    ClientEvent::Message(ServerMessage::Welcome(Welcome { lineage: Lineage::from_bytes([1; 16]), now: NOW, limits }))
}

fn mark(n: u8) -> Mark {
    Mark { seq: u64::from(n), chain: Digest::from_bytes([n; 32]) }
}

/// A session that has been told that the server does not know the client's cursor, while a push was under way.
fn lost(entropy: &mut SplitMix64) -> ClientSession {
    let replica = ReplicaId::mint(NOW, entropy);
    let actor = Actor::mint(&replica, entropy);
    let config = ClientConfig { replica, actor, schema_version: 1, adopt: Adopt::Nothing };
    let progress =
        SpaceProgress { cursor: Some(Cursor(vec![7])), ack: Some(mark(9)), ..SpaceProgress::begin(main_space()) };
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
    assert_eq!(step.looks, [Look::Items { space: main_space(), collections: None }]);
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
    let pull = Pull::all(main_space(), Some(fresh.0), Some(fresh.1));
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
        let progress = SpaceProgress { cursor: Some(Cursor(vec![7])), ..SpaceProgress::begin(main_space()) };
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
