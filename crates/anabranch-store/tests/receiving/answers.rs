//! What becomes of the outbox: answers, echoes, and what peers bring.

use std::sync::{Arc, Mutex};

use anabranch_core::sync::{OutboxRead, Reoffer, WriteBatch};
use anabranch_core::wire::{Answer, Missing, RejectCode};
use anabranch_core::{ChangeHash, EntityId, Entropy, Environment, SplitMix64};
use anabranch_store::{Engine, Job, OpenMode, Store, StoreError, Undo, Write};
use serde_json::json;

use super::{LINEAGE, accept_everything, all_changes, answer, outbox, pull, set};
use crate::support::{self, Folder, create, edit, fields, name, schema, space};

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

#[test]
fn g07_what_waited_for_a_discarded_change_goes_though_nothing_is_written_again() -> Result<(), StoreError> {
    let folder = Folder::new();
    let mut engine = Engine::open(&folder.path("1.db"), Some(schema()), support::environment())?;
    let mut commit = |work: Work| engine.commit(vec![Box::new(Once(Some(work)))]).expect("a commit");
    let [gone, kept] = ["a", "b"].map(|id| EntityId::named(&name("notes"), id));
    commit(Box::new(move |write| {
        write.ensure_remote("test", &[])?;
        write.create(&space("main"), &name("notes"), Some(gone), &fields(json!({ "title": "one" }))).map(drop)
    }));
    commit(Box::new(move |write| {
        let read = OutboxRead { space: space("main"), changes: 1, bytes: 1 << 20 };
        let item = write.outbox_page(1, &read)?.items.remove(0);
        let refused = Answer::Rejected { code: RejectCode::Forbidden, message: "no".to_owned(), retryable: false };
        let batch = WriteBatch { answered: vec![(item.key, refused)], ..WriteBatch::empty(space("main"), LINEAGE) };
        write.apply_batch(1, batch).map(drop)
    }));
    let joined = commit(Box::new(move |write| {
        write.transaction(|write| {
            write.create(&space("main"), &name("notes"), Some(kept), &fields(json!({ "title": "two" })))?;
            write.edit(&space("main"), gone, &set("three")).map(drop)
        })
    }));
    assert!(joined.pushable.contains(&space("main")));
    let committed = commit(Box::new(move |write| {
        let page = |write: &mut anabranch_store::Write<'_>| {
            let read = OutboxRead { space: space("main"), changes: 10, bytes: 1 << 20 };
            Ok::<_, StoreError>(write.outbox_page(1, &read)?.items.len())
        };
        assert_eq!(page(write)?, 0, "the transaction waits");
        write.discard(&space("main"), gone, None)?;
        assert_eq!(page(write)?, 1, "what is left of it can go");
        Ok(())
    }));
    assert!(committed.pushable.contains(&space("main")), "the session must hear that there is something to push");
    Ok(())
}
