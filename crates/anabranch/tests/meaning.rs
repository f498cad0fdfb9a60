//! What the handles promise about rules, references, undo and imports.

mod support;

use anabranch::{EntityId, Error, ErrorKind, Mine, Replica, Rule, Schema, Space};
use serde_json::{Value, json};
use support::Folder;

const SCHEMA: &str = r#"
    version = 1
    [collections.folders.fields]
    name = { kind = "register" }
    [collections.notes.fields]
    title = { kind = "register", max_length = 5 }
    body = { kind = "text", max_length = 6 }
    owner = { kind = "register", policy = "first_writer" }
    tags = { kind = "set", check = "few" }
    level = { kind = "register", type = "integer", max = 3, lens = { map = { high = 3 }, otherwise = 0 } }
    folder = { kind = "reference", to = "folders", on_delete = "restrict" }
"#;

fn open(folder: &Folder, file: &str) -> Result<Replica, Error> {
    let few = |value: &Value, _: &_| match value.as_array().map(Vec::len) {
        Some(0..=2) => Ok(()),
        Some(_) => Err("at most two".to_owned()),
        None => panic!("a set is an array"),
    };
    Replica::at(folder.path(file)).check("few", few).open_or_create(Schema::from_toml(SCHEMA)?)
}

fn create(space: &Space, collection: &str, fields: Value) -> Result<EntityId, Error> {
    space.untyped(collection)?.create(fields).wait()
}

#[test]
fn a_broken_rule_is_told_with_entity_field_and_rule() -> Result<(), Error> {
    let folder = Folder::new();
    let replica = open(&folder, "a.db")?;
    let main = replica.space("main")?;
    let id = create(&main, "notes", json!({ "title": "short" }))?;
    let error = main.edit(id, |note| note.set("title", "too long")).wait().expect_err("a rule");
    let (entity, field, rule) = error.rule().expect("which");
    assert_eq!((entity, field.as_str(), rule), (id, "title", &Rule::MaxLength(5)));
    assert!(error.referenced_by().is_none() && !error.is_conflict_changed());
    // A lens is for reading: what is written has to fit by itself.
    for value in [json!("high"), json!(9), json!("none")] {
        assert!(main.edit(id, |note| note.set("level", value)).wait().is_err());
    }
    let error = main.edit(id, |note| note.set("tags", json!(["a", "b", "c"]))).wait().expect_err("a check");
    assert!(matches!(error.rule(), Some((_, _, Rule::Check { .. }))));
    Ok(())
}

#[test]
fn what_a_merge_has_broken_is_mended_in_steps() -> Result<(), Error> {
    let folder = Folder::new();
    let (a, b) = (open(&folder, "a.db")?, open(&folder, "b.db")?);
    let (here, there) = (a.space("main")?, b.space("main")?);
    let id = create(&here, "notes", json!({ "body": "1234" }))?;
    a.exchange(&b)?;
    here.edit(id, |note| note.splice("body", 4, 0, "ab")).wait()?;
    there.edit(id, |note| note.splice("body", 0, 0, "cd")).wait()?;
    a.exchange(&b)?;
    assert_eq!(here.open_conflicts(10)?.len(), 1, "eight where six are allowed");
    assert!(here.edit(id, |note| note.splice("body", 0, 0, "x")).wait().is_err(), "not further");
    here.edit(id, |note| note.splice("body", 0, 1, "")).wait()?;
    here.edit(id, |note| note.splice("body", 0, 1, "")).wait()?;
    assert!(here.open_conflicts(10)?.is_empty());
    Ok(())
}

#[test]
fn a_collection_touches_its_own_entities_only() -> Result<(), Error> {
    let folder = Folder::new();
    let replica = open(&folder, "a.db")?;
    let main = replica.space("main")?;
    let notes = main.untyped("notes")?;
    let id = create(&main, "folders", json!({ "name": "Home" }))?;
    assert_eq!(notes.delete(id).wait().expect_err("a folder").kind(), ErrorKind::NotFound);
    assert_eq!(notes.restore(id).wait().expect_err("a folder").kind(), ErrorKind::NotFound);
    assert_eq!(notes.edit(id, |note| note.set("title", "x")).wait().expect_err("a folder").kind(), ErrorKind::NotFound);
    assert!(main.untyped("folders")?.get(id)?.is_some());
    // Nor is what the system keeps for itself.
    assert!(main.untyped("$schema").is_err());
    Ok(())
}

#[test]
fn an_undo_does_not_go_around_a_reference() -> Result<(), Error> {
    let folder = Folder::new();
    let replica = open(&folder, "a.db")?;
    let main = replica.space("main")?;
    let home = create(&main, "folders", json!({ "name": "Home" }))?;
    let note = create(&main, "notes", json!({ "folder": home }))?;
    assert_eq!(main.delete(home).wait().expect_err("restricted").referenced_by(), Some((note, "folder")));
    let error = main.undo(home, Mine::Session).wait().expect_err("restricted");
    assert_eq!((error.kind(), error.referenced_by()), (ErrorKind::Refused, Some((note, "folder"))));
    assert!(!main.get(home)?.expect("the folder").deleted);
    main.delete(note).wait()?;
    assert!(main.undo(home, Mine::Session).wait()?);
    assert!(main.get(home)?.expect("the folder").deleted);
    Ok(())
}

#[test]
fn an_import_is_not_stopped_by_rules() -> Result<(), Error> {
    let folder = Folder::new();
    let replica = open(&folder, "a.db")?;
    let main = replica.space("main")?;
    let id = create(&main, "notes", json!({ "title": "Trip", "owner": "Ann" }))?;
    let base = main.heads(id).wait()?;
    let (agreed, theirs) = (json!({ "title": "Trip", "owner": "Ann" }), json!({ "title": "Journey", "owner": "Bob" }));
    assert!(main.import(id, base, agreed, theirs, None).wait()?);
    let state = main.get(id)?.expect("the note").state;
    assert_eq!((&state["title"], &state["owner"]), (&json!("Journey"), &json!("Bob")));
    assert_eq!(main.open_conflicts(10)?[0].reason, "max_length: the greatest length is 5");
    Ok(())
}

#[test]
fn a_resolution_is_pending_like_any_edit() -> Result<(), Error> {
    let folder = Folder::new();
    let (a, b) = (open(&folder, "a.db")?, open(&folder, "b.db")?);
    let (here, there) = (a.space("main")?, b.space("main")?);
    let id = create(&here, "notes", json!({}))?;
    a.exchange(&b)?;
    here.edit(id, |note| note.set("title", "a")).wait()?;
    there.edit(id, |note| note.set("title", "b")).wait()?;
    a.exchange(&b)?;
    let conflict = there.conflicts(id)?.remove(0);
    there.resolve(&conflict, anabranch::Choice::This(1)).wait()?;
    assert!(there.get(id)?.expect("the note").dirty_fields.contains(&"title".to_owned()));
    let error = there.resolve(&conflict, anabranch::Choice::This(0)).wait().expect_err("settled");
    assert!(error.is_conflict_changed());
    Ok(())
}
