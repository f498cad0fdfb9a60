//! Each server has a place of its own in the file, whoever syncs with it, and in whatever process.

use std::time::Duration;

use anabranch::testing::{Clock, Link, Server};
use anabranch::{Error, Phase, Replica, Schema};
use serde_json::json;

/// A hang guard, not a measurement.
const GUARD: Duration = Duration::from_secs(60);

fn open(folder: &tempfile::TempDir) -> Result<Replica, Error> {
    let schema = Schema::from_toml("version = 1\n[collections.notes.fields]\ntitle = { kind = \"register\" }")?;
    Replica::open(folder.path().join("a.db"), schema)
}

fn sync(replica: &Replica, url: &str, link: &Link) -> anabranch::Sync {
    replica.sync(url).transport(link.clone())
}

/// A server that nothing has reached yet, because it is down, and another one.
fn two_servers() -> (Link, Link) {
    let clock = Clock::at(1_750_000_000_000);
    let (down, up) = (Server::new(&clock).link(), Server::new(&clock).link());
    down.go_offline();
    (down, up)
}

fn both_go_on(replica: &Replica, down: &Link, up: &Link) -> Result<(), Error> {
    for _ in 0..2 {
        for (url, link) in [("memory:down", down), ("memory:up", up)] {
            assert!(sync(replica, url, link).now(GUARD).wait()?.finished);
        }
    }
    Ok(())
}

#[test]
fn another_process_leaves_the_place_of_a_server_that_is_waited_for() -> Result<(), Error> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ((down, up), one, two) = (two_servers(), open(&folder)?, open(&folder)?);
    one.space("main")?.untyped("notes")?.create(json!({ "title": "Lunch" })).wait()?;
    let mut status = one.watch_status();
    let waiting = sync(&one, "memory:down", &down).start()?;
    while status.latest()?.phase != Phase::Waiting {
        std::thread::yield_now();
    }
    assert!(sync(&two, "memory:up", &up).now(GUARD).wait()?.finished);
    down.go_online();
    waiting.retry_now();
    waiting.caught_up().wait()?;
    drop((waiting, one));
    loop {
        // Its turn ends a moment later.
        match sync(&two, "memory:down", &down).now(GUARD).wait() {
            Err(error) if error.to_string().contains("another process") => std::thread::yield_now(),
            report => break assert!(report?.finished),
        }
    }
    both_go_on(&two, &down, &up)
}

#[test]
fn a_sync_that_ends_leaves_the_place_to_one_that_goes_on() -> Result<(), Error> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ((down, up), replica) = (two_servers(), open(&folder)?);
    replica.space("main")?.untyped("notes")?.create(json!({ "title": "Lunch" })).wait()?;
    let waiting = sync(&replica, "memory:down", &down).start()?;
    assert!(sync(&replica, "memory:down", &down).now(GUARD).wait().is_err());
    assert!(sync(&replica, "memory:up", &up).now(GUARD).wait()?.finished);
    down.go_online();
    waiting.retry_now();
    waiting.caught_up().wait()?;
    drop(waiting);
    both_go_on(&replica, &down, &up)
}

#[test]
fn an_address_that_was_mistyped_is_corrected() -> Result<(), Error> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ((down, up), replica) = (two_servers(), open(&folder)?);
    replica.space("main")?.untyped("notes")?.create(json!({ "title": "Lunch" })).wait()?;
    assert!(sync(&replica, "memory:mistyped", &down).now(GUARD).wait().is_err());
    sync(&replica, "memory:up", &up).now(GUARD).wait()?;
    assert_eq!(replica.status()?.pending, 0, "nothing waits for a server that there is not");
    Ok(())
}
