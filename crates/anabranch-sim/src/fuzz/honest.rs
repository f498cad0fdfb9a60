//! What honest replicas write and say: the material that inputs alter.

use std::sync::LazyLock;

use anabranch_core::document::{Document, Edit};
use anabranch_core::segment::{Manifest, Piece};
use anabranch_core::sync::reconcile::{Item, Reconciler};
use anabranch_core::sync::seal_cursor;
use anabranch_core::wire::{
    Answer, Ask, ClientMessage, Cursor, Envelope, Hello, Limits, Mark, Missing, PeerHello, PeerMessage, Pull, Push,
    Pushed, RefusalCode, RejectCode, Reply, ServerMessage, Wanted, Welcome,
};
use anabranch_core::{
    Actor, Change, CollectionName, Digest, EntityId, FieldName, Heads, Lineage, ReplicaId, Schema, SpaceName, Stamp,
    TransactionId,
};
use serde_json::{Map, json};

use super::SCHEMA;

pub(super) const LINEAGE: Lineage = Lineage::from_bytes([7; 16]);

/// Changes of a few entities, each after those that it depends on; some of them a transaction, the last a purge.
pub(super) static ENVELOPES: LazyLock<Vec<Envelope>> = LazyLock::new(envelopes);

pub(super) fn space(name: &str) -> SpaceName {
    SpaceName::new(name).expect("a name")
}

pub(super) fn notes() -> CollectionName {
    CollectionName::new("notes").expect("a name")
}

pub(super) const fn entity(number: u8) -> EntityId {
    EntityId::from_bytes([number; 16])
}

fn envelopes() -> Vec<Envelope> {
    let mut all = Vec::new();
    for number in 1..=4 {
        let transaction = (number == 3).then(|| TransactionId::from_bytes([3; 16]));
        let parent = (number == 2).then(|| entity(1));
        let envelope = |change: Change| Envelope {
            entity: entity(number),
            collection: notes(),
            parent,
            transaction,
            change: change.into_bytes(),
        };
        all.extend(history(number).into_iter().map(envelope));
    }
    all
}

/// Two writers at once, and then one of them who has seen both; of the last entity only a purge is left.
fn history(number: u8) -> Vec<Change> {
    let schema = Schema::from_toml(SCHEMA).expect("the schema");
    let collection = &schema.collections["notes"];
    let field = |name: &str| FieldName::new(name).expect("a name");
    let stamp = |at: u8| Stamp::from_raw((i64::from(number) << 24) + (i64::from(at) << 16)).expect("a stamp");
    let actor = |other: u8| Actor::from_bytes(&[1, number, other]).expect("an actor");
    let mut mine = Document::new(&actor(1));
    mine.create(&notes(), collection, stamp(1), &Map::new()).expect("a note");
    let mut theirs = Document::new(&actor(2));
    theirs.apply(&mine.changes_since(&Heads::default()).expect("changes")).expect("they apply");
    let splice = Edit::Splice { field: field("body"), at: 0, delete: 0, insert: "milk".to_owned() };
    let set = |value: &str| Edit::Set { field: field("title"), value: json!(value) };
    mine.edit(collection, stamp(2), &[splice, set("shopping")]).expect("an edit");
    let count = Edit::Increment { field: field("stars"), by: 2 };
    theirs.edit(collection, stamp(3), &[count, set("to do")]).expect("an edit");
    let seen = mine.heads();
    mine.apply(&theirs.changes_since(&seen).expect("changes")).expect("they apply");
    mine.delete(stamp(4)).expect("deleted");
    let mut all = mine.changes_since(&Heads::default()).expect("changes");
    if number == 4 {
        all.push(Document::purge_marker(&mine.heads().version()).expect("a marker"));
    }
    all
}

/// Messages of a client, of all kinds.
pub(super) fn client_messages() -> Vec<ClientMessage> {
    let home = space("home");
    let cursor = seal_cursor(LINEAGE, &home, Mark { seq: 4, chain: Digest::of(b"chain") });
    let wanted = vec![Wanted { entity: entity(1), known: vec![] }];
    let ask = |ask: Ask| ClientMessage::Reconcile { space: home.clone(), ask };
    let pull = Pull::all(home.clone(), Some(cursor), Some(Mark::START));
    vec![
        ClientMessage::Hello(hello(1, Some(LINEAGE))),
        ClientMessage::Push(Push { id: 1, space: home.clone(), changes: ENVELOPES.clone(), agreed: vec![0] }),
        ClientMessage::Pull(Pull { collections: Some(vec![notes()]), segments: true, ..pull.clone() }),
        ClientMessage::Pull(pull),
        ClientMessage::Received { space: home.clone() },
        ClientMessage::Presence { space: home.clone(), data: Some(b"here".to_vec()) },
        ask(Ask::Sketch(sketch())),
        ask(Ask::Heads(vec![entity(1), entity(2)])),
        ask(Ask::Changes { wanted, skip: 1 }),
        ClientMessage::Segment { space: home, digest: Digest::of(b"segment") },
    ]
}

/// The first message of a replica.
pub(super) fn hello(replica: u8, lineage: Option<Lineage>) -> Hello {
    let actor = Actor::from_bytes(&[1, 2, 3]).expect("an actor");
    Hello { replica: ReplicaId::from_bytes([replica; 16]), actor, schema_version: 1, lineage }
}

/// The first question about a few entities.
pub(super) fn sketch() -> Vec<u8> {
    let items = (1..=4).map(|number| Item::new(entity(number), &Heads::default())).collect();
    match Reconciler::begin(items).expect("a sketch") {
        (_, Ask::Sketch(message)) => message,
        (_, other) => panic!("a reconcile begins with a sketch, not with {other:?}"),
    }
}

/// Messages of a server, of all kinds.
pub(super) fn server_messages() -> Vec<ServerMessage> {
    let home = space("home");
    let (cursor, mark) = (Cursor(vec![1, 2, 3]), Mark { seq: 9, chain: Digest::of(b"chain") });
    let reject = Answer::Rejected { code: RejectCode::Fork, message: "a fork".to_owned(), retryable: false };
    let missing = Missing::Parent(entity(1));
    let answers = vec![Answer::Accepted { seq: 1 }, Answer::Duplicate { seq: 2 }, Answer::Held { missing }, reject];
    let piece = Piece { collection: notes(), digest: Digest::of(b"segment"), bytes: 9, entities: 1 };
    let manifest = Manifest { mark, cursor: cursor.clone(), pieces: vec![piece] };
    let reconciled = |reply: Reply| ServerMessage::Reconciled { space: home.clone(), reply, at: None };
    let limits = Limits { push_changes: 100, push_bytes: 1_000 };
    let changes = ENVELOPES.clone();
    vec![
        ServerMessage::Welcome(Welcome { lineage: LINEAGE, now: 1, limits }),
        ServerMessage::Pushed(Pushed { id: 1, space: home.clone(), answers, mark: Some(mark), cursor: None }),
        ServerMessage::Changes { space: home.clone(), changes: changes.clone(), cursor: cursor.clone(), more: true },
        ServerMessage::CursorUnknown { space: home.clone() },
        ServerMessage::Refused {
            code: RefusalCode::OtherLineage { lineage: LINEAGE, empty: false },
            message: "another".to_owned(),
            retry_after_millis: Some(1_000),
        },
        ServerMessage::Poke { space: home.clone() },
        ServerMessage::Presence { space: home.clone(), replica: ReplicaId::from_bytes([2; 16]), data: None },
        ServerMessage::Reconciled { space: home.clone(), reply: Reply::Sketch(sketch()), at: Some((cursor, mark)) },
        reconciled(Reply::Heads(vec![vec![]])),
        reconciled(Reply::Changes { changes, done: 1, skip: 0 }),
        reconciled(Reply::TooMany),
        ServerMessage::Manifest { space: home.clone(), manifest },
        ServerMessage::Segment { space: home.clone(), digest: Digest::of(b"segment"), bytes: Some(vec![0; 9]) },
        ServerMessage::Behind { space: home, changes: 7 },
    ]
}

/// Messages between peers, of all kinds.
pub(super) fn peer_messages() -> Vec<PeerMessage> {
    let home = space("home");
    let wanted = vec![Wanted { entity: entity(1), known: vec![] }];
    vec![
        PeerMessage::Hello(PeerHello { replica: ReplicaId::from_bytes([1; 16]), nonce: [9; 32] }),
        PeerMessage::Proof([8; 32]),
        PeerMessage::Spaces { spaces: vec![home.clone()], only: true },
        PeerMessage::Ask { space: home.clone(), ask: Ask::Sketch(sketch()) },
        PeerMessage::Reply(Reply::Heads(vec![vec![]])),
        PeerMessage::Want { space: home.clone(), wanted, last: true },
        PeerMessage::Changes { space: home.clone(), changes: ENVELOPES.clone(), whole: true, last: false },
        PeerMessage::Received { taken: 3 },
        PeerMessage::Poke(home),
    ]
}
