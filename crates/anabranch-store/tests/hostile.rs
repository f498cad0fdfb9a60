//! Hostile changes among honest ones: they alone are set aside, and nothing else is different.

mod support;

use std::path::{Path, PathBuf};

use anabranch_core::document::{Document, Edit};
use anabranch_core::segment::{Segment, SegmentBuilder};
use anabranch_core::sync::{FirstSyncStep, WriteBatch};
use anabranch_core::wire::Envelope;
use anabranch_core::{Actor, Change, Digest, EntityId, Heads, Lineage};
use anabranch_store::{Received, Store, StoreError};
use serde_json::json;
use support::{Folder, create, edit, field, name, schema, space};

const LINEAGE: Lineage = Lineage::from_bytes([7; 16]);
/// The honest changes of a batch.
const HONEST: usize = 6;

/// The hostile changes, with their names.
fn hostile() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../anabranch-core/tests/hostile");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("the folder").map(|it| it.expect("it").path()).collect();
    files.retain(|path| path.extension().is_some_and(|it| it == "change"));
    files.sort();
    assert!(files.len() >= 24, "the corpus is there");
    let name = |path: &PathBuf| path.file_stem().expect("a name").to_string_lossy().into_owned();
    files.iter().map(|path| (name(path), std::fs::read(path).expect("a file"))).collect()
}

fn all_changes(store: &Store, id: EntityId) -> Result<Vec<Envelope>, StoreError> {
    store.write(move |write| write.changes_beyond(&space("main"), id, &Heads::default())).wait()
}

fn pull(store: &Store, incoming: Vec<Envelope>) -> Result<Received, StoreError> {
    let batch = WriteBatch { incoming, ..WriteBatch::empty(space("main"), LINEAGE) };
    store.write(move |write| write.apply_batch(1, batch)).wait()
}

fn digests(store: &Store) -> Result<(Digest, Digest), StoreError> {
    store.read(|read| Ok((read.space_digest(&space("main"))?, read.state_digest(&space("main"))?)))
}

/// Two notes and their changes, those of the one between those of the other.
struct Pair {
    ids: [EntityId; 2],
    changes: Vec<Envelope>,
}

fn pair(store: &Store, number: usize) -> Result<Pair, StoreError> {
    let mut ids = Vec::new();
    for title in ["one", "two"] {
        let id = create(store, json!({ "title": format!("{title} {number}"), "body": "text" }))?;
        let splice = Edit::Splice { field: field("body"), at: 4, delete: 0, insert: " and more".to_owned() };
        edit(store, id, vec![splice])?;
        ids.push(id);
    }
    let (mut first, mut second) = (all_changes(store, ids[0])?.into_iter(), all_changes(store, ids[1])?.into_iter());
    let mut changes = Vec::new();
    while first.len() + second.len() > 0 {
        changes.extend(first.next().into_iter().chain(second.next()));
    }
    Ok(Pair { ids: [ids[0], ids[1]], changes })
}

/// The document can be loaded, saved, and loaded from what was saved.
fn loads(store: &Store, id: EntityId) -> Result<(), StoreError> {
    let actor = Actor::from_bytes(&[1]).expect("an actor");
    let changes = all_changes(store, id)?.into_iter().map(|it| Change::parse(it.change).expect("a change")).collect();
    let document = Document::load(&actor, None, changes).expect("it loads");
    let folded = document.fold().expect("it folds");
    let back = Document::load(&actor, Some(&folded.bytes), Vec::new()).expect("its save loads");
    let schema = schema();
    let notes = schema.collection("notes");
    assert_eq!(back.state(notes).expect("a state"), document.state(notes).expect("a state"));
    Ok(())
}

#[test]
fn g11_every_hostile_change_in_every_place_of_a_batch_is_set_aside_alone() -> Result<(), StoreError> {
    let folder = Folder::new();
    let author = folder.open("author.db");
    // One pair for each place.
    let pairs = (0..=HONEST).map(|number| pair(&author, number)).collect::<Result<Vec<_>, _>>()?;
    let expected = digests(&author)?;
    let hostile = hostile();
    for (name, bytes) in &hostile {
        let store = folder.open(&format!("{name}.db"));
        for (at, Pair { changes, .. }) in pairs.iter().enumerate() {
            assert_eq!(changes.len(), HONEST);
            let mut batch = changes.clone();
            // It is said to be of the same entity as its neighbour.
            let neighbour = changes[at.min(HONEST - 1)].clone();
            batch.insert(at, Envelope { change: bytes.clone(), ..neighbour });
            let received = pull(&store, batch)?;
            assert_eq!((received.applied, received.quarantined), (changes.len(), 1), "{name} at {at}");
            assert_eq!(received.orphaned, 0, "{name} at {at}");
        }
        assert_eq!(digests(&store)?, expected, "{name}: what is honest is as if nothing had been");
        let reasons = store.read(|read| read.query("SELECT reason FROM quarantine", &[]))?;
        assert_eq!(reasons.len(), pairs.len(), "{name}");
        assert!(reasons.iter().all(|row| row["reason"].as_str().is_some_and(|it| it.len() > 10)), "{name}");
        drop(store);
        nothing_is_left_of_it(&folder, name, &pairs)?;
    }
    println!("{} hostile changes in {} places", hostile.len(), pairs.len());
    Ok(())
}

/// Neither in a document, nor in what others are given.
fn nothing_is_left_of_it(folder: &Folder, name: &str, pairs: &[Pair]) -> Result<(), StoreError> {
    let store = folder.open(&format!("{name}.db"));
    for Pair { ids, changes } in pairs {
        ids.iter().try_for_each(|id| loads(&store, *id))?;
        assert_eq!(pull(&store, changes.clone())?.applied, 0, "{name}: all of it was there");
    }
    let last = pairs[HONEST].ids[0];
    assert!(edit(&store, last, vec![Edit::Set { field: field("title"), value: json!("still writable") }])?);
    assert_eq!(store.read(|read| read.totals())?.pending, 1, "{name}: nothing else is passed on");
    let reader = folder.open(&format!("{name} reader.db"));
    let received = pull(&reader, all_changes(&store, last)?)?;
    assert_eq!((received.applied, received.quarantined), (HONEST / 2 + 1, 0), "{name}");
    let of = |store: &Store| store.read(|read| read.entity(&space("main"), last));
    assert_eq!(of(&reader)?.map(|note| note.state), of(&store)?.map(|note| note.state), "{name}");
    Ok(())
}

/// The changes in `hostile/panics`: an honest list, and what makes Automerge panic on it.
fn list_and_panics(of: &Envelope) -> [Envelope; 2] {
    ["list.change", "insert_after_the_list.change"].map(|name| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../anabranch-core/tests/hostile/panics").join(name);
        Envelope { change: std::fs::read(path).expect("a file"), ..of.clone() }
    })
}

/// The same as the file, by a writer of its own.
fn panics_too(list: &Envelope, writer: u8) -> Envelope {
    let list_change = Change::parse(list.change.clone()).expect("a change");
    let actor = list_change.actor().as_bytes();
    let mut body = vec![1];
    body.extend(list_change.hash().as_bytes());
    // Actor, sequence number, first op, time, message, and the other actor.
    body.extend([2, 0xed, writer, 1, 2, 5, 0, 1, u8::try_from(actor.len()).expect("short")]);
    body.extend(actor);
    let columns: [(u8, [u8; 2]); 8] = [
        (0x01, [0x7f, 1]),
        (0x02, [0x7f, 1]),
        (0x11, [0x7f, 1]),
        (0x13, [0x7f, 1]),
        (0x34, [0, 1]),
        (0x42, [0x7f, 1]),
        (0x56, [0x7f, 0]),
        (0x70, [0x7f, 0]),
    ];
    body.push(8);
    body.extend(columns.iter().flat_map(|(number, _)| [*number, 2]));
    body.extend(columns.iter().flat_map(|(_, data)| data));
    let mut chunk = vec![0x85, 0x6f, 0x4a, 0x83, 0, 0, 0, 0, 1, u8::try_from(body.len()).expect("short")];
    chunk.extend(body);
    let checksum = Digest::of(&chunk[8..]);
    chunk[4..8].copy_from_slice(&checksum.as_bytes()[..4]);
    Envelope { change: chunk, ..list.clone() }
}

/// What only Automerge finds wrong, in a panic: the document is built again from the file, in the middle of the batch.
#[test]
fn g11_a_change_on_which_automerge_panics_is_set_aside_alone() -> Result<(), StoreError> {
    let folder = Folder::new();
    let author = folder.open("author.db");
    let Pair { ids, mut changes } = pair(&author, 0)?;
    let [list, panics] = list_and_panics(&changes[0]);
    changes.push(list);
    pull(&author, changes.clone())?;
    for at in 0..=changes.len() {
        let store = folder.open(&format!("{at}.db"));
        let mut batch = changes.clone();
        batch.insert(at, panics.clone());
        let received = pull(&store, batch)?;
        assert_eq!((received.applied, received.quarantined), (changes.len(), 1), "at {at}");
        assert_eq!(digests(&store)?, digests(&author)?, "at {at}");
        // Once more, to the document in memory.
        assert_eq!(pull(&store, vec![panics.clone()])?.applied, 0, "at {at}");
        ids.iter().try_for_each(|id| loads(&store, *id))?;
        assert!(edit(&store, ids[0], vec![Edit::Increment { field: field("stars"), by: 1 }])?, "at {at}");
    }
    Ok(())
}

/// More of them than documents are loaded again for, in a page and in a segment.
#[test]
fn g11_many_panics_in_one_batch_are_set_aside_alone() -> Result<(), StoreError> {
    const PANICS: u8 = 40;
    let folder = Folder::new();
    let author = folder.open("author.db");
    let id = create(&author, json!({ "title": "one", "body": "text" }))?;
    let [list, _] = list_and_panics(&all_changes(&author, id)?[0]);
    pull(&author, vec![list.clone()])?;
    for n in 0..3 {
        edit(&author, id, vec![Edit::Set { field: field("title"), value: json!(n) }])?;
    }
    let honest = all_changes(&author, id)?;
    let after_list = 1 + honest.iter().position(|it| it.change == list.change).expect("the list is there");
    let mut batch = honest.clone();
    batch.splice(after_list..after_list, (0..PANICS).map(|writer| panics_too(&list, writer)));

    let by_page = folder.open("page.db");
    let received = pull(&by_page, batch.clone())?;
    assert_eq!((received.applied, received.quarantined), (honest.len(), usize::from(PANICS)));
    assert_eq!(digests(&by_page)?, digests(&author)?);
    loads(&by_page, id)?;

    let by_segment = folder.open("segment.db");
    let mut builder = SegmentBuilder::new(name("notes"));
    for envelope in &batch {
        assert!(builder.add(id, &Change::parse(envelope.change.clone()).expect("a change")));
    }
    let built = builder.finish().expect("a segment");
    let segment = Segment::open(&built.piece.digest, &built.bytes, None).expect("a segment");
    let first_sync = Some(FirstSyncStep::Apply(Box::new(segment)));
    let step = WriteBatch { first_sync, ..WriteBatch::empty(space("main"), LINEAGE) };
    by_segment.write(move |write| write.apply_batch(1, step)).wait()?;
    // Whoever needs the document has it looked at.
    loads(&by_segment, id)?;
    assert_eq!(by_segment.read(|read| read.totals())?.quarantined, u64::from(PANICS));
    assert_eq!(digests(&by_segment)?, digests(&author)?);
    Ok(())
}
