//! What the device is like.

use std::time::Duration;

use anabranch::{Budget, Conditions, Error, Event, Phase, Reason, Schedule, SyncReport, Trigger};

use crate::support::{Guard, World, caught_up, expect, expect_caught_up, until, until_live, write};

fn because(status: &anabranch::Status) -> Option<Reason> {
    status.deferred.map(|deferral| deferral.because)
}

#[test]
fn a_first_sync_waits_on_a_metered_connection_and_small_edits_pass_later() -> Result<(), Error> {
    let world = World::new();
    let phone = world.open("phone.db");
    write(&phone, "one");
    let metered = Conditions { metered: true, ..Conditions::default() };
    let sync = world.sync(&phone).schedule(Schedule::considerate()).conditions(metered).start()?;
    let status = until(&phone, "deferred", |status| because(status) == Some(Reason::Metered));
    assert!(status.phase == Phase::Deferred && world.link.connections() == 0);
    assert_eq!(status.waits_because(), Some("the connection is metered and there is much to transfer"));

    sync.set_conditions(Conditions::default());
    until(&phone, "starting", |status| because(status) == Some(Reason::Starting));
    world.pass(3_000);
    until_live(&phone);

    // Back on the metered connection: it is not kept open, but a small edit goes.
    sync.set_conditions(metered);
    until(&phone, "resting", |status| because(status) == Some(Reason::Resting));
    let mut events = phone.events();
    write(&phone, "two");
    until(&phone, "writing", |status| because(status) == Some(Reason::Writing));
    world.pass(1_000);
    expect_caught_up(&mut events);
    until(&phone, "resting", |status| status.pending == 0 && because(status) == Some(Reason::Resting));

    // A large one waits, until a person insists.
    for _ in 0..30 {
        write(&phone, &"large ".repeat(500));
    }
    until(&phone, "metered", |status| because(status) == Some(Reason::Metered));
    sync.retry_now();
    expect_caught_up(&mut events);
    assert!(world.agree(&phone));
    Ok(())
}

#[test]
fn in_the_background_the_connection_is_given_up_and_there_is_a_look_now_and_then() -> Result<(), Error> {
    let world = World::new();
    let (phone, laptop) = (world.open("phone.db"), world.open("laptop.db"));
    let sync = world.sync(&phone).start()?;
    until_live(&phone);
    sync.set_conditions(Conditions { background: true, ..Conditions::default() });
    let status = until(&phone, "resting", |status| because(status) == Some(Reason::Resting));
    assert!(!status.online && status.phase == Phase::Deferred);
    let next = status.deferred.and_then(|deferral| deferral.until).expect("a time") - world.clock.now();
    assert!((15 * 60_000..=30 * 60_000).contains(&next), "in {next} ms");

    write(&laptop, "by the laptop");
    let report: SyncReport = world.sync(&laptop).now(Duration::from_secs(10)).wait()?;
    assert!(report.finished && report.pending == 0);
    let mut events = phone.events();
    world.pass(next);
    expect_caught_up(&mut events);
    until(&phone, "resting again", |status| status.entities == 1 && because(status) == Some(Reason::Resting));

    // A push service pokes.
    write(&laptop, "once more");
    world.sync(&laptop).now(Duration::from_secs(10)).wait()?;
    sync.trigger(Trigger::Poke);
    expect_caught_up(&mut events);
    assert_eq!(phone.status()?.entities, 2);

    // Back in the foreground it is live again, at once.
    until(&phone, "resting", |status| because(status) == Some(Reason::Resting));
    sync.set_conditions(Conditions::default());
    until_live(&phone);
    Ok(())
}

#[test]
fn without_a_network_nothing_is_tried_and_with_it_everything_at_once() -> Result<(), Error> {
    let world = World::new();
    let phone = world.open("phone.db");
    let mut events = phone.events();
    let offline = Conditions { online: false, ..Conditions::default() };
    let sync = world.sync(&phone).conditions(offline).start()?;
    write(&phone, "one");
    until(&phone, "offline", |status| because(status) == Some(Reason::Offline));
    assert_eq!(world.link.connections(), 0);
    sync.set_conditions(Conditions::default());
    expect_caught_up(&mut events);
    until_live(&phone);
    // The system says that it is gone: so is the session, and that is no failure.
    sync.set_conditions(offline);
    let status = until(&phone, "offline", |status| because(status) == Some(Reason::Offline));
    assert_eq!((status.online, status.failures), (false, 0));
    Ok(())
}

#[test]
fn whoever_insists_is_not_sent_away_by_what_the_device_is_like() -> Result<(), Error> {
    let world = World::new();
    let phone = world.open("phone.db");
    let mut events = phone.events();
    let spent = Some(Budget { bytes: 0, until: world.clock.now() + 60_000 });
    let all = [
        Conditions { online: false, ..Conditions::default() },
        Conditions { metered: true, ..Conditions::default() },
        Conditions { background: true, budget: spent, ..Conditions::default() },
    ];
    write(&phone, &"large ".repeat(20_000));
    let sync = world.sync(&phone).conditions(all[0]).start()?;
    for conditions in all {
        sync.set_conditions(conditions);
        until(&phone, "it waits", |status| status.deferred.is_some());
        let connections = world.link.connections();
        sync.retry_now();
        expect_caught_up(&mut events);
        assert_eq!((phone.status()?.pending, world.link.connections()), (0, connections + 1), "{conditions:?}");
        // The next time there is something large again. That the device changes ends what was insisted on.
        sync.set_conditions(Conditions::default());
        sync.set_conditions(all[0]);
        until(&phone, "offline", |status| because(status) == Some(Reason::Offline));
        write(&phone, &"large ".repeat(20_000));
    }
    Ok(())
}

#[test]
fn a_budget_that_is_used_up_ends_the_session() -> Result<(), Error> {
    let world = World::new();
    let phone = world.open("phone.db");
    let mut events = phone.events();
    for n in 0..50 {
        write(&phone, &format!("{n} {}", "x".repeat(100)));
    }
    let budget = |bytes| Conditions {
        background: true,
        budget: Some(Budget { bytes, until: world.clock.now() + 30_000 }),
        ..Conditions::default()
    };
    let sync = world.sync(&phone).conditions(budget(1 << 20)).start()?;
    expect_caught_up(&mut events);
    until(&phone, "resting", |status| because(status) == Some(Reason::Resting));
    write(&phone, "more");
    expect_caught_up(&mut events);
    // Time is up.
    world.pass(30_000);
    write(&phone, "too late");
    let used_up = |event: &Event| matches!(event, Event::Deferred(d) if d.because == Reason::Budget).then_some(());
    expect(&mut events, "the budget", used_up);
    assert_eq!(phone.status()?.pending, 1);
    sync.set_conditions(budget(1 << 20));
    expect_caught_up(&mut events);
    assert!(world.agree(&phone));
    Ok(())
}

#[test]
fn a_considerate_start_is_deferred_and_writes_are_gathered() -> Result<(), Error> {
    let world = World::new();
    let phone = world.open("phone.db");
    let sync = world.sync(&phone).schedule(Schedule::considerate()).start()?;
    let status = until(&phone, "starting", |status| because(status) == Some(Reason::Starting));
    assert_eq!(status.deferred.and_then(|deferral| deferral.until), Some(world.clock.now() + 3_000));
    world.pass(3_000);
    caught_up(&sync)?;
    // Over an open connection, too.
    for n in 0..20 {
        write(&phone, &format!("{n}"));
    }
    assert_eq!(phone.status()?.pending, 20);
    // The clock stands still, so the pause is not over before it has been moved.
    let mut guard = Guard::new();
    while phone.status()?.pending > 0 {
        guard.check("a push");
        world.pass(1_000);
    }
    // Whoever waits for it does not have to wait for the pause.
    write(&phone, "now");
    caught_up(&sync)?;
    assert!(world.agree(&phone));
    Ok(())
}
