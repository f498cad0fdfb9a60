//! Two open replicas, no server; and what an application sees of it.

mod support;

use anabranch::{Error, ErrorKind, Path};
use serde_json::json;
use support::{Folder, main_space, notes};

#[test]
fn edits_made_apart_meet_in_an_exchange() -> Result<(), Error> {
    let folder = Folder::new();
    let (phone, laptop) = (folder.replica("phone.db"), folder.replica("laptop.db"));
    let id =
        notes(&phone).create(json!({ "title": "list", "body": "milk", "tags": ["home"], "items": [1, 2] })).wait()?;
    phone.exchange(&laptop)?;
    notes(&phone)
        .edit(id, |note| note.splice("body", 4, 0, ", eggs").increment("stars", 1).add("tags", "food"))
        .wait()?;
    let mine = notes(&laptop).edit(id, |note| {
        note.splice("body", 0, 0, "oat ").increment("stars", 2).remove("tags", "home").insert(
            "items",
            Path::default(),
            0,
            vec![json!(0)],
        )
    });
    mine.wait()?;
    let exchanged = phone.exchange(&laptop)?;
    assert!(exchanged.sent > 0 && exchanged.received > 0);
    let note = notes(&laptop).get(id)?.expect("the note");
    let expected =
        json!({ "title": "list", "body": "oat milk, eggs", "stars": 3, "tags": ["food"], "items": [0, 1, 2] });
    assert_eq!(serde_json::Value::Object(note.state), expected);
    assert_eq!(phone.state_digest(&main_space())?, laptop.state_digest(&main_space())?);
    assert_eq!(phone.space_digest(&main_space())?, laptop.space_digest(&main_space())?);
    assert_eq!(phone.exchange(&laptop)?, anabranch::Exchanged::default(), "nothing is left to exchange");
    Ok(())
}

#[test]
fn a_contested_register_has_one_winner_and_no_loser_is_lost() -> Result<(), Error> {
    let folder = Folder::new();
    let replicas: Vec<_> = ["1.db", "2.db", "3.db"].iter().map(|file| folder.replica(file)).collect();
    let id = notes(&replicas[0]).create(json!({ "title": "old" })).wait()?;
    for other in &replicas[1..] {
        replicas[0].exchange(other)?;
    }
    for (n, replica) in replicas.iter().enumerate() {
        notes(replica).edit(id, |note| note.set("title", format!("by {n}"))).wait()?;
    }
    for (one, other) in [(0, 1), (1, 2), (2, 0), (0, 1)] {
        replicas[one].exchange(&replicas[other])?;
    }
    let records: Vec<_> = replicas.iter().map(|r| notes(r).get(id).map(Option::unwrap)).collect::<Result<_, _>>()?;
    assert!(records.iter().all(|r| r.state == records[0].state && r.version == records[0].version && r.conflicts == 1));
    // Whoever writes after having seen the contest settles it.
    notes(&replicas[2]).edit(id, |note| note.set("title", "settled")).wait()?;
    replicas[2].exchange(&replicas[0])?;
    let settled = notes(&replicas[0]).get(id)?.expect("the note");
    assert_eq!((settled.state["title"].as_str(), settled.conflicts), (Some("settled"), 0));
    Ok(())
}

#[test]
fn errors_say_what_to_do() {
    let folder = Folder::new();
    let replica = folder.replica("a.db");
    let notes = notes(&replica);
    let unknown = notes.create(json!({ "titel": 1 })).wait().expect_err("no such field");
    assert_eq!(unknown.kind(), ErrorKind::Invalid);
    assert!(unknown.to_string().contains("titel"), "{unknown}");
    let id = notes.create(json!({ "title": "x" })).wait().expect("a note");
    let bad =
        notes.edit(id, |note| note.set("title", "y").increment("body", 1)).wait().expect_err("a text is no counter");
    assert_eq!(bad.kind(), ErrorKind::Invalid);
    assert_eq!(notes.get(id).expect("a read").expect("the note").state["title"], "x", "all edits or none");
    let nobody = anabranch::EntityId::from_bytes([9; 16]);
    assert_eq!(notes.edit(nobody, |n| n.set("title", 1)).wait().expect_err("nobody").kind(), ErrorKind::NotFound);
    assert!(replica.space("a/b").is_err());
    assert_eq!(replica.query("DROP TABLE notes", &[]).expect_err("a write").kind(), ErrorKind::Invalid);
}

#[test]
fn a_watch_gives_the_latest_value_and_then_what_changed() -> Result<(), Error> {
    let folder = Folder::new();
    let replica = folder.replica("a.db");
    let notes = notes(&replica);
    let id = notes.create(json!({ "title": "one" })).wait()?;
    let other = notes.create(json!({ "title": "other" })).wait()?;
    let mut watch = notes.watch(id);
    let mut rows = replica.watch_query("SELECT count(*) AS n FROM notes", Vec::new());
    assert_eq!(watch.latest()?.map(|note| note.state["title"].clone()), Some(json!("one")));
    assert_eq!(rows.latest()?[0]["n"], 2);
    notes.edit(other, |note| note.set("title", "changed")).wait()?;
    // Listeners are told right after the commit; another write is behind that.
    notes.edit(other, |note| note.set("title", "again")).wait()?;
    assert!(!watch.has_changed(), "another entity is none of its business");
    for n in 0..10 {
        notes.edit(id, |note| note.set("title", n)).wait()?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let changed = runtime.block_on(watch.changed())?.expect("the note");
    assert!(changed.state["title"].is_i64());
    notes.delete(id).wait()?;
    assert_eq!(watch.latest()?, None);
    assert_eq!(runtime.block_on(rows.changed())?[0]["n"], 1);
    drop((notes, replica));
    Ok(())
}

#[test]
fn a_commit_can_be_awaited_on_any_runtime() -> Result<(), Error> {
    let folder = Folder::new();
    let replica = folder.replica("a.db");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let id = runtime.block_on(async { notes(&replica).create(json!({ "title": "one" })).await })?;
    assert!(notes(&replica).get(id)?.is_some());
    Ok(())
}

/// A long history of one entity costs a peer what is in it, once: no document is loaded again for each batch. At full
/// size, 20,000 changes, by hand.
#[test]
fn a_long_history_is_handed_over_in_batches_that_cost_the_same() -> Result<(), Error> {
    let count = std::env::var("ANABRANCH_CHANGES").ok().and_then(|text| text.parse().ok()).unwrap_or(2_500_u64);
    let folder = Folder::new();
    let (a, b) = (folder.replica("a.db"), folder.replica("b.db"));
    let id = notes(&a).create(json!({ "title": "first", "stars": 0 })).wait()?;
    let edits: Vec<_> = (0..count).map(|n| notes(&a).edit(id, move |note| note.set("title", n))).collect();
    edits.into_iter().try_for_each(|edit| edit.wait().map(drop))?;
    let loaded = |replica: &anabranch::Replica| {
        replica.store().stats().documents_loaded.load(std::sync::atomic::Ordering::Relaxed)
    };
    let before = (loaded(&a), loaded(&b));
    let exchanged = b.exchange(&a)?;
    assert!(exchanged.received > usize::try_from(count).expect("a number"), "{exchanged:?}");
    let after = (loaded(&a), loaded(&b));
    assert!(after.0 - before.0 <= 1 && after.1 - before.1 <= 1, "{before:?} {after:?}");
    assert_eq!(a.space_digest(&main_space())?, b.space_digest(&main_space())?);
    Ok(())
}
