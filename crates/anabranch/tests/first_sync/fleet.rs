//! A space with a past, and ways to compare what replicas have made of it.

use anabranch::{Collection, EntityId, Error, Replica, Schema};
use anabranch_server::SegmentOptions;
use serde_json::{Map, Value, json};

use crate::support::{Folder, GUARD, TestServer};

pub(crate) fn schema() -> Schema {
    let text = r#"
        version = 1
        [collections.folders.fields]
        name = { kind = "register" }
        [collections.notes.fields]
        title = { kind = "register", max_length = 12 }
        due = { kind = "register", policy = "manual" }
        body = { kind = "text" }
        stars = { kind = "counter" }
        tags = { kind = "set" }
        steps = { kind = "list" }
        facts = { kind = "map" }
        folder = { kind = "reference", to = "folders", parent = true }
    "#;
    Schema::from_toml(text).expect("the schema")
}

pub(crate) fn replica(folder: &Folder, file: &str) -> Replica {
    Replica::open(folder.path(file), schema()).expect("a replica")
}

pub(crate) fn of(replica: &Replica, collection: &str) -> Collection {
    replica.space("main").and_then(|space| space.untyped(collection)).expect("the collection")
}

/// Segments of a few entities each, however small the space is.
pub(crate) fn small() -> SegmentOptions {
    SegmentOptions { min_changes: 2, max_entities: 8, ..SegmentOptions::default() }
}

pub(crate) fn none() -> SegmentOptions {
    SegmentOptions { min_changes: u64::MAX, ..SegmentOptions::default() }
}

/// Makes a past on two replicas: edits after edits, apart and together, contested values, deletions, references to
/// what has been deleted, a purge. Returns the notes.
pub(crate) fn past(server: &TestServer, folder: &Folder, count: usize) -> Result<Vec<EntityId>, Error> {
    let (a, b) = (replica(folder, "a.db"), replica(folder, "b.db"));
    let (folders, notes) = (of(&a, "folders"), of(&a, "notes"));
    let homes: Vec<_> =
        (0..3).map(|n| folders.create(json!({ "name": format!("folder {n}") })).wait()).collect::<Result<_, _>>()?;
    let mut ids = Vec::new();
    for n in 0..count {
        let home = homes[n % homes.len()].to_string();
        let note = json!({ "title": format!("note {n}"), "body": "milk", "stars": n, "tags": ["a"], "folder": home });
        ids.push(notes.create(note));
    }
    let ids: Vec<_> = ids.into_iter().map(|commit| commit.wait()).collect::<Result<_, _>>()?;
    server.sync(&a).now(GUARD).wait()?;
    server.sync(&b).now(GUARD).wait()?;
    for (n, id) in ids.iter().enumerate() {
        let edit = |replica: &Replica, who: &str| {
            let (who, id) = (who.to_owned(), *id);
            of(replica, "notes").edit(id, move |note| match n % 7 {
                0 => note.set("title", who),
                1 => note.splice("body", 2, 1, &who).increment("stars", 2),
                2 => note.set("due", who),
                3 => note.set("steps", json!([who, { "deep": [1] }])).set("facts", json!({ "by": who })),
                4 => note.add("tags", who.as_str()).set("title", "one"),
                5 => note.set("title", "much too long by far".get(..n % 12 + 1).unwrap_or("x")),
                _ => note,
            })
        };
        // Some by one only, some by both at once.
        if n % 3 != 1 {
            edit(&a, "by a").wait()?;
        }
        if n % 3 != 0 {
            edit(&b, "by b").wait()?;
        }
        if n % 11 == 5 {
            notes.delete(*id).wait()?;
        }
    }
    // Its notes refer to what is gone.
    of(&b, "folders").delete(homes[2]).wait()?;
    for _ in 0..2 {
        server.sync(&a).now(GUARD).wait()?;
        server.sync(&b).now(GUARD).wait()?;
    }
    let gone = notes.create(json!({ "title": "gone" })).wait()?;
    server.sync(&a).now(GUARD).wait()?;
    notes.delete(gone).wait()?;
    server.sync(&a).now(GUARD).wait()?;
    a.space("main")?.purge(gone).wait()?;
    server.sync(&a).now(GUARD).wait()?;
    server.sync(&b).now(GUARD).wait()?;
    Ok(ids)
}

/// All that follows from the changes, row by row.
pub(crate) fn rows(replica: &Replica) -> Result<Vec<Map<String, Value>>, Error> {
    let mut rows = Vec::new();
    for sql in [
        "SELECT id, collection, state, hex(digest) AS digest, hex(heads) AS heads, created_at, updated_at, deleted, born, \
                purged, conflicts, items, pending, dirty_fields FROM entities ORDER BY id",
        "SELECT e.id, hex(c.id) AS item, c.kind, c.open, c.field, c.reason, c.detail \
         FROM conflicts c JOIN entities e ON e.key = c.entity ORDER BY e.id, c.id",
        "SELECT e.id, l.field, l.target FROM links l JOIN entities e ON e.key = l.entity ORDER BY e.id, l.field",
        "SELECT e.id, hex(c.hash) AS hash FROM changes c JOIN entities e ON e.key = c.entity ORDER BY e.id, c.hash",
    ] {
        rows.extend(replica.query(sql, &[])?);
    }
    Ok(rows)
}

pub(crate) fn assert_same(one: &Replica, other: &Replica) -> Result<(), Error> {
    let (ones, others) = (rows(one)?, rows(other)?);
    for (one, other) in ones.iter().zip(&others) {
        assert_eq!(one, other);
    }
    assert_eq!(ones.len(), others.len());
    let space = crate::support::main_space();
    assert_eq!(one.state_digest(&space)?, other.state_digest(&space)?);
    assert_eq!(one.space_digest(&space)?, other.space_digest(&space)?);
    Ok(())
}
