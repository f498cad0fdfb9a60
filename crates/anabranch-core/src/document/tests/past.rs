//! The past: histories by the page, documents as they were, and what differs between two states.

use super::*;

fn all(replica: &Replica) -> Vec<HistoryEntry> {
    replica.document.history(&notes(), Page { before: None, limit: usize::MAX }).unwrap()
}

fn told(entries: &[HistoryEntry]) -> Vec<(i64, Action, Vec<&str>)> {
    entries.iter().map(|it| (it.stamp.raw(), it.action, it.fields.iter().map(String::as_str).collect())).collect()
}

#[test]
fn a_history_tells_what_was_done_newest_first() {
    let mut a = Replica::create(1, json!({ "title": "x", "steps": [{ "a": 1 }] }));
    a.edit(2, &[set("body", json!("abc")), set("title", json!("y"))]);
    a.edit(3, &[put("steps", path([0.into(), "a".into()]), json!(2))]);
    a.edit(4, &[Edit::Delete { field: field("steps"), path: path([0.into()]) }]);
    a.delete(5);
    a.delete(6);
    a.restore(7);
    let entries = all(&a);
    let expected = [
        (7, Action::Restore, vec![]),
        (6, Action::Delete, vec![]),
        (5, Action::Delete, vec![]),
        (4, Action::Edit, vec!["steps"]),
        (3, Action::Edit, vec!["steps"]),
        (2, Action::Edit, vec!["body", "title"]),
        (1, Action::Create, vec!["steps", "title"]),
    ];
    assert_eq!(told(&entries), expected);
    assert_eq!((entries[5].ops, entries[5].seq, &entries[5].actor), (4, 2, &actor(1)));
    // What it was written on top of is the entity before it.
    let before = a.document.at(&Heads::new(entries[4].dependencies.clone())).unwrap();
    assert_eq!(before.state(Some(&notes())).unwrap().fields["title"], "y");
}

#[test]
fn a_history_is_ordered_by_cause_and_then_by_time() {
    let a = Replica::create(1, json!({}));
    let (mut b, mut c) = (a.twin(2), a.twin(3));
    b.edit(50, &[set("title", json!("b"))]);
    b.edit(20, &[set("title", json!("bb"))]); // its clock went back
    c.edit(30, &[set("title", json!("c"))]);
    c.edit(40, &[set("title", json!("cc"))]);
    let mut d = c.twin(4);
    d.pull(&b);
    b.pull(&c);
    let stamps = |replica: &Replica| all(replica).iter().map(|entry| entry.stamp.raw()).collect::<Vec<_>>();
    assert_eq!(stamps(&b), [40, 30, 20, 50, 1]);
    assert_eq!(all(&d), all(&b), "the same on every replica");
    let conflict = b.state().contests[0].id;
    let made = b.document.resolve(&notes(), at(60), &conflict, &Choice::This(0)).unwrap();
    let newest = b.document.history(&notes(), Page { before: None, limit: 1 }).unwrap();
    assert_eq!((newest[0].hash, newest[0].action), (made[0].hash(), Action::Resolve));
}

#[test]
fn a_history_is_read_by_the_page() {
    let mut a = Replica::create(1, json!({ "body": "" }));
    for stamp in 2..24 {
        a.edit(stamp, &[Edit::Splice { field: field("body"), at: 0, delete: 0, insert: "x".into() }]);
    }
    let mut paged = Vec::new();
    loop {
        let before = paged.last().map(|entry: &HistoryEntry| entry.hash);
        let page = a.document.history(&notes(), Page { before, limit: 5 }).unwrap();
        assert!(page.len() <= 5);
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!((&paged, paged.len()), (&all(&a), 23));
    assert_eq!(a.document.history(&notes(), Page { before: None, limit: 0 }), Ok(vec![]));
    let unknown = ChangeHash::from_bytes([7; 32]);
    let page = a.document.history(&notes(), Page { before: Some(unknown), limit: 5 });
    assert_eq!(page, Err(DocumentError::UnknownChange(unknown)));
}

#[test]
fn a_history_shows_fields_under_their_present_names() {
    let mut a = Replica::create(1, json!({ "title": "x" }));
    a.edit(2, &[set("votes", json!(1))]);
    let renamed = r#"
        version = 2
        [collections.notes.fields]
        name = { kind = "register", key = "title" }
        votes = { kind = "register", key = "ballot" }
    "#;
    let renamed = Schema::from_toml(renamed).unwrap().collections["notes"].clone();
    let entries = a.document.history(&renamed, Page { before: None, limit: 9 }).unwrap();
    assert_eq!(entries[1].fields, ["name"]);
    assert_eq!(entries[0].fields, ["$votes"], "as the state shows it");
    let state = a.document.state(Some(&renamed)).unwrap();
    assert!(state.fields.contains_key("$votes"));
}

#[test]
fn a_document_reads_as_it_was() {
    let mut a = Replica::create(1, json!({ "title": "x", "votes": 1 }));
    let mut moments = vec![(a.document.heads(), a.state())];
    let mut b = a.twin(2);
    b.edit(3, &[set("title", json!("b")), set("body", json!("text"))]);
    b.delete(4);
    a.edit(2, &[set("title", json!("a")), Edit::Increment { field: field("votes"), by: 2 }]);
    moments.push((a.document.heads(), a.state()));
    moments.push((b.document.heads(), b.state()));
    exchange(&mut a, &mut b);
    moments.push((a.document.heads(), a.state()));
    a.edit(9, &[set("title", json!("z"))]);
    for (heads, state) in &moments {
        let then = a.document.at(heads).unwrap();
        assert_eq!((&then.heads(), &then.state(Some(&notes())).unwrap()), (heads, state));
    }
    assert!(a.document.at(&Heads::default()).unwrap().heads().is_empty());
    let unknown = Heads::new(vec![ChangeHash::from_bytes([7; 32])]);
    assert_eq!(a.document.at(&unknown).unwrap_err(), DocumentError::UnknownHeads);
}

#[test]
fn a_diff_shows_what_came_went_and_changed() {
    let mut a = Replica::create(1, json!({ "title": "x", "body": "one two", "votes": 1 }));
    let before = a.state();
    a.edit(2, &[set("title", json!(null)), set("body", json!("one 2 three")), set("tags", json!(["t"]))]);
    a.delete(3);
    let after = a.state();
    let plain = |field: &str, before: Option<Value>, after: Option<Value>| FieldDiff {
        field: field.to_owned(),
        before,
        after,
        splices: vec![],
    };
    let mut body = plain("body", Some(json!("one two")), Some(json!("one 2 three")));
    let made = diff(&before, &after);
    body.splices = made.iter().find(|diff| diff.field == "body").unwrap().splices.clone();
    assert!(!body.splices.is_empty());
    let expected = [
        plain("$deleted", Some(json!(false)), Some(json!(true))),
        body,
        plain("tags", None, Some(json!(["t"]))),
        plain("title", Some(json!("x")), None),
    ];
    assert_eq!(made, expected);
    assert_eq!(diff(&after, &before)[0], plain("$deleted", Some(json!(true)), Some(json!(false))));
    assert_eq!(diff(&after, &after), []);
}
