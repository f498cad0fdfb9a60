//! The client's session with a server that has lost history.

use anabranch_core::sync::reconcile::{Compared, Item, answer_sketch};
use anabranch_core::sync::{
    Adopt, ClientConfig, ClientEvent, ClientSession, Halt, LinkCommand, Look, MAX_BACKOFF_MILLIS, OutboxItem, Reoffer,
    SpaceProgress, SyncEvent,
};
use anabranch_core::wire::{
    Answer, Ask, ClientMessage, Cursor, Envelope, Limits, Mark, Pull, Pushed, RefusalCode, Reply, ServerMessage,
    Welcome,
};
use anabranch_core::{
    Actor, ChangeHash, CollectionName, Digest, EntityId, Heads, Lineage, ReplicaId, SpaceName, SplitMix64,
};

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
    let progress =
        SpaceProgress { cursor: Some(Cursor(vec![7])), ack: Some(mark(9)), ..SpaceProgress::begin(main_space()) };
    let mut session = ClientSession::new(config(entropy), None, vec![progress], 0);
    for event in [ClientEvent::Start, ClientEvent::Connected, welcome()] {
        drop(session.handle(NOW, entropy, event));
    }
    let pushed = session.handle(NOW, entropy, found_one());
    assert!(matches!(pushed.send[..], [ClientMessage::Push(_)]));
    let step = session.handle(NOW, entropy, unknown());
    let batch = step.batch.expect("the next session knows, too");
    assert_eq!((batch.owes_reconcile, batch.cursor, batch.ack, step.reads.len()), (true, None, None, 0));
    assert_eq!(step.looks, [Look::Items { space: main_space(), collections: None }]);
    session
}

fn config(entropy: &mut SplitMix64) -> ClientConfig {
    let replica = ReplicaId::mint(NOW, entropy);
    let actor = Actor::mint(&replica, entropy);
    ClientConfig { replica, actor, schema_version: 1, adopt: Adopt::Nothing }
}

/// One change is pending.
fn found_one() -> ClientEvent {
    let envelope = Envelope {
        entity: EntityId::from_bytes([1; 16]),
        collection: CollectionName::new("notes").expect("a name"),
        parent: None,
        transaction: None,
        change: Vec::new(),
    };
    let items = vec![OutboxItem { key: 1, envelope, agreed: false }];
    ClientEvent::Outbox { space: main_space(), items, retry_at: None }
}

/// It has been stored at this place.
fn answered(place: u8) -> ClientEvent {
    ClientEvent::Message(ServerMessage::Pushed(Pushed {
        id: 1,
        space: main_space(),
        answers: vec![Answer::Accepted { seq: u64::from(place) }],
        mark: Some(mark(place)),
        cursor: Some(Cursor(vec![place])),
    }))
}

fn unknown() -> ClientEvent {
    ClientEvent::Message(ServerMessage::CursorUnknown { space: main_space() })
}

/// What the new history acknowledges has its mark at once: it may be lost like the old one. That a reconcile is owed
/// stays in the file until there is a cursor again.
#[test]
fn g10_what_is_acknowledged_in_a_reconcile_has_its_mark_and_the_cursor_waits_for_the_end() {
    let mut entropy = SplitMix64::new(1);
    let mut session = lost(&mut entropy);
    let step = session.handle(NOW, &mut entropy, answered(3));
    let batch = step.batch.expect("the answer is stored");
    assert_eq!((batch.answered.len(), batch.ack, batch.cursor, step.reads.len()), (1, Some(mark(3)), None, 0));
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

/// What an answer shows to be there is not pushed any more. It may be younger than the first answer, where the pull goes on.
#[test]
fn g10_what_an_answer_shows_has_the_mark_of_that_answer() {
    let mut entropy = SplitMix64::new(1);
    let mut session = lost(&mut entropy);
    drop(session.handle(NOW, &mut entropy, answered(3)));
    let id = EntityId::from_bytes([1; 16]);
    let heads = vec![ChangeHash::from_bytes([7; 32])];
    let items = vec![Item::new(id, &Heads::new(heads.clone()))];
    let mut step = session.handle(NOW, &mut entropy, ClientEvent::Items { space: main_space(), items });
    let mut place = 3;
    while let [ClientMessage::Reconcile { ask, .. }] = &step.send[..] {
        place += 1;
        let reply = match ask {
            Ask::Sketch(sketch) => Reply::Sketch(answer_sketch(Vec::new(), sketch).expect("an answer")),
            Ask::Heads(asked) => Reply::Heads(asked.iter().map(|_| heads.clone()).collect()),
            other => panic!("{other:?}"),
        };
        let at = Some((Cursor(vec![place]), mark(place)));
        let answer = ServerMessage::Reconciled { space: main_space(), reply, at };
        step = session.handle(NOW, &mut entropy, ClientEvent::Message(answer));
        if let [Look::Compare { theirs, .. }] = &step.looks[..] {
            let compared = theirs.iter().map(|theirs| Compared { entity: theirs.entity, lacking: None }).collect();
            step = session.handle(NOW, &mut entropy, ClientEvent::Compared { space: main_space(), compared });
        }
    }
    let batch = step.batch.expect("the end");
    assert!(place > 4, "the heads were asked for");
    assert_eq!((batch.cursor, batch.ack), (Some(Cursor(vec![4])), Some(mark(place))));
}

/// However well the server knows the marks of what it has acknowledged since.
#[test]
fn g10_a_session_that_owes_a_reconcile_begins_with_it() {
    let mut entropy = SplitMix64::new(1);
    let progress =
        SpaceProgress { ack: Some(mark(3)), owes_reconcile: true, had: None, ..SpaceProgress::begin(main_space()) };
    let mut session = ClientSession::new(config(&mut entropy), None, vec![progress], 0);
    for _ in 0..2 {
        drop(session.handle(NOW, &mut entropy, ClientEvent::Start));
        let step = session.handle(NOW, &mut entropy, ClientEvent::Connected);
        assert!(matches!(step.send[..], [ClientMessage::Hello(_)]), "nothing is pulled: {step:?}");
        let step = session.handle(NOW, &mut entropy, welcome());
        assert_eq!(step.looks, [Look::Items { space: main_space(), collections: None }]);
        assert_eq!((step.reads.len(), step.events.len()), (0, 1), "nothing is pushed, and the server has lost nothing");
        // A late page of an earlier pull does not pay the debt.
        let page =
            ServerMessage::Changes { space: main_space(), changes: Vec::new(), cursor: Cursor(vec![8]), more: false };
        let step = session.handle(NOW, &mut entropy, ClientEvent::Message(page));
        assert_eq!((step.batch, session.is_caught_up()), (None, false));
        let cut = ClientEvent::Disconnected { reason: "cut".to_owned(), retry_after_millis: None };
        drop(session.handle(NOW, &mut entropy, cut));
    }
}

/// A mark must not give way to one of a log that has not been seen to hold it.
#[test]
fn g10_an_acknowledgement_before_the_log_is_seen_to_go_on_costs_a_reconcile() {
    let mut entropy = SplitMix64::new(1);
    let progress =
        SpaceProgress { cursor: Some(Cursor(vec![7])), ack: Some(mark(9)), ..SpaceProgress::begin(main_space()) };
    let mut session = ClientSession::new(config(&mut entropy), None, vec![progress], 0);
    for event in [ClientEvent::Start, ClientEvent::Connected, welcome()] {
        drop(session.handle(NOW, &mut entropy, event));
    }
    drop(session.handle(NOW, &mut entropy, found_one()));
    let step = session.handle(NOW, &mut entropy, answered(10));
    let batch = step.batch.expect("the answer is stored");
    assert_eq!((batch.answered.len(), batch.ack, batch.owes_reconcile, batch.cursor), (1, Some(mark(10)), true, None));
    let page =
        ServerMessage::Changes { space: main_space(), changes: Vec::new(), cursor: Cursor(vec![8]), more: false };
    let step = session.handle(NOW, &mut entropy, ClientEvent::Message(page));
    assert_eq!((step.batch, step.looks.len()), (None, 1), "it is compared: {:?}", step.looks);
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
