//! Texts, counters and sets merge: there is nothing for a policy to decide.

use anabranch_core::Schema;
use anabranch_core::document::Edit;
use serde_json::{Value, json};

use super::support::{ORDERS, POLICIES, Replica, collection, field};

/// What three writers do to one field at the same time, and what comes of it.
fn cases() -> Vec<(&'static str, Value, [Edit; 3], Value)> {
    let splice =
        |at, delete, insert: &str| Edit::Splice { field: field("text"), at, delete, insert: insert.to_owned() };
    let increment = |by| Edit::Increment { field: field("counter"), by };
    let add = |member| Edit::Add { field: field("set"), member: json!(member) };
    let remove = |member| Edit::Remove { field: field("set"), member: json!(member) };
    let set = |name, value| Edit::Set { field: field(name), value };
    vec![
        ("text", json!("mid"), [splice(0, 0, "a "), splice(3, 0, " z"), splice(1, 1, "u")], json!("a mud z")),
        (
            "text",
            json!("one two"),
            [set("text", json!("ONE two")), splice(7, 0, "!"), splice(3, 1, "-")],
            json!("ONE-two!"),
        ),
        ("counter", json!(10), [increment(5), increment(-3), set("counter", json!(100))], json!(102)),
        ("set", json!(["x", "y"]), [add("z"), remove("y"), add("z")], json!(["x", "z"])),
        ("set", json!(["x", "y"]), [remove("x"), add("x"), remove("x")], json!(["x", "y"])),
    ]
}

#[test]
fn concurrent_writes_to_texts_counters_and_sets_all_count_under_any_default_policy() {
    for policy in POLICIES {
        let collection = collection(policy);
        for (kind, old, edits, expected) in cases() {
            let mut base = Replica::first(&collection, "register", None);
            base.edit(2, &[Edit::Set { field: field(kind), value: old }]);
            let made: Vec<_> = edits
                .iter()
                .zip([9, 5, 7])
                .zip(1u8..)
                .map(|((edit, stamp), number)| base.twin(number).edit(stamp, std::slice::from_ref(edit)))
                .collect();
            for order in ORDERS {
                let mut replica = base.twin(9);
                order.iter().for_each(|which| drop(replica.document.apply(&made[*which]).unwrap()));
                assert_eq!(replica.state().fields[kind], expected, "{policy} {kind} {order:?}");
                assert!(replica.contests().is_empty());
            }
        }
    }
}

#[test]
fn they_take_no_policy() {
    for kind in ["text", "counter", "set"] {
        for policy in POLICIES {
            let policy =
                if policy == "custom" { "{ custom = \"a\", version = 1 }".into() } else { json!(policy).to_string() };
            let text = format!("version = 1\n[collections.a.fields]\nb = {{ kind = \"{kind}\", policy = {policy} }}");
            let error = Schema::from_toml(&text).unwrap_err().to_string();
            assert!(error.contains("have no `policy`"), "{kind} {policy}: {error}");
        }
    }
}
