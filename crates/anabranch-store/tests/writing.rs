//! Writing and reading one file.

mod support;

use std::sync::atomic::Ordering;

use anabranch_core::document::Edit;
use anabranch_core::{EntityId, ErrorKind, FieldName};
use anabranch_store::{OpenMode, Store, StoreError};
use serde_json::json;
use support::{Folder, environment, field, fields, name, schema, space};

fn increment(by: i64) -> Edit {
    Edit::Increment { field: field("stars"), by }
}

#[test]
fn g01_every_local_call_works_without_network_server_or_account() -> Result<(), StoreError> {
    let folder = Folder::new();
    let store = folder.open("a.db");
    let main = space("main");
    let id = support::create(&store, json!({ "title": "one", "tags": ["x"] }))?;
    support::edit(&store, id, vec![increment(2)])?;
    let record = store.read(|read| read.entity(&main, id))?.expect("the entity");
    assert_eq!(record.state, fields(json!({ "title": "one", "tags": ["x"], "stars": 2 })));
    assert_eq!(store.read(|read| read.query("SELECT title, stars FROM notes", &[]))?.len(), 1);
    let (of, m) = (id, main.clone());
    store.write(move |write| write.delete(&m, of)).wait()?;
    assert!(store.read(|read| read.list(&main, &name("notes"), None, 10))?.is_empty());
    Ok(())
}

#[test]
fn g02_what_a_resolved_commit_wrote_is_there_after_reopening() -> Result<(), StoreError> {
    let folder = Folder::new();
    let mut ids = Vec::new();
    for round in 0..3 {
        let store = folder.open("a.db");
        assert_eq!(store.read(|read| read.totals())?.entities, u64::try_from(ids.len())?);
        for n in 0..10 {
            ids.push(support::create(&store, json!({ "title": format!("{round}.{n}") }))?);
        }
    }
    let store = folder.open("a.db");
    for id in &ids {
        assert!(store.read(|read| read.entity(&space("main"), *id))?.is_some());
    }
    // Durable before reported: the connection that writes is the one that must be set so.
    let durable = store.write(|write| write.is_fully_synchronous()).wait()?;
    assert!(durable, "synchronous=EXTRA, which is FULL with a write-ahead log");
    Ok(())
}

#[test]
fn g03_log_entity_and_outbox_move_together_or_not_at_all() -> Result<(), StoreError> {
    let folder = Folder::new();
    let store = folder.open("a.db");
    let id = support::create(&store, json!({ "title": "one" }))?;
    let count = |sql: &str| -> Result<_, StoreError> { Ok(store.read(|read| read.query(sql, &[]))?[0]["n"].clone()) };
    let before = (
        count("SELECT count(*) AS n FROM changes")?,
        count("SELECT count(*) AS n FROM outbox")?,
        count("SELECT hex(digest) AS n FROM entities")?,
    );
    // The second edit of the job fails after the first has been made: neither stays.
    let failed = store.write(move |write| {
        let main = space("main");
        write.edit(&main, id, &[increment(1)])?;
        write.edit(&main, id, &[Edit::Increment { field: field("title"), by: 1 }])
    });
    assert_eq!(failed.wait().expect_err("a register is no counter").kind(), ErrorKind::Invalid);
    let panicked = store.write(move |write| -> Result<(), StoreError> {
        write.edit(&space("main"), id, &[increment(1)])?;
        panic!("an application's bug");
    });
    assert!(matches!(panicked.wait(), Err(StoreError::Panicked)));
    let after = (
        count("SELECT count(*) AS n FROM changes")?,
        count("SELECT count(*) AS n FROM outbox")?,
        count("SELECT hex(digest) AS n FROM entities")?,
    );
    assert_eq!(before, after);
    support::edit(&store, id, vec![increment(5)])?;
    let record = store.read(|read| read.entity(&space("main"), id))?.expect("the entity");
    assert_eq!(record.state["stars"], 5, "the document in memory must have forgotten the failed edits, too");
    assert_eq!(record.pending, 3, "create, the counter's genesis, and one increment");
    assert_eq!(record.dirty_fields, ["stars", "title"]);
    Ok(())
}

#[test]
fn one_failed_write_does_not_disturb_those_that_share_its_transaction() -> Result<(), StoreError> {
    let folder = Folder::new();
    let store = folder.open("a.db");
    let commits: Vec<_> = (0..200)
        .map(|n| {
            let title = if n % 3 == 0 { json!({ "no_such_field": 1 }) } else { json!({ "title": n }) };
            store.write(move |write| write.create(&space("main"), &name("notes"), None, &fields(title)))
        })
        .collect();
    let results: Vec<Result<EntityId, StoreError>> = commits.into_iter().map(|commit| commit.wait()).collect();
    for (n, result) in results.iter().enumerate() {
        assert_eq!(result.is_err(), n % 3 == 0, "write {n}");
    }
    let stored = u64::try_from(results.iter().filter(|result| result.is_ok()).count())?;
    assert_eq!(store.read(|read| read.totals())?.entities, stored);
    let commits = store.stats().commits.load(Ordering::Relaxed);
    assert!(commits < 200, "writes that wait together share a commit: {commits} commits");
    Ok(())
}

#[test]
fn reading_loads_no_document() -> Result<(), StoreError> {
    let folder = Folder::new();
    let id = {
        let store = folder.open("a.db");
        support::create(&store, json!({ "title": "one", "body": "text" }))?
    };
    let store = folder.open("a.db");
    let main = space("main");
    assert!(store.read(|read| read.entity(&main, id))?.is_some());
    assert_eq!(store.read(|read| read.list(&main, &name("notes"), None, 10))?.len(), 1);
    store.read(|read| read.query("SELECT * FROM notes", &[]))?;
    store.read(|read| read.totals())?;
    store.read(|read| read.space_digest(&main))?;
    assert_eq!(store.stats().documents_loaded.load(Ordering::Relaxed), 0);
    support::edit(&store, id, vec![increment(1)])?;
    assert_eq!(store.stats().documents_loaded.load(Ordering::Relaxed), 1, "an edit does");
    Ok(())
}

#[test]
fn two_processes_on_one_file_see_each_others_writes() -> Result<(), StoreError> {
    let folder = Folder::new();
    let one = folder.open("a.db");
    let two = folder.open("a.db");
    let id = support::create(&one, json!({ "title": "one", "body": "" }))?;
    for n in 0..10 {
        // Each has the document in memory; each must notice that the other has written.
        support::edit(&one, id, vec![increment(1)])?;
        support::edit(&two, id, vec![increment(1), Edit::Set { field: field("title"), value: json!(n) }])?;
    }
    let record = one.read(|read| read.entity(&space("main"), id))?.expect("the entity");
    assert_eq!((record.state["stars"].clone(), record.conflicts), (json!(20), 0));
    Ok(())
}

#[test]
fn a_view_has_a_plain_column_per_field_in_declared_order() -> Result<(), StoreError> {
    let folder = Folder::new();
    let store = folder.open("a.db");
    support::create(&store, json!({ "title": "one", "tags": ["b", "a"] }))?;
    let columns = store.read(|read| read.query("SELECT name FROM pragma_table_info('notes')", &[]))?;
    let columns: Vec<_> = columns.iter().map(|row| row["name"].as_str().unwrap_or_default()).collect();
    assert_eq!(columns, ["id", "title", "body", "stars", "tags", "items", "extra", "$space"]);
    let row = &store.read(|read| read.query("SELECT title, body, stars, tags, items, extra FROM notes", &[]))?[0];
    let expected =
        json!({ "title": "one", "body": "", "stars": 0, "tags": "[\"a\",\"b\"]", "items": "[]", "extra": "{}" });
    assert_eq!(serde_json::Value::Object(row.clone()), expected);
    let plan = store.read(|read| read.query("EXPLAIN QUERY PLAN SELECT id FROM notes WHERE title = 'one'", &[]))?;
    let plan = plan.iter().map(|row| row["detail"].to_string()).collect::<String>();
    assert!(plan.contains("field:notes.title"), "an indexed field is found by its index: {plan}");
    Ok(())
}

#[test]
fn a_query_cannot_write() {
    let folder = Folder::new();
    let store = folder.open("a.db");
    for sql in [
        "DELETE FROM entities",
        "PRAGMA user_version = 9",
        "ATTACH 'other.db' AS other",
        "CREATE TABLE x (a)",
        "SELECT 1; DELETE FROM entities",
        "not sql",
    ] {
        let result = store.read(|read| read.query(sql, &[]));
        assert!(matches!(result, Err(StoreError::Query(_))), "{sql}: {result:?}");
    }
}

#[test]
fn a_file_is_opened_only_with_a_schema_that_fits() -> Result<(), StoreError> {
    let folder = Folder::new();
    let path = folder.path("a.db");
    let open = |mode| Store::open(&path, mode, environment());
    assert!(matches!(open(OpenMode::Existing), Err(StoreError::NotInitialised(_))));
    assert!(!path.exists(), "a failed open leaves nothing behind");
    drop(open(OpenMode::Create(schema()))?);
    assert!(matches!(open(OpenMode::Create(schema())), Err(StoreError::AlreadyInitialised(_))));
    let mut changed = schema();
    changed.collections.shift_remove("folders");
    assert!(matches!(open(OpenMode::Either(changed.clone())), Err(StoreError::SchemaChanged(1))));
    changed.version = 2;
    drop(open(OpenMode::Either(changed))?);
    let outdated = open(OpenMode::Either(schema()));
    assert!(matches!(outdated, Err(StoreError::SchemaOutdated { stored: 2, given: 1 })));
    assert_eq!(open(OpenMode::Existing)?.schema().version, 2);
    Ok(())
}

#[test]
fn a_database_of_another_application_is_left_alone() -> Result<(), StoreError> {
    let folder = Folder::new();
    let path = folder.path("other.db");
    rusqlite::Connection::open(&path)?.execute_batch("CREATE TABLE theirs (a); INSERT INTO theirs VALUES (1)")?;
    let before = std::fs::read(&path).expect("the file");
    let opened = Store::open(&path, OpenMode::Either(schema()), environment());
    assert!(matches!(opened, Err(StoreError::NotAReplica(_))));
    assert_eq!(std::fs::read(&path).expect("the file"), before);
    Ok(())
}

#[test]
fn a_deleted_entity_is_not_edited_until_it_is_restored() -> Result<(), StoreError> {
    let folder = Folder::new();
    let store = folder.open("a.db");
    let id = support::create(&store, json!({ "title": "one" }))?;
    store.write(move |write| write.delete(&space("main"), id)).wait()?;
    assert!(matches!(support::edit(&store, id, vec![increment(1)]), Err(StoreError::Deleted(_))));
    assert!(store.read(|read| read.query("SELECT * FROM notes", &[]))?.is_empty());
    assert!(store.read(|read| read.entity(&space("main"), id))?.is_some_and(|record| record.deleted));
    store.write(move |write| write.restore(&space("main"), id)).wait()?;
    support::edit(&store, id, vec![increment(1)])?;
    assert_eq!(store.read(|read| read.query("SELECT stars FROM notes", &[]))?[0]["stars"], 1);
    Ok(())
}

#[test]
fn a_new_field_needs_no_ceremony() -> Result<(), StoreError> {
    let folder = Folder::new();
    let id = support::create(&folder.open("a.db"), json!({ "title": "one" }))?;
    let mut wider = schema();
    wider.version = 2;
    let notes = wider.collections.get_mut("notes").expect("notes");
    notes.fields.insert(FieldName::new("due")?, anabranch_core::Field::of(anabranch_core::Kind::Register));
    let store = Store::open(&folder.path("a.db"), OpenMode::Either(wider), environment())?;
    support::edit(&store, id, vec![Edit::Set { field: field("due"), value: json!("today") }])?;
    assert_eq!(store.read(|read| read.query("SELECT due FROM notes", &[]))?[0]["due"], "today");
    Ok(())
}
