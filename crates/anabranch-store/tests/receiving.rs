//! Foreign changes, answers of a server, the outbox and compaction.

mod support;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use anabranch_core::document::Edit;
use anabranch_core::sync::{OutboxRead, Reoffer, WriteBatch};
use anabranch_core::wire::{Answer, Cursor, Envelope, Mark, Missing, RejectCode};
use anabranch_core::{Change, ChangeHash, Digest, EntityId, Entropy, Environment, Heads, Lineage, SplitMix64};
use anabranch_store::{Engine, Job, OpenMode, OutboxPage, Received, Store, StoreError, Undo, Write};
use serde_json::json;
use support::{Folder, create, edit, field, fields, name, schema, space};

const LINEAGE: Lineage = Lineage::from_bytes([7; 16]);

fn set(title: &str) -> Vec<Edit> {
    vec![Edit::Set { field: field("title"), value: json!(title) }]
}

fn all_changes(store: &Store, id: EntityId) -> Result<Vec<Envelope>, StoreError> {
    store.write(move |write| write.changes_beyond(&space("main"), id, &Heads::default())).wait()
}

fn pull(store: &Store, incoming: Vec<Envelope>) -> Result<Received, StoreError> {
    let batch = WriteBatch { incoming, ..WriteBatch::empty(space("main"), LINEAGE) };
    store.write(move |write| write.apply_batch(1, batch)).wait()
}

fn answer(store: &Store, answered: Vec<(i64, Answer)>) -> Result<(), StoreError> {
    let batch = WriteBatch { answered, ..WriteBatch::empty(space("main"), LINEAGE) };
    store.write(move |write| write.apply_batch(1, batch).map(drop)).wait()
}

fn outbox(store: &Store, changes: u32) -> Result<OutboxPage, StoreError> {
    let read = OutboxRead { space: space("main"), changes, bytes: 1 << 20 };
    store.outbox_page(1, read).wait()
}

fn accept_everything(store: &Store) -> Result<usize, StoreError> {
    let items = outbox(store, 100_000)?.items;
    let count = items.len();
    answer(store, items.iter().map(|item| (item.key, Answer::Accepted { seq: 1 })).collect())?;
    Ok(count)
}

fn digests(store: &Store) -> Result<(Digest, Digest), StoreError> {
    store.read(|read| Ok((read.space_digest(&space("main"))?, read.state_digest(&space("main"))?)))
}

#[test]
fn g05_receiving_a_change_again_changes_nothing() -> Result<(), StoreError> {
    let folder = Folder::new();
    let (one, two) = (folder.open("1.db"), folder.open("2.db"));
    let id = create(&one, json!({ "title": "one", "body": "text", "tags": ["a"] }))?;
    edit(&one, id, set("two"))?;
    let changes = all_changes(&one, id)?;
    assert_eq!(pull(&two, changes.clone())?.applied, changes.len());
    let before = digests(&two)?;
    let totals = two.read(|read| read.totals())?;
    let twice: Vec<_> = changes.iter().rev().chain(&changes).cloned().collect();
    let again = pull(&two, twice)?;
    assert_eq!((again.applied, again.known), (0, 2 * changes.len()));
    assert_eq!((digests(&two)?, two.read(|read| read.totals())?), (before, totals));
    Ok(())
}

#[test]
fn g06_a_change_is_not_visible_before_those_it_depends_on() -> Result<(), StoreError> {
    let folder = Folder::new();
    let (one, two) = (folder.open("1.db"), folder.open("2.db"));
    let id = create(&one, json!({ "title": "0" }))?;
    for n in 1..5 {
        edit(&one, id, set(&n.to_string()))?;
    }
    let changes = all_changes(&one, id)?;
    let seen = || two.read(|read| read.entity(&space("main"), id));
    // Last first: nothing shows until the first has come, then all of it does.
    for (n, change) in changes.iter().enumerate().skip(1).rev() {
        let received = pull(&two, vec![change.clone()])?;
        assert_eq!((received.applied, received.orphaned), (0, changes.len() - n), "orphans are tried and kept");
        assert_eq!(seen()?, None);
    }
    assert_eq!(pull(&two, vec![changes[0].clone()])?.applied, changes.len());
    assert_eq!(seen()?.expect("the entity").state["title"], "4");
    assert_eq!(digests(&one)?, digests(&two)?);
    assert_eq!(two.read(|read| read.totals())?.orphaned, 0);
    Ok(())
}

#[test]
fn g06_a_child_is_pushed_after_its_parent_even_if_it_is_older() -> Result<(), StoreError> {
    let folder = Folder::new();
    let store = folder.open("1.db");
    let folders = name("folders");
    let make = |title: &'static str| {
        let folders = folders.clone();
        store
            .write(move |write| write.create(&space("main"), &folders, None, &fields(json!({ "title": title }))))
            .wait()
    };
    let (child, parent, grandparent) = (make("child")?, make("parent")?, make("grandparent")?);
    let into = |to: EntityId| vec![Edit::Set { field: field("parent"), value: json!(to.to_string()) }];
    edit(&store, child, into(parent))?;
    edit(&store, parent, into(grandparent))?;
    let order = |page: OutboxPage| {
        let mut order: Vec<_> = page.items.iter().map(|item| item.envelope.entity).collect();
        order.dedup();
        order
    };
    assert_eq!(order(outbox(&store, 100)?), [grandparent, parent, child]);
    assert_eq!(order(outbox(&store, 1)?), [grandparent], "a page that is cut off does not begin with the child");
    let page = outbox(&store, 100)?;
    let last = page.items.last().expect("an item");
    assert_eq!(last.envelope.parent, Some(parent));
    // A cycle of parents must not keep anything from being pushed. Found by simulation: each was said to need
    // its parent first, so the server held all of them for ever.
    edit(&store, grandparent, into(child))?;
    let page = outbox(&store, 100)?;
    assert_eq!(page.items.len(), 6);
    assert!(page.items.iter().all(|item| item.envelope.parent.is_none()));
    Ok(())
}

#[test]
fn g06_a_page_that_shares_a_transaction_with_a_write_knows_the_new_parent() -> Result<(), StoreError> {
    let folder = Folder::new();
    let store = folder.open("1.db");
    let folders = name("folders");
    for _ in 0..50 {
        // Issued together, so that most of these share one transaction.
        let (first, second) = (folders.clone(), folders.clone());
        let parent = EntityId::named(&folders, &store.read(|read| read.last_seq())?.to_string());
        let child = store.write(move |write| {
            let value = json!({ "title": "child", "parent": parent.to_string() });
            write.create(&space("main"), &first, None, &fields(value))
        });
        let made = store.write(move |write| {
            write.create(&space("main"), &second, Some(parent), &fields(json!({ "title": "parent" })))
        });
        let page = store.outbox_page(1, OutboxRead { space: space("main"), changes: 10, bytes: 1 << 20 });
        let (child, parent, page) = (child.wait()?, made.wait()?, page.wait()?);
        let order: Vec<_> = page.items.iter().map(|item| item.envelope.entity).collect();
        assert_eq!(order, [parent, child]);
        accept_everything(&store)?;
    }
    Ok(())
}

#[test]
fn a_bad_change_is_quarantined_and_the_good_ones_beside_it_are_applied() -> Result<(), StoreError> {
    let folder = Folder::new();
    let (one, two) = (folder.open("1.db"), folder.open("2.db"));
    let id = create(&one, json!({ "title": "one", "body": "text" }))?;
    let other = create(&one, json!({ "title": "other" }))?;
    let mut batch = all_changes(&one, id)?;
    let good = batch.len();
    let mut garbage = batch[0].clone();
    garbage.change = vec![0x85; 40];
    let mut stray = batch[0].clone();
    stray.collection = name("folders");
    batch.extend([garbage, stray]);
    batch.extend(all_changes(&one, other)?);
    let received = pull(&two, batch)?;
    assert_eq!((received.applied, received.quarantined), (good + 1, 2));
    assert_eq!(digests(&one)?, digests(&two)?);
    assert_eq!(two.read(|read| read.totals())?.quarantined, 2);
    Ok(())
}

/// Found in review: the document took such a change, its state could not be read, and the whole page, and every
/// write beside it, failed for ever.
#[test]
fn a_change_that_nests_too_deep_is_refused_alone() -> Result<(), StoreError> {
    use automerge::transaction::Transactable as _;
    let folder = Folder::new();
    let (one, two) = (folder.open("1.db"), folder.open("2.db"));
    let id = create(&one, json!({ "title": "one" }))?;
    let honest = all_changes(&one, id)?;
    let mut hostile = automerge::Automerge::new();
    let changes =
        honest.iter().map(|envelope| automerge::Change::from_bytes(envelope.change.clone()).expect("a change"));
    hostile.apply_changes(changes.collect::<Vec<_>>()).expect("honest changes");
    let nest = hostile.transact::<_, _, automerge::AutomergeError>(|transaction| {
        let mut at = automerge::ROOT;
        for _ in 0..100 {
            at = transaction.put_object(&at, "deeper", automerge::ObjType::Map)?;
        }
        Ok(())
    });
    nest.expect("a change");
    let deep = hostile.get_last_local_change().expect("the change").raw_bytes().to_vec();
    let mut batch = honest.clone();
    batch.push(Envelope { change: deep, ..honest[0].clone() });
    let received = pull(&two, batch)?;
    assert_eq!((received.applied, received.quarantined), (honest.len(), 1));
    assert_eq!(digests(&one)?, digests(&two)?);
    edit(&two, id, set("still writable"))?;
    Ok(())
}

#[test]
fn bad_bytes_do_not_decide_an_entity_s_collection() -> Result<(), StoreError> {
    let folder = Folder::new();
    let (one, two) = (folder.open("1.db"), folder.open("2.db"));
    let id = create(&one, json!({ "title": "one" }))?;
    edit(&one, id, set("two"))?;
    let honest = all_changes(&one, id)?;
    let garbage = Envelope { collection: name("folders"), change: vec![1; 40], ..honest[0].clone() };
    let orphan = Envelope { collection: name("folders"), ..honest[1].clone() };
    pull(&two, vec![garbage, orphan])?;
    pull(&two, honest)?;
    assert_eq!(digests(&one)?, digests(&two)?);
    Ok(())
}

#[test]
fn a_server_that_lost_its_history_has_lost_its_refusals() -> Result<(), StoreError> {
    let folder = Folder::new();
    let store = folder.open("1.db");
    create(&store, json!({ "title": "one" }))?;
    let item = outbox(&store, 10)?.items.remove(0);
    let refused = Answer::Rejected { code: RejectCode::Forbidden, message: "no".to_owned(), retryable: false };
    answer(&store, vec![(item.key, refused)])?;
    assert!(outbox(&store, 10)?.items.is_empty());
    let batch = WriteBatch { reoffer: Reoffer::Everything, ..WriteBatch::empty(space("main"), LINEAGE) };
    store.write(move |write| write.apply_batch(1, batch).map(drop)).wait()?;
    assert_eq!(outbox(&store, 10)?.items.len(), 1);
    Ok(())
}

#[test]
fn answers_settle_what_they_are_about() -> Result<(), StoreError> {
    let folder = Folder::new();
    let store = folder.open("1.db");
    let (good, bad) = (create(&store, json!({ "title": "good" }))?, create(&store, json!({ "title": "bad" }))?);
    edit(&store, bad, set("worse"))?;
    let page = outbox(&store, 2)?;
    let refused = Answer::Rejected { code: RejectCode::Forbidden, message: "no".to_owned(), retryable: false };
    answer(&store, vec![(page.items[0].key, Answer::Accepted { seq: 1 }), (page.items[1].key, refused)])?;
    let totals = store.read(|read| read.totals())?;
    assert_eq!((totals.pending, totals.parked), (2, 1));
    assert!(outbox(&store, 10)?.items.is_empty(), "what builds on a parked change waits with it");
    edit(&store, good, set("better"))?;
    assert_eq!(outbox(&store, 10)?.items.len(), 1, "another entity goes on");
    let record = store.read(|read| read.entity(&space("main"), good))?.expect("the entity");
    assert_eq!((record.pending, record.dirty_fields.as_slice()), (1, ["title".to_owned()].as_slice()));
    Ok(())
}

#[test]
fn a_held_change_waits_and_brings_what_is_missing_along() -> Result<(), StoreError> {
    let folder = Folder::new();
    let store = folder.open("1.db");
    let id = create(&store, json!({ "title": "one" }))?;
    accept_everything(&store)?;
    edit(&store, id, set("two"))?;
    let item = outbox(&store, 10)?.items.remove(0);
    let missing = Missing::Change(ChangeHash::from_bytes([1; 32]));
    answer(&store, vec![(item.key, Answer::Held { missing })])?;
    let page = outbox(&store, 10)?;
    assert!(page.items.is_empty() && page.retry_at.is_some(), "not at once again: that would be a hot loop");
    assert_eq!(store.read(|read| read.totals())?.pending, 2, "the creation is offered again, too");
    Ok(())
}

/// Found by simulation: the clock was years ahead when the wait was written down, and was put right.
#[test]
fn a_held_change_does_not_wait_for_a_clock_that_was_set_back() -> Result<(), StoreError> {
    struct Ahead(SplitMix64);
    impl Environment for Ahead {
        fn now(&self) -> i64 {
            2_100_000_000_000
        }
        fn entropy(&mut self) -> &mut dyn Entropy {
            &mut self.0
        }
    }
    let folder = Folder::new();
    let mode = OpenMode::Create(schema());
    let store = Store::open(&folder.path("1.db"), mode, Box::new(Ahead(SplitMix64::new(7))))?;
    create(&store, json!({ "title": "one" }))?;
    let item = outbox(&store, 10)?.items.remove(0);
    answer(&store, vec![(item.key, Answer::Held { missing: Missing::Parent(item.envelope.entity) })])?;
    assert!(outbox(&store, 10)?.items.is_empty());
    drop(store);
    assert_eq!(outbox(&folder.open("1.db"), 10)?.items.len(), 1);
    Ok(())
}

#[test]
fn an_echo_of_what_is_in_the_outbox_counts_as_its_acceptance() -> Result<(), StoreError> {
    let folder = Folder::new();
    let store = folder.open("1.db");
    let id = create(&store, json!({ "title": "one" }))?;
    assert_eq!(store.read(|read| read.totals())?.pending, 1);
    pull(&store, all_changes(&store, id)?)?;
    assert_eq!(store.read(|read| read.totals())?.pending, 0);
    Ok(())
}

#[test]
fn what_a_peer_brought_is_offered_to_the_server() -> Result<(), StoreError> {
    let folder = Folder::new();
    let (one, two) = (folder.open("1.db"), folder.open("2.db"));
    let id = create(&one, json!({ "title": "one" }))?;
    let changes = all_changes(&one, id)?;
    two.write(move |write| write.apply_peer(&space("main"), changes)).wait()?;
    assert_eq!(outbox(&two, 10)?.items.len(), 1);
    Ok(())
}

/// Found by simulation: the orphan was taken for one of the server's own, and never reached the server.
#[test]
fn an_orphan_of_a_peer_that_the_server_frees_is_offered_to_the_server() -> Result<(), StoreError> {
    let folder = Folder::new();
    let (one, two) = (folder.open("1.db"), folder.open("2.db"));
    let id = create(&one, json!({ "title": "one" }))?;
    edit(&one, id, set("two"))?;
    let mut changes = all_changes(&one, id)?;
    let last = changes.pop().expect("a change");
    two.write(move |write| write.apply_peer(&space("main"), vec![last])).wait()?;
    assert_eq!(pull(&two, changes)?.applied, 2);
    assert_eq!(outbox(&two, 10)?.items.len(), 1);
    Ok(())
}

#[test]
fn compaction_folds_an_acknowledged_log_and_nothing_is_lost() -> Result<(), StoreError> {
    let folder = Folder::new();
    let store = folder.open("1.db");
    let id = create(&store, json!({ "title": "one", "body": "" }))?;
    let typing: Vec<_> = (0..400)
        .map(|n| {
            let splice = Edit::Splice { field: field("body"), at: n, delete: 0, insert: "x".to_owned() };
            store.write(move |write| write.edit(&space("main"), id, &[splice]))
        })
        .collect();
    for commit in typing {
        commit.wait()?;
    }
    let before = digests(&store)?;
    let logged = all_changes(&store, id)?;
    assert_eq!(store.stats().compactions.load(Ordering::Relaxed), 0, "what is pending is not folded");
    accept_everything(&store)?;
    // The writer folds when it is idle; another write waits for that.
    store.write(|_| Ok::<_, StoreError>(())).wait()?;
    assert_eq!(store.stats().compactions.load(Ordering::Relaxed), 1);
    let rows = store.read(|read| read.log(&space("main"), Some(id)))?;
    assert!(rows.is_empty(), "{} rows are left", rows.len());
    assert_eq!(digests(&store)?, before);
    assert_eq!(all_changes(&store, id)?, logged, "every change is still there, byte for byte");

    drop(store);
    let store = folder.open("1.db");
    edit(&store, id, set("after"))?;
    pull(&store, logged.clone())?;
    let record = store.read(|read| read.entity(&space("main"), id))?.expect("the entity");
    assert_eq!((record.state["title"].as_str(), record.pending), (Some("after"), 1));
    assert_eq!(record.state["body"].as_str().map(str::len), Some(400));

    // A server that lost its history is offered all of it again, in causal order.
    let batch = WriteBatch { reoffer: Reoffer::Space, ..WriteBatch::empty(space("main"), LINEAGE) };
    store.write(move |write| write.apply_batch(1, batch)).wait()?;
    let page = outbox(&store, 100_000)?;
    assert_eq!(page.items.len(), logged.len() + 1);
    let fresh = folder.open("2.db");
    let received = pull(&fresh, page.items.into_iter().map(|item| item.envelope).collect())?;
    assert_eq!((received.applied, received.orphaned), (logged.len() + 1, 0));
    assert_eq!(digests(&fresh)?, digests(&store)?);
    Ok(())
}

#[test]
fn a_server_that_was_never_reached_keeps_nothing_pending() -> Result<(), StoreError> {
    let folder = Folder::new();
    let store = folder.open("1.db");
    create(&store, json!({ "title": "one" }))?;
    let remote = |url: &'static str| store.write(move |write| write.ensure_remote(url, &[1])).wait();
    let first = remote("http://mistyped")?;
    assert_eq!(first, 1);
    assert_eq!(remote("http://right")?, first, "the address is corrected, not added");
    accept_everything(&store)?;
    assert_eq!(store.read(|read| read.totals())?.pending, 0);
    assert_ne!(remote("http://second")?, first, "a server that was reached stays");
    assert_eq!(store.read(|read| read.totals())?.pending, 1, "and another is offered everything");
    Ok(())
}

#[test]
fn sync_state_moves_with_the_changes_and_survives() -> Result<(), StoreError> {
    let folder = Folder::new();
    let one = folder.open("1.db");
    let id = create(&one, json!({ "title": "one" }))?;
    let mark = Mark { seq: 3, chain: Digest::of(b"chain") };
    {
        let two = folder.open("2.db");
        let batch = WriteBatch {
            incoming: all_changes(&one, id)?,
            cursor: Some(Cursor(vec![1, 2, 3])),
            ack: Some(mark),
            caught_up_at: Some(5),
            ..WriteBatch::empty(space("main"), LINEAGE)
        };
        two.write(move |write| write.apply_batch(1, batch)).wait()?;
    }
    let two = folder.open("2.db");
    let remote = two.read(|read| read.remotes())?.remove(0);
    assert_eq!((remote.lineage, remote.last_success_at), (Some(LINEAGE), Some(5)));
    assert_eq!((remote.spaces[0].cursor.clone(), remote.spaces[0].ack), (Some(Cursor(vec![1, 2, 3])), Some(mark)));
    assert!(two.read(|read| read.entity(&space("main"), id))?.is_some());
    Ok(())
}

#[test]
fn a_damaged_change_is_noticed_when_it_is_read_back() -> Result<(), StoreError> {
    let folder = Folder::new();
    let id = create(&folder.open("1.db"), json!({ "title": "one" }))?;
    let raw = rusqlite::Connection::open(folder.path("1.db"))?;
    let mut bytes: Vec<u8> = raw.query_row("SELECT bytes FROM changes", [], |row| row.get(0))?;
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    raw.execute("UPDATE changes SET bytes = ?", [bytes.clone()])?;
    assert!(Change::parse(bytes).is_err());
    let store = folder.open("1.db");
    let result = edit(&store, id, set("two"));
    assert!(matches!(result, Err(StoreError::DamagedEntity { entity, .. }) if entity == id), "{result:?}");
    assert!(store.read(|read| read.entity(&space("main"), id))?.is_some(), "reading goes on");
    Ok(())
}

type Work = Box<dyn FnOnce(&mut Write<'_>) -> Result<(), StoreError> + Send>;

/// A job that does its work once.
struct Once(Option<Work>);

impl Job for Once {
    fn run(&mut self, write: &mut Write<'_>) -> Result<(), Undo> {
        self.0.take().map_or(Err(Undo), |work| work(write).map_err(|_| Undo))
    }

    fn finish(self: Box<Self>, outcome: Result<(), StoreError>) {
        outcome.expect("the commit");
    }
}

/// Found by simulation: nobody looked at the outbox again when what stood in the way had come from the server, brought
/// by another replica, and what followed it lay there until the watchdog noticed.
#[test]
fn g07_what_follows_a_refused_change_goes_when_that_comes_from_the_server() -> Result<(), StoreError> {
    let folder = Folder::new();
    let mut engine = Engine::open(&folder.path("1.db"), Some(schema()), support::environment())?;
    let mut commit = |work: Work| engine.commit(vec![Box::new(Once(Some(work)))]).expect("a commit");
    let id = EntityId::named(&name("notes"), "a");
    commit(Box::new(move |write| {
        write.ensure_remote("test", &[])?;
        write.create(&space("main"), &name("notes"), Some(id), &fields(json!({ "title": "one" }))).map(drop)
    }));
    let creation = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&creation);
    commit(Box::new(move |write| {
        let read = OutboxRead { space: space("main"), changes: 1, bytes: 1 << 20 };
        let item = write.outbox_page(1, &read)?.items.remove(0);
        let refused = Answer::Rejected { code: RejectCode::Forbidden, message: "no".to_owned(), retryable: false };
        kept.lock().expect("the lock").push(item.envelope);
        let batch = WriteBatch { answered: vec![(item.key, refused)], ..WriteBatch::empty(space("main"), LINEAGE) };
        write.apply_batch(1, batch).map(drop)
    }));
    commit(Box::new(move |write| write.edit(&space("main"), id, &set("two")).map(drop)));
    let incoming = creation.lock().expect("the lock").clone();
    let committed = commit(Box::new(move |write| {
        let batch = WriteBatch { incoming, ..WriteBatch::empty(space("main"), LINEAGE) };
        write.apply_batch(1, batch).map(drop)
    }));
    assert!(committed.pushable.contains(&space("main")), "the session must hear that there is something to push");
    Ok(())
}
