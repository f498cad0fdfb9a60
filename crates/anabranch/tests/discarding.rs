//! What a server refuses for good, and who has it besides its author.

mod support;

use anabranch::testing::{Clock, Refusal, Server};
use anabranch::{EntityId, Error, Replica};
use serde_json::json;
use support::{Folder, GUARD, main_space, notes};

/// A server that does not take changes of one entity, and replicas that exchange straight with each other.
struct World {
    folder: Folder,
    server: Server,
    id: EntityId,
}

impl World {
    fn new() -> Result<(Self, [Replica; 3]), Error> {
        let folder = Folder::new();
        let server = Server::new(&Clock::at(1_750_000_000_000));
        let replicas = ["a.db", "b.db", "c.db"].map(|file| folder.replica(file));
        let id = notes(&replicas[0]).create(json!({ "title": "one", "body": "milk" })).wait()?;
        let world = Self { folder, server, id };
        replicas.iter().try_for_each(|replica| world.sync(replica))?;
        world.server.refuse(move |_, entity| (entity == id).then(|| Refusal::reject("closed")));
        Ok((world, replicas))
    }

    fn sync(&self, replica: &Replica) -> Result<(), Error> {
        replica.sync("memory:").space("main")?.transport(self.server.link()).now(GUARD).wait().map(drop)
    }

    fn title(&self, replica: &Replica) -> serde_json::Value {
        notes(replica).get(self.id).expect("a read").expect("the note").state["title"].clone()
    }

    fn assert_equal(&self, replicas: &[&Replica]) -> Result<(), Error> {
        let home = main_space();
        for replica in replicas {
            assert_eq!(Some(replica.space_digest(&home)?), self.server.digest("main"), "{replica:?}");
            assert_eq!(replica.state_digest(&home)?, replicas[0].state_digest(&home)?);
            let status = replica.status()?;
            assert_eq!((status.pending, status.parked, status.quarantined, status.orphaned), (0, 0, 0, 0));
        }
        Ok(())
    }
}

#[test]
fn g07_what_its_author_gave_up_goes_everywhere_and_does_not_come_back() -> Result<(), Error> {
    let (world, [a, b, c]) = World::new()?;
    let id = world.id;
    notes(&a).edit(id, |note| note.set("title", "poison")).wait()?;
    a.exchange(&b)?;
    b.exchange(&c)?;
    assert_eq!(world.title(&c), "poison");
    world.sync(&a)?;
    notes(&a).space().discard(id, None).wait()?;
    assert_eq!(world.title(&a), "one");
    // The others have it, and offer it: the server says no to them as well.
    for other in [&b, &c] {
        world.sync(other)?;
        assert_eq!((other.status()?.parked, world.title(other)), (1, json!("poison")));
    }
    // They hear what has become of it from whoever knows, whichever side leads.
    b.exchange(&a)?;
    assert_eq!((world.title(&a), world.title(&b)), (json!("one"), json!("one")));
    b.exchange(&c)?;
    assert_eq!(world.title(&c), "one");
    world.server.accept_all();
    for replica in [&a, &b, &c] {
        world.sync(replica)?;
    }
    world.assert_equal(&[&a, &b, &c])?;
    assert_eq!(a.exchange(&c)?, anabranch::Exchanged::default());
    // Their edits are like any others from here on.
    for (replica, title) in [(&a, "two"), (&b, "three"), (&c, "four")] {
        notes(replica).edit(id, move |note| note.set("title", title)).wait()?;
        world.sync(replica)?;
        a.exchange(&b)?;
        b.exchange(&c)?;
    }
    for _ in 0..2 {
        [&a, &b, &c].into_iter().try_for_each(|replica| world.sync(replica))?;
    }
    world.assert_equal(&[&a, &b, &c])
}

/// Its author goes on writing after that, and those who have it build on it.
#[test]
fn g07_what_was_built_on_a_discarded_change_stays() -> Result<(), Error> {
    let (world, [a, b, c]) = World::new()?;
    let id = world.id;
    notes(&a).edit(id, |note| note.set("title", "poison")).wait()?;
    a.exchange(&b)?;
    notes(&b).edit(id, |note| note.splice("body", 4, 0, ", eggs")).wait()?;
    b.exchange(&c)?;
    world.sync(&a)?;
    notes(&a).space().discard(id, None).wait()?;
    // In the place that the discarded change had, there would now be another.
    notes(&a).edit(id, |note| note.splice("body", 0, 0, "oat ")).wait()?;
    world.sync(&b)?;
    world.sync(&c)?;
    world.server.refuse(|_, _| None);
    world.sync(&a)?;
    for _ in 0..2 {
        c.exchange(&b)?;
        b.exchange(&a)?;
        [&a, &b, &c].into_iter().try_for_each(|replica| world.sync(replica))?;
    }
    world.assert_equal(&[&a, &b, &c])?;
    let note = notes(&c).get(id)?.expect("the note");
    assert_eq!((&note.state["title"], &note.state["body"]), (&json!("one"), &json!("oat milk, eggs")));
    Ok(())
}

/// A peer's word is not enough: it must not cost anybody what is his own, or what a server might still take.
#[test]
fn g07_only_what_the_server_has_refused_here_too_goes() -> Result<(), Error> {
    let (world, [a, b, c]) = World::new()?;
    let id = world.id;
    notes(&b).edit(id, |note| note.set("title", "b's own")).wait()?;
    a.exchange(&b)?;
    a.exchange(&c)?;
    world.sync(&a)?;
    notes(&a).space().discard(id, None).wait()?;
    world.sync(&b)?;
    // b has been refused, but wrote it; c has not been refused.
    a.exchange(&b)?;
    a.exchange(&c)?;
    assert_eq!([&a, &b, &c].map(|replica| world.title(replica)), ["one", "b's own", "b's own"].map(|it| json!(it)));
    assert_eq!((b.refused(10)?.len(), c.status()?.parked), (1, 0));
    // And if the server takes it after all, it is back.
    world.server.accept_all();
    world.sync(&c)?;
    for _ in 0..2 {
        [&a, &b, &c].into_iter().try_for_each(|replica| world.sync(replica))?;
    }
    b.resend(anabranch::Resend::All).wait()?;
    [&a, &b, &c].into_iter().try_for_each(|replica| world.sync(replica))?;
    assert_eq!(world.title(&a), "b's own");
    world.assert_equal(&[&a, &b, &c])?;
    assert!(world.folder.path("a.db").exists());
    Ok(())
}
