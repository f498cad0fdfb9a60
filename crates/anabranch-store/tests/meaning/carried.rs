//! The schema that a space carries.

use anabranch_core::{CollectionName, Schema};
use anabranch_store::StoreError;
use serde_json::json;

use super::fleet::{Fleet, Outcome, Replica, exchange, meet, schema, space, version};

const TEXT: &str = "[collections.notes.fields]\ntitle = { kind = \"register\", policy = \"max\", max_length = 9 }\n";

fn publish(replica: &Replica) -> Result<bool, StoreError> {
    replica.store.write(|write| write.publish_schema(&space())).wait()
}

fn carried(replica: &Replica) -> Option<Schema> {
    let found = replica.store.read(|read| read.entity(&space(), Schema::carrier())).expect("a row");
    Schema::from_carried(&found?.state)
}

#[test]
fn a_schema_is_published_once_and_again_only_if_it_is_newer() -> Outcome {
    let fleet = Fleet::new();
    let [a, b] = fleet.replicas(&schema(TEXT));
    assert_eq!(carried(&a), None);
    assert!(publish(&a)?);
    assert!(!publish(&a)?, "it is there");
    assert_eq!(carried(&a), Some(schema(TEXT)));
    b.pull(&a)?;
    assert!(!publish(&b)?, "it came from elsewhere");
    drop(b);
    let second = version(2, &format!("{TEXT}due = {{ kind = \"register\" }}\n"));
    let b = fleet.open("1.db", &second);
    assert!(publish(&b)? && !publish(&b)?);
    exchange(&[&a, &b])?;
    assert_eq!((carried(&a), carried(&b)), (Some(second.clone()), Some(second)));
    assert!(!publish(&a)?, "the older one does not take it back");
    // A person who lists or counts things does not meet it.
    a.create("notes", json!({ "title": "x" }))?;
    assert_eq!(a.store.read(|read| read.totals())?.entities, 1);
    assert_eq!(a.query("SELECT * FROM notes").len(), 1);
    assert_eq!(a.record(Schema::carrier()).collection, CollectionName::schema());
    Ok(())
}

#[test]
fn two_who_publish_at_once_converge() -> Outcome {
    let fleet = Fleet::new();
    let branch = |own: &str| version(2, &format!("{TEXT}{own} = {{ kind = \"register\" }}\n"));
    let (a, b, c) =
        (fleet.open("a.db", &branch("due")), fleet.open("b.db", &branch("owner")), fleet.open("c.db", &schema(TEXT)));
    for replica in [&a, &b, &c] {
        assert!(publish(replica)?);
    }
    exchange(&[&a, &b, &c])?;
    let chosen = carried(&a);
    assert!(chosen == Some(branch("due")) || chosen == Some(branch("owner")), "the newest version");
    for replica in [&a, &b, &c] {
        assert_eq!(carried(replica), chosen);
        assert!(replica.queue().is_empty(), "nobody has to decide");
        assert!(!publish(replica)?);
    }
    // A newer one settles it.
    drop(c);
    let c = fleet.open("c.db", &version(10, TEXT));
    assert!(publish(&c)?);
    exchange(&[&a, &b, &c])?;
    assert_eq!(carried(&b), Some(version(10, TEXT)), "10 is more than 2");
    assert!(a.conflicts(Schema::carrier()).is_empty());
    Ok(())
}

/// What a replica can be made from: the space alone.
#[test]
fn a_replica_is_made_from_the_space_alone() -> Outcome {
    let fleet = Fleet::new();
    let [a] = fleet.replicas(&schema(TEXT));
    publish(&a)?;
    let id = a.create("notes", json!({ "title": "x" }))?;
    let empty = fleet.open("first look.db", &version(0, "[collections]\n"));
    empty.pull(&a)?;
    let found = carried(&empty).expect("the schema");
    drop(empty);
    let clone = fleet.open("first look.db", &found);
    meet(&[&a, &clone])?;
    clone.set(id, "title", json!("y"))?;
    assert!(clone.set(id, "title", json!("far too long")).is_err(), "its rules hold");
    Ok(())
}
