//! Collections that stay in this file, beside what a server and peers do.

mod support;

use std::collections::BTreeSet;

use anabranch_core::{EntityId, Schema};
use anabranch_store::{OpenMode, Store, StoreError};
use serde_json::json;
use support::{Folder, SCHEMA, create, environment, fields, name, space};

fn open(folder: &Folder, file: &str, version: u32, local: bool) -> Store {
    let drafts = format!("[collections.drafts]\nlocal = {local}\n[collections.drafts.fields]\n");
    let schema = format!("{SCHEMA}{drafts}title = {{ kind = \"register\" }}");
    let schema = schema.replace("version = 1", &format!("version = {version}"));
    let schema = Schema::from_toml(&schema).expect("a schema");
    Store::open(&folder.path(file), OpenMode::Either(schema), environment()).expect("a replica")
}

fn draft(store: &Store, id: Option<EntityId>, title: &str) -> Result<EntityId, StoreError> {
    let value = fields(json!({ "title": title }));
    store.write(move |write| write.create(&space("main"), &name("drafts"), id, &value)).wait()
}

fn title(store: &Store, id: EntityId) -> Result<Option<String>, StoreError> {
    let entity = store.read(|read| read.entity(&space("main"), id))?;
    Ok(entity.and_then(|entity| Some(entity.state.get("title")?.as_str()?.to_owned())))
}

/// They look like what a server has, with nothing in the outbox. They used to be dropped, without a copy anywhere.
#[test]
fn a_narrowed_subset_leaves_what_is_local_only_alone() -> Result<(), StoreError> {
    let folder = Folder::new();
    let store = open(&folder, "a.db", 1, true);
    let kept = draft(&store, None, "mine alone")?;
    create(&store, json!({ "title": "a note" }))?;
    let folders = Some(BTreeSet::from([name("folders")]));
    store.write_on_rows(move |write| write.want_collections(1, &space("main"), folders)).wait()?;
    // An idle store would drop the rest between two writes.
    for _ in 0..3 {
        store.write(|_| Ok::<_, StoreError>(())).wait()?;
    }
    assert_eq!(title(&store, kept)?.as_deref(), Some("mine alone"));
    drop(store);
    assert_eq!(title(&open(&folder, "a.db", 1, true), kept)?.as_deref(), Some("mine alone"));
    Ok(())
}
