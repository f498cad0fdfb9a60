//! Changes that are there in several forms, since they were written again: which of them stands.

use anabranch_core::Change;
use anabranch_core::sync::{OutboxItem, OutboxRead, WriteBatch};
use anabranch_core::wire::{Answer, RejectCode};
use serde_json::json;

use crate::device::{Outcome, device, space, stars};
use crate::server::{LINEAGE, Server, holding};

#[test]
fn a_rewrite_whose_original_the_server_has_makes_way_for_it() -> Outcome {
    let (_one, a) = device("a.db", 1);
    let (_two, b) = device("b.db", 2);
    let mut server = Server::default();
    let id = a.create(json!({ "title": "one", "stars": 0 }))?;
    server.push(&a)?;
    server.pull(&b)?;
    a.title(id, "refused at first")?;
    a.edit(id, vec![stars(1)])?;
    a.hand_over(&b)?;
    // a gives the first of the two up, and is slow to push; the server changes its mind about b's.
    server.push_but(&a, holding("refused at first"))?;
    a.discard(id)?;
    server.push(&b)?;
    a.edit(id, vec![stars(10)])?;
    for _ in 0..2 {
        server.push(&a)?;
        server.pull(&a)?;
    }
    server.pull(&b)?;
    assert_eq!((a.digests()?, a.digests()?.0), (b.digests()?, server.digest()));
    assert_eq!((&a.state(id)?["title"], &a.state(id)?["stars"]), (&json!("refused at first"), &json!(11)));
    let rewrites = server.rows.iter().filter(|row| row.offered.change.rewrite_of().is_some()).count();
    assert_eq!(rewrites, 1, "of what was built on the rewrite");
    let known: Vec<Change> = server.rows.iter().map(|row| row.offered.change.clone()).collect();
    assert!(
        known.iter().all(|change| change.rewrite_of().is_none_or(|it| known.iter().all(|c| c.hash() != it.original)))
    );
    Ok(())
}

/// What a peer has brought waits for a change that has been written again here. Then a server has taken all of it.
#[test]
fn g07_what_has_waited_here_yields_to_the_same_from_a_server() -> Outcome {
    let (_one, a) = device("a.db", 1);
    let (_two, b) = device("b.db", 2);
    let mut server = Server::default();
    let id = a.create(json!({ "title": "one", "stars": 0 }))?;
    a.title(id, "poison")?;
    a.edit(id, vec![stars(1)])?;
    a.edit(id, vec![stars(10)])?;
    a.hand_over(&b)?;
    let last =
        b.store.write(move |write| write.changes_beyond(&space(), id, &anabranch_core::Heads::default())).wait()?;
    server.push_but(&a, holding("poison"))?;
    a.discard(id)?;
    let last = last.into_iter().rev().take(1).collect();
    let received = a.store.write(move |write| write.apply_peer(&space(), last)).wait()?;
    assert_eq!(received.orphaned, 1);
    server.push(&b)?;
    server.pull(&a)?;
    server.push(&a)?;
    assert!(a.outbox()?.is_empty());
    assert_eq!((a.digests()?, a.digests()?.0), (b.digests()?, server.digest()));
    assert_eq!((&a.state(id)?["title"], &a.state(id)?["stars"]), (&json!("poison"), &json!(11)));
    Ok(())
}

/// The server has what another has discarded, and knows that it is here, so that it does not send it.
#[test]
fn g10_nothing_is_discarded_for_another_s_sake_in_the_middle_of_a_reconcile() -> Outcome {
    let (_one, a) = device("a.db", 1);
    let (_two, b) = device("b.db", 2);
    let mut server = Server::default();
    let id = a.create(json!({ "title": "one", "stars": 0 }))?;
    server.push(&a)?;
    server.pull(&b)?;
    a.title(id, "poison")?;
    a.edit(id, vec![stars(1)])?;
    a.hand_over(&b)?;
    server.push_but(&a, holding("poison"))?;
    a.discard(id)?;
    server.push(&a)?;
    let owing = WriteBatch { owes_reconcile: true, ..WriteBatch::empty(space(), LINEAGE) };
    b.store.write(move |write| write.apply_batch(1, owing)).wait()?;
    server.pull(&b)?;
    assert_eq!((&b.state(id)?["title"], &b.state(id)?["stars"]), (&json!("poison"), &json!(1)));
    server.push(&b)?;
    assert!(b.outbox()?.is_empty());
    server.pull(&a)?;
    assert_eq!((a.digests()?, a.digests()?.0), (b.digests()?, server.digest()));
    assert_eq!(a.state(id)?["title"], "poison");
    Ok(())
}

/// A change has waited for what another has discarded. Now the server brings that, and the other's form at once.
#[test]
fn g10_of_two_forms_that_come_at_once_one_is_taken() -> Outcome {
    let ((_one, a), (_two, b), (_three, c)) = (device("a.db", 1), device("b.db", 2), device("c.db", 3));
    let mut server = Server::default();
    let id = a.create(json!({ "title": "one" }))?;
    server.push(&a)?;
    server.pull(&b)?;
    server.pull(&c)?;
    a.title(id, "poison")?;
    let known = a.store.read(|read| read.heads_of(&space(), id))?;
    a.edit(id, vec![stars(1)])?;
    let later = a.store.write(move |write| write.changes_beyond(&space(), id, &known)).wait()?;
    let waits = b.store.write(move |write| write.apply_peer(&space(), later)).wait()?;
    assert!(waits.orphaned > 0, "{waits:?}");
    a.hand_over(&c)?;
    server.push_but(&c, holding("poison"))?;
    assert!(c.discard(id)?.rewritten > 0);
    server.push(&c)?;
    server.push(&a)?;
    server.pull(&b)?;
    assert_eq!(b.outbox()?.len(), 0, "nothing is offered in another form");
    server.pull(&a)?;
    server.pull(&c)?;
    let digests = b.digests()?;
    assert_eq!((digests.0, digests, digests), (server.digest(), a.digests()?, c.digests()?));
    assert_eq!((&b.state(id)?["title"], &b.state(id)?["stars"]), (&json!("poison"), &json!(1)));
    Ok(())
}

/// What a peer brings waits for its past, and so does what another has written instead of a part of it. When the past
/// comes, one of the two forms stands, which depends on their hashes. Then the other comes again, with what builds on it.
#[test]
fn g10_what_builds_on_a_form_that_made_way_is_taken() -> Outcome {
    let mut made_way = 0;
    for seed in 1..=6 {
        let ((_one, a), (_two, b)) = (device("a.db", seed), device("b.db", 100));
        let mut server = Server::default();
        let id = a.create(json!({ "title": "one" }))?;
        let heads = || a.store.read(|read| read.heads_of(&space(), id));
        let hand_over = |known| {
            let beyond = a.store.write(move |write| write.changes_beyond(&space(), id, &known)).wait()?;
            b.store.write(move |write| write.apply_peer(&space(), beyond)).wait()
        };
        let born = heads()?;
        a.title(id, "poison")?;
        a.edit(id, vec![stars(1)])?;
        hand_over(born.clone())?;
        Server::default().push_but(&a, holding("poison"))?;
        a.discard(id)?;
        assert!(hand_over(born)?.orphaned > 0);
        a.hand_over(&b)?;
        let there = b.store.read(|read| read.heads_of(&space(), id))?;
        made_way += usize::from(!heads()?.hashes().iter().all(|head| there.hashes().contains(head)));
        a.edit(id, vec![stars(10)])?;
        a.hand_over(&b)?;
        server.push(&a)?;
        server.pull(&b)?;
        server.push(&b)?;
        server.pull(&a)?;
        assert!(a.outbox()?.is_empty() && b.outbox()?.is_empty(), "seed {seed}: something is pushed in vain");
        assert_eq!((a.digests()?, a.digests()?.0), (b.digests()?, server.digest()), "seed {seed}");
        assert_eq!(a.state(id)?["stars"], 11, "seed {seed}");
    }
    assert!((1..6).contains(&made_way), "both happen: {made_way}");
    Ok(())
}

/// Nobody writes twice under a derived name: a server that says so is not believed, and nothing is written again.
#[test]
fn a_fork_of_the_birth_of_a_text_waits_for_a_person() -> Outcome {
    let (_folder, a) = device("a.db", 1);
    let id = a.create(json!({ "title": "one", "body": "text" }))?;
    let before = (a.digests()?, a.store.actor());
    let items = a.store.outbox_page(1, OutboxRead { space: space(), changes: 100, bytes: 1 << 20 }).wait()?.items;
    let answer = |(seq, item): (u64, &OutboxItem)| {
        let change = Change::parse(item.envelope.change.clone()).expect("a change");
        let fork = Answer::Rejected { code: RejectCode::Fork, message: "taken".to_owned(), retryable: false };
        (item.key, if change.actor().is_derived() { fork } else { Answer::Accepted { seq } })
    };
    Server::answer(&a, (1..).zip(&items).map(answer).collect())?;
    let refused = a.refused()?;
    assert!(!refused.is_empty() && refused.iter().all(|entry| entry.entity == id), "{refused:?}");
    assert_eq!(((a.digests()?, a.store.actor()), a.state(id)?["body"].clone()), (before, json!("text")));
    Ok(())
}
