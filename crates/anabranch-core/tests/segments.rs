//! A segment gives back the changes that it was built from; whatever else comes is refused, and harms nothing.

use anabranch_core::document::Document;
use anabranch_core::document::Edit;
use anabranch_core::segment::{
    Built, MAX_SEGMENT_BYTES, SEGMENT_ENTITIES, Segment, SegmentBuilder, SegmentEntity, SegmentError,
};
use anabranch_core::{Actor, Change, CollectionName, Digest, EntityId, FieldName, Heads, Schema, Stamp};
use proptest::prelude::*;
use serde_json::{Value, json};

const SCHEMA: &str = r#"
    version = 1
    [collections.notes.fields]
    title = { kind = "register" }
    body = { kind = "text" }
    votes = { kind = "counter" }
"#;

fn schema() -> Schema {
    Schema::from_toml(SCHEMA).expect("the schema")
}

fn name() -> CollectionName {
    CollectionName::new("notes").expect("a name")
}

fn id(number: u64) -> EntityId {
    let mut bytes = [0x01, 0x99, 0x77, 0, 0, 0, 0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, 0];
    bytes[8..].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    bytes[..6].copy_from_slice(&number.to_be_bytes()[2..]);
    EntityId::from_bytes(bytes)
}

/// A note, edited so often by each of the writers in turn.
fn note(number: u64, edits: usize, writers: u8, concurrent: bool) -> Vec<Change> {
    let schema = schema();
    let notes = &schema.collections["notes"];
    let mut stamp = i64::try_from(number).expect("small") << 20;
    let mut tick = || {
        stamp += 3 << 15;
        Stamp::from_raw(stamp).expect("a stamp")
    };
    let Value::Object(fields) = json!({ "title": format!("note {number}"), "body": "b" }) else { unreachable!() };
    let actor = |writer: u8| Actor::from_bytes(&[1, 2, 3, writer]).expect("an actor");
    let mut first = Document::new(&actor(0));
    first.create(&name(), notes, tick(), &fields).expect("created");
    let mut documents: Vec<_> = (0..writers)
        .map(|writer| {
            let mut document = Document::new(&actor(writer));
            document.apply(&first.changes_since(&Heads::default()).expect("changes")).expect("applied");
            document
        })
        .collect();
    for edit in 0..edits {
        let at = edit % documents.len();
        let field = FieldName::new(if edit % 3 == 0 { "votes" } else { "title" }).expect("a name");
        let step = match edit % 3 {
            0 => Edit::Increment { field, by: 1 },
            _ => Edit::Set { field, value: json!(format!("{edit}")) },
        };
        documents[at].edit(notes, tick(), &[step]).expect("edited");
        if !concurrent || edit % 4 == 3 {
            let all: Vec<_> = documents
                .iter()
                .flat_map(|document| document.changes_since(&Heads::default()).expect("changes"))
                .collect();
            documents.iter_mut().for_each(|document| drop(document.apply(&all).expect("applied")));
        }
    }
    documents[0].changes_since(&Heads::default()).expect("changes")
}

fn build(notes: &[(EntityId, Vec<Change>)]) -> Vec<Built> {
    let (mut built, mut builder) = (Vec::new(), SegmentBuilder::new(name()));
    for (id, changes) in notes {
        for change in changes {
            if !builder.add(*id, change) {
                built.extend(std::mem::replace(&mut builder, SegmentBuilder::new(name())).finish());
                assert!(builder.add(*id, change));
            }
        }
    }
    built.extend(builder.finish());
    built
}

fn open(built: &Built) -> Segment {
    Segment::open(&built.piece.digest, &built.bytes, Some(&schema())).expect("a segment")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn a_segment_gives_back_what_it_was_built_from(
        shapes in prop::collection::vec((0..9usize, 1..4u8, any::<bool>()), 1..12),
    ) {
        let notes: Vec<_> = (1..).zip(shapes).map(|(number, (edits, writers, concurrent))| {
            (id(number), note(number, edits, writers, concurrent))
        }).collect();
        let built = build(&notes);
        prop_assert_eq!(built.len(), 1);
        let segment = open(&built[0]);
        prop_assert_eq!(segment.entities.len(), notes.len());
        for (SegmentEntity { id, changes, plain }, (expected, those)) in segment.entities.iter().zip(&notes) {
            prop_assert_eq!((id, changes), (expected, those));
            let mut document = Document::new(&Actor::from_bytes(&[9]).expect("an actor"));
            document.apply(changes).expect("applied");
            let state = document.state(schema().collection("notes")).expect("a state");
            prop_assert!(plain.as_ref().is_none_or(|plain| plain.state == state));
        }
        prop_assert_eq!(&build(&notes)[0].bytes, &built[0].bytes, "the same everywhere");
    }

    #[test]
    fn damage_is_noticed_and_does_no_harm(at: prop::sample::Index, bit in 0..8u8, cut: prop::sample::Index) {
        let built = build(&[(id(1), note(1, 5, 2, true)), (id(2), note(2, 1, 1, false))]).remove(0);
        let mut bytes = built.bytes.clone();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(matches!(Segment::open(&built.piece.digest, &bytes, None), Err(SegmentError::Digest)));
        // A server that lies about the digest, too.
        drop(Segment::open(&Digest::of(&bytes), &bytes, Some(&schema())));
        bytes.truncate(cut.index(bytes.len()));
        prop_assert!(Segment::open(&Digest::of(&bytes), &bytes, Some(&schema())).is_err());
    }
}

#[test]
fn a_full_segment_is_followed_by_another() {
    let one = note(1, 0, 1, false);
    let notes: Vec<_> =
        (1..=u64::try_from(SEGMENT_ENTITIES).expect("small") + 3).map(|number| (id(number), one.clone())).collect();
    let built = build(&notes);
    assert_eq!(built.len(), 2);
    let of_first = usize::try_from(built[0].piece.entities).expect("small");
    assert!(of_first > SEGMENT_ENTITIES / 2, "{of_first}");
    assert_eq!(of_first + usize::try_from(built[1].piece.entities).expect("small"), notes.len());
    assert_eq!(built[1].first, notes[of_first].0);
    assert_eq!(open(&built[0]).entities[5].changes, one);
}

#[test]
fn a_long_history_is_divided_and_its_parts_come_to_the_whole() {
    let schema = schema();
    let mut document = Document::new(&Actor::from_bytes(&[1]).expect("an actor"));
    let Value::Object(fields) = json!({ "title": "long" }) else { unreachable!() };
    document
        .create(&name(), &schema.collections["notes"], Stamp::from_raw(1).expect("a stamp"), &fields)
        .expect("created");
    for round in 2..7u32 {
        let random: String = (0..400_000u32)
            .map(|n| {
                char::from(b'a' + u8::try_from(((n + round).wrapping_mul(2_654_435_761) >> 13) % 26).expect("small"))
            })
            .collect();
        let edit = Edit::Set { field: FieldName::new("title").expect("a name"), value: random.into() };
        document
            .edit(&schema.collections["notes"], Stamp::from_raw(round.into()).expect("a stamp"), &[edit])
            .expect("edited");
    }
    let changes = document.changes_since(&Heads::default()).expect("changes");
    let built = build(&[(id(1), changes.clone()), (id(2), note(2, 1, 1, false))]);
    assert!(built.len() > 1);
    assert!(built.iter().all(|built| built.bytes.len() <= MAX_SEGMENT_BYTES));
    let back: Vec<_> = built
        .iter()
        .flat_map(|built| open(built).entities)
        .filter(|entity| entity.id == id(1))
        .flat_map(|entity| entity.changes)
        .collect();
    assert_eq!(back, changes);
}

#[test]
fn ids_come_in_their_order() {
    let mut builder = SegmentBuilder::new(name());
    assert!(builder.is_empty());
    assert!(builder.add(id(2), &note(2, 0, 1, false)[0]));
    assert!(!builder.add(id(1), &note(1, 0, 1, false)[0]));
    assert!(SegmentBuilder::new(name()).finish().is_none());
}
