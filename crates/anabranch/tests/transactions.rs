//! Transactions as an application sees them, and as others do.

mod support;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use anabranch::{CollectionName, EntityId, Error, ErrorKind, Replica, Schema, Space, SystemEnvironment};
use anabranch_server::{PageBudget, SegmentOptions, Server, ServerHandle, ServerOptions, SqliteBackend};
use serde_json::{Value, json};
use support::{Folder, GUARD, notes};
use tokio::runtime::Runtime;

fn open(folder: &Folder, file: &str) -> Replica {
    let text = r#"
        version = 1
        [collections.notes.fields]
        title = { kind = "register" }
        stars = { kind = "counter" }
        folder = { kind = "reference", to = "folders", parent = true }
        [collections.folders.fields]
        title = { kind = "register" }
    "#;
    Replica::open(folder.path(file), Schema::from_toml(text).expect("the schema")).expect("a replica")
}

fn main_of(replica: &Replica) -> Space {
    replica.space("main").expect("the space")
}

/// A server whose pages are tiny: one transaction, or a few small changes.
struct SmallPages {
    runtime: Runtime,
    handle: Option<ServerHandle>,
    address: SocketAddr,
}

impl SmallPages {
    fn start() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let backend = SqliteBackend::open_in_memory(Box::new(SystemEnvironment::new())).expect("a backend");
        let page = PageBudget { bytes: 1 << 10, changes: 2_000 };
        // Pages are what keeps transactions whole; segments do not promise that.
        let segments = SegmentOptions { min_changes: u64::MAX, ..SegmentOptions::default() };
        let options = ServerOptions { page, segments, ..ServerOptions::default() };
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = runtime.block_on(Server::bind(any, Arc::new(backend), options)).expect("a server");
        let address = server.local_addr();
        let handle = runtime.block_on(async { server.spawn() });
        Self { runtime, handle: Some(handle), address }
    }

    fn sync(&self, replica: &Replica) -> Result<anabranch::SyncReport, Error> {
        replica.sync(&format!("http://{}", self.address)).space("main")?.now(GUARD).wait()
    }
}

impl Drop for SmallPages {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            self.runtime.block_on(handle.abort());
        }
    }
}

/// What a query says after each commit of a replica from now on.
fn after_each_commit(replica: &Replica, sql: &'static str) -> Arc<Mutex<Vec<Value>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (sink, store) = (Arc::downgrade(&seen), replica.store().clone());
    replica.store().on_commit(move |committed| {
        let Some(sink) = sink.upgrade() else { return false };
        if !committed.entities.is_empty() {
            let rows = store.read(|read| read.query(sql, &[])).expect("a read");
            sink.lock().expect("the list").push(Value::Array(rows.into_iter().map(Value::Object).collect()));
        }
        true
    });
    seen
}

/// Returns when everyone has been told of the commits so far: another write is behind that.
fn told(replica: &Replica) -> Result<(), Error> {
    replica.store().write(|_| Ok(())).wait()
}

fn seen_by(replica: &Replica, seen: &Mutex<Vec<Value>>) -> Result<Vec<Value>, Error> {
    told(replica)?;
    Ok(seen.lock().expect("the list").clone())
}

#[test]
fn a_transaction_reads_its_own_writes_and_is_made_whole_or_not_at_all() -> Result<(), Error> {
    let folder = Folder::new();
    let replica = open(&folder, "a.db");
    let main = main_of(&replica);
    let (id, twice) = main
        .transaction(|t| {
            let id = t.create("notes", json!({ "title": "one" }))?;
            let edited = t.edit(id, |note| note.increment("stars", 2))?;
            let again = t.edit(id, |note| note.set("title", "one"))?;
            assert!(edited && !again);
            Ok((id, t.get(id)?.map(|note| note["stars"].clone())))
        })
        .wait()?;
    assert_eq!(twice, Some(json!(2)));
    let broke = main.transaction(move |t| {
        t.edit(id, |note| note.increment("stars", -5))?;
        t.delete(id)?;
        assert_eq!(t.get(id)?, None);
        t.restore(id)?;
        let key = EntityId::named(&CollectionName::new("notes")?, "key");
        t.create_with_id("notes", key, json!({ "title": "two" }))?;
        if t.get(id)?.is_some_and(|note| note["stars"].as_i64() < Some(0)) {
            return Err(t.abort("not enough stars"));
        }
        Ok(())
    });
    let error = broke.wait().expect_err("a reason to give up");
    assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Invalid, "not enough stars"));
    let bad = main.transaction(|t| {
        t.create("notes", json!({ "title": "three" }))?;
        t.create("nothings", json!({}))
    });
    assert_eq!(bad.wait().expect_err("no such collection").kind(), ErrorKind::Invalid);
    let large = main.transaction(|t| {
        (0..=anabranch::MAX_TRANSACTION_CHANGES).try_for_each(|n| t.create("notes", json!({ "title": n })).map(drop))
    });
    let error = large.wait().expect_err("too many");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("1000 changes and 256 KiB"), "{error}");
    assert_eq!(replica.query("SELECT title, stars FROM notes", &[])?.len(), 1);
    assert_eq!(main.get(id)?.expect("the note").state["stars"], 2);
    Ok(())
}

#[test]
fn a_watcher_is_told_once() -> Result<(), Error> {
    let folder = Folder::new();
    let replica = open(&folder, "a.db");
    let main = main_of(&replica);
    let ids = (0..3).map(|n| notes(&replica).create(json!({ "title": n })).wait()).collect::<Result<Vec<_>, _>>()?;
    told(&replica)?;
    let commits = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&commits);
    replica.store().on_commit(move |committed| {
        heard.lock().expect("the list").push(committed.entities.iter().map(|touched| touched.id).collect::<Vec<_>>());
        true
    });
    let mut watches: Vec<_> = ids.iter().map(|id| notes(&replica).watch(*id)).collect();
    for watch in &mut watches {
        watch.latest()?;
    }
    let all = ids.clone();
    main.transaction(move |t| {
        all.iter().try_for_each(|id| t.edit(*id, |note| note.set("title", "new").increment("stars", 1)).map(drop))
    })
    .wait()?;
    notes(&replica).create(json!({ "title": "other" })).wait()?;
    told(&replica)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for watch in &mut watches {
        let note = runtime.block_on(watch.changed())?.expect("the note");
        assert_eq!((note.state["title"].as_str(), note.state["stars"].as_i64()), (Some("new"), Some(1)));
        assert!(!watch.has_changed());
    }
    let commits = commits.lock().expect("the list").clone();
    let about: Vec<_> = commits.iter().filter(|touched| touched.iter().any(|id| ids.contains(id))).collect();
    assert_eq!(about.len(), 1);
    assert!(ids.iter().all(|id| about[0].contains(id)));
    Ok(())
}

/// In every commit of the second replica, all six notes have the same title.
#[test]
fn a_replica_that_pulls_a_kilobyte_at_a_time_never_shows_half_of_a_transaction() -> Result<(), Error> {
    let folder = Folder::new();
    let server = SmallPages::start();
    let (a, b) = (open(&folder, "a.db"), open(&folder, "b.db"));
    let main = main_of(&a);
    let ids = main.transaction(|t| (0..6).map(|_| t.create("notes", json!({ "title": "0" }))).collect()).wait()?;
    let ids: Arc<Vec<EntityId>> = Arc::new(ids);
    let first = ids[0];
    for round in 1..=40 {
        let ids = Arc::clone(&ids);
        main.transaction(move |t| {
            // In another order each time.
            let mut turned = ids.iter().cycle().skip(round % 6).take(6);
            turned.try_for_each(|id| t.edit(*id, |note| note.set("title", round.to_string())).map(drop))
        })
        .wait()?;
        main.edit(first, |note| note.increment("stars", 1)).wait()?;
    }
    server.sync(&a)?;
    let seen = after_each_commit(&b, "SELECT title, count(*) AS n FROM notes GROUP BY title");
    server.sync(&b)?;
    let seen = seen_by(&b, &seen)?;
    assert!(seen.len() > 20, "many pages: {}", seen.len());
    for (n, state) in seen.iter().enumerate() {
        assert_eq!(state[0]["n"], 6, "commit {n}: {state}");
        assert_eq!(state.as_array().map(Vec::len), Some(1), "commit {n}: {state}");
    }
    assert_eq!(seen.last().map(|state| state[0]["title"].clone()), Some(json!("40")));
    assert_eq!(a.state_digest(&support::main_space())?, b.state_digest(&support::main_space())?);
    Ok(())
}

/// Each transaction renames an old note and creates a new one: as many have been renamed as have been created, in
/// every commit of those who take it over from another replica, and of those who pull it from them.
#[test]
fn an_exchange_keeps_transactions_whole_and_so_does_who_passes_them_on() -> Result<(), Error> {
    const COUNT: &str = "SELECT sum(title = 'renamed') AS renamed, sum(title = 'created') AS created FROM notes";
    let folder = Folder::new();
    let (a, b, c) = (open(&folder, "a.db"), open(&folder, "b.db"), open(&folder, "c.db"));
    let main = main_of(&a);
    let commits: Vec<_> = (0..700).map(|_| notes(&a).create(json!({ "title": "old" }))).collect();
    let old = commits.into_iter().map(|commit| commit.wait()).collect::<Result<Vec<_>, _>>()?;
    let commits: Vec<_> = old
        .into_iter()
        .map(|id| {
            main.transaction(move |t| {
                t.edit(id, |note| note.set("title", "renamed"))?;
                t.create("notes", json!({ "title": "created" }))
            })
        })
        .collect();
    commits.into_iter().try_for_each(|commit| commit.wait().map(drop))?;

    let at_b = after_each_commit(&b, COUNT);
    let exchanged = a.exchange(&b)?;
    assert_eq!((exchanged.sent, exchanged.received), (2_100, 0));
    let server = SmallPages::start();
    let sent = server.sync(&b)?;
    // And the schema, which the space carries from then on.
    assert_eq!((sent.pushed, sent.refused), (2_101, 0));
    let at_c = after_each_commit(&c, COUNT);
    server.sync(&c)?;
    for (replica, seen, least) in [(&b, at_b, 3), (&c, at_c, 100)] {
        let seen = seen_by(replica, &seen)?;
        assert!(seen.len() >= least, "in several commits: {}", seen.len());
        assert!(seen.iter().all(|row| row[0]["renamed"] == row[0]["created"]), "{seen:?}");
        assert_eq!(seen.last().map(|row| row[0]["created"].clone()), Some(json!(700)));
    }
    // Only the space's schema, which b has left on the server.
    assert_eq!(a.exchange(&c)?, anabranch::Exchanged { sent: 0, received: 1 });
    Ok(())
}

#[test]
fn what_a_server_refuses_in_part_reaches_nobody() -> Result<(), Error> {
    let folder = Folder::new();
    let server = SmallPages::start();
    let (a, b) = (open(&folder, "a.db"), open(&folder, "b.db"));
    let key = EntityId::from_bytes([7; 16]);
    main_of(&b).untyped("folders")?.create_with_id(key, json!({ "title": "theirs" })).wait()?;
    server.sync(&b)?;
    let refused = main_of(&a).transaction(move |t| {
        let beside = t.create("notes", json!({ "title": "beside" }))?;
        t.create_with_id("notes", key, json!({ "title": "in another collection" }))?;
        Ok(beside)
    });
    let beside = refused.wait()?;
    notes(&a).edit(beside, |note| note.set("title", "later")).wait()?;
    let unrelated = notes(&a).create(json!({ "title": "unrelated" })).wait()?;
    server.sync(&a)?;
    let status = a.status()?;
    assert_eq!((status.parked, status.pending), (2, 3), "the transaction, and what waits behind it");
    server.sync(&b)?;
    assert!(notes(&b).get(unrelated)?.is_some());
    assert!(notes(&b).get(beside)?.is_none());
    Ok(())
}
