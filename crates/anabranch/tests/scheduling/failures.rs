//! Attempts that fail: what is remembered, how long it waits, who may hurry it.

use std::time::Duration;

use anabranch::{Error, ErrorClass, ErrorKind, Event, Events, Phase, Reason, Replica, SyncHandle, Trigger};

use crate::support::{
    Guard, NOW, World, caught_up, expect, expect_caught_up, expect_offline, until, until_live, write,
};

/// A replica with something to send, and its sync, which finds no network.
fn cut_off() -> Result<(World, Replica, Events, SyncHandle), Error> {
    let world = World::new();
    let phone = world.open("phone.db");
    let events = phone.events();
    write(&phone, "one");
    world.link.go_offline();
    let sync = world.sync(&phone).start()?;
    Ok((world, phone, events, sync))
}

#[test]
fn g07_a_failed_attempt_is_repeated_when_its_time_has_come() -> Result<(), Error> {
    let (world, phone, mut events, _sync) = cut_off()?;
    let mut longest = 0;
    for attempt in 1..=6 {
        let (failures, retry_at) = expect_offline(&mut events);
        assert_eq!(failures, attempt);
        let wait = retry_at - world.clock.now();
        assert!((0..=1_000 << (attempt - 1)).contains(&wait), "attempt {attempt} waits {wait} ms");
        longest = wait.max(longest);
        let status = until(&phone, "waiting", |status| status.phase == Phase::Waiting);
        assert_eq!((status.next_retry_at, status.failures, status.pending), (Some(retry_at), attempt, 1));
        assert_eq!(status.last_error.as_deref(), Some("there is no network"));
        if attempt == 6 {
            world.link.go_online();
        }
        world.clock.set(retry_at);
    }
    assert!(longest > 1_000, "waits grow");
    expect_caught_up(&mut events);
    let status = until_live(&phone);
    assert_eq!((status.failures, status.last_error, status.next_retry_at), (0, None, None));
    assert!(world.agree(&phone));
    Ok(())
}

#[test]
fn g09_a_restart_forgets_neither_failures_nor_the_wait() -> Result<(), Error> {
    let (world, phone, mut events, sync) = cut_off()?;
    let mut retry_at = 0;
    for _ in 0..7 {
        world.clock.set(retry_at.max(world.clock.now()));
        retry_at = expect_offline(&mut events).1;
    }
    drop((sync, events, phone));

    world.link.go_online();
    let (attempts, phone) = (world.link.connections(), world.open("phone.db"));
    let mut events = phone.events();
    let status = phone.status()?;
    assert_eq!((status.failures, status.next_retry_at, status.pending), (7, Some(retry_at), 1));
    assert_eq!((status.error_class, status.phase), (Some(ErrorClass::Transient), Phase::Idle));
    let _sync = world.sync(&phone).start()?;
    let status = until(&phone, "waiting", |status| status.phase == Phase::Waiting);
    let deferral = status.deferred.expect("a reason");
    assert_eq!((deferral.because, deferral.until), (Reason::Backoff, Some(retry_at)));
    assert_eq!(status.waits_because(), Some("the last attempt failed"));
    assert_eq!(world.link.connections(), attempts, "the wait is not over");
    world.clock.set(retry_at);
    expect_caught_up(&mut events);
    assert!(world.agree(&phone));
    Ok(())
}

#[test]
fn a_network_that_is_back_is_used_at_once_and_so_is_a_person_s_wish() -> Result<(), Error> {
    let (world, phone, mut events, sync) = cut_off()?;
    expect_offline(&mut events);
    sync.retry_now();
    assert_eq!(expect_offline(&mut events).0, 2);
    world.link.go_online();
    sync.network_regained();
    expect_caught_up(&mut events);
    assert!(world.agree(&phone));
    Ok(())
}

#[test]
fn a_server_that_asks_to_be_left_alone_is_left_alone_even_by_a_person_and_after_a_restart() -> Result<(), Error> {
    let world = World::new();
    let phone = world.open("phone.db");
    let mut events = phone.events();
    write(&phone, "one");
    world.server.answer_connections(429, Some(Duration::from_secs(600)), 1);
    let sync = world.sync(&phone).start()?;
    let (_, retry_at) = expect_offline(&mut events);
    assert!(retry_at >= world.clock.now() + 600_000, "Retry-After is a floor");
    for trigger in Trigger::ALL {
        sync.trigger(trigger);
    }
    let busy = |status: &anabranch::Status| status.deferred.is_some_and(|d| d.because == Reason::ServerAsked);
    until(&phone, "the server asked", busy);
    let once = world.sync(&phone).now(Duration::from_secs(10)).wait();
    drop(sync);
    until(&phone, "the end", |status| status.phase == Phase::Idle);
    drop((events, phone));
    assert_eq!(once.expect_err("another sync of the same replica and server").kind(), ErrorKind::Retry);

    let phone = world.open("phone.db");
    let mut events = phone.events();
    let once = world.sync(&phone).now(Duration::from_secs(10)).wait().expect_err("not yet");
    assert_eq!((once.kind(), world.link.connections()), (ErrorKind::Retry, 1));
    assert!(once.to_string().contains("asked to be tried again later"), "{once}");
    let _sync = world.sync(&phone).start()?;
    until(&phone, "the server asked", busy);
    assert_eq!(world.link.connections(), 1);
    world.pass(600_000);
    expect_caught_up(&mut events);
    Ok(())
}

#[test]
fn the_circuit_opens_after_many_failures_and_then_there_are_probes() -> Result<(), Error> {
    let world = World::new();
    let phone = world.open("phone.db");
    let mut events = phone.events();
    write(&phone, "one");
    world.server.answer_connections(503, None, 12);
    let _sync = world.sync(&phone).start()?;
    for attempt in 1..=12 {
        let (failures, retry_at) = expect_offline(&mut events);
        assert_eq!(failures, attempt);
        if attempt == 10 {
            let opened = |event: &Event| matches!(event, Event::CircuitOpened { failures: 10 }).then_some(());
            expect(&mut events, "the circuit opens", opened);
            let status = until(&phone, "an open circuit", |status| status.deferred.is_some());
            assert_eq!(status.deferred.map(|deferral| deferral.because), Some(Reason::CircuitOpen));
            assert!(status.circuit_open);
        }
        let wait = retry_at - world.clock.now();
        assert!(attempt <= 10 || (150_000..=300_000).contains(&wait), "a probe after {wait} ms");
        world.clock.set(retry_at);
    }
    expect(&mut events, "the circuit closes", |event| (*event == Event::CircuitClosed).then_some(()));
    assert!(!until_live(&phone).circuit_open);
    Ok(())
}

#[test]
fn the_watchdog_begins_a_fresh_session_when_nothing_moves() -> Result<(), Error> {
    let world = World::new();
    let phone = world.open("phone.db");
    let mut events = phone.events();
    let sync = world.sync(&phone).start()?;
    caught_up(&sync)?;
    // The server takes what is pushed, and never answers.
    world.server.set_silent(true);
    let sent = world.link.frames();
    write(&phone, "one");
    until(&phone, "pushing", |status| status.phase == Phase::Syncing);
    assert!(world.link.frames() >= sent);
    let mut barks = Vec::new();
    let mut guard = Guard::new();
    while barks.len() < 3 {
        guard.check("the watchdog barks");
        world.pass(30_000);
        let told = std::iter::from_fn(|| events.try_next()).filter(|event| *event == Event::Stuck).count();
        barks.extend(std::iter::repeat_n(world.clock.now(), told));
    }
    // A server that says nothing at all may just be slow: it gets more time each time.
    // Each is seen here a little after it happened, so only the sum is certain.
    for (bark, minutes) in barks.iter().zip([2, 2 + 4, 2 + 4 + 8]) {
        assert!(bark - NOW >= minutes * 60_000, "{barks:?}");
    }
    world.server.set_silent(false);
    // Whether the fresh session was begun before or after that, the next one gets an answer.
    while phone.status()?.phase != Phase::Live {
        guard.check("an answer");
        world.pass(30_000);
    }
    assert!(world.agree(&phone));
    assert_eq!(until_live(&phone).pending, 0);
    Ok(())
}

#[test]
fn what_is_too_large_on_the_way_is_sent_in_smaller_pieces_and_set_aside_if_it_is_one_piece() -> Result<(), Error> {
    let world = World::new();
    let phone = world.open("phone.db");
    let mut events = phone.events();
    for n in 0..40 {
        write(&phone, &format!("note {n}"));
    }
    let large: String = (0..4_000_u32).map(|n| char::from_u32(0x4e00 + n * 7 % 20_000).unwrap_or('x')).collect();
    let stuck = write(&phone, &large);
    world.link.set_frame_limit(3_000);
    let _sync = world.sync(&phone).start()?;
    let (changes, message) = expect(&mut events, "smaller pieces", |event| match event {
        Event::Rejected { changes, message } => Some((*changes, message.clone())),
        Event::Offline { .. } => panic!("it is no failure: {event:?}"),
        _ => None,
    });
    assert_eq!((changes, message.as_str()), (1, "what was sent is too large"));
    expect_caught_up(&mut events);
    let status = phone.status()?;
    assert_eq!((status.pending, status.parked), (1, 1));
    let refusal = status.first_refusal.expect("the server's words");
    assert_eq!((refusal.entity, refusal.collection.as_str()), (stuck, "notes"));
    assert_eq!(world.server.entities("home").len(), 40 + 1, "all others, and the schema");
    Ok(())
}

#[test]
fn a_person_need_not_wait_for_a_file_whose_clock_was_put_right() -> Result<(), Error> {
    let world = World::new();
    let phone = world.open("phone.db");
    let mut events = phone.events();
    let sync = world.sync(&phone).start()?;
    expect_caught_up(&mut events);
    let other = rusqlite::Connection::open(world.path("phone.db")).expect("the file");
    let trigger = "CREATE TRIGGER broken BEFORE UPDATE ON sync_state BEGIN SELECT raise(ABORT, 'no room'); END";
    other.execute_batch(trigger).expect("a trigger");
    write(&phone, "one");
    until(&phone, "trouble", |status| status.last_error.is_some() && status.phase == Phase::Waiting);
    other.execute_batch("DROP TRIGGER broken").expect("no trigger");
    // The clock was two hours ahead.
    world.clock.set(NOW - 7_200_000);
    sync.retry_now();
    expect_caught_up(&mut events);
    assert!(world.agree(&phone));
    Ok(())
}

#[test]
fn a_bounded_run_gets_through_a_limit_that_nobody_announced() -> Result<(), Error> {
    let world = World::new();
    let phone = world.open("phone.db");
    let notes = crate::support::notes(&phone);
    (0..199).for_each(|n| drop(notes.create(serde_json::json!({ "title": n }))));
    write(&phone, "the last one");
    world.link.set_frame_limit(3_000);
    let report = world.sync(&phone).now(Duration::from_secs(30)).wait()?;
    assert!(report.finished && report.pending == 0, "{report:?}");
    assert!(world.link.connections() > 1, "nothing was too large");
    assert!(world.agree(&phone) && phone.status()?.failures == 0);
    Ok(())
}

#[test]
fn a_file_that_cannot_be_written_is_tried_again_and_again() -> Result<(), Error> {
    let world = World::new();
    let phone = world.open("phone.db");
    let mut events = phone.events();
    let sync = world.sync(&phone).start()?;
    caught_up(&sync)?;
    // Whatever the reason is: full, read-only, or broken.
    let other = rusqlite::Connection::open(world.path("phone.db")).expect("the file");
    let trigger = "CREATE TRIGGER broken BEFORE UPDATE ON sync_state BEGIN SELECT raise(ABORT, 'no room'); END";
    other.execute_batch(trigger).expect("a trigger");
    write(&phone, "one");
    for _ in 0..3 {
        let status = until(&phone, "trouble", |status| status.last_error.is_some() && status.phase == Phase::Waiting);
        assert!(status.last_error.is_some_and(|error| error.contains("no room")));
        world.pass(300_000);
    }
    other.execute_batch("DROP TRIGGER broken").expect("no trigger");
    world.pass(300_000);
    expect_caught_up(&mut events);
    until_live(&phone);
    assert!(world.agree(&phone));
    Ok(())
}
