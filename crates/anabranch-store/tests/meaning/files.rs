//! A refused write leaves the file as it was, byte for byte.

use std::path::Path;

use anabranch_core::document::{Choice, Edit};
use anabranch_core::{ChangeHash, Digest, EntityId, Heads, Schema, Stamp};
use anabranch_store::{StoreError, Write};
use serde_json::{Map, Value, json};

use super::fleet::{Fleet, Outcome, Replica, exchange, field, fields, schema, set, space, type_at};

fn shop() -> Schema {
    schema(
        r#"
        [collections.shelves.fields]
        title = { kind = "register", required = true }
        [collections.goods.fields]
        title = { kind = "register", required = true, max_length = 10 }
        price = { kind = "register", type = "number", min = 0 }
        label = { kind = "register", policy = "first_writer" }
        body = { kind = "text" }
        steps = { kind = "list" }
        stock = { kind = "counter", min = 0 }
        shelf = { kind = "reference", to = "shelves", on_delete = "restrict" }
        likes = { kind = "reference", to = "goods", on_delete = "nullify" }
        needs = { kind = "reference", to = "goods", on_delete = "nullify", required = true }
        "#,
    )
}

/// The file's bytes, but for the counters that SQLite raises with every transaction.
fn bytes(path: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(path).expect("the file");
    assert!(!path.with_extension("db-wal").exists(), "the file is closed, and whole");
    bytes[24..28].fill(0);
    bytes[92..96].fill(0);
    bytes
}

struct Shop {
    shelf: EntityId,
    one: EntityId,
    gone: EntityId,
    liked: EntityId,
    conflict: Digest,
}

/// A file with a bit of everything in it.
fn stocked(fleet: &Fleet) -> Result<Shop, StoreError> {
    let [a, b] = fleet.replicas(&shop());
    let shelf = a.create("shelves", json!({ "title": "top" }))?;
    let own = EntityId::from_bytes([9; 16]);
    let good = |title: &str| json!({ "title": title, "needs": own.to_string() });
    let one = a.create(
        "goods",
        json!({ "title": "one", "label": "x", "stock": 3, "shelf": shelf.to_string(), "needs": own.to_string() }),
    )?;
    let (gone, liked) = (a.create("goods", good("gone"))?, a.create("goods", good("liked"))?);
    for (field, title) in [("likes", "first"), ("needs", "second")] {
        let id = a.create("goods", good(title))?;
        a.set(id, field, json!(liked.to_string()))?;
    }
    exchange(&[&a, &b])?;
    a.set(one, "title", json!("uno"))?;
    b.set(one, "title", json!("eins"))?;
    exchange(&[&a, &b])?;
    a.delete(gone)?;
    let conflict = a.conflicts(one)[0].id;
    Ok(Shop { shelf, one, gone, liked, conflict })
}

type Attempt = (&'static str, fn(&Replica, &Shop) -> Outcome, fn(&StoreError) -> bool);

fn is_rule(error: &StoreError) -> bool {
    matches!(error, StoreError::Rule { .. })
}

fn is_edit(error: &StoreError) -> bool {
    matches!(error, StoreError::Edit(_))
}

const ATTEMPTS: [Attempt; 19] = [
    ("an edit that breaks a rule", |a, shop| a.set(shop.one, "price", json!(-1)).map(drop), is_rule),
    (
        "a longer edit, after good ones",
        |a, shop| {
            let long = "long ".repeat(2_000);
            a.edit(shop.one, vec![type_at("body", 0, &long), set("title", json!("far too long a title"))]).map(drop)
        },
        is_rule,
    ),
    (
        "a new entity that breaks a rule",
        |a, _| a.create("goods", json!({ "body": "x".repeat(20_000) })).map(drop),
        is_rule,
    ),
    (
        "a counter below its least",
        |a, shop| a.edit(shop.one, vec![super::fleet::increment("stock", -4)]).map(drop),
        is_rule,
    ),
    ("a field that there is not", |a, shop| a.set(shop.one, "colour", json!(1)).map(drop), is_edit),
    ("a value of another kind", |a, shop| a.set(shop.one, "stock", json!("x")).map(drop), is_edit),
    (
        "a place that there is not",
        |a, shop| {
            a.edit(
                shop.one,
                vec![
                    set("steps", json!([1])),
                    Edit::Splice { field: field("body"), at: 7, delete: 0, insert: "x".into() },
                ],
            )
            .map(drop)
        },
        is_edit,
    ),
    ("a second writer", |a, shop| a.set(shop.one, "label", json!("y")).map(drop), is_edit),
    (
        "an edit of what is deleted",
        |a, shop| a.set(shop.gone, "title", json!("x")).map(drop),
        |error| matches!(error, StoreError::Deleted(_)),
    ),
    (
        "an id that is taken",
        |a, shop| a.create_as("goods", Some(shop.one), json!({})).map(drop),
        |error| matches!(error, StoreError::EntityExists(_)),
    ),
    (
        "an entity that there is not",
        |a, _| a.set(EntityId::from_bytes([1; 16]), "title", json!("x")).map(drop),
        |error| matches!(error, StoreError::NoEntity(_)),
    ),
    (
        "a collection that there is not",
        |a, _| a.create("rooms", json!({})).map(drop),
        |error| matches!(error, StoreError::NoCollection(_)),
    ),
    (
        "a deletion that is forbidden",
        |a, shop| a.delete(shop.shelf).map(drop),
        |error| matches!(error, StoreError::Referenced { .. }),
    ),
    ("a deletion that would clear what is required", |a, shop| a.delete(shop.liked).map(drop), is_rule),
    (
        "a resolution that breaks a rule",
        |a, shop| a.resolve(shop.one, shop.conflict, Choice::Value(Value::Null)),
        is_rule,
    ),
    (
        "a resolution of something else",
        |a, shop| a.resolve(shop.one, Digest::of(b""), Choice::This(0)),
        |error| matches!(error, StoreError::ConflictChanged(_)),
    ),
    (
        "a transaction whose last part is refused",
        |a, shop| {
            let (one, liked) = (shop.one, shop.liked);
            let work = move |write: &mut Write<'_>| {
                write.transaction(|write| {
                    write.edit(&space(), one, &[set("price", json!(7))])?;
                    write.edit(&space(), liked, &[set("title", Value::Null)]).map(drop)
                })
            };
            a.store.write(work).wait()
        },
        is_rule,
    ),
    (
        "an import from a base that there is not",
        |a, shop| {
            let one = shop.one;
            let base = Heads::new(vec![ChangeHash::from_bytes([1; 32])]);
            let body = fields(json!({ "title": "x" }));
            let work = move |write: &mut Write<'_>| {
                write.import(&space(), one, &base, &Map::new(), &body, Stamp::ZERO).map(drop)
            };
            a.store.write(work).wait()
        },
        |error| matches!(error, StoreError::UnknownVersion(_)),
    ),
    ("a purge before its time", |a, shop| a.purge(shop.gone), |error| matches!(error, StoreError::NotPurgeable(_))),
];

#[test]
fn a_refused_write_leaves_the_file_byte_identical() -> Outcome {
    let fleet = Fleet::new();
    let things = stocked(&fleet)?;
    let path = fleet.path("0.db");
    let before = bytes(&path);
    drop(fleet.open("0.db", &shop()));
    assert_eq!(bytes(&path), before, "opening and closing writes nothing");
    for (what, attempt, is_expected) in ATTEMPTS {
        let replica = fleet.open("0.db", &shop());
        let refused = attempt(&replica, &things);
        assert!(refused.as_ref().is_err_and(is_expected), "{what}: {refused:?}");
        drop(replica);
        assert!(bytes(&path) == before, "{what}: the file has changed");
    }
    // All of them in one process, then a good write: that one is seen, so the comparison can fail.
    let replica = fleet.open("0.db", &shop());
    for (what, attempt, _) in ATTEMPTS {
        assert!(attempt(&replica, &things).is_err(), "{what}");
    }
    replica.set(things.one, "price", json!(1))?;
    drop(replica);
    assert!(bytes(&path) != before);
    Ok(())
}

/// A refused write shares its transaction with good ones, and takes nothing of them along.
#[test]
fn a_refused_write_leaves_its_neighbours_alone() -> Outcome {
    let fleet = Fleet::new();
    let things = stocked(&fleet)?;
    let replica = fleet.open("0.db", &shop());
    let id = things.one;
    let writes: Vec<_> = (0..20i64)
        .map(|number| {
            replica.store.write(move |write| {
                let value = if number % 2 == 0 { json!(number) } else { json!(-number) };
                write.edit(&space(), id, &[set("price", value), type_at("body", 0, "x")])
            })
        })
        .collect();
    for (number, write) in writes.into_iter().enumerate() {
        assert_eq!(write.wait().is_ok(), number % 2 == 0);
    }
    assert_eq!((replica.get(id, "price"), replica.get(id, "body")), (json!(18), json!("xxxxxxxxxx")));
    assert_eq!(replica.record(id).state, replica.document_state(id)?.fields);
    Ok(())
}
