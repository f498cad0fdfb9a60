//! A file whose replica has signed out, or that has seen a newer schema: who may write, and what is said of it.

mod support;

use std::fs;
use std::sync::mpsc::channel;

use anabranch_core::Schema;
use anabranch_core::sync::WriteBatch;
use anabranch_core::{Heads, Lineage};
use anabranch_store::{OpenMode, Store, StoreError};
use serde_json::json;
use support::{Folder, SCHEMA, create, environment, fields, name, space};

fn sign_out(store: &Store) -> Result<(), StoreError> {
    let seen = store.read(|read| read.unsent())?;
    store.write_on_rows(move |write| write.sign_out(&seen)).wait()
}

fn rows(store: &Store, table: &str) -> Result<i64, StoreError> {
    let found = store.read(|read| read.query(&format!("SELECT count(*) AS n FROM {table}"), &[]))?;
    Ok(found[0]["n"].as_i64().unwrap_or_default())
}

/// The first refusal used to be the only one: the second write went into the next account's file.
#[test]
fn another_process_that_was_signed_out_never_writes_again() -> Result<(), StoreError> {
    let folder = Folder::new();
    let (ours, theirs) = (folder.open("a.db"), folder.open("a.db"));
    let id = create(&ours, json!({ "title": "of the first account" }))?;
    let changes = ours.write(move |write| write.changes_beyond(&space("main"), id, &Heads::default())).wait()?;
    sign_out(&theirs)?;
    drop(theirs);
    let next = folder.open("a.db");
    for _ in 0..3 {
        let refused = create(&ours, json!({ "title": "too late" }));
        assert!(matches!(refused, Err(StoreError::SignedOut)), "{refused:?}");
        let batch =
            WriteBatch { incoming: changes.clone(), ..WriteBatch::empty(space("main"), Lineage::from_bytes([7; 16])) };
        let refused = ours.write(move |write| write.apply_batch(1, batch)).wait();
        assert!(matches!(refused, Err(StoreError::SignedOut)), "{refused:?}");
    }
    assert_eq!((rows(&next, "entities")?, rows(&next, "outbox")?), (0, 0));
    // Nor does it leave anything behind when it goes.
    create(&next, json!({ "title": "of the next account" }))?;
    drop(next);
    drop(ours);
    assert_eq!(folder.open("a.db").lost()?, None);
    Ok(())
}

#[test]
fn a_process_whose_schema_is_outdated_never_writes_again() -> Result<(), StoreError> {
    let folder = Folder::new();
    let old = folder.open("a.db");
    create(&old, json!({ "title": "before" }))?;
    let newer = SCHEMA.replace("version = 1", "version = 2");
    let newer =
        Schema::from_toml(&newer.replace("extra =", "more = { kind = \"map\" }\n    extra =")).expect("a schema");
    let new = Store::open(&folder.path("a.db"), OpenMode::Either(newer), environment())?;
    for _ in 0..3 {
        let refused = create(&old, json!({ "title": "too late" })).expect_err("it has seen a newer schema");
        assert!(refused.to_string().contains("schema version 2"), "{refused}");
    }
    assert_eq!(rows(&new, "entities")?, 1);
    Ok(())
}

/// It used to be written into the file that had just been emptied, and acknowledged.
#[test]
fn what_shares_its_transaction_with_a_sign_out_is_erased_or_refused() -> Result<(), StoreError> {
    let folder = Folder::new();
    let store = folder.open("a.db");
    create(&store, json!({ "title": "seen" }))?;
    let seen = store.read(|read| read.unsent())?;
    // The writer is kept busy, so that the next writes share a transaction.
    let (go, wait) = channel::<()>();
    let busy = store.write(move |_| wait.recv().map_err(|_| StoreError::Closed));
    let make = |title: &str| {
        let value = fields(json!({ "title": title }));
        store.write(move |write| write.create(&space("main"), &name("notes"), None, &value))
    };
    // One that fails after it has signed out has signed nobody out.
    let taken_back = seen.clone();
    let undone = store.write_on_rows(move |write| {
        write.sign_out(&taken_back)?;
        Err::<(), _>(StoreError::OutOfRange)
    });
    let again = store.write(|write| write.resend(&anabranch_store::Resend::All));
    let signed_out = store.write_on_rows(move |write| write.sign_out(&seen));
    let late = make("too late");
    go.send(()).expect("the writer waits");
    busy.wait()?;
    assert!(matches!(undone.wait(), Err(StoreError::OutOfRange)));
    again.wait()?;
    signed_out.wait()?;
    assert!(matches!(late.wait(), Err(StoreError::SignedOut)));
    assert_eq!((rows(&store, "entities")?, rows(&store, "outbox")?, rows(&store, "spaces")?), (0, 0, 0));
    Ok(())
}

#[test]
fn a_sign_out_loses_no_file() -> Result<(), StoreError> {
    let folder = Folder::new();
    let (path, witness) = (folder.path("a.db"), folder.path("a.db-witness"));
    let store = folder.open("a.db");
    let (replica, actor) = (store.replica(), store.actor());
    create(&store, json!({ "title": "x" }))?;
    drop(store);
    let before = fs::read(&witness).expect("a witness");
    let store = folder.open("a.db");
    sign_out(&store)?;
    assert!(!witness.exists(), "nobody misses what was erased");
    drop(store);
    assert!(!witness.exists());
    let bytes = fs::read(&path).expect("the file");
    let text = actor.to_string();
    assert!(!bytes.windows(text.len()).any(|window| window == text.as_bytes()), "no farewell in its name");
    // A process that died before it could take the witness away.
    fs::write(&witness, before).expect("a witness");
    let next = folder.open("a.db");
    assert_eq!(next.lost()?, None);
    assert_ne!(next.replica(), replica);
    assert!(!next.actor().is_of(&replica));
    Ok(())
}
