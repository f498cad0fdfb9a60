//! Replicas that upgrade their schema while they are apart, even to two different successors.

use anabranch_core::document::Edit;
use anabranch_core::{EntityId, Schema};
use anabranch_store::StoreError;
use serde_json::{Value, json};

use super::fleet::{Fleet, Outcome, exchange, field, increment, meet, schema, set, type_at, version};

const FIRST: &str = "[collections.notes.fields]\ntitle = { kind = \"register\" }\n";
const ADDED: &str = "body = { kind = \"text\" }\nvotes = { kind = \"counter\" }\ntags = { kind = \"set\" }\n\
                     steps = { kind = \"list\" }\nfacts = { kind = \"map\" }\n";

fn first() -> Schema {
    schema(FIRST)
}

/// One branch's second version: the new fields, and one of its own.
fn second(own: &str) -> Schema {
    version(2, &format!("{FIRST}{ADDED}{own} = {{ kind = \"register\" }}\n"))
}

fn write_all(who: &str, by: i64) -> Vec<Edit> {
    vec![
        type_at("body", 0, who),
        increment("votes", by),
        Edit::Add { field: field("tags"), member: json!(who) },
        set("steps", json!([who])),
        Edit::Put { field: field("facts"), path: [who].into_iter().collect(), value: json!(by) },
    ]
}

fn check(state: &serde_json::Map<String, Value>) {
    let body = state["body"].as_str().expect("a text");
    assert!(body == "leftright" || body == "rightleft", "both have typed: {body}");
    assert_eq!(state["votes"], json!(7));
    assert_eq!(state["tags"], json!(["left", "right"]));
    let mut steps = state["steps"].as_array().expect("a list").clone();
    steps.sort_by_key(Value::to_string);
    assert_eq!(steps, [json!("left"), json!("right")]);
    assert_eq!(state["facts"], json!({ "left": 3, "right": 4 }));
}

/// Both upgrade alone, write into fields that were not there before, and meet. `branches` are their second
/// versions; `by_old` says whether a replica that has not upgraded stands between them.
fn upgrade_apart(branches: [&str; 2], by_old: bool) -> Result<(), StoreError> {
    let fleet = Fleet::new();
    let [a, b, old] = fleet.replicas(&first());
    let id = a.create("notes", json!({ "title": "x" }))?;
    meet(&[&a, &b, &old])?;
    drop((a, b));
    let (a, b) = (fleet.open("0.db", &second(branches[0])), fleet.open("1.db", &second(branches[1])));
    a.edit(id, write_all("left", 3))?;
    b.edit(id, write_all("right", 4))?;
    if by_old {
        // All goes by way of the old one, there and back.
        for _ in 0..2 {
            old.pull(&a)?;
            old.pull(&b)?;
            a.pull(&old)?;
            b.pull(&old)?;
        }
    } else {
        exchange(&[&a, &b])?;
    }
    check(&a.record(id).state);
    assert_eq!(a.record(id).state, b.record(id).state);
    assert_eq!(a.record(id).state, a.document_state(id)?.fields);
    if branches[0] == branches[1] {
        meet(&[&a, &b])?;
    }
    // The old one upgrades last, to either.
    old.pull(&a)?;
    old.pull(&b)?;
    check(&old.record(id).state);
    drop(old);
    let late = fleet.open("2.db", &second(branches[1]));
    meet(&[&b, &late])?;
    check(&late.record(id).state);
    Ok(())
}

#[test]
fn both_replicas_edits_of_a_new_field_survive() -> Outcome {
    for by_old in [false, true] {
        upgrade_apart(["due", "due"], by_old)?;
        upgrade_apart(["due", "owner"], by_old)?;
        upgrade_apart(["owner", "due"], by_old)?;
    }
    Ok(())
}

/// One has upgraded and written; the other gets that first, and upgrades after: the other order.
#[test]
fn whoever_upgrades_after_the_merge_sees_the_same() -> Outcome {
    for upgrade_first in [true, false] {
        let fleet = Fleet::new();
        let [a, b] = fleet.replicas(&first());
        let id = a.create("notes", json!({ "title": "x" }))?;
        meet(&[&a, &b])?;
        drop(a);
        let a = fleet.open("0.db", &second("due"));
        a.edit(id, write_all("left", 3))?;
        let b = if upgrade_first {
            drop(b);
            fleet.open("1.db", &second("due"))
        } else {
            b.pull(&a)?;
            b.set(id, "title", json!("y"))?;
            drop(b);
            fleet.open("1.db", &second("due"))
        };
        b.edit(id, write_all("right", 4))?;
        meet(&[&a, &b])?;
        if upgrade_first {
            check(&a.record(id).state);
        } else {
            assert_eq!(a.get(id, "body"), json!("rightleft"));
            assert_eq!(a.get(id, "title"), json!("y"));
        }
        let columns = b.query("SELECT body, votes, due FROM notes");
        assert_eq!((&columns[0]["votes"], &columns[0]["due"]), (&json!(7), &Value::Null));
    }
    Ok(())
}

/// A well-known entity that both create, in different versions, is one entity.
#[test]
fn an_entity_that_both_versions_create_is_one() -> Outcome {
    let fleet = Fleet::new();
    let (a, b) = (fleet.open("0.db", &first()), fleet.open("1.db", &second("due")));
    let id = EntityId::named(&super::fleet::name("notes"), "well known");
    a.create_as("notes", Some(id), json!({ "title": "old" }))?;
    b.create_as("notes", Some(id), json!({ "title": "new", "body": "text", "due": "today" }))?;
    exchange(&[&a, &b])?;
    assert_eq!(a.record(id).state, b.record(id).state);
    assert_eq!((b.get(id, "body"), a.get(id, "due")), (json!("text"), json!("today")));
    assert_eq!(a.conflicts(id).len(), 1);
    Ok(())
}
