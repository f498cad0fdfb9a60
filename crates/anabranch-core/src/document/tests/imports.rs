//! Edits of another system.

use super::*;

fn body(value: Value) -> serde_json::Map<String, Value> {
    value.as_object().unwrap().clone()
}

impl Replica {
    fn import(&mut self, base: &Heads, from: Value, to: Value, stamp: i64) -> Result<Vec<Change>, EditError> {
        let made = self.document.import(&notes(), base, &body(from), &body(to), at(stamp))?;
        self.changes.extend(made.clone());
        Ok(made)
    }
}

#[test]
fn disjoint_fields_merge_and_contested_ones_go_by_policy() {
    let then = json!({ "title": "x", "body": "one two", "votes": 1, "tags": ["a"] });
    let mut a = Replica::create(1, then.clone());
    let base = a.document.heads();
    a.edit(5, &[set("title", json!("mine")), set("body", json!("one two three")), set("votes", json!(3))]);
    let mut earlier = a.twin(2);
    let remote = json!({ "title": "theirs", "body": "1 two", "votes": 11, "tags": ["a", "b"], "folder": null });
    let made = a.import(&base, then.clone(), remote.clone(), 9).unwrap();
    assert_eq!(made.len(), 1);
    assert!(made[0].actor().is_derived());
    assert_eq!(Change::parse(made[0].bytes().to_vec()).as_ref(), Ok(&made[0]));
    let fields = a.state().fields;
    assert_eq!(fields["title"], "theirs", "theirs is later");
    assert_eq!(
        (&fields["body"], &fields["votes"], &fields["tags"]),
        (&json!("1 two three"), &json!(13), &json!(["a", "b"]))
    );
    assert_eq!(a.state().contests.len(), 1);
    earlier.import(&base, then, remote, 2).unwrap();
    assert_eq!(earlier.field("title"), "mine", "theirs is earlier");
    let history = a.document.history(&notes(), Page { before: None, limit: 1 }).unwrap();
    assert_eq!((history[0].action, history[0].hash), (Action::Import, made[0].hash()));
}

#[test]
fn the_same_import_is_the_same_change_everywhere() {
    let then = json!({ "title": "x" });
    let mut a = Replica::create(1, then.clone());
    let base = a.document.heads();
    let mut b = a.twin(2);
    // They differ, and the geneses that the import needs are there in one of them only.
    b.edit(2, &[set("body", json!("b")), set("steps", json!([1]))]);
    a.edit(3, &[set("title", json!("a"))]);
    let now = json!({ "title": "y", "body": "new", "steps": [2], "facts": { "k": { "a": 1 } }, "votes": 2 });
    let in_a = a.import(&base, then.clone(), now.clone(), 4).unwrap();
    let in_b = b.import(&base, then.clone(), now.clone(), 4).unwrap();
    assert_eq!(in_a.last(), in_b.last());
    assert_eq!((in_a.len(), in_b.len()), (5, 3), "with the geneses that each lacked");
    exchange(&mut a, &mut b);
    assert_eq!(a.import(&base, then.clone(), now, 4), Ok(vec![]), "it is there already");
    assert_eq!(a.import(&base, then.clone(), then, 5), Ok(vec![]), "no difference");
    assert_eq!(a.document.fold().unwrap().heads, a.document.heads());
}

#[test]
fn what_a_body_lacks_is_cleared() {
    let then = json!({ "title": "x", "body": "text", "votes": 3, "tags": ["a"], "steps": [1], "facts": { "a": 1 } });
    let mut a = Replica::create(1, then.clone());
    let base = a.document.heads();
    a.import(&base, then, json!({ "title": null }), 2).unwrap();
    let fields = json!({ "body": "", "votes": 0, "tags": [], "steps": [], "facts": {} });
    assert_eq!(Value::Object(a.state().fields), fields);
}

#[test]
fn an_import_needs_its_base_and_fields_of_the_schema() {
    let mut a = Replica::create(1, json!({ "title": "x" }));
    let base = a.document.heads();
    let unknown = Heads::new(vec![ChangeHash::from_bytes([7; 32])]);
    let refused = a.import(&unknown, json!({}), json!({}), 2);
    assert_eq!(refused, Err(EditError::Document(DocumentError::UnknownHeads)));
    assert_eq!(a.import(&Heads::default(), json!({}), json!({}), 2), Err(EditError::NotBorn));
    let refused = a.import(&base, json!({}), json!({ "colour": 1 }), 2);
    assert_eq!(refused, Err(EditError::UnknownField("colour".into())));
    assert_eq!(a.import(&base, json!({ "colour": 1 }), json!({ "colour": 1 }), 2), Ok(vec![]));
    assert!(matches!(a.import(&base, json!({}), json!({ "votes": "x" }), 2), Err(EditError::WrongKind { .. })));
}
