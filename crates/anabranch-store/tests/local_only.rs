//! Collections that stay in this file, beside what a server and peers do.

mod support;

use std::collections::BTreeSet;

use anabranch_core::segment::{Segment, SegmentBuilder};
use anabranch_core::sync::{FirstSyncStep, OutboxRead, WriteBatch};
use anabranch_core::wire::{Answer, Envelope};
use anabranch_core::{Change, EntityId, Heads, Lineage, Schema};
use anabranch_store::{OpenMode, Received, Store, StoreError};
use serde_json::json;
use support::{Folder, SCHEMA, create, environment, fields, name, space};

const LINEAGE: Lineage = Lineage::from_bytes([7; 16]);

fn open(folder: &Folder, file: &str, version: u32, local: bool) -> Store {
    let drafts = format!("[collections.drafts]\nlocal = {local}\n[collections.drafts.fields]\n");
    let schema = format!("{SCHEMA}{drafts}title = {{ kind = \"register\" }}");
    let schema = schema.replace("version = 1", &format!("version = {version}"));
    let schema = Schema::from_toml(&schema).expect("a schema");
    Store::open(&folder.path(file), OpenMode::Either(schema), environment()).expect("a replica")
}

fn draft(store: &Store, id: Option<EntityId>, title: &str) -> Result<EntityId, StoreError> {
    let value = fields(json!({ "title": title }));
    store.write(move |write| write.create(&space("main"), &name("drafts"), id, &value)).wait()
}

fn title(store: &Store, id: EntityId) -> Result<Option<String>, StoreError> {
    let entity = store.read(|read| read.entity(&space("main"), id))?;
    Ok(entity.and_then(|entity| Some(entity.state.get("title")?.as_str()?.to_owned())))
}

/// They look like what a server has, with nothing in the outbox. They used to be dropped, without a copy anywhere.
#[test]
fn a_narrowed_subset_leaves_what_is_local_only_alone() -> Result<(), StoreError> {
    let folder = Folder::new();
    let store = open(&folder, "a.db", 1, true);
    let kept = draft(&store, None, "mine alone")?;
    create(&store, json!({ "title": "a note" }))?;
    let folders = Some(BTreeSet::from([name("folders")]));
    store.write_on_rows(move |write| write.want_collections(1, &space("main"), folders)).wait()?;
    // An idle store would drop the rest between two writes.
    for _ in 0..3 {
        store.write(|_| Ok::<_, StoreError>(())).wait()?;
    }
    assert_eq!(title(&store, kept)?.as_deref(), Some("mine alone"));
    drop(store);
    assert_eq!(title(&open(&folder, "a.db", 1, true), kept)?.as_deref(), Some("mine alone"));
    Ok(())
}

fn changes(store: &Store, id: EntityId) -> Result<Vec<Envelope>, StoreError> {
    store.write(move |write| write.changes_beyond(&space("main"), id, &Heads::default())).wait()
}

fn accept_everything(store: &Store) -> Result<Received, StoreError> {
    let page = store.outbox_page(1, OutboxRead { space: space("main"), changes: 100, bytes: 1 << 20 }).wait()?;
    let answered = page.items.iter().map(|item| (item.key, Answer::Accepted { seq: 1 })).collect();
    pull(store, WriteBatch { answered, ..WriteBatch::empty(space("main"), LINEAGE) })
}

fn pull(store: &Store, batch: WriteBatch) -> Result<Received, StoreError> {
    store.write(move |write| write.apply_batch(1, batch)).wait()
}

/// Ids that are made from names are the same everywhere: another's entity used to be merged into the local one.
#[test]
fn what_others_have_under_the_same_id_waits_until_the_collection_is_no_longer_local() -> Result<(), StoreError> {
    let folder = Folder::new();
    let (ours, theirs) = (open(&folder, "a.db", 1, true), open(&folder, "b.db", 1, false));
    let [same, purged, plain] = ["same", "purged", "plain"].map(|key| EntityId::named(&name("drafts"), key));
    for id in [same, purged] {
        draft(&ours, Some(id), "ours")?;
    }
    for id in [same, purged, plain] {
        draft(&theirs, Some(id), "theirs")?;
    }
    theirs.write(move |write| write.delete(&space("main"), purged)).wait()?;
    let empty = WriteBatch::empty(space("main"), LINEAGE);
    accept_everything(&theirs)?;
    theirs.write(move |write| write.purge(&space("main"), purged)).wait()?;
    accept_everything(&theirs)?;

    let incoming = [changes(&theirs, same)?, changes(&theirs, purged)?].concat();
    let count = incoming.len();
    let received = pull(&ours, WriteBatch { incoming: incoming.clone(), ..empty.clone() })?;
    assert_eq!((received.applied, received.quarantined), (0, count));
    let received = ours.write(move |write| write.apply_peer(&space("main"), incoming)).wait()?;
    assert_eq!((received.applied, received.quarantined), (0, count));
    let mut builder = SegmentBuilder::new(name("drafts"));
    for envelope in changes(&theirs, plain)? {
        assert!(builder.add(plain, &Change::parse(envelope.change).expect("a change")));
    }
    let built = builder.finish().expect("a segment");
    let segment = Segment::open(&built.piece.digest, &built.bytes, Some(ours.schema())).expect("a segment");
    pull(&ours, WriteBatch { first_sync: Some(FirstSyncStep::Apply(Box::new(segment))), ..empty })?;
    assert_eq!((title(&ours, same)?.as_deref(), title(&ours, purged)?.as_deref()), (Some("ours"), Some("ours")));
    assert_eq!(title(&ours, plain)?, None);

    drop(ours);
    let ours = open(&folder, "a.db", 2, false);
    let (mine, others) = (changes(&ours, same)?, changes(&theirs, same)?);
    assert!(others.iter().all(|change| mine.contains(change)), "both are there");
    assert!(ours.read(|read| read.entity(&space("main"), purged))?.is_some_and(|entity| entity.purged));
    assert_eq!(title(&ours, plain)?.as_deref(), Some("theirs"));
    Ok(())
}
