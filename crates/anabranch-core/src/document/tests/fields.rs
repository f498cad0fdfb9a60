//! Each kind of field: what edits do, and what they refuse.

use super::*;

#[test]
fn an_entity_reads_as_it_was_created() {
    let fields = json!({
        "title": "Milk", "body": "line one\nline two", "votes": -3, "tags": ["b", "a", 2, true],
        "steps": [1, { "deep": [null, 1.5] }], "facts": { "": 0, "k": { "x": [] } },
        "folder": "0190f5fe-7c00-7000-8000-000000000001", "first": { "opaque": [1, 2, { "z": null }] },
    });
    let note = Replica::create(1, fields.clone());
    let state = note.state();
    let mut expected = fields;
    expected["tags"] = json!([true, 2, "a", "b"]);
    assert_eq!(Value::Object(state.fields.clone()), expected);
    assert_eq!(state.collection, Some(name()));
    assert_eq!((state.created, state.updated, state.deleted), (at(1), at(1), false));
    assert!(state.contests.is_empty());
    // Without a schema, the document itself tells the kinds.
    assert_eq!(note.document.state(None).unwrap(), state);
    // Five geneses, then one change.
    assert_eq!(note.changes.len(), 6);
    assert_eq!(note.document.heads().hashes(), [note.changes[5].hash()]);
}

#[test]
fn unset_and_cleared_fields_are_absent() {
    let mut note = Replica::create(1, json!({ "title": "x", "body": "", "votes": 0, "tags": [], "facts": {} }));
    assert_eq!(Value::Object(note.state().fields), json!({ "title": "x" }));
    assert_eq!(note.changes.len(), 1, "an empty value makes no container");
    assert_eq!(note.edit(2, &[set("title", Value::Null)]), 1);
    assert!(note.state().fields.is_empty());
    assert_eq!(note.edit(3, &[set("title", Value::Null)]), 0);
}

#[test]
fn an_edit_that_changes_nothing_makes_no_change() {
    let fields = json!({
        "title": "x", "body": "text", "votes": 4, "tags": ["a"], "steps": [1, [2]], "facts": { "k": { "l": 1 } },
    });
    let mut note = Replica::create(1, fields.clone());
    for (name, value) in fields.as_object().unwrap() {
        assert_eq!(note.edit(2, &[set(name, value.clone())]), 0, "{name}");
    }
    let nothing = [
        Edit::Increment { field: field("votes"), by: 0 },
        Edit::Splice { field: field("body"), at: 2, delete: 0, insert: String::new() },
        Edit::Remove { field: field("tags"), member: json!("absent") },
        Edit::Insert { field: field("steps"), path: Path::default(), at: 1, values: vec![] },
        put("facts", path([Step::from("k")]), json!({ "l": 1 })),
        Edit::Delete { field: field("facts"), path: path([Step::from("absent")]) },
    ];
    assert_eq!(note.edit(2, &nothing), 0);
    assert_eq!(note.state().updated, at(1));
}

#[test]
fn several_edits_make_one_change() {
    let mut note = Replica::create(1, json!({}));
    let edits = [
        set("title", json!("a")),
        Edit::Splice { field: field("body"), at: 0, delete: 0, insert: "héllo".to_owned() },
        Edit::Splice { field: field("body"), at: 1, delete: 1, insert: "e".to_owned() },
        Edit::Increment { field: field("votes"), by: 2 },
        Edit::Increment { field: field("votes"), by: -5 },
        set("title", json!("b")),
    ];
    assert_eq!(note.edit(2, &edits), 3, "two geneses and one change");
    assert_eq!(Value::Object(note.state().fields), json!({ "title": "b", "body": "hello", "votes": -3 }));
}

#[test]
fn concurrent_texts_merge_by_character() {
    let mut a = Replica::create(1, json!({ "body": "the cat sat" }));
    let mut b = a.twin(2);
    a.edit(2, &[set("body", json!("the black cat sat"))]);
    b.edit(3, &[set("body", json!("the cat sat down"))]);
    exchange(&mut a, &mut b);
    assert_eq!(a.field("body"), json!("the black cat sat down"));
}

#[test]
fn a_large_rewrite_of_a_text_is_one_splice() {
    let mut a = Replica::create(1, json!({ "body": format!("<{}>", "a".repeat(9_000)) }));
    let new = format!("<{}é>", "b".repeat(5_000));
    a.edit(2, &[set("body", json!(new))]);
    assert_eq!(a.field("body"), json!(new));
}

#[test]
fn concurrent_counts_sum_up() {
    let mut a = Replica::create(1, json!({ "votes": 10 }));
    let mut b = a.twin(2);
    a.edit(2, &[Edit::Increment { field: field("votes"), by: 5 }]);
    b.edit(2, &[set("votes", json!(7))]);
    exchange(&mut a, &mut b);
    assert_eq!(a.field("votes"), json!(12));
}

#[test]
fn a_container_created_twice_is_one() {
    let mut a = Replica::create(1, json!({}));
    let mut b = a.twin(2);
    a.edit(
        2,
        &[
            set("body", json!("left ")),
            set("votes", json!(1)),
            set("tags", json!(["a"])),
            set("steps", json!(["a"])),
            set("facts", json!({ "a": 1 })),
        ],
    );
    b.edit(
        3,
        &[
            set("body", json!("right")),
            set("votes", json!(2)),
            set("tags", json!(["b"])),
            set("steps", json!(["b"])),
            set("facts", json!({ "b": 2 })),
        ],
    );
    exchange(&mut a, &mut b);
    let state = a.state();
    assert!(state.contests.is_empty());
    let body = state.fields["body"].as_str().unwrap();
    assert!(body.contains("left ") && body.contains("right"), "{body}");
    assert_eq!(state.fields["votes"], json!(3));
    assert_eq!(state.fields["tags"], json!(["a", "b"]));
    assert_eq!(state.fields["steps"].as_array().unwrap().len(), 2);
    assert_eq!(state.fields["facts"], json!({ "a": 1, "b": 2 }));
}

#[test]
fn lists_change_by_element() {
    let mut a = Replica::create(1, json!({ "steps": [1, 2, { "x": 1, "y": 1 }, 4] }));
    let mut b = a.twin(2);
    a.edit(2, &[set("steps", json!([1, 2, { "x": 2, "y": 1 }, 4]))]);
    b.edit(3, &[set("steps", json!([0, 1, 2, { "x": 1, "y": 1 }, 4]))]);
    exchange(&mut a, &mut b);
    assert_eq!(a.field("steps"), json!([0, 1, 2, { "x": 2, "y": 1 }, 4]));
    b.edit(4, &[Edit::Delete { field: field("steps"), path: path([Step::from(1)]) }]);
    let inner = path([Step::from(3), Step::from("z")]);
    a.edit(5, &[put("steps", inner.clone(), json!([]))]);
    a.edit(6, &[Edit::Insert { field: field("steps"), path: inner, at: 0, values: vec![json!({ "w": 1 })] }]);
    exchange(&mut a, &mut b);
    assert_eq!(a.field("steps"), json!([0, 2, { "x": 2, "y": 1, "z": [{ "w": 1 }] }, 4]));
}

#[test]
fn what_does_not_suit_a_field_is_refused_by_name() {
    let mut note = Replica::create(1, json!({ "steps": [1], "body": "abc", "votes": 1, "facts": { "k": 1 } }));
    let wrong = [
        set("body", json!(1)),
        set("votes", json!(1.5)),
        set("tags", json!("x")),
        set("tags", json!([null])),
        set("tags", json!([["x"]])),
        set("steps", json!({})),
        set("facts", json!([])),
        set("folder", json!("not an id")),
        set("folder", json!(7)),
        Edit::Increment { field: field("title"), by: 1 },
        Edit::Add { field: field("steps"), member: json!(1) },
        Edit::Splice { field: field("title"), at: 0, delete: 0, insert: "x".to_owned() },
        put("tags", path([Step::from("x")]), json!(1)),
    ];
    for edit in wrong {
        let error = note.refuses(edit.clone());
        assert!(matches!(&error, EditError::WrongKind { field, .. } if field == edit.field()), "{error}");
    }
    let range = [
        (Edit::Splice { field: field("body"), at: 4, delete: 0, insert: String::new() }, 4, 3),
        (Edit::Splice { field: field("body"), at: 1, delete: 3, insert: String::new() }, 4, 3),
        (Edit::Insert { field: field("steps"), path: Path::default(), at: 2, values: vec![json!(1)] }, 2, 1),
        (put("steps", path([Step::from(1)]), json!(1)), 2, 1),
        (Edit::Delete { field: field("steps"), path: path([Step::from(7)]) }, 7, 1),
    ];
    for (edit, at, length) in range {
        let field = edit.field().clone();
        assert_eq!(note.refuses(edit), EditError::OutOfRange { field, at, length });
    }
    let nowhere = [
        put("facts", path([Step::from("absent"), Step::from("x")]), json!(1)),
        put("facts", path([Step::from("k"), Step::from("x")]), json!(1)),
        put("facts", path([Step::from(0)]), json!(1)),
        put("facts", Path::default(), json!(1)),
        Edit::Insert { field: field("facts"), path: Path::default(), at: 0, values: vec![json!(1)] },
    ];
    for edit in nowhere {
        assert!(matches!(note.refuses(edit), EditError::NoSuchElement { .. }));
    }
    assert_eq!(note.refuses(set("colour", json!(1))), EditError::UnknownField("colour".to_owned()));
    assert_eq!(
        note.refuses(Edit::Increment { field: field("votes"), by: i64::MAX }),
        EditError::Overflow { field: field("votes") }
    );
}

#[test]
fn nesting_is_bounded_where_it_is_written() {
    let nested = |levels| (0..levels).fold(json!(1), |inner, _| json!([inner]));
    let mut note = Replica::create(1, json!({}));
    for name in ["title", "steps"] {
        note.edit(2, &[set(name, nested(MAX_DEPTH))]);
        assert_eq!(note.field(name), nested(MAX_DEPTH));
        assert!(matches!(note.refuses(set(name, nested(MAX_DEPTH + 1))), EditError::TooDeep { .. }));
    }
    // By a path that is as deep as can be, a scalar fits and an array does not.
    let deepest: Path = vec![0; MAX_DEPTH].into_iter().collect();
    note.edit(3, &[put("steps", deepest.clone(), json!(2))]);
    assert!(matches!(note.refuses(put("steps", deepest.clone(), json!([]))), EditError::TooDeep { .. }));
    let list: Path = vec![0; MAX_DEPTH - 1].into_iter().collect();
    let insert = |values| Edit::Insert { field: field("steps"), path: list.clone(), at: 0, values };
    note.edit(4, &[insert(vec![json!(1)])]);
    assert!(matches!(note.refuses(insert(vec![json!([])])), EditError::TooDeep { .. }));
}

#[test]
fn births_and_lives_come_in_order() {
    let mut empty = Replica::empty(1);
    assert!(!empty.document.is_born());
    assert_eq!(empty.document.edit(&notes(), at(1), &[]), Err(EditError::NotBorn));
    assert_eq!(empty.document.delete(at(1)), Err(EditError::NotBorn));
    assert_eq!(empty.document.restore(at(1)), Err(EditError::NotBorn));
    assert_eq!(empty.state(), State::default());
    let mut note = Replica::create(1, json!({}));
    let again = note.document.create(&name(), &notes(), at(2), &serde_json::Map::new());
    assert_eq!(again, Err(EditError::AlreadyExists));
    // A well-known entity that two replicas create is one.
    let mut a = Replica::create(1, json!({ "body": "a" }));
    let mut b = Replica::create(2, json!({ "body": "b" }));
    exchange(&mut a, &mut b);
    assert!(a.state().contests.is_empty());
    assert_eq!(a.field("body").as_str().map(str::len), Some(2));
}

#[test]
fn a_change_that_is_too_large_is_refused() {
    let mut note = Replica::create(1, json!({}));
    let edit = set("title", json!("x".repeat(crate::MAX_CHANGE_BYTES)));
    assert_eq!(note.refuses(edit), EditError::TooLarge);
    let exact = set("title", json!("x".repeat(crate::MAX_CHANGE_BYTES - 300)));
    assert_eq!(note.edit(2, &[exact]), 1);
}
