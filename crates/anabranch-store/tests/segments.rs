//! Segments in the store: rows without documents, and what becomes of those that are not what they seem.

mod support;

use std::sync::atomic::Ordering;

use anabranch_core::document::Edit;
use anabranch_core::segment::{Built, Manifest, Segment, SegmentBuilder};
use anabranch_core::sync::{FirstSync, FirstSyncStep, OutboxRead, Reoffer, WriteBatch};
use anabranch_core::wire::{Cursor, Envelope, Mark};
use anabranch_core::{Change, Digest, EntityId, Heads, Lineage};
use anabranch_store::{Received, Store, StoreError};
use rusqlite::{Connection, params};
use serde_json::json;
use support::{Folder, create, edit, field, name, schema, space};

const LINEAGE: Lineage = Lineage::from_bytes([7; 16]);

fn set(title: &str) -> Vec<Edit> {
    vec![Edit::Set { field: field("title"), value: json!(title) }]
}

fn all_changes(store: &Store, id: EntityId) -> Result<Vec<Envelope>, StoreError> {
    store.write(move |write| write.changes_beyond(&space("main"), id, &Heads::default())).wait()
}

fn history(store: &Store, id: EntityId) -> Result<(EntityId, Vec<Change>), StoreError> {
    let changes = all_changes(store, id)?.into_iter().map(|envelope| Change::parse(envelope.change).expect("a change"));
    Ok((id, changes.collect()))
}

fn build(mut histories: Vec<(EntityId, Vec<Change>)>) -> Built {
    histories.sort_by_key(|(id, _)| *id);
    let mut builder = SegmentBuilder::new(name("notes"));
    for (id, changes) in &histories {
        assert!(changes.iter().all(|change| builder.add(*id, change)));
    }
    builder.finish().expect("a segment")
}

fn commit(store: &Store, first_sync: FirstSyncStep, cursor: Option<Cursor>) -> Result<Received, StoreError> {
    let batch = WriteBatch { first_sync: Some(first_sync), cursor, ..WriteBatch::empty(space("main"), LINEAGE) };
    store.write(move |write| write.apply_batch(1, batch)).wait()
}

fn apply(store: &Store, built: &Built) -> Result<Received, StoreError> {
    let segment = Segment::open(&built.piece.digest, &built.bytes, Some(&schema())).expect("a segment");
    commit(store, FirstSyncStep::Apply(Box::new(segment)), None)
}

fn pull(store: &Store, incoming: Vec<Envelope>) -> Result<Received, StoreError> {
    let batch = WriteBatch { incoming, ..WriteBatch::empty(space("main"), LINEAGE) };
    store.write(move |write| write.apply_batch(1, batch)).wait()
}

fn digests(store: &Store) -> Result<(Digest, Digest), StoreError> {
    store.read(|read| Ok((read.space_digest(&space("main"))?, read.state_digest(&space("main"))?)))
}

/// Waits until an idle store has looked at everything: it does so between two writes.
fn looked_through(store: &Store) -> Result<(), StoreError> {
    let left = || store.read(|read| read.query("SELECT count(*) AS n FROM unchecked", &[]));
    while left()?[0]["n"] != 0 {
        store.write(|_| Ok::<_, StoreError>(())).wait()?;
    }
    Ok(())
}

/// The file as somebody else may change it, while the store has it open.
fn tamper(folder: &Folder, file: &str, sql: &str, id: EntityId, change: Option<&Change>) {
    let connection = Connection::open(folder.path(file)).expect("the file");
    let (hash, bytes) = change.map(|change| (change.hash(), change.bytes().to_vec())).unzip();
    let hash = hash.map(|hash| hash.as_bytes().to_vec());
    connection.execute(sql, params![id.to_string(), hash, bytes]).expect("it takes the change");
    let again = "INSERT OR IGNORE INTO unchecked SELECT key FROM entities WHERE id = ?1";
    connection.execute(again, [id.to_string()]).expect("it takes the change");
    support::seal(&connection, &id.to_string());
}

#[test]
fn a_segment_comes_to_what_its_changes_come_to_without_a_document() -> Result<(), StoreError> {
    let folder = Folder::new();
    let (one, quick, slow) = (folder.open("1.db"), folder.open("2.db"), folder.open("3.db"));
    let mut histories = Vec::new();
    let mut envelopes = Vec::new();
    for n in 0..30 {
        let id = create(&one, json!({ "title": format!("{n}"), "body": "text", "tags": ["a"], "items": [1, n] }))?;
        edit(&one, id, set("two"))?;
        if n % 5 == 0 {
            one.write(move |write| write.delete(&space("main"), id)).wait()?;
        }
        histories.push(history(&one, id)?);
        envelopes.extend(all_changes(&one, id)?);
    }
    let built = build(histories);
    // Nothing is looked at while a first sync is under way, so that no document is loaded meanwhile.
    let manifest = Manifest {
        mark: Mark { seq: 9, chain: Digest::of(b"9") },
        cursor: Cursor(vec![1]),
        pieces: vec![built.piece.clone()],
    };
    commit(&quick, FirstSyncStep::Plan(FirstSync { manifest, applied: vec![false] }), None)?;
    let received = apply(&quick, &built)?;
    assert_eq!((received.applied, received.quarantined), (envelopes.len(), 0));
    assert_eq!(quick.stats().documents_loaded.load(Ordering::Relaxed), 0);
    pull(&slow, envelopes)?;
    assert_eq!(digests(&quick)?, digests(&slow)?);
    commit(
        &quick,
        FirstSyncStep::Apply(Box::new(Segment::open(&built.piece.digest, &built.bytes, None).expect("it"))),
        Some(Cursor(vec![1])),
    )?;
    looked_through(&quick)?;
    assert_eq!(digests(&quick)?, digests(&slow)?);
    assert_eq!(quick.read(|read| read.totals())?, slow.read(|read| read.totals())?);
    Ok(())
}

#[test]
fn a_first_sync_is_remembered_piece_by_piece() -> Result<(), StoreError> {
    let folder = Folder::new();
    let one = folder.open("1.db");
    let ids = [create(&one, json!({ "title": "a" }))?, create(&one, json!({ "title": "b" }))?];
    let built = [build(vec![history(&one, ids[0])?]), build(vec![history(&one, ids[1])?])];
    let pieces = built.iter().map(|built| built.piece.clone()).collect();
    let manifest = Manifest { mark: Mark { seq: 3, chain: Digest::of(b"3") }, cursor: Cursor(vec![4, 2]), pieces };
    let plan = FirstSync { manifest, applied: vec![false, false] };
    let open = || folder.open("2.db");
    let state = |store: &Store| store.read(|read| Ok(read.remotes()?[0].spaces[0].clone()));
    commit(&open(), FirstSyncStep::Plan(plan.clone()), None)?;
    assert_eq!(state(&open())?.first_sync, Some(plan.clone()));
    apply(&open(), &built[1])?;
    assert_eq!(state(&open())?.first_sync, Some(FirstSync { applied: vec![false, true], ..plan.clone() }));
    let totals = open().read(|read| read.first_sync())?.expect("it is under way");
    assert_eq!((totals.entities, totals.entities_total), (1, 2));
    assert_eq!(
        (totals.bytes, totals.bytes_total),
        (built[1].piece.bytes.into(), u64::from(built[0].piece.bytes + built[1].piece.bytes))
    );
    let store = open();
    let segment = Segment::open(&built[0].piece.digest, &built[0].bytes, Some(&schema())).expect("a segment");
    commit(&store, FirstSyncStep::Apply(Box::new(segment)), Some(Cursor(vec![4, 2])))?;
    let done = state(&store)?;
    assert_eq!((done.first_sync, done.cursor, done.had), (None, Some(Cursor(vec![4, 2])), None));
    assert_eq!(store.read(|read| read.first_sync())?, None);
    Ok(())
}

#[test]
fn what_one_server_s_segments_bring_is_offered_to_the_other() -> Result<(), StoreError> {
    let folder = Folder::new();
    let (one, two) = (folder.open("1.db"), folder.open("2.db"));
    let id = create(&one, json!({ "title": "a" }))?;
    edit(&one, id, set("b"))?;
    let other = two.write(|write| {
        write.ensure_remote("wss://one.example", &[])?;
        write.ensure_remote("wss://two.example", &[])
    });
    let other = other.wait()?;
    let received = apply(&two, &build(vec![history(&one, id)?]))?;
    let offered = |remote| {
        let page = two.outbox_page(remote, OutboxRead { space: space("main"), changes: 100, bytes: 1 << 20 });
        Ok::<_, StoreError>(page.wait()?.items.into_iter().map(|item| item.envelope).collect::<Vec<_>>())
    };
    assert_eq!((offered(1)?.len(), offered(other)?.len()), (0, received.applied));
    // It is all that a third replica needs.
    let three = folder.open("3.db");
    pull(&three, offered(other)?)?;
    assert_eq!(digests(&three)?, digests(&one)?);
    Ok(())
}

#[test]
fn what_is_here_already_is_merged_and_never_replaced() -> Result<(), StoreError> {
    let folder = Folder::new();
    let (one, two) = (folder.open("1.db"), folder.open("2.db"));
    let id = create(&one, json!({ "title": "one", "body": "milk" }))?;
    let first = build(vec![history(&one, id)?]);
    edit(&one, id, vec![Edit::Splice { field: field("body"), at: 4, delete: 0, insert: "!".to_owned() }])?;
    let second = build(vec![history(&one, id)?]);
    apply(&two, &first)?;
    edit(&two, id, vec![Edit::Splice { field: field("body"), at: 0, delete: 0, insert: "oat ".to_owned() }])?;
    let received = apply(&two, &second)?;
    assert_eq!((received.applied, received.known), (1, 2));
    let note = two.read(|read| read.entity(&space("main"), id))?.expect("the note");
    assert_eq!((note.state["body"].as_str(), note.pending), (Some("oat milk!"), 1));
    assert_eq!(apply(&two, &second)?.known, 3);
    Ok(())
}

#[test]
fn g11_a_segment_with_bad_changes_does_no_more_than_the_changes_would() -> Result<(), StoreError> {
    let folder = Folder::new();
    let (one, two, three) = (folder.open("1.db"), folder.open("2.db"), folder.open("3.db"));
    let (good, torn, mixed) = (
        create(&one, json!({ "title": "good" }))?,
        create(&one, json!({ "title": "torn" }))?,
        create(&one, json!({ "title": "mixed" }))?,
    );
    edit(&one, torn, set("torn again"))?;
    let torn_changes = history(&one, torn)?.1;
    let mut mixed_changes = history(&one, mixed)?.1;
    // A change of another entity: well-formed, and of an actor that has written here already.
    mixed_changes.extend(torn_changes.first().cloned());
    let built = build(vec![history(&one, good)?, (torn, torn_changes[1..].to_vec()), (mixed, mixed_changes.clone())]);
    let received = apply(&two, &built)?;
    // The one waits for what comes before it; the other is settled as a fork.
    assert_eq!((received.orphaned, received.quarantined), (1, 0));
    let envelope = |id, change: &Change| Envelope {
        entity: id,
        collection: name("notes"),
        parent: None,
        transaction: None,
        change: change.bytes().to_vec(),
    };
    let mut incoming = all_changes(&one, good)?;
    incoming.push(envelope(torn, &torn_changes[1]));
    incoming.extend(mixed_changes.iter().map(|change| envelope(mixed, change)));
    pull(&three, incoming)?;
    assert_eq!(digests(&two)?, digests(&three)?);
    // The rest comes later, as changes.
    pull(&two, vec![envelope(torn, &torn_changes[0])])?;
    let note = two.read(|read| read.entity(&space("main"), torn))?.expect("the note");
    assert_eq!(note.state["title"], "torn again");
    Ok(())
}

#[test]
fn a_row_that_lies_is_repaired_when_its_document_is_first_loaded_and_when_idle() -> Result<(), StoreError> {
    let folder = Folder::new();
    let (one, two) = (folder.open("1.db"), folder.open("2.db"));
    let ids = [create(&one, json!({ "title": "a", "body": "x" }))?, create(&one, json!({ "title": "b" }))?];
    let built = build(vec![history(&one, ids[0])?, history(&one, ids[1])?]);
    apply(&two, &built)?;
    looked_through(&two)?;
    let honest = digests(&two)?;
    let lie = "UPDATE entities SET state = '{\"title\":\"a lie\"}', digest = zeroblob(32) WHERE id = ?1 AND (?2 IS NULL OR ?3 IS NULL)";
    tamper(&folder, "2.db", lie, ids[0], None);
    assert_ne!(digests(&two)?, honest);
    edit(&two, ids[0], set("edited"))?;
    let note = two.read(|read| read.entity(&space("main"), ids[0]))?.expect("the note");
    assert_eq!((note.state["title"].as_str(), note.state["body"].as_str()), (Some("edited"), Some("x")));
    let honest = digests(&two)?;
    tamper(&folder, "2.db", lie, ids[1], None);
    looked_through(&two)?;
    assert_eq!(digests(&two)?, honest);
    assert_eq!(two.read(|read| read.totals())?.quarantined, 0);
    Ok(())
}

#[test]
fn g11_a_change_that_does_not_apply_is_set_aside_when_its_document_is_first_loaded() -> Result<(), StoreError> {
    let folder = Folder::new();
    let (one, two) = (folder.open("1.db"), folder.open("2.db"));
    let (id, other) = (create(&one, json!({ "title": "a" }))?, create(&one, json!({ "title": "b" }))?);
    edit(&one, id, set("again"))?;
    edit(&one, other, set("other"))?;
    let stranger = history(&one, other)?.1.pop().expect("a change");
    apply(&two, &build(vec![history(&one, id)?]))?;
    looked_through(&two)?;
    // The second change becomes one that depends on what is not there.
    let swap = "UPDATE changes SET hash = ?2, bytes = ?3 WHERE actor_seq = 2 AND entity = (SELECT key FROM entities WHERE id = ?1)";
    tamper(&folder, "2.db", swap, id, Some(&stranger));
    looked_through(&two)?;
    let note = two.read(|read| read.entity(&space("main"), id))?.expect("the note");
    assert_eq!(note.state["title"], "a", "what is left of it");
    assert_eq!(two.read(|read| read.totals())?.quarantined, 1);
    // The honest change comes again, and it is whole.
    pull(&two, all_changes(&one, id)?)?;
    let note = two.read(|read| read.entity(&space("main"), id))?.expect("the note");
    assert_eq!(note.state["title"], "again");
    Ok(())
}

#[test]
fn a_damaged_entity_does_not_keep_the_others_from_being_looked_at() -> Result<(), StoreError> {
    let folder = Folder::new();
    let (one, two) = (folder.open("1.db"), folder.open("2.db"));
    let (bad, good) = (create(&one, json!({ "title": "a" }))?, create(&one, json!({ "title": "b" }))?);
    apply(&two, &build(vec![history(&one, bad)?, history(&one, good)?]))?;
    looked_through(&two)?;
    let flip = "UPDATE changes SET bytes = x'00' WHERE entity = (SELECT key FROM entities WHERE id = ?1) \
                AND (?2 IS NULL OR ?3 IS NULL)";
    tamper(&folder, "2.db", flip, bad, None);
    looked_through(&two)?;
    assert!(edit(&two, bad, set("edited")).is_err(), "whoever needs it is told");
    edit(&two, good, set("edited"))?;
    Ok(())
}

#[test]
fn what_a_cursor_stands_for_is_what_its_session_began_with() -> Result<(), StoreError> {
    let folder = Folder::new();
    let store = folder.open("1.db");
    let want = |names: Option<&[&str]>| {
        let wanted = names.map(|names| names.iter().map(|collection| name(collection)).collect());
        store.write(move |write| write.want_collections(1, &space("main"), wanted)).wait()
    };
    let progress = || {
        let remotes = store.read(|read| read.remotes())?;
        Ok::<_, StoreError>(remotes[0].spaces.iter().find(|progress| progress.space == space("main")).cloned())
    };
    let reach = |place: u8, subset_revision: u64| {
        let cursor = Some(Cursor(vec![place]));
        let batch = WriteBatch { cursor, subset_revision, ..WriteBatch::empty(space("main"), LINEAGE) };
        store.write(move |write| write.apply_batch(1, batch)).wait()
    };
    want(Some(&["notes"]))?;
    let first = progress()?.expect("the space").subset_revision;
    reach(1, first)?;
    want(None)?;
    reach(2, first)?;
    let wider = progress()?.expect("the space");
    assert_eq!((wider.cursor, wider.had), (Some(Cursor(vec![1])), Some(vec![name("notes")])));
    // Dropped meanwhile, and wanted again: a session that began before has not seen that.
    want(Some(&["notes"]))?;
    want(None)?;
    reach(3, wider.subset_revision)?;
    let again = progress()?.expect("the space");
    assert_eq!((again.cursor, again.had), (Some(Cursor(vec![1])), Some(vec![name("notes")])));
    reach(4, again.subset_revision)?;
    let whole = progress()?.expect("the space");
    assert_eq!((whole.cursor, whole.had), (Some(Cursor(vec![4])), None));
    Ok(())
}

#[test]
fn nothing_is_left_out_of_a_first_sync_after_the_server_has_lost_its_history() -> Result<(), StoreError> {
    let folder = Folder::new();
    let store = folder.open("1.db");
    let notes = Some([name("notes")].into());
    store.write(move |write| write.want_collections(1, &space("main"), notes)).wait()?;
    let reached =
        WriteBatch { cursor: Some(Cursor(vec![1])), subset_revision: 1, ..WriteBatch::empty(space("main"), LINEAGE) };
    store.write(move |write| write.apply_batch(1, reached)).wait()?;
    store.write(|write| write.want_collections(1, &space("main"), None)).wait()?;
    let lost = WriteBatch { reoffer: Reoffer::Space, ..WriteBatch::empty(space("main"), LINEAGE) };
    store.write(move |write| write.apply_batch(1, lost)).wait()?;
    let remotes = store.read(|read| read.remotes())?;
    let progress = remotes[0].spaces.iter().find(|progress| progress.space == space("main")).expect("the space");
    assert_eq!((&progress.cursor, &progress.had), (&None, &Some(Vec::new())), "not the notes that were here before");
    Ok(())
}
