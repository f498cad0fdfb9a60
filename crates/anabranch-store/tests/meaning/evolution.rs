//! Schema versions: renames, lenses, defaults, unknown fields, and what is refused.

use anabranch_core::{Functions, Schema, SchemaError};
use anabranch_store::StoreError;
use rusqlite::Connection;
use serde_json::{Value, json};

use super::fleet::{Fleet, Outcome, Replica, exchange, increment, meet, schema, set, type_at, version};

const OLD: &str = r#"
    [collections.notes.fields]
    title = { kind = "register", policy = "manual" }
    level = { kind = "register" }
    body = { kind = "text" }
"#;

#[test]
fn a_field_that_is_shown_under_another_name_is_the_same_field() -> Outcome {
    let fleet = Fleet::new();
    let old = fleet.open("old.db", &schema(OLD));
    let renamed = OLD
        .replace("title = { kind = \"register\",", "headline = { kind = \"register\", key = \"title\",")
        .replace("body = { kind = \"text\" }", "content = { kind = \"text\", key = \"body\" }")
        // Another field takes the name that has become free.
        + "title = { kind = \"register\", key = \"honorific\" }\n";
    let new = fleet.open("new.db", &version(2, &renamed));
    let id = old.create("notes", json!({ "title": "x", "body": "text" }))?;
    exchange(&[&old, &new])?;
    assert_eq!(
        (new.get(id, "headline"), new.get(id, "content"), new.get(id, "title")),
        (json!("x"), json!("text"), Value::Null)
    );
    // Both go on writing, each by its own name.
    old.edit(id, vec![set("title", json!("old")), type_at("body", 0, "<")])?;
    new.edit(id, vec![set("headline", json!("new")), type_at("content", 4, ">"), set("title", json!("Dr"))])?;
    exchange(&[&old, &new])?;
    assert_eq!((old.get(id, "body"), new.get(id, "content")), (json!("<text>"), json!("<text>")));
    assert_eq!(old.get(id, "title"), new.get(id, "headline"));
    assert_eq!((new.get(id, "title"), old.get(id, "honorific")), (json!("Dr"), json!("Dr")));
    // The conflict is the same one, told with the name that the replica knows.
    let (theirs, ours) = (old.queue(), new.queue());
    assert_eq!((theirs.len(), ours.len(), theirs[0].id), (1, 1, ours[0].id));
    assert_eq!((theirs[0].field.as_str(), ours[0].field.as_str()), ("title", "headline"));
    new.resolve(id, ours[0].id, anabranch_core::document::Choice::This(1))?;
    exchange(&[&old, &new])?;
    assert!(old.queue().is_empty());
    // The old one upgrades: the same rows as one that was always new.
    drop(old);
    meet(&[&fleet.open("old.db", &version(2, &renamed)), &new])
}

#[test]
fn a_lens_reads_old_values_and_a_default_fills_in() -> Outcome {
    let fleet = Fleet::new();
    let old = fleet.open("old.db", &schema(OLD));
    let narrowed = OLD.replace(
        "level = { kind = \"register\" }",
        "level = { kind = \"register\", policy = \"max\", type = \"integer\", min = 0, default = 1, \
         lens = { map = { high = 3 }, otherwise = 0 } }",
    );
    let new = fleet.open("new.db", &version(2, &narrowed));
    let values = [json!("high"), json!("7"), json!("odd"), json!(4), Value::Null];
    let ids = values.map(|level| old.create("notes", json!({ "level": level })).expect("an entity"));
    exchange(&[&old, &new])?;
    let read = |replica: &Replica| ids.map(|id| replica.get(id, "level"));
    assert_eq!(read(&new), [json!(3), json!(7), json!(0), json!(4), json!(1)]);
    assert_eq!(read(&old), [json!("high"), json!("7"), json!("odd"), json!(4), Value::Null], "nothing was rewritten");
    assert!(new.queue().is_empty(), "what the lens reads breaks no rule");
    assert_eq!(new.query("SELECT sum(level) AS n FROM notes")[0]["n"], json!(15));
    // A contest settles by what this version reads: 3 against 2, and "high" is no more than 2 elsewhere.
    old.set(ids[3], "level", json!("high"))?;
    new.set(ids[3], "level", json!(2))?;
    exchange(&[&old, &new])?;
    assert_eq!(new.get(ids[3], "level"), json!(3));
    let contest = new.conflicts(ids[3])[0].clone();
    assert_eq!(contest.contenders.iter().map(|one| one.value.clone()).collect::<Vec<_>>(), [json!(3), json!(2)]);
    // Equal, as this version reads them, they are no contest.
    old.set(ids[4], "level", json!("5"))?;
    new.set(ids[4], "level", json!(5))?;
    exchange(&[&old, &new])?;
    assert!(new.conflicts(ids[4]).is_empty() && old.conflicts(ids[4]).len() == 1);
    drop(old);
    meet(&[&fleet.open("old.db", &version(2, &narrowed)), &new])
}

#[test]
fn what_a_newer_schema_wrote_is_kept_shown_and_passed_on() -> Outcome {
    let fleet = Fleet::new();
    let newer = format!(
        "{OLD}due = {{ kind = \"register\" }}\nvotes = {{ kind = \"counter\" }}\ntags = {{ kind = \"set\" }}\n\
         notes = {{ kind = \"text\" }}\nsteps = {{ kind = \"list\" }}\nfacts = {{ kind = \"map\" }}\n\
         [collections.rooms.fields]\nname = {{ kind = \"register\" }}\nseats = {{ kind = \"counter\" }}\n"
    );
    let (a, b, c) = (
        fleet.open("a.db", &version(2, &newer)),
        fleet.open("b.db", &schema(OLD)),
        fleet.open("c.db", &version(2, &newer)),
    );
    let everything = json!({ "title": "x", "due": { "day": 1 }, "votes": 2, "tags": [1, "t"], "notes": "long",
                             "steps": [1, { "a": [] }], "facts": { "k": [true] } });
    let id = a.create("notes", everything.clone())?;
    let room = a.create("rooms", json!({ "name": "attic", "seats": 4 }))?;
    b.pull(&a)?;
    assert_eq!(Value::Object(b.record(id).state), everything, "unknown fields are shown as they are");
    assert_eq!(Value::Object(b.record(room).state), json!({ "name": "attic", "seats": 4 }));
    assert!(matches!(b.set(id, "due", json!("never")), Err(StoreError::Edit(_))));
    assert!(matches!(b.set(room, "name", json!("cellar")), Err(StoreError::NoCollection(_))));
    // The old one edits what it knows, and passes the rest on untouched.
    b.edit(id, vec![set("title", json!("y")), type_at("body", 0, "b")])?;
    c.pull(&b)?;
    let mut expected = everything;
    expected["title"] = json!("y");
    expected["body"] = json!("b");
    assert_eq!(Value::Object(c.record(id).state), expected);
    c.edit(id, vec![increment("votes", 5), set("due", Value::Null)])?;
    c.edit(room, vec![increment("seats", 1)])?;
    a.edit(id, vec![increment("votes", 1), set("due", json!("friday"))])?;
    exchange(&[&a, &b, &c])?;
    meet(&[&a, &c])?;
    assert_eq!((b.get(id, "votes"), b.get(room, "seats")), (json!(8), json!(5)));
    // Deletions and conflicts of what it does not know are as good as elsewhere.
    assert_eq!(b.conflicts(id).len(), 1);
    a.delete(room)?;
    exchange(&[&a, &b, &c])?;
    assert!(b.deleted(room));
    drop(b);
    meet(&[&fleet.open("b.db", &version(2, &newer)), &a, &c])
}

#[test]
fn a_new_reference_minds_what_was_deleted_before_it_was_declared() -> Outcome {
    let fleet = Fleet::new();
    let plain = "[collections.folders.fields]\ntitle = { kind = \"register\" }\n\
                 [collections.notes.fields]\nfolder = { kind = \"register\" }\n";
    let a = fleet.open("a.db", &schema(plain));
    let folder = a.create("folders", json!({}))?;
    let id = a.create("notes", json!({ "folder": folder.to_string() }))?;
    assert_eq!(a.delete(folder)?, 1);
    drop(a);
    let reference = plain.replace(
        "folder = { kind = \"register\" }",
        "folder = { kind = \"reference\", to = \"folders\", on_delete = \"restrict\" }",
    );
    let a = fleet.open("a.db", &version(2, &reference));
    assert_eq!(a.queue().iter().map(|item| item.entity).collect::<Vec<_>>(), [id]);
    a.restore(folder)?;
    assert!(a.queue().is_empty());
    assert!(matches!(a.delete(folder), Err(StoreError::Referenced { .. })));
    Ok(())
}

fn refusal(fleet: &Fleet, schema: &Schema, functions: &Functions) -> StoreError {
    fleet.try_open("a.db", schema, functions).map(drop).expect_err("it cannot be opened")
}

#[test]
fn what_cannot_be_opened_says_why() -> Outcome {
    let fleet = Fleet::new();
    let none = Functions::default();
    let a = fleet.open("a.db", &version(2, OLD));
    let id = a.create("notes", json!({ "title": "x" }))?;
    let before = a.shown();
    drop(a);
    let outdated = refusal(&fleet, &schema(OLD), &none);
    assert!(matches!(outdated, StoreError::SchemaOutdated { stored: 2, given: 1 }));
    let other = OLD.replace("manual", "lww");
    assert!(matches!(refusal(&fleet, &version(2, &other), &none), StoreError::SchemaChanged(2)));
    let other_kind = OLD.replace("body = { kind = \"text\" }", "body = { kind = \"list\" }");
    let refused = refusal(&fleet, &version(3, &other_kind), &none);
    assert!(
        matches!(&refused, StoreError::Schema(SchemaError::Upgrade(why)) if why.contains("notes.body: a text cannot become a list"))
    );
    for (what, named) in [
        ("policy = { custom = \"widest\", version = 7 }", "the policy widest@7 of notes.size"),
        ("check = \"tidy\"", "the check \"tidy\" of notes.size"),
    ] {
        let text = format!("{OLD}size = {{ kind = \"register\", {what} }}\n");
        let refused = refusal(&fleet, &version(3, &text), &none).to_string();
        assert!(refused.contains(named), "{refused}");
    }
    let text = OLD.replace(
        "[collections.notes.fields]",
        "[collections.notes]\npolicy = { custom = \"all\", version = 1 }\n[collections.notes.fields]",
    );
    let refused = refusal(&fleet, &version(3, &text), &none).to_string();
    assert!(refused.contains("the policy all@1 of notes"), "{refused}");
    // None of that has touched the file.
    let a = fleet.open("a.db", &version(2, OLD));
    assert_eq!(a.shown(), before);
    a.set(id, "title", json!("y"))?;
    Ok(())
}

/// What the tables of version 1 hold.
const FIRST_TABLES: [(&str, &str); 8] = [
    ("meta", "key, value"),
    ("spaces", "key, name"),
    ("entities", "key, space, id, collection, heads, created_at, updated_at, born, pending, dirty_fields, log_bytes"),
    ("actors", "key, actor"),
    ("changes", "seq, entity, hash, actor, actor_seq, txn, stamp, origin, bytes"),
    ("remotes", "key, url, lineage, failures, last_error"),
    ("outbox", "remote, change, entity, state, attempts, not_before, last_error"),
    ("sync_state", "remote, space, cursor, ack_seq, ack_chain, last_success_at"),
];

/// The tables of version 1 are in people's files as they are: what is new goes into a later version.
#[test]
fn the_first_tables_are_never_edited() {
    let digest = anabranch_core::Digest::of(include_bytes!("../../src/tables.sql")).to_string();
    assert_eq!(digest, "20214ca0150e62fa34350308529c60f669b3d7da6d9fcfaa6588f69c052f4234");
}

/// A file as the first release wrote it, with the data of another. What is derived is not brought along.
fn written_by_version_1(from: &std::path::Path, to: &std::path::Path) -> rusqlite::Result<()> {
    let file = Connection::open(to)?;
    file.execute_batch(include_str!("../../src/tables.sql"))?;
    file.execute_batch("PRAGMA application_id = 0x416e6162; PRAGMA user_version = 1; DELETE FROM remotes")?;
    file.execute("ATTACH ? AS newer", [from.to_str()])?;
    for (table, columns) in FIRST_TABLES {
        file.execute_batch(&format!("INSERT INTO {table} ({columns}) SELECT {columns} FROM newer.{table}"))?;
    }
    file.execute_batch("UPDATE meta SET value = 1 WHERE key = 'projection'; DETACH newer")
}

#[test]
fn a_file_of_the_first_tables_is_brought_up_to_date() -> Outcome {
    let fleet = Fleet::new();
    let text = format!(
        "{OLD}stars = {{ kind = \"counter\", max = 3 }}\nup = {{ kind = \"reference\", to = \"notes\", parent = true }}\n"
    );
    let [a, b] = fleet.replicas(&schema(&text));
    let root = a.create("notes", json!({ "title": "root" }))?;
    let child = a.create("notes", json!({ "title": "x", "body": "text", "stars": 2, "up": root.to_string() }))?;
    meet(&[&a, &b])?;
    a.edit(child, vec![set("title", json!("a")), increment("stars", 1)])?;
    b.edit(child, vec![set("title", json!("b")), increment("stars", 1)])?;
    a.delete(root)?;
    meet(&[&a, &b])?;
    assert_eq!(a.queue().len(), 3, "a conflict, a broken rule and an orphan");
    let before = a.shown();
    drop(a);
    written_by_version_1(&fleet.path("0.db"), &fleet.path("first.db"))?;
    let first = fleet.open("first.db", &schema(&text));
    assert_eq!(first.shown(), before, "all of it follows from the documents");
    let tables = "SELECT type, name, sql FROM sqlite_schema ORDER BY type, name";
    assert_eq!(first.query(tables), b.query(tables), "and the tables are those of a new file");
    first.set(child, "title", json!("settled"))?;
    meet(&[&first, &b])?;
    assert!(matches!(first.delete(child), Ok(1)));
    Ok(())
}
