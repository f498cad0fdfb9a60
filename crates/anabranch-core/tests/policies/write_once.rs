//! `first_writer`: written once, unless two have written at the same time.

use anabranch_core::document::{Choice, Edit, EditError, Path, Step};
use serde_json::{Value, json};

use super::support::{KINDS, Replica, at, collection, field, id, meet, read, write};

fn refused(replica: &Replica, edit: Edit) -> bool {
    let mut document = replica.document.clone();
    let result = document.edit(&replica.collection, at(99), &[edit]);
    match result {
        Err(EditError::WriteOnce { .. }) => true,
        Ok(_) => false,
        Err(error) => panic!("{error}"),
    }
}

/// Two values for each kind; nested ones where the kind takes them.
fn pairs(kind: &str) -> Vec<(Value, Value)> {
    match kind {
        "reference" => vec![(id(1), id(2))],
        "register" => vec![(json!("a"), json!("b")), (json!({ "a": 1 }), json!({ "b": 2 }))],
        _ => vec![
            (json!("a"), json!("b")),
            (json!({ "a": 1 }), json!({ "b": 2 })),
            (json!([1]), json!([2])),
            (json!({ "a": 1 }), json!("b")),
        ],
    }
}

#[test]
fn an_overwrite_is_refused_outside_a_conflict_and_allowed_in_one() {
    for kind in KINDS {
        for (one, other) in pairs(kind) {
            let base = Replica::first(&collection("first_writer"), kind, None);
            let (mut a, mut b) = (base.twin(1), base.twin(2));
            a.edit(5, &[write(kind, one.clone())]);
            assert!(refused(&a, write(kind, other.clone())), "{kind}: it has a value");
            assert!(refused(&a, write(kind, json!(null))), "{kind}: and cannot be cleared");
            assert!(!refused(&a, write(kind, one.clone())), "{kind}: the same value again is no write");
            b.edit(6, &[write(kind, other.clone())]);
            meet(&mut [&mut a, &mut b]);
            assert_eq!((read(kind, &a.state()), a.contests().len()), (one.clone(), 1), "{kind}");
            assert!(!refused(&a, write(kind, other.clone())), "{kind} {one} {other}: a conflict may be settled");
            b.edit(7, &[write(kind, other.clone())]);
            meet(&mut [&mut a, &mut b]);
            assert_eq!((read(kind, &a.state()), a.contests().len()), (other.clone(), 0), "{kind}");
            assert!(refused(&a, write(kind, one.clone())), "{kind}: settled, it has a value again");
        }
    }
}

#[test]
fn two_who_wrote_the_same_have_written_it() {
    for kind in KINDS {
        for (one, other) in pairs(kind) {
            let base = Replica::first(&collection("first_writer"), kind, None);
            let (mut a, mut b) = (base.twin(1), base.twin(2));
            a.edit(5, &[write(kind, one.clone())]);
            b.edit(6, &[write(kind, one.clone())]);
            meet(&mut [&mut a, &mut b]);
            assert!(a.contests().is_empty() && refused(&a, write(kind, other)), "{kind} {one}");
        }
    }
}

#[test]
fn a_value_that_is_free_again_may_be_written() {
    let mut a = Replica::first(&collection("first_writer"), "register", None);
    let mut b = a.twin(2);
    a.edit(5, &[write("register", json!("a"))]);
    b.edit(6, &[write("register", json!("b"))]);
    meet(&mut [&mut a, &mut b]);
    // A person settles on nothing: the field is free.
    let contest = a.contest();
    a.document.resolve(&a.collection, at(7), &contest.id, &Choice::Value(Value::Null)).unwrap();
    assert!(!refused(&a, write("register", json!("c"))));
}

#[test]
fn what_is_in_a_write_once_list_or_map_is_not_replaced_by_a_set_either() {
    let mut a = Replica::first(&collection("first_writer"), "map", Some(json!("old")));
    a.edit(5, &[Edit::Set { field: field("list"), value: json!([1, 2, 3]) }]);
    let set = |name, value| Edit::Set { field: field(name), value };
    assert!(refused(&a, set("map", json!({ "slot": "new" }))));
    assert!(refused(&a, set("map", json!({}))));
    assert!(refused(&a, Edit::Delete { field: field("map"), path: Path(vec![Step::from("slot")]) }));
    assert!(refused(&a, Edit::Delete { field: field("list"), path: Path(vec![Step::from(1)]) }));
    assert!(refused(&a, set("list", json!([1, "new", 3]))), "one element");
    assert!(refused(&a, set("list", json!([7, 8, 9, 10]))), "several elements");
    assert!(refused(&a, set("list", json!([1]))), "removed elements");
    assert!(!refused(&a, set("list", json!([1, 2, 3, 4]))), "one more element");
    assert!(!refused(&a, set("map", json!({ "slot": "old", "more": 1 }))), "another entry");
}
