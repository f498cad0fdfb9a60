//! Refused changes: seen, resent, discarded.

use std::collections::BTreeSet;

use anabranch_core::document::{Document, Edit};
use anabranch_core::sync::reconcile::Theirs;
use anabranch_core::sync::{OutboxRead, WriteBatch};
use anabranch_core::wire::{Answer, Envelope};
use anabranch_core::{Actor, Change, Heads, Stamp};
use anabranch_store::{Discarded, OutboxState, Resend, StoreError};
use serde_json::json;

use crate::device::{Device, NOW, Outcome, device, field, schema, space, stars};
use crate::server::{LINEAGE, Server, holding};

/// At full size, 10,000 changes over 2,000 entities, by hand: see the decisions.
#[test]
fn g07_one_poison_change_keeps_nothing_else_and_after_its_discard_replica_and_server_are_equal() -> Outcome {
    let number =
        |name: &str, default: usize| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (entities, rounds) = (number("ANABRANCH_ENTITIES", 100), number("ANABRANCH_ROUNDS", 5));
    let (_folder, a) = device("a.db", 1);
    let mut server = Server::default();
    let ids = (0..entities).map(|n| a.create(json!({ "title": n, "stars": 0 }))).collect::<Result<Vec<_>, _>>()?;
    let poisoned = ids[entities / 2];
    for round in 1..rounds {
        for id in &ids {
            let title = if *id == poisoned && round == 2 { "poison".to_owned() } else { format!("round {round}") };
            let title = Edit::Set { field: field("title"), value: json!(title) };
            a.edit(*id, vec![title, stars(1)])?;
        }
    }
    server.push_but(&a, holding("poison"))?;
    let waiting: BTreeSet<_> = a.outbox()?.iter().map(|entry| entry.entity).collect();
    assert_eq!(waiting, [poisoned].into(), "everything else has arrived");
    let refused = a.refused()?;
    let [entry] = &refused[..] else { panic!("one change was refused: {refused:?}") };
    let OutboxState::Refused { code, reason, at } = &entry.state else { panic!("it was not refused") };
    assert_eq!((code.as_deref(), reason.as_str(), at.is_some()), (Some("Forbidden"), "not on my watch", true));
    let states: Vec<_> =
        a.outbox()?.into_iter().map(|entry| entry.state).filter(|s| *s == OutboxState::Behind).collect();
    assert_eq!(states.len(), rounds.saturating_sub(3), "its entity's later changes wait behind it");

    // Asked again, the server says the same.
    assert_eq!(a.store.write(|write| write.resend(&Resend::All)).wait()?, 1);
    server.push_but(&a, holding("poison"))?;
    assert_eq!(a.refused()?.len(), 1);

    let change = entry.change;
    let done = a.store.write(move |write| write.discard(&space(), poisoned, Some(change))).wait()?;
    assert_eq!(done, Discarded { discarded: 1, rewritten: rounds - 3, left_alone: 0 });
    server.push_but(&a, holding("poison"))?;
    assert!(a.outbox()?.is_empty());
    let last = i64::try_from(rounds).expect("a number") - 1;
    let state = a.state(poisoned)?;
    assert_eq!((&state["title"], &state["stars"]), (&json!(format!("round {last}")), &json!(last - 1)));
    assert_eq!(a.digests()?.0, server.digest());
    let (_other, b) = device("b.db", 2);
    assert_eq!(server.pull(&b)?.quarantined, 0);
    assert_eq!(b.digests()?, a.digests()?);
    // And again nothing: it is discarded once.
    let again = a.store.write(move |write| write.discard(&space(), poisoned, None)).wait();
    assert!(matches!(again, Err(StoreError::NotRefused(id)) if id == poisoned));
    Ok(())
}

#[test]
fn what_was_discarded_does_not_come_back_from_a_peer_and_what_builds_on_it_is_written_again() -> Outcome {
    let (_one, a) = device("a.db", 1);
    let (_two, b) = device("b.db", 2);
    let mut server = Server::default();
    let id = a.create(json!({ "title": "one", "body": "ab" }))?;
    server.push(&a)?;
    server.pull(&b)?;
    let refuses = holding("poison");
    a.title(id, "poison")?;
    a.hand_over(&b)?;
    b.edit(id, vec![Edit::Splice { field: field("body"), at: 2, delete: 0, insert: "c".to_owned() }])?;
    server.push_but(&a, &refuses)?;
    a.discard(id)?;
    assert_eq!(a.state(id)?["title"], "one");
    // b has both the refused change and an edit on top of it.
    b.hand_over(&a)?;
    assert_eq!((&a.state(id)?["title"], &a.state(id)?["body"]), (&json!("one"), &json!("abc")));
    server.push_but(&a, &refuses)?;
    assert_eq!(a.digests()?.0, server.digest());
    // b hears of it from the server, and does as a has done.
    server.pull(&b)?;
    server.push_but(&b, &refuses)?;
    server.pull(&b)?;
    assert_eq!((b.digests()?, b.digests()?.0), (a.digests()?, server.digest()));
    assert!(b.outbox()?.is_empty());
    Ok(())
}

#[test]
fn a_discarded_transaction_goes_whole() -> Outcome {
    let (_folder, a) = device("a.db", 1);
    let mut server = Server::default();
    let ids = [a.create(json!({ "title": "a" }))?, a.create(json!({ "title": "b" }))?];
    server.push(&a)?;
    let work = move |write: &mut anabranch_store::Write<'_>| {
        for (id, title) in ids.into_iter().zip(["poison", "fine"]) {
            write.edit(&space(), id, &[Edit::Set { field: field("title"), value: json!(title) }])?;
        }
        Ok::<_, StoreError>(())
    };
    a.store.write(move |write| write.transaction(work)).wait()?;
    a.edit(ids[1], vec![stars(1)])?;
    server.push_but(&a, |envelope| envelope.transaction.is_some())?;
    assert_eq!(a.refused()?.len(), 2);
    let done = a.store.write(move |write| write.discard(&space(), ids[0], None)).wait()?;
    assert_eq!(done, Discarded { discarded: 2, rewritten: 1, left_alone: 0 });
    server.push(&a)?;
    assert_eq!((&a.state(ids[0])?["title"], &a.state(ids[1])?["title"]), (&json!("a"), &json!("b")));
    assert_eq!((&a.state(ids[1])?["stars"], a.digests()?.0), (&json!(1), server.digest()));
    Ok(())
}

#[test]
fn a_discarded_creation_takes_its_entity_along() -> Outcome {
    let (_folder, a) = device("a.db", 1);
    let mut server = Server::default();
    let (kept, gone) = (a.create(json!({ "title": "kept" }))?, a.create(json!({ "title": "poison", "body": "x" }))?);
    a.title(gone, "later")?;
    server.push_but(&a, holding("poison"))?;
    let done = a.store.write(move |write| write.discard(&space(), gone, None)).wait()?;
    assert_eq!(done, Discarded { discarded: 2, rewritten: 0, left_alone: 0 });
    assert!(a.store.read(|read| read.entity(&space(), gone))?.is_none());
    server.push(&a)?;
    assert_eq!((a.digests()?.0, a.outbox()?.len()), (server.digest(), 0));
    assert_eq!(a.state(kept)?["title"], "kept");
    Ok(())
}

#[test]
fn g06_children_of_a_refused_parent_are_held_and_say_so_and_go_when_it_is_accepted() -> Outcome {
    let (_folder, a) = device("a.db", 1);
    let mut server = Server::default();
    let parent = a.create(json!({ "title": "poison" }))?;
    let child = a.create(json!({ "title": "child", "folder": parent.to_string() }))?;
    let grandchild = a.create(json!({ "title": "grandchild", "folder": child.to_string() }))?;
    let other = a.create(json!({ "title": "other" }))?;
    server.push_but(&a, holding("poison"))?;
    let held = |device: &Device| -> Result<Vec<_>, StoreError> {
        let by = |entry: &anabranch_store::OutboxEntry| match entry.state {
            OutboxState::Held { parent } => Some((entry.entity, parent)),
            _ => None,
        };
        Ok(device.outbox()?.iter().filter_map(by).collect())
    };
    assert_eq!(held(&a)?, [(child, parent), (grandchild, child)]);
    assert_eq!(server.rows.iter().map(|row| row.offered.entity).collect::<Vec<_>>(), [other]);
    // It is not asked for again and again: the children are not offered at all.
    assert!(!server.push_page(&a, |_| panic!("nothing can go"))?);
    a.store.write(move |write| write.resend(&Resend::Entity(space(), parent))).wait()?;
    server.push_page(&a, |_| false)?;
    assert!(a.outbox()?.is_empty(), "all three have gone");
    assert_eq!(
        server.rows.iter().map(|row| row.offered.entity).collect::<Vec<_>>(),
        [other, parent, child, grandchild]
    );
    Ok(())
}

#[test]
fn an_edit_of_a_parent_that_is_there_holds_no_children() -> Outcome {
    let (_folder, a) = device("a.db", 1);
    let mut server = Server::default();
    let parent = a.create(json!({ "title": "parent" }))?;
    server.push(&a)?;
    a.title(parent, "poison")?;
    a.create(json!({ "title": "child", "folder": parent.to_string() }))?;
    server.push_but(&a, holding("poison"))?;
    assert_eq!(a.outbox()?.len(), 1);
    Ok(())
}

/// The births of text and counter are refused along with the edit that came with them.
#[test]
fn g07_later_edits_of_what_a_discarded_change_began_are_kept() -> Outcome {
    let (_one, a) = device("a.db", 1);
    let mut server = Server::default();
    let id = a.create(json!({ "title": "one" }))?;
    server.push(&a)?;
    a.edit(id, vec![Edit::Splice { field: field("body"), at: 0, delete: 0, insert: "poison".to_owned() }, stars(100)])?;
    server.push_page(&a, |_| true)?;
    assert_eq!(a.refused()?.len(), 3);
    a.edit(id, vec![Edit::Splice { field: field("body"), at: 6, delete: 0, insert: "later".to_owned() }])?;
    a.edit(id, vec![stars(1)])?;
    let done = a.discard(id)?;
    assert_eq!(done, Discarded { discarded: 1, rewritten: 2, left_alone: 0 });
    assert_eq!((a.state(id)?["body"].clone(), a.state(id)?["stars"].clone()), (json!("later"), json!(1)));
    assert!(a.refused()?.is_empty());
    server.push(&a)?;
    assert!(a.outbox()?.is_empty());
    let (_two, b) = device("b.db", 2);
    server.pull(&b)?;
    assert_eq!((a.digests()?, a.digests()?.0), (b.digests()?, server.digest()));
    Ok(())
}

/// Two have the same, and the other has brought it to a server that has lost its history. It says so in a reconcile, and
/// does not send it. If it turned it down afterwards, for whatever reason, it could be given up here, for good.
#[test]
fn g10_what_a_server_shows_in_a_reconcile_does_not_wait_for_it_any_more() -> Outcome {
    let (_one, a) = device("a.db", 1);
    let (_two, b) = device("b.db", 2);
    let mut server = Server::default();
    let id = a.create(json!({ "title": "one" }))?;
    a.title(id, "poison")?;
    a.hand_over(&b)?;
    server.push_but(&b, holding("poison"))?;
    assert_eq!(b.refused()?.len(), 1);
    server.push(&a)?;
    b.title(id, "after")?;
    let shown = Theirs { entity: id, heads: a.store.read(|read| read.heads_of(&space(), id))? };
    let offers = WriteBatch { offers: vec![shown], ..WriteBatch::empty(space(), LINEAGE) };
    b.store.write(move |write| write.apply_batch(1, offers)).wait()?;
    assert_eq!((b.outbox()?.len(), b.refused()?.len()), (1, 0), "what is beyond waits, and nothing else");
    let discard = b.discard(id);
    assert!(matches!(discard, Err(StoreError::NotRefused(_))), "{discard:?}");
    server.push_but(&b, holding("poison"))?;
    assert!(b.outbox()?.is_empty(), "it went, although what it builds on would be turned down");
    server.pull(&a)?;
    assert_eq!((a.digests()?, a.digests()?.0), (b.digests()?, server.digest()));
    Ok(())
}

/// A discard has a later change written again, which is refused and discarded in its turn.
#[test]
fn g07_what_was_written_again_and_discarded_does_not_come_back_from_a_peer() -> Outcome {
    let ((_one, a), (_two, b)) = (device("a.db", 1), device("b.db", 2));
    let mut server = Server::default();
    let id = a.create(json!({ "title": "one" }))?;
    a.title(id, "venom")?;
    a.title(id, "poison")?;
    a.edit(id, vec![stars(1)])?;
    server.push_but(&a, holding("venom"))?;
    a.discard(id)?;
    a.hand_over(&b)?;
    assert_eq!(b.state(id)?["title"], "poison");
    server.push_but(&a, holding("poison"))?;
    a.discard(id)?;
    b.hand_over(&a)?;
    assert_eq!((&a.state(id)?["title"], &a.state(id)?["stars"]), (&json!("one"), &json!(1)));
    // Unless the server has taken it.
    server.push(&b)?;
    server.pull(&a)?;
    server.push(&a)?;
    server.pull(&b)?;
    assert_eq!((a.digests()?, a.digests()?.0), (b.digests()?, server.digest()));
    assert_eq!((&a.state(id)?["title"], &a.state(id)?["stars"]), (&json!("poison"), &json!(1)));
    Ok(())
}

/// One server refuses what another has taken: it is not given up, or the two would not agree any more.
#[test]
fn what_another_server_has_is_not_discarded() -> Outcome {
    let (_folder, a) = device("a.db", 1);
    let other = a.store.write(|write| {
        write.ensure_remote("wss://one.example", &[])?;
        write.ensure_remote("wss://two.example", &[])
    });
    let other = other.wait()?;
    let id = a.create(json!({ "title": "one" }))?;
    a.title(id, "poison")?;
    Server::default().push_but(&a, holding("poison"))?;
    let read = OutboxRead { space: space(), changes: 100, bytes: 1 << 20 };
    let items = a.store.outbox_page(other, read).wait()?.items;
    let answered: Vec<_> = (1..).zip(&items).map(|(seq, item)| (item.key, Answer::Accepted { seq })).collect();
    assert!(answered.len() > 1);
    let taken = WriteBatch { answered, ..WriteBatch::empty(space(), LINEAGE) };
    a.store.write(move |write| write.apply_batch(other, taken)).wait()?;
    let discard = a.discard(id);
    assert!(matches!(discard, Err(StoreError::NotRefused(_))), "{discard:?}");
    assert_eq!((a.state(id)?["title"].clone(), a.refused()?.len()), (json!("poison"), 1));
    Ok(())
}

/// It is kept where a person finds it.
#[test]
fn what_cannot_be_written_again_after_a_discard_is_set_aside() -> Outcome {
    let (_folder, a) = device("a.db", 1);
    let id = a.create(json!({ "title": "one", "stars": 0 }))?;
    a.title(id, "poison")?;
    Server::default().push_but(&a, holding("poison"))?;
    // Somebody writes under the name under which rewrites are drafted.
    let mut blank = Document::new(&Actor::from_bytes(&[0; 16]).expect("an actor"));
    let beyond = |known| a.store.write(move |write| write.changes_beyond(&space(), id, &known)).wait();
    let theirs = beyond(Heads::default())?;
    let first = theirs[0].clone();
    let read = |envelope: Envelope| Change::parse(envelope.change).expect("a change");
    blank.apply(&theirs.into_iter().map(read).collect::<Vec<_>>()).expect("its past");
    let schema = schema();
    let edit = Edit::Set { field: field("title"), value: json!("two") };
    let stamp = Stamp::from_raw((NOW + 1_000) << 16).expect("a stamp");
    blank.edit(&schema.collections["notes"], stamp, &[edit]).expect("an edit");
    let written = blank.changes_since(&a.store.read(|read| read.heads_of(&space(), id))?).expect("its changes");
    let written = written.into_iter().map(|change| Envelope { change: change.into_bytes(), ..first.clone() }).collect();
    a.store.write(move |write| write.apply_peer(&space(), written)).wait()?;
    assert_eq!(a.state(id)?["title"], "two");
    a.discard(id)?;
    assert_eq!((&a.state(id)?["title"], a.store.read(|read| read.totals())?.quarantined), (&json!("one"), 1));
    Ok(())
}
