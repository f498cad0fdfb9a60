//! Segments of a hostile server: whatever is in them, the replica goes on, and what it shows is what documents say.

use std::io::{Read as _, Write as _};
use std::path::Path;

use anabranch_core::document::Document;
use anabranch_core::segment::{Segment, SegmentBuilder, SegmentEntity};
use anabranch_core::sync::{FirstSyncStep, WriteBatch};
use anabranch_core::{Actor, CollectionName, Digest, EntityId, Heads, Lineage, Schema, SpaceName, SplitMix64, Stamp};
use anabranch_store::Engine;
use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use serde_json::{Value, json};

use super::{Input, SCHEMA, altered};
use crate::clock::{Machine, VirtualTime, WallClock};
use crate::job::within;

/// Alters an honest segment, or takes the bytes as one, and lets a replica apply what comes of it.
///
/// # Panics
/// If what is read without a document is not what the document says, or the replica fails: that is what the fuzzer
/// looks for.
pub fn segment_apply(bytes: &[u8]) {
    let mut input = Input(bytes);
    let schema = Schema::from_toml(SCHEMA).expect("the schema");
    let body = if input.next() < 32 { input.0.to_vec() } else { altered(honest(&schema), &mut input) };
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&body).expect("memory");
    let bytes = encoder.finish().expect("memory");
    let Ok(segment) = Segment::open(&Digest::of(&bytes), &bytes, Some(&schema)) else { return };
    segment.entities.iter().for_each(|entity| check_plain(&schema, &segment.collection, entity));
    apply(&schema, segment);
}

/// What is read of a history without a document is what its document says, if Automerge takes it at all.
fn check_plain(schema: &Schema, collection: &CollectionName, entity: &SegmentEntity) {
    let Some(plain) = &entity.plain else { return };
    let mut document = Document::new(&Actor::from_bytes(&[9]).expect("an actor"));
    match document.apply(&entity.changes) {
        Ok(_) => {
            let state = document.state(schema.collection(collection.as_str())).expect("a state");
            assert_eq!(state, plain.state);
            assert_eq!(document.heads(), plain.heads);
        }
        // Some poison shows in Automerge only; the replica finds it when it first loads the document.
        Err(error) => assert!(!error.is_untouched(), "a plain history is not admitted: {error}"),
    }
}

fn apply(schema: &Schema, segment: Segment) {
    let clock = WallClock::new(&VirtualTime::new());
    let environment = Box::new(Machine { clock, entropy: SplitMix64::new(1) });
    let mut engine = Engine::open(Path::new(":memory:"), Some(schema.clone()), environment).expect("a replica");
    let space = SpaceName::new("main").expect("a name");
    let mut batch = WriteBatch::empty(space, Lineage::from_bytes([7; 16]));
    batch.first_sync = Some(FirstSyncStep::Apply(Box::new(segment)));
    within(&mut engine, move |write| write.apply_batch(1, batch)).expect("it is applied");
    while engine.sweep().is_some() {}
}

/// The body of a segment of a few notes.
fn honest(schema: &Schema) -> Vec<u8> {
    let name = CollectionName::new("notes").expect("a name");
    let notes = &schema.collections["notes"];
    let mut builder = SegmentBuilder::new(name.clone());
    for n in 1..5u8 {
        let mut document = Document::new(&Actor::from_bytes(&[1, n % 2]).expect("an actor"));
        let fields =
            json!({ "title": "a", "stars": n, "body": "text", "tags": ["x"], "items": [1], "extra": { "k": 2 } });
        let Value::Object(fields) = fields else { return Vec::new() };
        let stamp = |raw: i64| Stamp::from_raw(raw).expect("a stamp");
        document.create(&name, notes, stamp(i64::from(n) << 20), &fields).expect("a note");
        document.delete(stamp(i64::from(n + 9) << 20)).expect("deleted");
        document.restore(stamp(i64::from(n + 12) << 20)).expect("restored");
        for change in document.changes_since(&Heads::default()).expect("changes") {
            builder.add(EntityId::from_bytes([n; 16]), &change);
        }
    }
    let built = builder.finish().expect("a segment");
    let mut body = Vec::new();
    DeflateDecoder::new(built.bytes.as_slice()).read_to_end(&mut body).expect("a body");
    body
}
