//! Sync with a real server over loopback.

mod support;

use anabranch::{EntityId, Error, ErrorKind, Phase, Replica};
use serde_json::json;
use support::{Folder, GUARD, TestServer, main_space, notes};

fn agree(replicas: &[&Replica]) -> Result<bool, Error> {
    let first = (replicas[0].state_digest(&main_space())?, replicas[0].space_digest(&main_space())?);
    for replica in &replicas[1..] {
        if (replica.state_digest(&main_space())?, replica.space_digest(&main_space())?) != first {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The space carries the schema of whoever first pushed to it: one entity of one change.
const SCHEMA: u64 = 1;

#[test]
fn an_offline_edit_rejoins_the_others() -> Result<(), Error> {
    let folder = Folder::new();
    let mut server = TestServer::start(folder.path("server.db"));
    let (a, b) = (folder.replica("a.db"), folder.replica("b.db"));
    let id = notes(&a).create(json!({ "title": "one", "body": "milk" })).wait()?;
    assert_eq!(server.sync(&a).now(GUARD).wait()?.pushed, 2 + SCHEMA);
    assert_eq!(server.sync(&b).now(GUARD).wait()?.pulled, 2 + SCHEMA);
    assert!(notes(&b).get(id)?.is_some());

    server.kill();
    notes(&a).edit(id, |note| note.set("title", "by a").splice("body", 4, 0, "!").increment("stars", 1)).wait()?;
    notes(&b).edit(id, |note| note.set("title", "by b").splice("body", 0, 0, "oat ").increment("stars", 1)).wait()?;
    let offline = server.sync(&a).now(GUARD).wait().expect_err("there is no server");
    assert_eq!(offline.kind(), ErrorKind::Retry);
    assert!(a.status()?.pending > 0 && b.status()?.pending > 0);
    assert!(a.status()?.failures > 0 && a.status()?.last_error.is_some());

    server.restart();
    for _ in 0..2 {
        server.sync(&a).now(GUARD).wait()?;
        server.sync(&b).now(GUARD).wait()?;
    }
    assert!(agree(&[&a, &b])?);
    let note = notes(&a).get(id)?.expect("the note");
    assert_eq!((note.state["body"].as_str(), note.state["stars"].as_i64()), (Some("oat milk!"), Some(2)));
    assert_eq!((a.status()?.pending, b.status()?.pending), (0, 0));
    assert!(a.status()?.last_success_at.is_some());
    Ok(())
}

#[test]
fn g06_everything_a_puller_sees_comes_after_what_it_depends_on() -> Result<(), Error> {
    let folder = Folder::new();
    let server = TestServer::start(folder.path("server.db"));
    let a = folder.replica("a.db");
    let id = notes(&a).create(json!({ "title": "one", "body": "" })).wait()?;
    let typing: Vec<_> = (0..3_000).map(|n| notes(&a).edit(id, |note| note.splice("body", n, 0, "x"))).collect();
    for edit in typing {
        edit.wait()?;
    }
    server.sync(&a).now(GUARD).wait()?;
    let b = folder.replica("b.db");
    server.sync(&b).now(GUARD).wait()?;
    assert!(agree(&[&a, &b])?);
    assert_eq!((b.status()?.orphaned, b.status()?.quarantined), (0, 0));
    Ok(())
}

#[test]
fn a_live_change_reaches_the_others() -> Result<(), Error> {
    let folder = Folder::new();
    let server = TestServer::start(folder.path("server.db"));
    let (a, b) = (folder.replica("a.db"), folder.replica("b.db"));
    let (to_a, to_b) = (server.sync(&a).start()?, server.sync(&b).start()?);
    to_a.caught_up().wait()?;
    to_b.caught_up().wait()?;
    let mut watch = b.watch_query("SELECT title FROM notes", Vec::new());
    assert!(watch.latest()?.is_empty());
    let id = notes(&a).create(json!({ "title": "hello" })).wait()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        tokio::time::timeout(GUARD, async {
            while watch.changed().await?.is_empty() {}
            Ok::<_, Error>(())
        })
        .await
        .expect("the change arrives")
    })?;
    assert_eq!(notes(&b).get(id)?.expect("the note").state["title"], "hello");
    to_a.caught_up().wait()?;
    assert_eq!(a.status()?.phase, Phase::Live);
    Ok(())
}

#[test]
fn g07_a_background_sync_survives_the_server_s_restart() -> Result<(), Error> {
    let folder = Folder::new();
    let mut server = TestServer::start(folder.path("server.db"));
    let (a, b) = (folder.replica("a.db"), folder.replica("b.db"));
    let handle = server.sync(&a).start()?;
    handle.caught_up().wait()?;
    let mut ids = Vec::new();
    for round in 0..3 {
        // In the middle of a sync: writes are in flight when the server goes and when it comes back.
        let commits: Vec<_> = (0..300).map(|n| notes(&a).create(json!({ "title": format!("{round}.{n}") }))).collect();
        server.restart();
        for commit in commits {
            ids.push(commit.wait()?);
        }
        handle.retry_now();
    }
    handle.caught_up().wait()?;
    server.sync(&b).now(GUARD).wait()?;
    assert!(agree(&[&a, &b])?);
    assert_eq!(a.status()?.pending, 0);
    drop(handle);
    // Nothing lost, nothing doubled: the same counts on both clients and on the server.
    let count = u64::try_from(ids.len()).expect("a count");
    let (entities, changes, digest) = server.kill_and_count();
    assert_eq!((entities, changes), (count + SCHEMA, count + SCHEMA));
    assert_eq!(digest, a.space_digest(&main_space())?);
    for replica in [&a, &b] {
        let rows = replica.query("SELECT count(*) AS n FROM \"$log\"", &[])?;
        assert_eq!((replica.status()?.entities, rows[0]["n"].as_u64()), (count, Some(count + SCHEMA)));
    }
    Ok(())
}

#[test]
fn a_reconnect_with_nothing_new_is_one_round_trip_of_constant_size() -> Result<(), Error> {
    let folder = Folder::new();
    let server = TestServer::start(folder.path("server.db"));
    let a = folder.replica("a.db");
    let mut sizes = Vec::new();
    for count in [1, 10, 1_000] {
        let commits: Vec<_> = (0..count).map(|n| notes(&a).create(json!({ "title": n }))).collect();
        commits.into_iter().try_for_each(|commit| commit.wait().map(drop))?;
        server.sync(&a).now(GUARD).wait()?;
        let idle = server.sync(&a).now(GUARD).wait()?;
        assert_eq!((idle.round_trips, idle.pushed, idle.pulled), (1, 0, 0));
        sizes.push(idle.bytes_sent + idle.bytes_received);
    }
    assert!(sizes.iter().all(|size| *size <= 631), "the best rival needs 631 bytes: {sizes:?}");
    assert!(sizes.iter().max() <= sizes.iter().min().map(|least| least + 8).as_ref(), "{sizes:?}");
    Ok(())
}

#[test]
fn a_reconnect_of_a_hundred_spaces_with_nothing_new_is_one_round_trip() -> Result<(), Error> {
    let folder = Folder::new();
    let server = TestServer::start(folder.path("server.db"));
    let a = folder.replica("a.db");
    for n in 0..100 {
        let space = a.space(&format!("space-{n}"))?.untyped("notes")?;
        space.create(json!({ "title": n })).wait()?;
    }
    let first = server.sync(&a).now(GUARD).wait()?;
    assert!(first.pushed >= 100, "{first:?}");
    let idle = server.sync(&a).now(GUARD).wait()?;
    assert_eq!((idle.round_trips, idle.pushed, idle.pulled), (1, 0, 0), "{idle:?}");
    Ok(())
}

#[test]
fn g10_a_wiped_server_is_filled_again_and_one_with_another_history_is_left_alone() -> Result<(), Error> {
    let folder = Folder::new();
    let a = folder.replica("a.db");
    let create = |title: &str| -> Result<EntityId, Error> { notes(&a).create(json!({ "title": title })).wait() };
    let mut server = TestServer::start(folder.path("server.db"));
    create("one")?;
    server.sync(&a).now(GUARD).wait()?;

    server.kill();
    for file in ["server.db", "server.db-wal", "server.db-shm"] {
        drop(std::fs::remove_file(folder.path(file)));
    }
    server.restart();
    create("two")?;
    let refilled = server.sync(&a).now(GUARD).wait()?;
    assert_eq!(refilled.pushed, 2 + SCHEMA);
    let b = folder.replica("b.db");
    assert_eq!(server.sync(&b).now(GUARD).wait()?.pulled, 2 + SCHEMA);

    // Another server, with another tenant's data, at the same address.
    server.kill();
    for file in ["server.db", "server.db-wal", "server.db-shm"] {
        drop(std::fs::remove_file(folder.path(file)));
    }
    server.restart();
    let stranger = folder.replica("stranger.db");
    notes(&stranger).create(json!({ "title": "theirs" })).wait()?;
    server.sync(&stranger).now(GUARD).wait()?;
    create("three")?;
    let refused = server.sync(&a).now(GUARD).wait().expect_err("another history");
    assert_eq!(refused.kind(), ErrorKind::Refused);
    assert_eq!(server.sync(&stranger).now(GUARD).wait()?.pulled, 0, "nothing has been uploaded to it");
    assert_eq!(a.status()?.pending, 1);
    Ok(())
}

#[test]
fn g10_a_server_restored_from_a_backup_gets_back_what_it_lost() -> Result<(), Error> {
    let folder = Folder::new();
    let (a, b) = (folder.replica("a.db"), folder.replica("b.db"));
    let mut server = TestServer::start(folder.path("server.db"));
    notes(&a).create(json!({ "title": "before" })).wait()?;
    server.sync(&a).now(GUARD).wait()?;
    server.sync(&b).now(GUARD).wait()?;
    server.kill();
    let files = ["server.db", "server.db-wal"];
    for file in files {
        drop(std::fs::copy(folder.path(file), folder.path(&format!("backup-{file}"))));
    }
    server.restart();
    notes(&a).create(json!({ "title": "after the backup" })).wait()?;
    server.sync(&a).now(GUARD).wait()?;
    server.kill();
    drop(std::fs::remove_file(folder.path("server.db-shm")));
    for file in files {
        drop(std::fs::remove_file(folder.path(file)));
        drop(std::fs::copy(folder.path(&format!("backup-{file}")), folder.path(file)));
    }
    server.restart();
    server.sync(&a).now(GUARD).wait()?;
    server.sync(&b).now(GUARD).wait()?;
    assert!(agree(&[&a, &b])?);
    assert_eq!(b.status()?.entities, 2);
    Ok(())
}

#[test]
#[cfg(not(feature = "tls"))]
fn a_url_that_needs_tls_fails_at_once_where_there_is_none() {
    let folder = Folder::new();
    let replica = folder.replica("a.db");
    for url in ["https://notes.example", "WSS://notes.example"] {
        let started = replica.sync(url).start().expect_err("no TLS");
        let once = replica.sync(url).now(GUARD).wait().expect_err("no TLS");
        for error in [started, once] {
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains("the feature `tls`"), "{error}");
        }
    }
    assert_eq!(replica.status().expect("the status").phase, Phase::Idle, "nothing was tried");
}

#[test]
fn a_clone_takes_no_file_that_is_a_replica() -> Result<(), Error> {
    let folder = Folder::new();
    let server = TestServer::start(folder.path("server.db"));
    let phone = folder.replica("phone.db");
    notes(&phone).create(json!({ "title": "Trip" })).wait()?;
    server.sync(&phone).now(GUARD).wait()?;
    let clone = |file: &str| Replica::at(folder.path(file)).clone_space(&server.url(), "main", GUARD);
    let laptop = clone("laptop.db")?;
    assert_eq!(laptop.query("SELECT title FROM notes", &[])?[0]["title"], "Trip");
    for file in ["laptop.db", "phone.db"] {
        let error = clone(file).expect_err("it is there");
        assert!(error.to_string().ends_with("is a replica already"), "{error}");
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
    Ok(())
}
