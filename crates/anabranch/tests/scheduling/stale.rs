//! How old a view is, how far clocks are apart, and what the server made of a change.

use std::time::Duration;

use anabranch::testing::Refusal;
use anabranch::{Conditions, Error, Event, Phase};
use serde_json::json;

use crate::support::{
    NOW, World, caught_up, expect, expect_caught_up, expect_offline, notes, schema, until, until_live, write,
};

const HOUR: Duration = Duration::from_secs(3_600);

#[test]
fn g12_crossing_the_bound_of_staleness_is_an_event() -> Result<(), Error> {
    let world = World::new();
    let phone = world.open_with("phone.db", schema(""), Some(HOUR));
    let mut events = phone.events();
    let stale = |event: &Event| match event {
        Event::Stale { last_success_at } => Some(*last_success_at),
        _ => None,
    };
    assert!(phone.status()?.stale, "it has never agreed with a server");
    let sync = world.sync(&phone).start()?;
    caught_up(&sync)?;
    assert!(!phone.status()?.stale);
    // However long nothing happens: it is live.
    world.pass(10 * 3_600_000);
    write(&phone, "one");
    caught_up(&sync)?;
    assert!(!until_live(&phone).stale);

    world.link.go_offline();
    let lost = world.clock.now();
    expect(&mut events, "offline", |event| matches!(event, Event::Offline { .. }).then_some(()));
    assert!(!phone.status()?.stale);
    world.pass(3_600_001);
    let last = expect(&mut events, "stale", stale).expect("they did agree");
    assert!((lost - 120_000..=lost).contains(&last), "it knows when: {last}");
    assert!(phone.status()?.stale);
    drop((sync, events, phone));

    // A restart knows it, too.
    let phone = world.open_with("phone.db", schema(""), Some(HOUR));
    assert!(phone.status()?.stale && phone.status()?.last_success_at.is_some());
    let mut events = phone.events();
    let sync = world.sync(&phone).start()?;
    expect(&mut events, "stale", stale);
    world.link.go_online();
    sync.retry_now();
    expect_caught_up(&mut events);
    assert!(!phone.status()?.stale);
    Ok(())
}

#[test]
fn g12_what_is_claimed_is_when_they_agreed_and_not_when_an_attempt_failed() -> Result<(), Error> {
    let world = World::new();
    let phone = world.open_with("phone.db", schema(""), Some(HOUR));
    let mut events = phone.events();
    let sync = world.sync(&phone).start()?;
    caught_up(&sync)?;
    // Live for three hours without a change; then the system says that there is no network.
    world.pass(3 * 3_600_000);
    let lost = world.clock.now();
    sync.set_conditions(Conditions { online: false, ..Conditions::default() });
    let status = until(&phone, "deferred", |status| status.deferred.is_some());
    let last = status.last_success_at.expect("they did agree");
    assert!((lost - 120_000..=lost).contains(&last) && !status.stale, "{last}");
    // Eight hours later there is one again, but the server does not answer.
    world.pass(8 * 3_600_000);
    world.link.go_offline();
    sync.set_conditions(Conditions::default());
    expect_offline(&mut events);
    let status = phone.status()?;
    assert_eq!((status.last_success_at, status.stale), (Some(last), true));
    drop((sync, events, phone));
    assert_eq!(world.open("phone.db").status()?.last_success_at, Some(last), "the file knows it");
    Ok(())
}

#[test]
fn g12_a_view_is_not_stale_at_once_when_a_long_session_ends() -> Result<(), Error> {
    let world = World::new();
    let phone = world.open_with("phone.db", schema(""), Some(HOUR));
    let mut events = phone.events();
    let sync = world.sync(&phone).start()?;
    expect_caught_up(&mut events);
    world.pass(3 * 3_600_000);
    // A push that gets no answer ends it as well as anything else.
    let lost = world.clock.now();
    world.server.set_silent(true);
    write(&phone, "one");
    until(&phone, "pushing", |status| status.phase == Phase::Syncing);
    assert!(!phone.status()?.stale);
    world.pass(3_600_001);
    let stale = |event: &Event| match event {
        Event::Stale { last_success_at } => Some(*last_success_at),
        _ => None,
    };
    let last = expect(&mut events, "stale", stale).expect("they did agree");
    assert!((lost - 120_000..=lost).contains(&last), "it was told too early, or of another time: {last}");
    drop(sync);
    let status = until(&phone, "the end", |status| status.phase == Phase::Idle);
    assert_eq!((status.last_success_at, status.stale), (Some(last), true));
    Ok(())
}

#[test]
fn clocks_that_are_far_apart_are_an_event_and_in_the_status() -> Result<(), Error> {
    let world = World::new();
    // The phone's own clock is an hour ahead.
    let phone_clock = anabranch::testing::Clock::at(NOW + 3_600_000);
    let phone = anabranch::Replica::at(world.path("phone.db"))
        .environment(phone_clock.environment())
        .open_or_create(schema(""))?;
    let mut events = phone.events();
    let sync = world.sync(&phone).start()?;
    let skew = expect(&mut events, "skew", |event| match event {
        Event::ClockSkew { ahead_millis } => Some(*ahead_millis),
        _ => None,
    });
    caught_up(&sync)?;
    assert_eq!((skew, phone.status()?.clock_skew_millis), (-3_600_000, Some(-3_600_000)));
    // Put right, and connected again.
    phone_clock.set(NOW);
    world.link.cut();
    expect(&mut events, "offline", |event| matches!(event, Event::Offline { .. }).then_some(()));
    sync.retry_now();
    expect_caught_up(&mut events);
    assert_eq!(phone.status()?.clock_skew_millis, None);
    Ok(())
}

#[test]
fn g09_what_a_server_refuses_or_holds_is_told_and_counted() -> Result<(), Error> {
    let world = World::new();
    let phone = world.open("phone.db");
    let mut events = phone.events();
    let folders = phone.space("home")?.untyped("folders")?;
    let folder = folders.create(json!({ "name": "closed" })).wait()?;
    let child = notes(&phone).create(json!({ "title": "inside", "folder": folder })).wait()?;
    let free = write(&phone, "free");
    world.server.refuse(|collection, _| (collection == "folders").then(|| Refusal::reject("the year is closed")));
    let _sync = world.sync(&phone).start()?;
    let rejected = expect(&mut events, "rejected", |event| match event {
        Event::Rejected { changes, message } => Some((*changes, message.clone())),
        _ => None,
    });
    assert_eq!(rejected, (1, "the year is closed".to_owned()));
    let status = until(&phone, "parked", |status| status.parked == 1 && status.held == 1);
    let refusal = status.first_refusal.expect("the first");
    assert_eq!((refusal.entity, refusal.space.as_str()), (folder, "home"));
    assert!(refusal.error.contains("the year is closed"));
    let entity = phone.space("home")?.get(child)?.expect("the child");
    assert_eq!((entity.pending, entity.can_purge), (1, false));
    // The schema may be there by now, too.
    let there = world.server.entities("home");
    assert!(there.contains(&free) && !there.contains(&folder) && !there.contains(&child), "{there:?}");
    Ok(())
}
