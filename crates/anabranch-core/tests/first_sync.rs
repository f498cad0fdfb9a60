//! The client's machine in a first sync, with servers that disappoint it.

use anabranch_core::document::Document;
use anabranch_core::segment::{Built, Manifest, Piece, SegmentBuilder};
use anabranch_core::sync::{
    Adopt, ClientConfig, ClientEvent, ClientSession, ClientStep, FirstSync, FirstSyncStep, Halt, LinkCommand, Look,
    SpaceProgress, SyncEvent,
};
use anabranch_core::wire::{Ask, ClientMessage, Cursor, Limits, Mark, ServerMessage, Welcome};
use anabranch_core::{
    Actor, CollectionName, Digest, EntityId, Lineage, ReplicaId, Schema, SpaceName, SplitMix64, Stamp,
};
use serde_json::{Map, Value};

const NOW: i64 = 1_800_000_000_000;

fn main_space() -> SpaceName {
    SpaceName::new("main").expect("a space name")
}

struct Client {
    session: ClientSession,
    entropy: SplitMix64,
}

impl Client {
    fn online(progress: SpaceProgress) -> (Self, Vec<ClientMessage>) {
        let mut entropy = SplitMix64::new(1);
        let replica = ReplicaId::mint(NOW, &mut entropy);
        let config = ClientConfig {
            replica,
            actor: Actor::mint(&replica, &mut entropy),
            schema_version: 1,
            adopt: Adopt::Nothing,
        };
        let mut client = Self { session: ClientSession::new(config, None, vec![progress], 0), entropy };
        client.handle(ClientEvent::Start);
        let asked = client.handle(ClientEvent::Connected).send;
        let limits = Limits { push_changes: 10, push_bytes: 1_000 };
        let welcome = Welcome { lineage: Lineage::from_bytes([1; 16]), now: NOW, limits };
        client.hear(ServerMessage::Welcome(welcome));
        (client, asked)
    }

    fn handle(&mut self, event: ClientEvent) -> ClientStep {
        self.session.handle(NOW, &mut self.entropy, event)
    }

    fn hear(&mut self, message: ServerMessage) -> ClientStep {
        self.handle(ClientEvent::Message(message))
    }

    fn offer(&mut self, pieces: Vec<Piece>) -> ClientStep {
        let mark = Mark { seq: 9, chain: Digest::of(b"9") };
        let manifest = Manifest { mark, cursor: Cursor(vec![9]), pieces };
        self.hear(ServerMessage::Manifest { space: main_space(), manifest })
    }

    fn answer(&mut self, digest: Digest, bytes: Option<Vec<u8>>) -> ClientStep {
        self.hear(ServerMessage::Segment { space: main_space(), digest, bytes })
    }
}

/// A segment of one note.
fn built(n: u8) -> Built {
    let name = CollectionName::new("notes").expect("a name");
    let schema = Schema::from_toml("version = 1\n[collections.notes.fields]\ntitle = { kind = \"register\" }");
    let schema = schema.expect("a schema");
    let mut document = Document::new(&Actor::from_bytes(&[n]).expect("an actor"));
    let fields = Map::from_iter([("title".to_owned(), Value::from(n))]);
    let stamp = Stamp::from_raw(1).expect("a stamp");
    let changes = document.create(&name, &schema.collections["notes"], stamp, &fields).expect("a note");
    let mut builder = SegmentBuilder::new(name);
    assert!(changes.iter().all(|change| builder.add(EntityId::from_bytes([n; 16]), change)));
    builder.finish().expect("a segment")
}

fn asks_for_segments(messages: &[ClientMessage]) -> Option<bool> {
    messages.iter().find_map(|message| match message {
        ClientMessage::Pull(pull) => Some(pull.segments),
        _ => None,
    })
}

fn wants(step: &ClientStep) -> Option<Digest> {
    step.send.iter().find_map(|message| match message {
        ClientMessage::Segment { digest, .. } => Some(*digest),
        _ => None,
    })
}

#[test]
fn segments_are_asked_for_one_after_the_other_and_then_the_log() {
    let (mut client, asked) = Client::online(SpaceProgress::begin(main_space()));
    assert_eq!(asks_for_segments(&asked), Some(true));
    let (one, two) = (built(1), built(2));
    let step = client.offer(vec![one.piece.clone(), two.piece.clone()]);
    assert!(matches!(step.batch.as_ref().and_then(|batch| batch.first_sync.as_ref()), Some(FirstSyncStep::Plan(_))));
    assert_eq!(wants(&step), Some(one.piece.digest));
    let step = client.answer(one.piece.digest, Some(one.bytes));
    assert_eq!(wants(&step), Some(two.piece.digest));
    assert_eq!(step.batch.and_then(|batch| batch.cursor), None);
    let step = client.answer(two.piece.digest, Some(two.bytes));
    assert_eq!(step.batch.and_then(|batch| batch.cursor), Some(Cursor(vec![9])));
    let Some(ClientMessage::Pull(pull)) = step.send.first() else { panic!("no pull: {:?}", step.send) };
    assert_eq!((pull.segments, pull.cursor.as_ref()), (false, Some(&Cursor(vec![9]))));
    assert_eq!(pull.ack.map(|mark| mark.seq), Some(9), "a server that loses this place is found out");
    assert!(!client.session.is_caught_up());
}

#[test]
fn g11_segments_that_are_none_lead_to_the_log_in_the_end() {
    for bytes in [None, Some(vec![1, 2, 3])] {
        let (mut client, _) = Client::online(SpaceProgress::begin(main_space()));
        let piece = built(1).piece;
        for _ in 0..2 {
            assert_eq!(wants(&client.offer(vec![piece.clone()])), Some(piece.digest));
            let step = client.answer(piece.digest, bytes.clone());
            assert!(matches!(step.events[..], [SyncEvent::SegmentRefused { .. }]));
            assert_eq!((step.batch, asks_for_segments(&step.send)), (None, Some(true)));
        }
        client.offer(vec![piece.clone()]);
        let step = client.answer(piece.digest, bytes.clone());
        assert_eq!(asks_for_segments(&step.send), Some(false));
        // Whoever goes on offering segments then does not speak the protocol.
        let step = client.offer(vec![piece]);
        assert_eq!(step.link, Some(LinkCommand::Close));
        assert!(matches!(step.events[..], [SyncEvent::Halted(Halt::Protocol(_))]));
    }
}

#[test]
fn what_has_been_applied_is_left_out_of_a_new_manifest() {
    let (mut client, _) = Client::online(SpaceProgress::begin(main_space()));
    let (one, two, three) = (built(1), built(2), built(3));
    client.offer(vec![one.piece.clone(), two.piece.clone()]);
    client.answer(one.piece.digest, Some(one.bytes));
    client.answer(two.piece.digest, None);
    let step = client.offer(vec![one.piece, three.piece.clone()]);
    assert_eq!(wants(&step), Some(three.piece.digest));
}

#[test]
fn segments_that_nobody_asked_for_end_the_session_or_are_ignored() {
    let progress = SpaceProgress { cursor: Some(Cursor(vec![1])), ..SpaceProgress::begin(main_space()) };
    let (mut client, asked) = Client::online(progress);
    assert_eq!(asks_for_segments(&asked), Some(false));
    let one = built(1);
    assert!(client.answer(one.piece.digest, Some(one.bytes)).batch.is_none());
    let step = client.offer(vec![one.piece]);
    assert!(matches!(step.events[..], [SyncEvent::Halted(Halt::Protocol(_))]));
}

/// The log that the segments were cut from is not the server's any more. What is not here yet would all differ, so it
/// comes by segments all the same; then the two reconcile, and only that gives the space its cursor.
#[test]
fn g10_a_server_that_loses_history_in_a_first_sync_is_reconciled_with_at_its_end() {
    let (mut client, _) = Client::online(SpaceProgress::begin(main_space()));
    let (one, two, three) = (built(1), built(2), built(3));
    client.offer(vec![one.piece.clone(), two.piece.clone()]);
    client.answer(one.piece.digest, Some(one.bytes.clone()));

    // Connected again.
    client.handle(ClientEvent::Disconnected { reason: "cut".to_owned(), retry_after_millis: None });
    client.handle(ClientEvent::Start);
    let asked = client.handle(ClientEvent::Connected).send;
    let ack = |messages: &[ClientMessage]| {
        messages.iter().find_map(|message| match message {
            ClientMessage::Pull(pull) => Some((pull.ack.map(|mark| mark.seq), pull.segments)),
            _ => None,
        })
    };
    assert_eq!(ack(&asked), Some((Some(9), true)), "it is seen whether the log is still the same");
    let limits = Limits { push_changes: 10, push_bytes: 1_000 };
    client.hear(ServerMessage::Welcome(Welcome { lineage: Lineage::from_bytes([1; 16]), now: NOW, limits }));
    let step = client.hear(ServerMessage::CursorUnknown { space: main_space() });
    assert!(step.looks.is_empty(), "nothing is compared or offered: {step:?}");
    assert!(
        step.batch.is_some_and(|batch| batch.owes_reconcile && batch.cursor.is_none()),
        "but the next session knows"
    );
    assert_eq!(ack(&step.send), Some((None, true)));

    let mark = Mark { seq: 5, chain: Digest::of(b"5") };
    let pieces = vec![one.piece, three.piece.clone()];
    let manifest = Manifest { mark, cursor: Cursor(vec![5]), pieces };
    let step = client.hear(ServerMessage::Manifest { space: main_space(), manifest });
    assert_eq!(wants(&step), Some(three.piece.digest), "what has been applied stays");
    assert_eq!(step.batch.and_then(|batch| batch.ack), Some(mark), "the log that it goes on with");
    let step = client.answer(three.piece.digest, Some(three.bytes));
    assert_eq!(step.looks, [Look::Items { space: main_space(), collections: None }]);
    assert_eq!((step.batch.and_then(|batch| batch.cursor), step.send.len()), (None, 0));
    let step = client.handle(ClientEvent::Items { space: main_space(), items: Vec::new() });
    assert!(matches!(step.send[..], [ClientMessage::Reconcile { .. }]), "{step:?}");
    assert!(!client.session.is_caught_up());
}

/// So does a session that begins in the middle of that, however well the server knows the marks of the new log.
#[test]
fn g10_a_first_sync_that_owes_a_reconcile_is_planned_anew_and_ends_with_it() {
    let (one, two) = (built(1), built(2));
    let mark = Mark { seq: 9, chain: Digest::of(b"9") };
    let manifest = Manifest { mark, cursor: Cursor(vec![9]), pieces: vec![one.piece.clone(), two.piece.clone()] };
    let progress = SpaceProgress {
        ack: Some(mark),
        owes_reconcile: true,
        first_sync: Some(FirstSync { manifest, applied: vec![true, false] }),
        ..SpaceProgress::begin(main_space())
    };
    let (mut client, asked) = Client::online(progress);
    assert_eq!(asks_for_segments(&asked), Some(true));
    let marks = |message: &ClientMessage| match message {
        ClientMessage::Pull(pull) => pull.cursor.is_some() || pull.ack.is_some(),
        _ => false,
    };
    assert!(!asked.iter().any(marks), "{asked:?}");
    let step = client.offer(vec![one.piece.clone(), two.piece.clone()]);
    assert_eq!(wants(&step), Some(two.piece.digest), "what has been applied stays");
    let step = client.answer(two.piece.digest, Some(two.bytes));
    assert_eq!(step.batch.map(|batch| batch.cursor), Some(None));
    assert_eq!(step.looks, [Look::Items { space: main_space(), collections: None }]);
}

#[test]
fn a_subset_is_reconciled_as_a_subset() {
    let names = vec![CollectionName::new("notes").expect("a name")];
    let progress = SpaceProgress {
        cursor: Some(Cursor(vec![1])),
        collections: Some(names.clone()),
        ..SpaceProgress::begin(main_space())
    };
    let (mut client, _) = Client::online(progress);
    let step = client.hear(ServerMessage::CursorUnknown { space: main_space() });
    assert_eq!(step.looks, [Look::Items { space: main_space(), collections: Some(names.clone()) }]);
    let step = client.handle(ClientEvent::Items { space: main_space(), items: Vec::new() });
    let [ClientMessage::Reconcile { ask: Ask::SketchOf { collections, .. }, .. }] = &step.send[..] else {
        panic!("{step:?}")
    };
    assert_eq!(*collections, names);
}
