//! Files that were copied, and write on under one actor.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anabranch_core::document::Edit;
use anabranch_core::wire::{Answer, Envelope};
use anabranch_core::{Actor, CollectionName, EntityId, Entropy as _, SplitMix64};
use anabranch_store::StoreError;
use serde_json::json;

use crate::device::{Device, Outcome, field, fields, space};
use crate::server::Server;

/// A file with some entities, copied; all copies write under one actor.
fn copies<const N: usize>(folder: &Path, server: &mut Server) -> ([Device; N], Vec<EntityId>) {
    let first = Device::open(&folder.join("first.db"), 1);
    let create = |n: usize| first.create(json!({ "title": n, "body": "|", "stars": 0 }));
    let ids = (0..3).map(create).collect::<Result<Vec<_>, _>>().expect("entities");
    server.push(&first).expect("a push");
    first.copy_to(&folder.join("copy.db"));
    let devices = std::array::from_fn(|n| {
        let path = folder.join(format!("{n}.db"));
        std::fs::copy(folder.join("copy.db"), &path).expect("a copy");
        Device::open(&path, 77)
    });
    (devices, ids)
}

fn write(device: &Device, id: EntityId, token: &str) -> Outcome {
    let length = device.state(id)?["body"].as_str().map_or(0, |text| text.chars().count());
    let splice = Edit::Splice { field: field("body"), at: length, delete: 0, insert: token.to_owned() };
    let star = Edit::Increment { field: field("stars"), by: 1 };
    device.edit(id, vec![splice, star]).map(drop)
}

#[test]
fn g10_two_copies_that_write_under_one_actor_converge_with_every_edit() -> Outcome {
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Server::default();
    let ([a, b], ids) = copies::<2>(folder.path(), &mut server);
    let actor: Actor = a.store.actor();
    assert_eq!(actor, b.store.actor(), "the test means them to fork");
    for token in ["[1]", "[2]"] {
        write(&a, ids[0], token)?;
    }
    write(&b, ids[0], "[3]")?;
    server.push(&b)?;
    // a is told by the server that its place is taken.
    server.push(&a)?;
    assert_ne!(a.store.actor(), actor, "a new actor at once");
    server.pull(&a)?;
    // b hears it from what it pulls, and cannot know that it was not the forked one.
    server.pull(&b)?;
    server.push(&a)?;
    server.pull(&b)?;
    assert_eq!((a.digests()?, a.digests()?.0), (b.digests()?, server.digest()));
    let state = a.state(ids[0])?;
    let body = state["body"].as_str().expect("a text");
    assert!(["[1]", "[2]", "[3]"].iter().all(|token| body.matches(token).count() == 1), "{body}");
    assert_eq!(state["stars"], 3);
    Ok(())
}

/// A server has taken what one copy wrote, so that it is folded there; then the server is restored, and takes the fork of
/// another copy.
#[test]
fn g10_what_yields_to_a_fork_may_have_been_folded() -> Outcome {
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Server::default();
    let ([a, b], ids) = copies::<2>(folder.path(), &mut server);
    let mut restored = server.clone();
    write(&a, ids[0], "[1]")?;
    write(&a, ids[0], "[2]")?;
    server.push(&a)?;
    assert!(a.store.write(|write| (1..4).map(|key| write.compact(key)).collect::<Result<Vec<_>, _>>()).wait()?[0]);
    // One on top of what is folded.
    write(&a, ids[0], "[3]")?;
    write(&b, ids[0], "[4]")?;
    restored.push(&b)?;
    restored.pull(&a)?;
    restored.push(&a)?;
    restored.pull(&b)?;
    assert_eq!((a.digests()?, a.digests()?.0), (b.digests()?, restored.digest()));
    let state = a.state(ids[0])?;
    let body = state["body"].as_str().expect("a text");
    assert!(["[1]", "[2]", "[3]", "[4]"].iter().all(|token| body.matches(token).count() == 1), "{body}");
    assert_eq!(state["stars"], 4);
    Ok(())
}

/// What is not wanted any more is dropped with its history. An entity of the same well-known id is no fork of that.
#[test]
fn what_was_dropped_is_made_again_by_another_actor() -> Outcome {
    let folder = tempfile::tempdir().expect("a folder");
    let a = Device::open(&folder.path().join("a.db"), 1);
    let mut server = Server::default();
    let notes = CollectionName::new("notes").expect("a name");
    let id = EntityId::named(&notes, "the only one");
    let make = |title: &'static str| {
        let notes = notes.clone();
        a.store.write(move |write| write.create(&space(), &notes, Some(id), &fields(json!({ "title": title })))).wait()
    };
    make("one")?;
    server.push(&a)?;
    let want = |wanted: Option<BTreeSet<CollectionName>>| {
        a.store.write_on_rows(move |write| write.want_collections(1, &space(), wanted)).wait()
    };
    want(Some(BTreeSet::new()))?;
    assert!(a.state(id)?.is_empty(), "it is gone");
    make("two")?;
    a.title(id, "three")?;
    want(None)?;
    let answers = server.take_page(&a, |_| false)?;
    assert!(answers.len() == 2 && answers.iter().all(|(_, it)| matches!(it, Answer::Accepted { .. })), "{answers:?}");
    Server::answer(&a, answers)?;
    server.pull(&a)?;
    assert_eq!((a.digests()?.0, &a.state(id)?["title"]), (server.digest(), &json!("three")));
    Ok(())
}

#[test]
fn g10_without_a_server_both_sides_let_the_same_change_stand() -> Outcome {
    for seed in 0..8 {
        let folder = tempfile::tempdir().expect("a folder");
        let ([a, b], ids) = copies::<2>(folder.path(), &mut Server::default());
        write(&a, ids[0], &format!("[a{seed}]"))?;
        write(&b, ids[0], &format!("[b{seed}]"))?;
        write(&b, ids[0], "[later]")?;
        a.hand_over(&b)?;
        b.hand_over(&a)?;
        a.hand_over(&b)?;
        assert_eq!(a.digests()?, b.digests()?, "seed {seed}");
        assert_eq!(a.state(ids[0])?["stars"], 3);
        let totals = a.store.read(|read| read.totals())?;
        assert_eq!((totals.quarantined, totals.orphaned), (0, 0));
    }
    Ok(())
}

#[test]
fn g10_what_was_written_again_while_it_was_on_its_way_comes_back_with_a_new_session() -> Outcome {
    let mut seen = 0;
    for seed in 0..8 {
        let folder = tempfile::tempdir().expect("a folder");
        let mut server = Server::default();
        let ([a, b], ids) = copies::<2>(folder.path(), &mut server);
        write(&a, ids[0], &format!("[a{seed}]"))?;
        write(&b, ids[0], &format!("[b{seed}]"))?;
        let answered = server.take_page(&a, |_| false)?;
        b.hand_over(&a)?;
        let rewritten = match Server::answer(&a, answered) {
            Err(StoreError::Overtaken) => true,
            outcome => outcome.map(|()| false)?,
        };
        seen += usize::from(rewritten);
        server.pull(&a)?;
        write(&a, ids[0], "[later]")?;
        for _ in 0..2 {
            server.push(&a)?;
            server.pull(&b)?;
            server.push(&b)?;
            server.pull(&a)?;
        }
        assert_eq!((a.digests()?, a.digests()?.0), (b.digests()?, server.digest()), "seed {seed}");
        assert_eq!((a.outbox()?.len(), b.outbox()?.len(), &a.state(ids[0])?["stars"]), (0, 0, &json!(3)));
    }
    assert!((1..8).contains(&seen), "{seen} of 8 were written again");
    Ok(())
}

#[test]
fn g10_more_forks_than_are_settled_at_a_time_are_settled_in_turns() -> Outcome {
    const FORKS: u64 = 70;
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Server::default();
    let ([a, b], ids) = copies::<2>(folder.path(), &mut server);
    // Each actor writes in two copies of the file, of which either side sees one.
    for seed in 0..FORKS {
        for (n, side) in [&a, &b].into_iter().enumerate() {
            let path = folder.path().join(format!("{n}-{seed}.db"));
            std::fs::copy(folder.path().join("copy.db"), &path).expect("a copy");
            let writer = Device::open(&path, 1_000 + seed);
            write(&writer, ids[0], &format!("[{n}:{seed}]"))?;
            writer.hand_over(side)?;
        }
    }
    // What the server has stands, so everything of the other side yields, one after the other.
    server.push(&b)?;
    a.hand_over(&b)?;
    let orphaned = b.store.read(|read| read.totals())?.orphaned;
    assert!(orphaned > 0, "they are not all settled at once");
    for _ in 0..3 {
        server.push(&b)?;
        server.pull(&a)?;
        server.push(&a)?;
        server.pull(&b)?;
    }
    for device in [&a, &b] {
        let totals = device.store.read(|read| read.totals())?;
        assert_eq!((totals.quarantined, totals.orphaned), (0, 0));
    }
    assert_eq!((a.digests()?, a.digests()?.0), (b.digests()?, server.digest()));
    assert_eq!(a.state(ids[0])?["stars"], 2 * FORKS);
    Ok(())
}

#[test]
fn what_was_discarded_does_not_come_back_as_another_s_rewrite() -> Outcome {
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Server::default();
    let ([a, b, c], ids) = copies::<3>(folder.path(), &mut server);
    let poison = |envelope: &Envelope| envelope.change.windows(6).any(|part| part == b"poison");
    a.title(ids[0], "poison")?;
    a.hand_over(&c)?;
    server.push_but(&a, poison)?;
    let id = ids[0];
    a.discard(id)?;
    // Another copy has taken the place of what is discarded; c writes that again behind it, not knowing.
    write(&b, id, "[b]")?;
    server.push(&b)?;
    server.pull(&c)?;
    assert_eq!(c.state(id)?["title"], "poison");
    c.hand_over(&a)?;
    assert_eq!((&a.state(id)?["title"], &a.state(id)?["body"]), (&json!(0), &json!("|[b]")));
    // And so does its author, with its next edit: that takes no place that was taken.
    a.title(id, "fine")?;
    server.push_but(&a, poison)?;
    server.pull(&c)?;
    c.hand_over(&a)?;
    assert_eq!((a.state(id)?["title"].clone(), a.digests()?.0), (json!("fine"), server.digest()));
    Ok(())
}

struct Dice(SplitMix64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.0.next_u64() % u64::try_from(end).expect("a number")).expect("a number")
    }
}

/// Three copies under one actor and a stranger write, push, pull and meet at random, then all is brought together:
/// every edit is there, once.
#[test]
fn g10_random_meetings_of_copies_lose_nothing_and_double_nothing() -> Outcome {
    let seeds = std::env::var("ANABRANCH_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    for seed in 0..seeds {
        let mut dice = Dice(SplitMix64::new(seed));
        let folder = tempfile::tempdir().expect("a folder");
        let mut server = Server::default();
        let (copies, ids) = copies::<3>(folder.path(), &mut server);
        let mut devices = Vec::from(copies);
        devices.push(Device::open(&folder.path().join("stranger.db"), 5));
        server.pull(&devices[3])?;
        let mut written: BTreeMap<EntityId, Vec<String>> = BTreeMap::new();
        for step in 0..40 {
            let (one, other) = (dice.below(4), dice.below(4));
            match dice.below(10) {
                0..=5 => {
                    let (id, token) = (ids[dice.below(3)], format!("[{step}]"));
                    write(&devices[one], id, &token)?;
                    written.entry(id).or_default().push(token);
                }
                6 => server.push(&devices[one])?,
                7 => drop(server.pull(&devices[one])?),
                _ if one != other => devices[one].hand_over(&devices[other])?,
                _ => {}
            }
        }
        for _ in 0..4 {
            for device in &devices {
                server.push(device)?;
                server.pull(device)?;
            }
        }
        for (n, device) in devices.iter().enumerate() {
            assert_eq!(device.digests()?, devices[0].digests()?, "seed {seed}, device {n}");
            assert!(device.outbox()?.is_empty(), "seed {seed}, device {n}: {:?}", device.outbox()?);
            let totals = device.store.read(|read| read.totals())?;
            let quarantine = device.store.read(|read| read.query("SELECT reason FROM quarantine", &[]))?;
            assert_eq!((totals.quarantined, quarantine), (0, Vec::new()), "seed {seed}, device {n}");
        }
        assert_eq!(devices[0].digests()?.0, server.digest(), "seed {seed}");
        for (id, tokens) in written {
            let state = devices[0].state(id)?;
            let body = state["body"].as_str().expect("a text");
            let whole = tokens.iter().all(|token| body.matches(token.as_str()).count() == 1);
            assert!(whole && state["stars"] == json!(tokens.len()), "seed {seed}: {tokens:?} became {state:?}");
        }
    }
    Ok(())
}
