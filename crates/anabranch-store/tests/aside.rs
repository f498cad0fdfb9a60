//! What is refused and what waits for others has bounds, whoever sends how much; what the bounds drop comes again.

mod support;

use std::sync::atomic::Ordering;

use anabranch_core::document::Edit;
use anabranch_core::segment::Manifest;
use anabranch_core::sync::{FirstSync, FirstSyncStep, OutboxRead, WriteBatch};
use anabranch_core::wire::{Answer, Cursor, Envelope, Mark};
use anabranch_core::{Change, Digest, EntityId, Heads, Lineage, Schema};
use anabranch_store::{
    MAX_ALL_ORPHANS, MAX_ORPHAN_BYTES, MAX_ORPHAN_MILLIS, MAX_ORPHANS, MAX_QUARANTINED, MAX_QUARANTINED_BYTES,
    OpenMode, Received, Store, StoreError,
};
use serde_json::{Value, json};
use support::{Folder, create, edit, environment, field, fields, name, seal_meta, space};

const LINEAGE: Lineage = Lineage::from_bytes([7; 16]);

fn batch() -> WriteBatch {
    WriteBatch::empty(space("main"), LINEAGE)
}

fn pull(store: &Store, incoming: Vec<Envelope>) -> Result<Received, StoreError> {
    store.write(move |write| write.apply_batch(1, WriteBatch { incoming, ..batch() })).wait()
}

fn changes(store: &Store, id: EntityId) -> Result<Vec<Envelope>, StoreError> {
    store.write(move |write| write.changes_beyond(&space("main"), id, &Heads::default())).wait()
}

fn accept_everything(store: &Store) -> Result<(), StoreError> {
    let page = store.outbox_page(1, OutboxRead { space: space("main"), changes: 100, bytes: 1 << 20 }).wait()?;
    let answered = page.items.iter().map(|item| (item.key, Answer::Accepted { seq: 1 })).collect();
    store.write(move |write| write.apply_batch(1, WriteBatch { answered, ..batch() }).map(drop)).wait()
}

fn number(store: &Store, sql: &str) -> Result<u64, StoreError> {
    let rows = store.read(|read| read.query(sql, &[]))?;
    Ok(rows[0].values().next().and_then(Value::as_u64).expect("a number"))
}

fn garbage(entity: EntityId, body: Vec<u8>) -> Envelope {
    Envelope { entity, collection: name("notes"), parent: None, transaction: None, change: body }
}

/// The change under another writer's name, with the right checksum.
fn forge(honest: &Envelope, n: u32) -> Envelope {
    let mut bytes = honest.change.clone();
    // A length of one byte or three, one dependency, an actor of 16 bytes.
    let at = if bytes[9] < 0x80 { 10 } else { 12 } + 1 + 32 + 1;
    bytes[at + 8..at + 12].copy_from_slice(&n.to_be_bytes());
    let checksum = Digest::of(&bytes[8..]);
    bytes[4..8].copy_from_slice(&checksum.as_bytes()[..4]);
    Envelope { change: bytes, ..honest.clone() }
}

/// A note, and a change of it that waits for the note.
fn note(store: &Store, title: &str) -> Result<(Vec<Envelope>, Envelope), StoreError> {
    let id = create(store, json!({ "title": "first" }))?;
    let first = changes(store, id)?;
    edit(store, id, vec![Edit::Set { field: field("title"), value: json!(title) }])?;
    let mut all = changes(store, id)?;
    let last = all.pop().expect("a change");
    assert_eq!(all, first);
    Ok((first, last))
}

#[test]
fn g11_of_refused_changes_the_newest_are_known_and_their_last_bytes_kept() -> Result<(), StoreError> {
    let folder = Folder::new();
    let (store, now) = folder.open_at("1.db", 1);
    let id = EntityId::named(&name("notes"), "target");
    let beyond = 300;
    for (from, to) in [(0, beyond), (beyond, MAX_QUARANTINED), (MAX_QUARANTINED, MAX_QUARANTINED + beyond)] {
        now.fetch_add(1_000, Ordering::Relaxed);
        let bodies: Vec<_> = (from..to).map(|n| garbage(id, n.to_be_bytes().to_vec())).collect();
        assert_eq!(pull(&store, bodies.clone())?.quarantined, bodies.len());
    }
    assert_eq!(store.read(|read| read.totals())?.quarantined, u64::from(MAX_QUARANTINED));
    let kept = "SELECT count(*) FROM quarantine WHERE bytes >= x'0000012c'";
    assert_eq!(number(&store, kept)?, u64::from(MAX_QUARANTINED), "the oldest have gone");

    now.fetch_add(1_000, Ordering::Relaxed);
    let size = 1 << 20;
    let large = u64::from(MAX_QUARANTINED_BYTES) / u64::try_from(size).expect("a size");
    for n in 0..u8::try_from(large + 4).expect("a few") {
        now.fetch_add(1_000, Ordering::Relaxed);
        pull(&store, vec![garbage(id, vec![n; size])])?;
    }
    assert_eq!(store.read(|read| read.totals())?.quarantined, u64::from(MAX_QUARANTINED));
    assert_eq!(number(&store, "SELECT count(*) FROM quarantine WHERE length(bytes) > 4")?, large);
    assert_eq!(number(&store, "SELECT count(*) FROM quarantine WHERE bytes = x'' AND reason = ''")?, 0);
    let dropped = u64::from(MAX_QUARANTINED) - large;
    assert_eq!(number(&store, "SELECT count(*) FROM quarantine WHERE bytes = x''")?, dropped, "hash and reason stay");
    Ok(())
}

/// Nobody else need have what was written here and had to make way.
#[test]
fn g02_the_bounds_of_the_quarantine_do_not_touch_what_was_written_here() -> Result<(), StoreError> {
    let folder = Folder::new();
    let (here, there) = (folder.open("1.db"), folder.open("2.db"));
    let id = create(&here, json!({ "title": "first" }))?;
    accept_everything(&here)?;
    pull(&there, changes(&here, id)?)?;
    edit(&there, id, vec![Edit::Set { field: field("title"), value: json!("unsent") }])?;
    let last = changes(&there, id)?.pop().expect("a change");
    // It is purged without the unsent change.
    here.write(move |write| write.delete(&space("main"), id)).wait()?;
    accept_everything(&here)?;
    here.write(move |write| write.purge(&space("main"), id)).wait()?;
    accept_everything(&here)?;
    pull(&there, changes(&here, id)?)?;
    let ours = "SELECT count(*) FROM quarantine WHERE length(bytes) > 0 AND reason = 'the entity has been purged'";
    let before = number(&there, ours)?;
    assert!(before > 0);
    let other = EntityId::named(&name("notes"), "target");
    let size = 1 << 20;
    for n in 0..u8::try_from(MAX_QUARANTINED_BYTES >> 20).expect("a few") + 2 {
        pull(&there, vec![garbage(other, vec![n; size])])?;
    }
    pull(&there, (0..MAX_QUARANTINED).map(|n| garbage(other, n.to_be_bytes().to_vec())).collect())?;
    assert_eq!(number(&there, ours)?, before);
    let hash = Change::parse(last.change).expect("a change").hash();
    let kept = format!("SELECT count(*) FROM quarantine WHERE hex(hash) = '{}'", hash.to_string().to_uppercase());
    assert_eq!(number(&there, &kept)?, 1);
    Ok(())
}

#[test]
fn g11_what_waits_has_bounds_and_what_is_beyond_them_is_merged_when_it_comes_in_order() -> Result<(), StoreError> {
    let folder = Folder::new();
    let (one, two) = (folder.open("1.db"), folder.open("2.db"));
    let (first, honest) = note(&one, "last")?;
    let mut waiting: Vec<_> = (0..MAX_ORPHANS).map(|n| forge(&honest, n)).collect();
    waiting.push(honest.clone());
    let received = pull(&two, waiting)?;
    let most = usize::try_from(MAX_ORPHANS).expect("a number");
    assert_eq!((received.orphaned, received.quarantined), (most, 1));
    let reasons = two.read(|read| read.query("SELECT reason FROM quarantine", &[]))?;
    assert_eq!(reasons[0]["reason"], "too many changes wait for others");
    // In order it is as good as any.
    let received = pull(&two, [first.clone(), vec![honest.clone()]].concat())?;
    assert_eq!(received.applied, first.len() + 1);
    assert_eq!(changes(&two, honest.entity)?.iter().filter(|it| **it == honest).count(), 1);
    assert_eq!(two.read(|read| read.totals())?.orphaned, 0);
    // The others claim to be somebody's second change. What has been merged is refused no more.
    assert_eq!(two.read(|read| read.totals())?.quarantined, u64::from(MAX_ORPHANS));
    let hash = Change::parse(honest.change).expect("a change").hash().to_string().to_uppercase();
    assert_eq!(number(&two, &format!("SELECT count(*) FROM quarantine WHERE hex(hash) = '{hash}'"))?, 0);
    Ok(())
}

#[test]
fn g11_a_file_has_so_many_changes_that_wait() -> Result<(), StoreError> {
    let folder = Folder::new();
    let (one, two) = (folder.open("1.db"), folder.open("2.db"));
    let (_, small) = note(&one, "small")?;
    for part in 0..=MAX_ALL_ORPHANS / MAX_ORPHANS {
        let entity = EntityId::named(&name("notes"), &part.to_string());
        let waiting = (0..MAX_ORPHANS).map(|n| Envelope { entity, ..forge(&small, n) }).collect();
        pull(&two, waiting)?;
    }
    let totals = two.read(|read| read.totals())?;
    assert_eq!((totals.orphaned, totals.quarantined), (u64::from(MAX_ALL_ORPHANS), u64::from(MAX_ORPHANS)));

    let three = folder.open("3.db");
    let (_, large) = note(&one, &"x".repeat(1_000_000))?;
    let fit = MAX_ORPHAN_BYTES / u32::try_from(large.change.len()).expect("a size");
    for n in 0..fit + 3 {
        pull(&three, vec![forge(&large, n)])?;
    }
    let totals = three.read(|read| read.totals())?;
    assert_eq!((totals.orphaned, totals.quarantined), (u64::from(fit), 3));
    Ok(())
}

#[test]
fn what_waits_in_vain_is_forgotten_after_30_days_and_taken_when_it_comes_again() -> Result<(), StoreError> {
    let folder = Folder::new();
    let one = folder.open("1.db");
    let (two, now) = folder.open_at("2.db", 9);
    let (first, last) = note(&one, "last")?;
    let (_, other) = note(&one, "other")?;
    pull(&two, vec![last.clone()])?;
    now.fetch_add(MAX_ORPHAN_MILLIS, Ordering::Relaxed);
    pull(&two, vec![other.clone()])?;
    assert_eq!(two.read(|read| read.totals())?.orphaned, 2, "not before its time");
    now.fetch_add(1, Ordering::Relaxed);
    pull(&two, vec![forge(&other, 1)])?;
    assert_eq!(two.read(|read| read.totals())?.orphaned, 2);
    pull(&two, [first, vec![last.clone()]].concat())?;
    assert_eq!(changes(&two, last.entity)?, changes(&one, last.entity)?);
    Ok(())
}

/// What is kept out of a local-only collection is taken in when it is no longer local: that which was not kept is
/// fetched again.
#[test]
fn what_the_quarantine_had_no_room_for_is_fetched_once_a_collection_is_no_longer_local() -> Result<(), StoreError> {
    let manifest = Manifest { mark: Mark::START, cursor: Cursor(vec![1]), pieces: Vec::new() };
    let plan = FirstSyncStep::Plan(FirstSync { manifest, applied: Vec::new() });
    released_after(WriteBatch { cursor: Some(Cursor(vec![1])), ..batch() })?;
    // A first sync by segments that is under way has no cursor yet.
    released_after(WriteBatch { first_sync: Some(plan), ..batch() })
}

/// After a batch that says how far the sync has come.
fn released_after(progress: WriteBatch) -> Result<(), StoreError> {
    let folder = Folder::new();
    let open = |file: &str, version: u32, local: bool| {
        let schema = format!(
            "version = {version}\n[collections.notes.fields]\ntitle = {{ kind = \"register\" }}\n\
             [collections.drafts]\nlocal = {local}\n[collections.drafts.fields]\ntitle = {{ kind = \"register\" }}\n"
        );
        let schema = Schema::from_toml(&schema).expect("a schema");
        Store::open(&folder.path(file), OpenMode::Either(schema), environment()).expect("a replica")
    };
    let (ours, theirs) = (open("a.db", 1, true), open("b.db", 1, false));
    let id = EntityId::named(&name("drafts"), "same");
    for store in [&ours, &theirs] {
        let value = fields(json!({ "title": "a draft" }));
        store.write(move |write| write.create(&space("main"), &name("drafts"), Some(id), &value)).wait()?;
    }
    let incoming = changes(&theirs, id)?;
    pull(&ours, incoming.clone())?;
    ours.write(move |write| write.apply_batch(1, progress)).wait()?;
    let other = EntityId::named(&name("notes"), "target");
    for n in 0..u8::try_from(MAX_QUARANTINED_BYTES >> 20).expect("a few") + 1 {
        pull(&ours, vec![garbage(other, vec![n; 1 << 20])])?;
    }
    let kept = "SELECT count(*) FROM quarantine WHERE reason = 'the collection stays in this file' AND bytes <> x''";
    assert_eq!(number(&ours, kept)?, 0);
    drop(ours);
    let ours = open("a.db", 2, false);
    let missing = incoming.iter().filter(|change| !changes(&ours, id).is_ok_and(|all| all.contains(change)));
    assert!(missing.count() > 0, "they are not here");
    assert_eq!(
        number(&ours, "SELECT length(cursor) FROM sync_state")?,
        0,
        "so the space is compared with the server's"
    );
    pull(&ours, incoming.clone())?;
    let all = changes(&ours, id)?;
    assert!(incoming.iter().all(|change| all.contains(change)));
    Ok(())
}

/// As if by a release that takes more than the last one that had the file.
fn upgraded(folder: &Folder, file: &str) {
    let connection = rusqlite::Connection::open(folder.path(file)).expect("a file");
    let changed = connection.execute("UPDATE meta SET value = 0 WHERE key = 'admission'", []).expect("a row");
    assert_eq!(changed, 1);
    seal_meta(&connection);
}

#[test]
fn what_was_refused_is_judged_again_after_an_upgrade() -> Result<(), StoreError> {
    let folder = Folder::new();
    let one = folder.open("1.db");
    let (two, now) = folder.open_at("2.db", 9);
    now.fetch_add(1_000_000, Ordering::Relaxed);
    create(&two, json!({ "title": "written late" }))?;
    let (first, honest) = note(&one, "last")?;
    let mut waiting: Vec<_> = (0..MAX_ORPHANS).map(|n| forge(&honest, n)).collect();
    waiting.push(honest.clone());
    pull(&two, waiting)?;
    pull(&two, first.clone())?;
    pull(&two, vec![Envelope { collection: name("folders"), ..first[0].clone() }])?;
    let refused = number(&two, "SELECT count(*) FROM quarantine")?;
    assert_eq!(changes(&two, honest.entity)?, first, "there was no room for the last one");

    // Nothing is tried again as long as nothing has changed.
    drop(two);
    let (two, _) = folder.open_at("2.db", 9);
    assert_eq!(number(&two, "SELECT count(*) FROM quarantine")?, refused);
    let clock = number(&two, "SELECT value FROM meta WHERE key = 'clock'")?;
    drop(two);

    upgraded(&folder, "2.db");
    let (two, _) = folder.open_at("2.db", 9);
    assert_eq!(changes(&two, honest.entity)?, [first, vec![honest]].concat());
    assert_eq!(number(&two, "SELECT count(*) FROM quarantine")?, refused - 1, "the others are no better than before");
    let misplaced = "SELECT count(*) FROM quarantine WHERE reason = 'the entity belongs to another collection'";
    assert_eq!(number(&two, misplaced)?, 1);
    assert!(number(&two, "SELECT value FROM meta WHERE key = 'clock'")? >= clock, "a clock that is behind stays up");
    assert_eq!(number(&two, "SELECT value FROM meta WHERE key = 'admission'")?, 1);
    Ok(())
}

#[test]
fn what_was_refused_and_not_kept_is_fetched_again_after_an_upgrade() -> Result<(), StoreError> {
    let folder = Folder::new();
    let two = folder.open("2.db");
    let end = WriteBatch { cursor: Some(Cursor(vec![1])), ..batch() };
    two.write(move |write| write.apply_batch(1, end)).wait()?;
    let id = EntityId::named(&name("notes"), "target");
    for n in 0..u8::try_from(MAX_QUARANTINED_BYTES >> 20).expect("a few") + 1 {
        pull(&two, vec![garbage(id, vec![n; 1 << 20])])?;
    }
    assert_eq!(number(&two, "SELECT count(*) FROM quarantine WHERE bytes = x''")?, 1);
    drop(two);
    upgraded(&folder, "2.db");
    let two = folder.open("2.db");
    assert_eq!(number(&two, "SELECT length(cursor) FROM sync_state")?, 0, "the space is compared with the server's");
    assert_eq!(number(&two, "SELECT count(*) FROM quarantine WHERE bytes = x''")?, 0);
    Ok(())
}
