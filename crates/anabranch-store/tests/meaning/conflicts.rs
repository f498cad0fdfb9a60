//! Conflicts as rows of every replica, without any server logic, and what settles them.

use anabranch_core::document::{Choice, Edit, Path, Step};
use anabranch_core::{EntityId, Schema};
use anabranch_store::{ConflictKind, StoreError};
use serde_json::json;

use super::fleet::{Fleet, Outcome, Replica, field, meet, schema, set};

fn notes() -> Schema {
    schema(
        r#"
        [collections.notes.fields]
        title = { kind = "register" }
        due = { kind = "register", policy = "manual" }
        facts = { kind = "map", policy = "manual" }
        tags = { kind = "set" }
        size = { kind = "register", policy = { custom = "longest", version = 1 } }
        "#,
    )
}

/// Three replicas that have written different values of one field, and have met.
fn contested(fleet: &Fleet) -> Result<([Replica; 3], EntityId), StoreError> {
    let replicas = fleet.replicas::<3>(&notes());
    let id = replicas[0].create("notes", json!({ "title": "x" }))?;
    meet(&[&replicas[0], &replicas[1], &replicas[2]])?;
    for (replica, day) in replicas.iter().zip(["mon", "tue", "wed"]) {
        replica.set(id, "due", json!(day))?;
    }
    meet(&[&replicas[2], &replicas[0], &replicas[1]])?;
    Ok((replicas, id))
}

#[test]
fn g08_the_same_item_is_in_the_queue_of_every_replica() -> Outcome {
    let fleet = Fleet::new();
    let ([a, b, c], id) = contested(&fleet)?;
    let queue = a.queue();
    assert_eq!((queue.len(), queue[0].kind, queue[0].open), (1, ConflictKind::Values, true));
    assert_eq!((queue[0].entity, queue[0].field.as_str(), queue[0].reason.as_str()), (id, "due", "manual"));
    let values: Vec<_> = queue[0].contenders.iter().map(|one| one.value.clone()).collect();
    assert_eq!(values.len(), 3);
    assert_eq!(values[0], queue[0].value);
    assert_eq!(queue[0].value, a.get(id, "due"), "what is shown for the time being");
    for replica in [&b, &c] {
        assert_eq!(serde_json::to_string(&replica.queue()).ok(), serde_json::to_string(&queue).ok());
        assert_eq!((replica.record(id).conflicts, replica.record(id).open_conflicts), (1, 1));
    }
    // Who wrote which is known everywhere.
    for (replica, day) in [(&a, "mon"), (&b, "tue"), (&c, "wed")] {
        let own = queue[0].contenders.iter().find(|one| one.actor.is_of(&replica.store.replica()));
        assert_eq!(own.map(|one| one.value.clone()), Some(json!(day)));
    }
    // It survives a restart: it is a row, and follows from the document.
    let before = c.shown();
    drop(c);
    assert_eq!(fleet.open("2.db", &notes()).shown(), before);
    Ok(())
}

#[test]
fn g08_two_who_resolve_apart_end_with_one_outcome_and_no_item() -> Outcome {
    let fleet = Fleet::new();
    let ([a, b, c], id) = contested(&fleet)?;
    let item = a.queue()[0].clone();
    a.resolve(id, item.id, Choice::This(1))?;
    assert!(a.queue().is_empty());
    assert!(matches!(a.resolve(id, item.id, Choice::This(1)), Err(StoreError::ConflictChanged(_))));
    assert_eq!(b.queue(), std::slice::from_ref(&item), "not told yet");
    b.resolve(id, item.id, Choice::Value(json!("next week")))?;
    meet(&[&a, &b, &c])?;
    for replica in [&a, &b, &c] {
        assert!(replica.queue().is_empty(), "no item is left");
        let [race] = <[_; 1]>::try_from(replica.conflicts(id)).expect("both attempts are still readable");
        assert!(!race.open && race.contenders.iter().all(|one| one.resolution) && race.contenders.len() == 2);
        assert_eq!(race.value, replica.get(id, "due"));
        let attempts: Vec<_> = race.contenders.iter().map(|one| one.value.clone()).collect();
        assert!(attempts.contains(&json!("next week")) && attempts.contains(&item.contenders[1].value));
        // And both are in the log, by the changes that the item names.
        let log = replica.store.read(|read| read.log(&super::fleet::space(), Some(id)))?;
        let logged = |hash: &str| log.iter().any(|entry| entry.hash == hash);
        assert!(race.contenders.iter().all(|one| logged(&one.change.to_string())));
    }
    Ok(())
}

#[test]
fn a_plain_write_beside_a_resolution_opens_a_new_item() -> Outcome {
    let fleet = Fleet::new();
    let ([a, b, c], id) = contested(&fleet)?;
    let item = a.queue()[0].clone();
    a.resolve(id, item.id, Choice::This(0))?;
    c.set(id, "due", json!("never"))?;
    assert!(c.queue().is_empty(), "whoever writes with all in view has settled it");
    meet(&[&b, &c, &a])?;
    let again = b.queue();
    assert_eq!(again.len(), 1);
    assert_ne!(again[0].id, item.id);
    let refused = b.resolve(id, item.id, Choice::This(0));
    assert!(matches!(refused, Err(StoreError::ConflictChanged(_))), "not the one that was looked at");
    b.resolve(id, again[0].id, Choice::This(1))?;
    meet(&[&a, &b, &c])?;
    assert!(a.conflicts(id).is_empty());
    Ok(())
}

#[test]
fn what_a_policy_settles_is_listed_and_waits_for_nobody() -> Outcome {
    let fleet = Fleet::new();
    let [a, b] = fleet.replicas(&notes());
    let id = a.create("notes", json!({ "facts": { "who": { "name": "?" } } }))?;
    meet(&[&a, &b])?;
    let put =
        |value| Edit::Put { field: field("facts"), path: Path(vec![Step::from("who"), Step::from("name")]), value };
    a.edit(id, vec![set("title", json!("a")), set("size", json!("wider")), put(json!("ada"))])?;
    b.edit(id, vec![set("title", json!("b")), set("size", json!("wide")), put(json!("bob"))])?;
    meet(&[&a, &b])?;
    let found: Vec<_> = a.conflicts(id).iter().map(|one| (one.field.clone(), one.reason.clone(), one.open)).collect();
    let expected = [("facts.who.name", "manual", true), ("size", "custom longest@1", false), ("title", "lww", false)];
    assert_eq!(found, expected.map(|(field, reason, open)| (field.to_owned(), reason.to_owned(), open)));
    assert_eq!(a.get(id, "size"), json!("wider"));
    assert_eq!((a.record(id).conflicts, a.record(id).open_conflicts), (3, 1));
    // Any of them can be settled, and a deleted entity asks nobody anything.
    let title = a.conflicts(id)[2].id;
    a.resolve(id, title, Choice::This(1))?;
    meet(&[&a, &b])?;
    assert_eq!(b.conflicts(id).len(), 2);
    b.delete(id)?;
    meet(&[&a, &b])?;
    assert!(a.queue().is_empty() && a.conflicts(id).is_empty());
    assert!(matches!(a.resolve(id, title, Choice::This(0)), Err(StoreError::Deleted(_))));
    b.restore(id)?;
    meet(&[&a, &b])?;
    assert_eq!(a.queue().len(), 1);
    Ok(())
}

/// Automerge would turn the first two into nothing, and keep the old stamp for the last.
#[test]
fn writes_that_seem_to_change_nothing_do_what_people_expect() -> Outcome {
    let fleet = Fleet::new();
    let [a, b, c] = fleet.replicas(&notes());
    let id = a.create("notes", json!({ "title": "x", "tags": ["t", "u"] }))?;
    meet(&[&a, &b, &c])?;
    // A member added again outlives a concurrent removal.
    let member = |member| (field("tags"), json!(member));
    let (tags, t) = member("t");
    assert!(a.edit(id, vec![Edit::Add { field: tags.clone(), member: t.clone() }])?);
    b.edit(
        id,
        vec![Edit::Remove { field: tags.clone(), member: t }, Edit::Remove { field: tags, member: json!("u") }],
    )?;
    meet(&[&a, &b, &c])?;
    assert_eq!(c.get(id, "tags"), json!(["t"]));
    // Writing what wins already settles the conflict, and counts as the later write.
    a.set(id, "title", json!("a"))?;
    b.set(id, "title", json!("b"))?;
    meet(&[&a, &b, &c])?;
    let winner = a.get(id, "title");
    c.set_clock(super::fleet::NOW + 60_000);
    assert!(c.set(id, "title", winner.clone())?);
    assert!(c.conflicts(id).is_empty());
    a.set(id, "title", json!("beside"))?;
    meet(&[&a, &b, &c])?;
    assert_eq!(b.get(id, "title"), winner);
    let stamps: Vec<_> = b.conflicts(id)[0].contenders.iter().map(|one| one.written_at).collect();
    assert!(stamps[0] == super::fleet::NOW + 60_000 && stamps[1] < stamps[0]);
    // A value that is there, uncontested, is no write.
    let due = json!("mon");
    assert!(b.set(id, "due", due.clone())?);
    assert!(!b.set(id, "due", due)?);
    Ok(())
}

#[test]
fn a_replica_a_century_ahead_cannot_keep_a_field() -> Outcome {
    let fleet = Fleet::new();
    let [a, b, c] = fleet.replicas(&notes());
    let id = a.create("notes", json!({ "title": "x" }))?;
    meet(&[&a, &b, &c])?;
    a.set_clock(super::fleet::NOW + 100 * 365 * 86_400_000);
    a.set(id, "title", json!("for ever"))?;
    c.set(id, "title", json!("beside"))?;
    meet(&[&a, &b, &c])?;
    assert_eq!(
        c.get(id, "title"),
        json!("for ever"),
        "among writes that knew nothing of each other, the clock decides"
    );
    b.set(id, "title", json!("seen"))?;
    meet(&[&a, &b, &c])?;
    assert_eq!((a.get(id, "title"), a.conflicts(id).len()), (json!("seen"), 0));
    // Nor has the lie spoilt anybody else's clock.
    let fresh = b.create("notes", json!({}))?;
    assert!(b.record(fresh).created_at < super::fleet::NOW + 60_000);
    Ok(())
}
