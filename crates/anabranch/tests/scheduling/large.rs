//! Many pending changes, and a server that is away.

use anabranch::{Error, Phase, Reason};
use serde_json::json;

use crate::support::{World, expect_offline, notes, until, until_live};

/// `ANABRANCH_PENDING=20000` is the size that the project promises; the default keeps the tests quick.
fn pending() -> u64 {
    std::env::var("ANABRANCH_PENDING").ok().and_then(|count| count.parse().ok()).unwrap_or(3_000)
}

#[test]
fn g07_many_pending_changes_survive_a_restart_and_drain_in_order_without_duplicates() -> Result<(), Error> {
    let world = World::new();
    let (count, phone) = (pending(), world.open("phone.db"));
    let mut ids = Vec::new();
    let commits: Vec<_> = (0..count).map(|n| notes(&phone).create(json!({ "title": n }))).collect();
    for commit in commits {
        ids.push(commit.wait()?);
    }
    let mut events = phone.events();
    world.link.go_offline();
    let sync = world.sync(&phone).start()?;
    let mut retry_at = 0;
    for _ in 0..5 {
        world.clock.set(retry_at.max(world.clock.now()));
        retry_at = expect_offline(&mut events).1;
    }
    drop((sync, events, phone));

    let phone = world.open("phone.db");
    let status = phone.status()?;
    assert_eq!((status.pending, status.failures, status.next_retry_at), (count, 5, Some(retry_at)));
    assert!(status.pending_bytes > 0 && status.oldest_pending_at.is_some());
    let _sync = world.sync(&phone).start()?;
    let waiting = until(&phone, "waiting", |status| status.phase == Phase::Waiting);
    assert_eq!(waiting.deferred.map(|deferral| deferral.because), Some(Reason::Backoff));
    world.link.go_online();
    world.clock.set(retry_at);
    until_live(&phone);
    // In the order in which they were written, each once, and the schema.
    let arrived = world.server.entities("home");
    assert_eq!(arrived[..ids.len()], ids[..]);
    assert_eq!(world.server.changes("home"), count + 1);
    assert!(world.agree(&phone));
    Ok(())
}
