//! Parents that a server refuses, and their children.

use anabranch::testing::Refusal;
use anabranch::{EntityId, Error, OutboxState, Replica, Resend, SyncHandle};
use serde_json::json;

use crate::support::{World, caught_up, notes, until, write};

struct Family {
    world: World,
    phone: Replica,
    sync: SyncHandle,
    folder: EntityId,
    child: EntityId,
    free: EntityId,
}

/// A folder that the server refuses, a note in it, and one outside. The sync is live all the time.
fn family() -> Result<Family, Error> {
    let world = World::new();
    world.server.refuse(|collection, _| (collection == "folders").then(|| Refusal::reject("the year is closed")));
    let phone = world.open("phone.db");
    let folder = phone.space("home")?.untyped("folders")?.create(json!({ "name": "closed" })).wait()?;
    let child = notes(&phone).create(json!({ "title": "inside", "folder": folder })).wait()?;
    let free = write(&phone, "free");
    let sync = world.sync(&phone).start()?;
    until(&phone, "parked", |status| status.parked == 1 && status.held == 1);
    // The schema may be on its way.
    let of_ours = |entry: &anabranch::OutboxEntry| entry.collection.as_str() != "$schema";
    let states: Vec<_> =
        phone.outbox(10)?.into_iter().filter(of_ours).map(|entry| (entry.entity, entry.state)).collect();
    assert!(matches!(&states[0], (id, OutboxState::Refused { .. }) if *id == folder), "{states:?}");
    assert_eq!(states[1..], [(child, OutboxState::Held { parent: folder })]);
    assert_eq!(world.server.entities("home")[0], free);
    Ok(Family { world, phone, sync, folder, child, free })
}

#[test]
fn g06_children_of_a_refused_parent_go_after_it_once_it_is_accepted() -> Result<(), Error> {
    let Family { world, phone, sync, folder, child, free } = family()?;
    world.server.accept_all();
    assert_eq!(phone.resend(Resend::Entity(phone.space("home")?.name().clone(), folder)).wait()?, 1);
    caught_up(&sync)?;
    let ours = |world: &World| {
        world.server.entities("home").into_iter().filter(|id| [free, folder, child].contains(id)).collect::<Vec<_>>()
    };
    assert_eq!(ours(&world), [free, folder, child]);
    assert!(world.agree(&phone));
    let status = phone.status()?;
    assert_eq!((status.parked, status.held, status.pending), (0, 0, 0));
    Ok(())
}

#[test]
fn g06_children_of_a_discarded_parent_go_and_name_a_parent_that_is_nowhere() -> Result<(), Error> {
    let Family { world, phone, sync, folder, child, free } = family()?;
    let done = phone.space("home")?.discard(folder, None).wait()?;
    assert_eq!((done.discarded, done.rewritten, done.left_alone), (1, 0, 1), "{done:?}");
    caught_up(&sync)?;
    let ours: Vec<_> =
        world.server.entities("home").into_iter().filter(|id| [free, folder, child].contains(id)).collect();
    assert_eq!(ours, [free, child]);
    assert_eq!(phone.status()?.held, 0);
    let laptop = world.open("laptop.db");
    let second = world.sync(&laptop).start()?;
    caught_up(&second)?;
    for replica in [&phone, &laptop] {
        let record = notes(replica).get(child)?.expect("the child");
        assert_eq!(record.state["folder"], json!(folder.to_string()));
        assert!(replica.space("home")?.get(folder)?.is_none());
        assert!(world.agree(replica));
    }
    // It is an entity like any other: it can be put elsewhere, by anybody.
    world.server.accept_all();
    let shelf = laptop.space("home")?.untyped("folders")?.create(json!({ "name": "open" })).wait()?;
    notes(&laptop).edit(child, |note| note.set("folder", shelf.to_string())).wait()?;
    caught_up(&second)?;
    let moved =
        || notes(&phone).get(child).expect("a read").is_some_and(|it| it.state["folder"] == json!(shelf.to_string()));
    until(&phone, "the shelf", |_| moved());
    Ok(())
}

/// What a server puts off is tried again at a time of the replica's clock, and shown so.
#[test]
fn g09_the_outbox_goes_by_the_replicas_clock() -> Result<(), Error> {
    let world = World::new();
    let phone = world.open("phone.db");
    write(&phone, "later");
    world.server.refuse(|collection, _| (collection == "notes").then(|| Refusal::not_now("come back")));
    let _sync = world.sync(&phone).start()?;
    until(&phone, "put off", |_| {
        phone.outbox(10).is_ok_and(|entries| matches!(entries[0].state, OutboxState::Deferred { .. }))
    });
    world.link.go_offline();
    let OutboxState::Deferred { until: due, reason } = &phone.outbox(10)?[0].state else {
        panic!("it was not put off")
    };
    assert_eq!(reason, "come back");
    assert!(*due > world.clock.now());
    world.clock.set(*due - 1);
    assert!(matches!(phone.outbox(10)?[0].state, OutboxState::Deferred { .. }));
    world.clock.set(*due);
    assert_eq!(phone.outbox(10)?[0].state, OutboxState::Pending);
    Ok(())
}
