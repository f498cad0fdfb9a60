//! Some collections of a space only.

use anabranch::{Difference, Error, Replica};
use serde_json::json;

use crate::fleet::{none, of, past, replica, rows, small};
use crate::support::{Folder, GUARD, TestServer, main_space};

fn sync_some(server: &TestServer, replica: &Replica, names: &[&str]) -> Result<u64, Error> {
    Ok(server.sync(replica).collections(names)?.now(GUARD).wait()?.pulled)
}

fn count(replica: &Replica, collection: &str) -> Result<u64, Error> {
    let sql = "SELECT count(*) AS n FROM entities WHERE collection = ?";
    Ok(replica.query(sql, &[collection.into()])?[0]["n"].as_u64().unwrap_or(0))
}

fn entities(replica: &Replica, collection: &str) -> Result<Vec<serde_json::Map<String, serde_json::Value>>, Error> {
    let mut entities = rows(replica)?;
    entities.retain(|row| row.get("collection").is_some_and(|name| name == collection));
    Ok(entities)
}

/// A server with a past and without segments.
fn server_with_a_past() -> Result<(Folder, TestServer), Error> {
    let folder = Folder::new();
    let server = TestServer::start_with(folder.path("server.db"), none());
    past(&server, &folder, 20)?;
    Ok((folder, server))
}

/// What must hold of a server with a past, be it sent by segments or not.
fn with_and_without_segments(work: impl Fn(&Folder, &TestServer) -> Result<(), Error>) -> Result<(), Error> {
    let folder = Folder::new();
    let server = TestServer::start_with(folder.path("server.db"), small());
    past(&server, &folder, 20)?;
    server.segments_reach(50);
    work(&folder, &server)?;
    let (folder, server) = server_with_a_past()?;
    work(&folder, &server)
}

#[test]
fn a_subset_is_what_was_asked_for_and_is_remembered() -> Result<(), Error> {
    with_and_without_segments(|folder, server| {
        let some = replica(folder, "some.db");
        sync_some(server, &some, &["folders"])?;
        assert_eq!((count(&some, "folders")?, count(&some, "notes")?), (3, 0));
        assert_eq!(count(&some, "$schema")?, 1);
        drop(some);
        // Syncs that say nothing keep to it.
        let a = replica(folder, "a.db");
        of(&a, "folders").create(json!({ "name": "new" })).wait()?;
        of(&a, "notes").create(json!({ "title": "new" })).wait()?;
        server.sync(&a).now(GUARD).wait()?;
        let some = replica(folder, "some.db");
        server.sync(&some).now(GUARD).wait()?;
        assert_eq!((count(&some, "folders")?, count(&some, "notes")?), (4, 0));
        Ok(())
    })
}

#[test]
fn a_collection_that_is_added_comes_from_its_beginning() -> Result<(), Error> {
    with_and_without_segments(|folder, server| {
        let (some, all) = (replica(folder, "some.db"), replica(folder, "all.db"));
        sync_some(server, &some, &["folders"])?;
        // Both before and after the place of the segments.
        let a = replica(folder, "a.db");
        of(&a, "folders").create(json!({ "name": "new" })).wait()?;
        of(&a, "notes").create(json!({ "title": "new" })).wait()?;
        server.sync(&a).now(GUARD).wait()?;
        sync_some(server, &some, &["folders", "notes"])?;
        server.sync(&all).now(GUARD).wait()?;
        assert_eq!(entities(&some, "folders")?, entities(&all, "folders")?);
        assert_eq!(entities(&some, "notes")?, entities(&all, "notes")?);
        // And goes on live.
        of(&a, "notes").create(json!({ "title": "newer" })).wait()?;
        server.sync(&a).now(GUARD).wait()?;
        server.sync(&some).now(GUARD).wait()?;
        server.sync(&all).now(GUARD).wait()?;
        assert_eq!(entities(&some, "notes")?, entities(&all, "notes")?);
        server.sync(&some).all_collections().now(GUARD).wait()?;
        let space = main_space();
        assert_eq!(some.space_digest(&space)?, all.space_digest(&space)?);
        Ok(())
    })
}

#[test]
fn what_was_missed_of_the_other_collections_meanwhile_is_not_lost() -> Result<(), Error> {
    let (folder, mut server) = server_with_a_past()?;
    let some = replica(&folder, "some.db");
    sync_some(&server, &some, &["folders"])?;
    // Folders that this replica has not seen, older than the segments that will bring it the notes.
    let a = replica(&folder, "a.db");
    of(&a, "folders").create(json!({ "name": "missed" })).wait()?;
    server.restart_with(small());
    server.sync(&a).now(GUARD).wait()?;
    server.segments_reach(50);
    let report = server.sync(&some).collections(["folders", "notes"])?.now(GUARD).wait()?;
    assert!(report.segments > 0);
    let space = main_space();
    assert_eq!(some.space_digest(&space)?, a.space_digest(&space)?);
    Ok(())
}

#[test]
fn a_collection_that_is_dropped_goes_once_its_edits_are_safe() -> Result<(), Error> {
    let folder = Folder::new();
    let mut server = TestServer::start_with(folder.path("server.db"), small());
    let ids = past(&server, &folder, 20)?;
    server.segments_reach(50);
    let some = replica(&folder, "some.db");
    server.sync(&some).now(GUARD).wait()?;
    let notes = count(&some, "notes")?;
    assert!(notes >= 20);
    of(&some, "notes").edit(ids[0], |note| note.set("title", "unsynced")).wait()?;
    server.kill();
    assert!(sync_some(&server, &some, &["folders"]).is_err());
    assert_eq!(count(&some, "notes")?, 1, "what is pending stays");
    assert_eq!(of(&some, "notes").get(ids[0])?.expect("the note").state["title"], "unsynced");
    server.restart();
    sync_some(&server, &some, &["folders"])?;
    assert_eq!((count(&some, "notes")?, count(&some, "folders")?), (0, 3));
    assert_eq!(some.status()?.pending, 0);
    let a = replica(&folder, "a.db");
    server.sync(&a).now(GUARD).wait()?;
    assert!(of(&a, "notes").get(ids[0])?.is_some_and(|note| note.state["title"] == "unsynced" || note.conflicts > 0));
    // Wanted again, it comes back whole.
    server.sync(&some).all_collections().now(GUARD).wait()?;
    let space = main_space();
    assert_eq!(some.space_digest(&space)?, a.space_digest(&space)?);
    assert_eq!(some.state_digest(&space)?, a.state_digest(&space)?);
    Ok(())
}

/// A way to a server that is not there.
fn nowhere() -> anabranch::testing::Link {
    let link = anabranch::testing::Server::new(&anabranch::testing::Clock::at(1_750_000_000_000)).link();
    link.go_offline();
    link
}

#[test]
fn g07_what_a_sync_brings_that_began_with_a_smaller_subset_stands_for_that_one_only() -> Result<(), Error> {
    with_and_without_segments(|folder, server| {
        let (some, a) = (replica(folder, "some.db"), replica(folder, "a.db"));
        let live = server.sync(&some).collections(["folders"])?.start()?;
        live.caught_up().wait()?;
        // All are wanted from now on, but the server cannot be reached; and the older sync goes on.
        assert!(server.sync(&some).all_collections().transport(nowhere()).now(GUARD).wait().is_err());
        of(&a, "folders").create(json!({ "name": "new" })).wait()?;
        server.sync(&a).now(GUARD).wait()?;
        of(&some, "folders").create(json!({ "name": "newer" })).wait()?;
        live.caught_up().wait()?;
        while count(&some, "folders")? < 5 {
            std::thread::yield_now();
        }
        drop(live);
        assert_eq!(count(&some, "notes")?, 0);
        server.sync(&some).now(GUARD).wait()?;
        server.sync(&a).now(GUARD).wait()?;
        let space = main_space();
        assert_eq!(some.space_digest(&space)?, a.space_digest(&space)?);
        Ok(())
    })
}

#[test]
fn a_sync_that_does_not_get_its_turn_changes_nothing_of_what_is_wanted() -> Result<(), Error> {
    let (folder, server) = server_with_a_past()?;
    let (some, other) = (replica(&folder, "some.db"), replica(&folder, "some.db"));
    let live = server.sync(&some).collections(["folders"])?.start()?;
    live.caught_up().wait()?;
    let elsewhere = server.sync(&other).all_collections().now(GUARD).wait().expect_err("it is synced already");
    assert!(elsewhere.to_string().contains("another process"));
    drop(live);
    drop(some);
    let report = loop {
        // The turn ends with the sync, a moment later.
        match server.sync(&other).now(GUARD).wait() {
            Err(error) if error.to_string().contains("another process") => std::thread::yield_now(),
            report => break report?,
        }
    };
    assert!(report.finished);
    assert_eq!((count(&other, "folders")?, count(&other, "notes")?), (3, 0));
    Ok(())
}

#[test]
fn a_subset_is_verified_as_a_subset() -> Result<(), Error> {
    let (folder, server) = server_with_a_past()?;
    let some = replica(&folder, "some.db");
    sync_some(&server, &some, &["folders"])?;
    let report = server.sync(&some).verify(GUARD).wait()?;
    assert!(report.is_same(), "{report:?}");
    assert_eq!((report.entities, report.round_trips), (4, 1), "three folders and the schema");
    let a = replica(&folder, "a.db");
    let missed = of(&a, "folders").create(json!({ "name": "missed" })).wait()?;
    of(&a, "notes").create(json!({ "title": "not wanted" })).wait()?;
    server.sync(&a).now(GUARD).wait()?;
    let report = server.sync(&some).verify(GUARD).wait()?;
    let differing: Vec<_> = report.differing.iter().map(|it| (it.entity, it.difference)).collect();
    assert_eq!(differing, [(missed, Difference::MissingHere)]);
    Ok(())
}

/// Only what differs in the subset is offered and pulled.
#[test]
fn g10_a_restored_server_gets_back_what_a_subset_has_and_sends_it_nothing_else() -> Result<(), Error> {
    let (folder, mut server) = server_with_a_past()?;
    let some = replica(&folder, "some.db");
    sync_some(&server, &some, &["folders"])?;
    server.kill();
    std::fs::copy(folder.path("server.db"), folder.path("backup.db")).expect("a copy");
    server.restart();
    let lost = of(&some, "folders").create(json!({ "name": "lost" })).wait()?;
    server.sync(&some).now(GUARD).wait()?;
    server.kill();
    std::fs::copy(folder.path("backup.db"), folder.path("server.db")).expect("a copy");
    server.restart();
    let report = server.sync(&some).now(GUARD).wait()?;
    assert!(report.finished);
    let written = some.query(
        "SELECT count(*) AS n FROM changes c JOIN entities e ON e.key = c.entity WHERE e.id = ?",
        &[lost.to_string().into()],
    )?;
    assert_eq!((Some(report.pushed), report.duplicates, report.pulled), (written[0]["n"].as_u64(), 0, 0));
    assert_eq!((count(&some, "folders")?, count(&some, "notes")?), (4, 0));
    assert!(server.sync(&some).verify(GUARD).wait()?.is_same());
    let a = replica(&folder, "a.db");
    server.sync(&a).now(GUARD).wait()?;
    assert!(of(&a, "folders").get(lost)?.is_some());
    Ok(())
}
