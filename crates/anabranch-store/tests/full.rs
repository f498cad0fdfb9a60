//! A file that may not grow: each write that does not fit is refused, leaves everything as it was, and succeeds once there
//! is room.

mod support;

use anabranch_core::ErrorKind;
use anabranch_core::document::Edit;
use anabranch_store::{Store, StoreError};
use serde_json::{Value, json};
use support::{Folder, create, edit, field};

const PAGE: u64 = 4_096;

fn limit(store: &Store, bytes: Option<u64>) -> Result<(), StoreError> {
    store.write(move |write| write.limit_file(bytes)).wait()
}

fn everything(store: &Store) -> Result<Vec<Value>, StoreError> {
    let sql = "SELECT id, state, heads, pending, (SELECT count(*) FROM changes c WHERE c.entity = e.key) AS n, \
               (SELECT count(*) FROM outbox o WHERE o.entity = e.key) AS waiting FROM entities e ORDER BY id";
    Ok(store.read(|read| read.query(sql, &[]))?.into_iter().map(Value::Object).collect())
}

fn pages(store: &Store) -> Result<u64, StoreError> {
    let rows = store.read(|read| read.query("SELECT page_count FROM pragma_page_count", &[]))?;
    Ok(rows[0]["page_count"].as_u64().expect("a number"))
}

#[test]
fn g02_g03_a_file_that_may_not_grow_refuses_what_does_not_fit_and_nothing_else() -> Result<(), StoreError> {
    let folder = Folder::new();
    let store = folder.open("1.db");
    let id = create(&store, json!({ "title": "first" }))?;
    let (mut bound, mut refused, mut written) = (pages(&store)?, 0, 0);
    limit(&store, Some(bound * PAGE))?;
    while written < 200 {
        let before = everything(&store)?;
        let long = "long ".repeat(written % 7 * 300);
        let outcome = if written % 3 == 0 {
            create(&store, json!({ "title": long, "body": "text" })).map(drop)
        } else {
            let set = Edit::Set { field: field("title"), value: json!(format!("{written} {long}")) };
            edit(&store, id, vec![set]).map(drop)
        };
        match outcome {
            Ok(()) => {
                written += 1;
                assert_ne!(everything(&store)?, before, "write {written} is there");
            }
            Err(error) => {
                refused += 1;
                assert_eq!(error.kind(), ErrorKind::Retry, "{error}");
                assert_eq!(everything(&store)?, before, "a refused write changes nothing");
                bound += 1;
                limit(&store, Some(bound * PAGE))?;
            }
        }
    }
    assert!(refused > 20, "{refused} writes did not fit");
    let all = everything(&store)?;
    drop(store);
    let store = folder.open("1.db");
    assert_eq!(everything(&store)?, all, "nothing that was acknowledged is lost");
    limit(&store, Some(PAGE))?;
    limit(&store, None)?;
    create(&store, json!({ "title": "x".repeat(100_000) }))?;
    drop(store);
    let findings = anabranch_store::check(&folder.path("1.db"), &anabranch_core::Functions::default())?;
    assert_eq!(findings, Vec::new());
    Ok(())
}
