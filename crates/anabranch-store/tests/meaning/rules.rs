//! Rules: refused before anything is written, flagged when a merge has broken one.

use anabranch_core::document::{Choice, Edit};
use anabranch_core::{Rule, Schema, Stamp};
use anabranch_store::{ConflictKind, StoreError, Write};
use serde_json::{Value, json};

use super::fleet::{Fleet, Outcome, exchange, field, fields, increment, meet, schema, set, space, type_at, version};

const RULES: &str = r#"
    [collections.notes.fields]
    title = { kind = "register", required = true }
    level = { kind = "register", type = "integer", min = 1, max = 5 }
    code = { kind = "register", pattern = "[a-z]+", min_length = 2, max_length = 4 }
    size = { kind = "register", one_of = ["s", "m"] }
    pair = { kind = "register", check = "even" }
    body = { kind = "text", max_length = 5 }
    stars = { kind = "counter", max = 10 }
    tags = { kind = "set", max_length = 2 }
    steps = { kind = "list", required = true }
    facts = { kind = "map", max_length = 1 }
"#;

fn rules() -> Schema {
    schema(RULES)
}

fn good() -> Value {
    json!({ "title": "x", "steps": [1], "level": 3, "code": "abc", "size": "s", "pair": 2, "body": "12345",
            "stars": 9, "tags": ["a"], "facts": { "a": 1 } })
}

#[test]
fn each_rule_refuses_a_write_and_names_entity_field_and_rule() -> Outcome {
    let fleet = Fleet::new();
    let [a] = fleet.replicas(&rules());
    let id = a.create("notes", good())?;
    let before = a.shown();
    let add = |member| Edit::Add { field: field("tags"), member: json!(member) };
    let cases = [
        (vec![set("title", Value::Null)], "title", "required"),
        (vec![set("title", json!(""))], "title", "required"),
        (vec![set("level", json!("high"))], "level", "type"),
        (vec![set("level", json!(0))], "level", "min"),
        (vec![set("level", json!(6))], "level", "max"),
        (vec![set("code", json!("a"))], "code", "min_length"),
        (vec![set("code", json!("abcde"))], "code", "max_length"),
        (vec![set("code", json!("ab1"))], "code", "pattern"),
        (vec![set("size", json!("xl"))], "size", "one_of"),
        (vec![set("pair", json!(3))], "pair", "check"),
        (vec![type_at("body", 0, "!")], "body", "max_length"),
        (vec![increment("stars", 2)], "stars", "max"),
        (vec![add("b"), add("c")], "tags", "max_length"),
        (vec![set("steps", json!([]))], "steps", "required"),
        (vec![set("facts", json!({ "a": 1, "b": 2 }))], "facts", "max_length"),
        // Not even if the same edit does something good elsewhere.
        (vec![set("level", json!(4)), set("size", json!("xl"))], "size", "one_of"),
    ];
    for (edits, name, rule) in cases {
        let refused = a.edit(id, edits);
        let Err(StoreError::Rule { entity, field, rule: broken }) = refused else {
            panic!("{name} {rule}: {refused:?}")
        };
        assert_eq!((entity, field.as_str(), broken.name()), (id, name, rule));
    }
    let refused = a.create("notes", json!({ "title": "no steps" }));
    assert!(matches!(refused, Err(StoreError::Rule { field, rule: Rule::Required, .. }) if field.as_str() == "steps"));
    let Err(StoreError::Rule { rule, .. }) = a.set(id, "pair", json!(3)) else { panic!("it is odd") };
    assert_eq!(rule.to_string(), "even: it is odd");
    assert_eq!(a.shown(), before, "nothing was stored");
    // Good ones pass, up to each bound.
    a.edit(id, vec![set("level", json!(5)), increment("stars", 1), add("b"), set("body", json!("abcde"))])?;
    a.edit(id, vec![set("level", Value::Null), set("size", Value::Null)])?;
    // An edit that goes beyond a bound and ends within is good.
    a.edit(id, vec![add("c"), Edit::Remove { field: field("tags"), member: json!("a") }])?;
    Ok(())
}

#[test]
fn a_merge_that_breaks_a_rule_is_flagged_on_every_replica() -> Outcome {
    let fleet = Fleet::new();
    let replicas = fleet.replicas::<3>(&rules());
    let [a, b, c] = &replicas;
    let id = a.create("notes", json!({ "title": "x", "steps": ["s"], "stars": 8, "body": "123", "tags": ["a"] }))?;
    meet(&[a, b, c])?;
    a.edit(
        id,
        vec![increment("stars", 2), type_at("body", 3, "45"), Edit::Add { field: field("tags"), member: json!("b") }],
    )?;
    b.edit(
        id,
        vec![increment("stars", 1), type_at("body", 3, "67"), Edit::Add { field: field("tags"), member: json!("c") }],
    )?;
    meet(&[b, c, a])?;
    assert_eq!((c.get(id, "stars"), c.get(id, "tags")), (json!(11), json!(["a", "b", "c"])));
    let found: Vec<_> = c.queue().iter().map(|item| (item.kind, item.field.clone(), item.reason.clone())).collect();
    let expected = [
        ("body", "max_length: the greatest length is 5"),
        ("stars", "max: the greatest value is 10"),
        ("tags", "max_length: the greatest length is 2"),
    ];
    assert_eq!(found, expected.map(|(field, reason)| (ConflictKind::Rule, field.to_owned(), reason.to_owned())));
    assert_eq!(c.queue()[1].value, json!(11));
    assert_eq!((c.record(id).conflicts, c.record(id).open_conflicts), (0, 3));
    // Another field can still be edited, a broken one only to something better.
    c.set(id, "title", json!("y"))?;
    assert!(matches!(c.edit(id, vec![increment("stars", 1)]), Err(StoreError::Rule { .. })));
    assert!(matches!(c.set(id, "body", json!("12345678")), Err(StoreError::Rule { .. })));
    c.set(id, "body", json!("123456"))?;
    c.edit(id, vec![increment("stars", -1)])?;
    // It is no conflict between values, so there is nothing to choose from.
    let item = c.queue()[0].clone();
    assert!(matches!(c.resolve(id, item.id, Choice::This(0)), Err(StoreError::ConflictChanged(_))));
    meet(&[a, b, c])?;
    assert_eq!(a.queue().len(), 2);
    a.edit(id, vec![set("body", json!("1")), Edit::Remove { field: field("tags"), member: json!("a") }])?;
    meet(&[a, b, c])?;
    assert!(b.queue().is_empty());
    Ok(())
}

/// What another system holds has happened already: it is taken in, and flagged.
#[test]
fn an_import_is_flagged_and_not_refused() -> Outcome {
    let fleet = Fleet::new();
    let [a, b] = fleet.replicas(&rules());
    let id = a.create("notes", json!({ "title": "x", "steps": [1], "level": 3 }))?;
    let work = move |write: &mut Write<'_>| {
        let (base, body) = (write.heads(&space(), id)?, write.state(&space(), id)?.fields);
        let mut remote = body.clone();
        remote.extend(fields(json!({ "level": 9, "body": "far too long", "title": null })));
        write.import(&space(), id, &base, &body, &remote, Stamp::ZERO)
    };
    assert!(a.store.write(work).wait()?);
    meet(&[&a, &b])?;
    assert_eq!((b.get(id, "level"), b.get(id, "body")), (json!(9), json!("far too long")));
    let found: Vec<_> = b.queue().iter().map(|item| item.field.clone()).collect();
    assert_eq!(found, ["body", "level", "title"]);
    Ok(())
}

/// Two clear what is left, each a part: the list is empty, which neither did.
#[test]
fn what_is_required_can_be_emptied_by_a_merge_only() -> Outcome {
    let fleet = Fleet::new();
    let [a, b] = fleet.replicas(&rules());
    let id = a.create("notes", json!({ "title": "x", "steps": ["1", "2"] }))?;
    meet(&[&a, &b])?;
    a.set(id, "steps", json!(["1"]))?;
    b.set(id, "steps", json!(["2"]))?;
    meet(&[&a, &b])?;
    assert_eq!(a.queue().len(), 1);
    assert_eq!((a.queue()[0].field.as_str(), a.queue()[0].reason.as_str()), ("steps", "required: a value is required"));
    // Deleted, it bothers nobody.
    a.delete(id)?;
    meet(&[&a, &b])?;
    assert!(b.queue().is_empty());
    Ok(())
}

#[test]
fn a_rule_that_comes_with_a_new_schema_flags_what_is_there() -> Outcome {
    let fleet = Fleet::new();
    let open = "[collections.notes.fields]\ntitle = { kind = \"register\" }\nlevel = { kind = \"register\" }\n";
    let [a, b] = fleet.replicas(&schema(open));
    let id = a.create("notes", json!({ "title": "x", "level": "high" }))?;
    let other = a.create("notes", json!({ "title": "y", "level": 2 }))?;
    exchange(&[&a, &b])?;
    drop((a, b));
    let narrow = open.replace("level = { kind = \"register\" }", "level = { kind = \"register\", type = \"integer\" }")
        + "owner = { kind = \"register\", required = true }\n";
    let replicas = fleet.replicas::<2>(&version(2, &narrow));
    let [a, b] = &replicas;
    let found: Vec<_> = a.queue().iter().map(|item| (item.entity, item.field.clone())).collect();
    let expected = [(id, "level"), (id, "owner"), (other, "owner")];
    let mut expected = expected.map(|(id, field)| (id, field.to_owned())).to_vec();
    expected.sort();
    assert_eq!(found, expected);
    // They do not keep anybody from editing something else.
    a.set(id, "title", json!("z"))?;
    a.edit(other, vec![set("owner", json!("me"))])?;
    meet(&[a, b])?;
    assert_eq!(b.queue().len(), 2);
    Ok(())
}
