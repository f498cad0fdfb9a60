//! Several syncs of one replica, at once and one after the other: whose words the status repeats.

use std::time::Duration;

use anabranch::{Error, ErrorKind, Phase};
use serde_json::json;

use crate::support::{World, caught_up, expect_offline, until, until_live, write};

const SOON: Duration = Duration::from_secs(30);

#[test]
fn g09_a_short_sync_beside_a_lasting_one_does_not_hide_it_for_good() -> Result<(), Error> {
    let world = World::new();
    let phone = world.open_with("phone.db", crate::support::schema(""), Some(SOON));
    let sync = world.sync(&phone).start()?;
    caught_up(&sync)?;
    assert!(world.sync(&phone).now(SOON).wait()?.finished);
    let status = phone.status()?;
    assert_eq!((status.phase, status.online), (Phase::Live, true));
    world.pass(3_600_000);
    assert!(!phone.status()?.stale, "it is live");
    // With another server, too.
    let other = anabranch::testing::Server::new(&world.clock);
    assert!(phone.sync("memory:other").transport(other.link()).now(SOON).wait()?.finished);
    let status = phone.status()?;
    assert_eq!((status.phase, status.url.as_deref(), status.stale), (Phase::Live, Some("memory:"), false));
    drop(sync);
    until(&phone, "the end", |status| status.phase == Phase::Idle);
    Ok(())
}

#[test]
fn g09_the_status_tells_of_the_server_that_is_synced_with_now() -> Result<(), Error> {
    let world = World::new();
    let phone = world.open("phone.db");
    assert!(world.sync(&phone).now(SOON).wait()?.finished);
    let other = anabranch::testing::Server::new(&world.clock);
    let link = other.link();
    link.go_offline();
    let mut events = phone.events();
    let sync = phone.sync("memory:other").transport(link).start()?;
    expect_offline(&mut events);
    let about = |status: anabranch::Status| (status.url, status.failures, status.last_error);
    let failing = (Some("memory:other".to_owned()), 1, Some("there is no network".to_owned()));
    assert_eq!(about(phone.status()?), failing);
    drop((sync, events, phone));
    assert_eq!(about(world.open("phone.db").status()?), failing, "after a restart, too");
    Ok(())
}

#[test]
fn what_troubled_a_sync_is_over_when_the_next_one_begins() -> Result<(), Error> {
    let world = World::new();
    let phone = world.open("phone.db");
    let sync = world.sync(&phone).start()?;
    caught_up(&sync)?;
    let other = rusqlite::Connection::open(world.path("phone.db")).expect("the file");
    let trigger = "CREATE TRIGGER broken BEFORE UPDATE ON sync_state BEGIN SELECT raise(ABORT, 'no room'); END";
    other.execute_batch(trigger).expect("a trigger");
    write(&phone, "one");
    until(&phone, "trouble", |status| status.last_error.as_deref().is_some_and(|error| error.contains("no room")));
    drop(sync);
    until(&phone, "the end", |status| status.phase == Phase::Idle);
    other.execute_batch("DROP TRIGGER broken").expect("no trigger");
    let _sync = world.sync(&phone).start()?;
    assert_eq!(until_live(&phone).last_error, None);
    Ok(())
}

#[test]
fn a_sync_that_could_not_begin_keeps_nothing_to_itself() -> Result<(), Error> {
    let world = World::new();
    let phone = world.open("phone.db");
    world.link.go_offline();
    assert_eq!(world.sync(&phone).now(SOON).wait().expect_err("offline").kind(), ErrorKind::Retry);
    let other = rusqlite::Connection::open(world.path("phone.db")).expect("the file");
    other.execute_batch("UPDATE remotes SET lineage = x'00'").expect("a damaged row");
    assert!(world.sync(&phone).start().is_err(), "the row cannot be read");
    other.execute_batch("UPDATE remotes SET lineage = NULL").expect("a whole row");
    // The address was mistyped: another one takes its place, since nobody syncs with it.
    let corrected = phone.sync("memory:other").transport(world.link.clone());
    assert_eq!(corrected.now(SOON).wait().expect_err("offline").kind(), ErrorKind::Retry);
    assert_eq!(phone.store().read(|read| read.remotes())?.len(), 1);
    Ok(())
}

#[test]
fn g07_a_space_that_is_first_written_to_while_a_sync_goes_on_is_pushed_over_the_same_connection() -> Result<(), Error> {
    let world = World::new();
    let phone = world.open("phone.db");
    write(&phone, "one");
    let sync = world.sync(&phone).start()?;
    caught_up(&sync)?;
    let connections = world.link.connections();
    phone.space("work")?.untyped("notes")?.create(json!({ "title": "two" })).wait()?;
    caught_up(&sync)?;
    assert!(world.server.changes("work") > 0);
    assert_eq!((phone.status()?.pending, world.link.connections()), (0, connections));
    Ok(())
}
