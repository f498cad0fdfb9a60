//! A first sync from beginning to end.

use std::sync::atomic::Ordering;

use anabranch::Error;
use serde_json::json;

use crate::fleet::{assert_same, none, of, past, replica, rows, small};
use crate::support::{Folder, GUARD, TestServer};

#[test]
fn g04_a_first_sync_by_segments_is_the_same_as_replaying_the_log() -> Result<(), Error> {
    let folder = Folder::new();
    let mut server = TestServer::start_with(folder.path("server.db"), small());
    past(&server, &folder, 60)?;
    server.segments_reach(200);
    let quick = replica(&folder, "quick.db");
    let report = server.sync(&quick).now(GUARD).wait()?;
    assert!(report.segments > 5, "{report:?}");
    server.restart_with(none());
    let slow = replica(&folder, "slow.db");
    assert_eq!(server.sync(&slow).now(GUARD).wait()?.segments, 0);
    assert_same(&quick, &slow)?;
    let writer = replica(&folder, "a.db");
    let space = crate::support::main_space();
    assert_eq!(writer.state_digest(&space)?, quick.state_digest(&space)?);
    assert_eq!(quick.status()?.quarantined, 0);
    assert!(quick.status()?.open_conflicts > 0, "the past has conflicts");
    Ok(())
}

#[test]
fn most_rows_need_no_document_and_every_one_of_them_is_looked_at_later() -> Result<(), Error> {
    let folder = Folder::new();
    let server = TestServer::start_with(folder.path("server.db"), small());
    let a = replica(&folder, "a.db");
    let notes = of(&a, "notes");
    let many: Vec<_> = (0..300).map(|n| notes.create(json!({ "title": format!("{n}"), "body": "text" }))).collect();
    many.into_iter().try_for_each(|commit| commit.wait().map(drop))?;
    server.sync(&a).now(GUARD).wait()?;
    server.segments_reach(600);
    let b = replica(&folder, "b.db");
    assert!(server.sync(&b).now(GUARD).wait()?.segments > 30);
    let unchecked = || Ok::<_, Error>(b.query("SELECT count(*) AS n FROM unchecked", &[])?[0]["n"].as_u64());
    // An idle file is looked through. Every write that has been answered came after some of that.
    while unchecked()? != Some(0) {
        b.store().write(|_| Ok::<_, anabranch::StoreError>(())).wait()?;
    }
    let loaded = b.store().stats().documents_loaded.load(Ordering::Relaxed);
    assert!((300..310).contains(&loaded), "{loaded}");
    assert_eq!(rows(&a)?.len(), rows(&b)?.len());
    Ok(())
}

#[test]
fn the_tail_of_the_log_follows_the_segments() -> Result<(), Error> {
    let folder = Folder::new();
    let server = TestServer::start_with(folder.path("server.db"), small());
    let a = replica(&folder, "a.db");
    let notes = of(&a, "notes");
    let ids: Vec<_> =
        (0..60).map(|n| notes.create(json!({ "title": format!("{n}") })).wait()).collect::<Result<_, _>>()?;
    server.sync(&a).now(GUARD).wait()?;
    server.segments_reach(60);
    // Too little for new segments.
    notes.edit(ids[7], |note| note.set("title", "later")).wait()?;
    notes.create(json!({ "title": "new" })).wait()?;
    server.sync(&a).now(GUARD).wait()?;
    let b = replica(&folder, "b.db");
    assert!(server.sync(&b).now(GUARD).wait()?.segments > 0);
    let space = crate::support::main_space();
    assert_eq!(a.state_digest(&space)?, b.state_digest(&space)?);
    Ok(())
}

#[test]
fn segments_are_built_while_pushes_go_on() -> Result<(), Error> {
    let folder = Folder::new();
    let server = TestServer::start_with(folder.path("server.db"), small());
    let a = replica(&folder, "a.db");
    let notes = of(&a, "notes");
    let mut ids = Vec::new();
    for round in 0..12 {
        for n in 0..25 {
            ids.push(notes.create(json!({ "title": format!("{round}.{n}") })).wait()?);
        }
        notes.edit(ids[round * 3], |note| note.set("title", "again")).wait()?;
        server.sync(&a).now(GUARD).wait()?;
        // Whatever has been built by now, a new replica gets all.
        let fresh = replica(&folder, &format!("fresh-{round}.db"));
        server.sync(&fresh).now(GUARD).wait()?;
        let space = crate::support::main_space();
        assert_eq!(a.state_digest(&space)?, fresh.state_digest(&space)?, "round {round}");
    }
    server.segments_reach(250);
    Ok(())
}
