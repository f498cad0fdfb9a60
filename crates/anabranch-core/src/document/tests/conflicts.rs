//! Concurrent writes: contests, deletions, and the writes that must not be lost.

use super::*;

#[test]
fn g08_conflicts_settle_by_policy_and_every_value_stays_readable() {
    let mut a = Replica::create(1, json!({ "title": "old", "first": "old" }));
    let mut b = a.twin(2);
    // The replica with the smaller actor has the later stamp, so the two policies disagree.
    a.edit(9, &[set("title", json!("a")), set("first", json!("a"))]);
    b.edit(5, &[set("title", json!("b")), set("first", json!("b"))]);
    exchange(&mut a, &mut b);
    let state = a.state();
    assert_eq!((&state.fields["title"], &state.fields["first"]), (&json!("a"), &json!("b")));
    let seen: Vec<_> = state.contests.iter().map(|contest| (contest.place(), contest.value.clone())).collect();
    assert_eq!(seen, [("first".to_owned(), json!("b")), ("title".to_owned(), json!("a"))]);
    let contenders = |place: usize| {
        let contenders = state.contests[place].contenders.iter();
        contenders.map(|one| (one.value.clone(), one.stamp, one.actor.clone())).collect::<Vec<_>>()
    };
    let (from_a, from_b) = ((json!("a"), at(9), actor(1)), (json!("b"), at(5), actor(2)));
    assert_eq!(contenders(0), [from_b.clone(), from_a.clone()]);
    assert_eq!(contenders(1), [from_a, from_b]);
}

#[test]
fn equal_stamps_settle_by_op_id() {
    let mut a = Replica::create(1, json!({}));
    let mut b = a.twin(2);
    a.edit(5, &[set("title", json!("a"))]);
    b.edit(5, &[set("title", json!("b"))]);
    exchange(&mut a, &mut b);
    assert_eq!(a.field("title"), json!("b"), "the greater actor");
}

#[test]
fn writing_the_winner_of_a_conflict_settles_it_with_a_new_stamp() {
    for winner in ["a", "b"] {
        let mut a = Replica::create(1, json!({}));
        let mut b = a.twin(2);
        a.edit(9, &[set("title", json!("a"))]);
        b.edit(5, &[set("title", json!("b"))]);
        exchange(&mut a, &mut b);
        let mut c = a.twin(3);
        assert_eq!(a.edit(20, &[set("title", json!(winner))]), 1);
        assert!(a.state().contests.is_empty());
        // The new stamp shows when the field is contested again.
        c.edit(15, &[set("title", json!("c"))]);
        exchange(&mut a, &mut c);
        assert_eq!(a.field("title"), json!(winner));
        let contest = &a.state().contests[0];
        assert_eq!((contest.contenders.len(), contest.contenders[0].stamp), (2, at(20)));
    }
}

#[test]
fn clearing_is_a_value_like_any_other() {
    let mut a = Replica::create(1, json!({ "title": "old" }));
    let mut b = a.twin(2);
    a.edit(9, &[set("title", Value::Null)]);
    b.edit(5, &[set("title", json!("b"))]);
    exchange(&mut a, &mut b);
    assert_eq!(a.field("title"), Value::Null);
    assert_eq!(a.state().contests[0].contenders[1].value, json!("b"));
    // Clearing once more settles the contest.
    assert_eq!(b.edit(10, &[set("title", Value::Null)]), 1);
    exchange(&mut a, &mut b);
    assert!(a.state().contests.is_empty() && a.state().fields.is_empty());
}

#[test]
fn equal_concurrent_values_are_no_contest() {
    let mut a = Replica::create(1, json!({}));
    let mut b = a.twin(2);
    a.edit(5, &[set("title", json!("same"))]);
    b.edit(6, &[set("title", json!("same"))]);
    exchange(&mut a, &mut b);
    assert!(a.state().contests.is_empty());
    assert_eq!(a.edit(7, &[set("title", json!("same"))]), 0);
}

#[test]
fn an_edit_brings_back_what_was_deleted_concurrently() {
    let mut a = Replica::create(1, json!({ "title": "x" }));
    let mut b = a.twin(2);
    a.delete(5);
    assert!(a.state().deleted);
    b.edit(3, &[set("title", json!("y"))]);
    exchange(&mut a, &mut b);
    assert!(!a.state().deleted);
    let strict = Collection { deletion: Deletion::DeleteWins, ..notes() };
    assert!(a.document.state(Some(&strict)).unwrap().deleted);
    // Deleting again, with the edit in view, is final.
    b.delete(6);
    exchange(&mut a, &mut b);
    assert!(a.state().deleted);
}

#[test]
fn a_genesis_is_no_edit_that_brings_back() {
    let mut a = Replica::create(1, json!({}));
    let mut b = a.twin(2);
    a.delete(5);
    let body = genesis::genesis(&name(), &field("body"), crate::Kind::Text).unwrap();
    b.document.apply(std::slice::from_ref(&body.change)).unwrap();
    exchange(&mut a, &mut b);
    assert!(a.state().deleted);
    assert_eq!(a.state().updated, at(5));
}

#[test]
fn delete_restore_delete_again() {
    let mut a = Replica::create(1, json!({}));
    let mut b = a.twin(2);
    a.delete(5);
    b.pull(&a);
    assert_eq!(b.restore(6), 1);
    assert!(!b.state().deleted);
    assert_eq!(b.restore(7), 0, "there is nothing to restore");
    // Concurrently, a deletes once more: with the same stamp, the put repeats the current value.
    a.delete(5);
    exchange(&mut a, &mut b);
    assert!(!a.state().deleted, "the restore is concurrent with the second delete");
    a.delete(8);
    exchange(&mut a, &mut b);
    assert!(a.state().deleted && b.state().deleted);
    // Two who delete apart have deleted; a restore takes both back.
    a.delete(9);
    b.delete(9);
    exchange(&mut a, &mut b);
    assert!(a.state().deleted);
    assert_eq!(a.restore(10), 1);
    exchange(&mut a, &mut b);
    assert!(!a.state().deleted);
    let strict = Collection { deletion: Deletion::DeleteWins, ..notes() };
    assert!(!a.document.state(Some(&strict)).unwrap().deleted);
}

#[test]
fn a_member_added_again_outlives_a_concurrent_removal() {
    let mut a = Replica::create(1, json!({ "tags": ["x", "y"] }));
    let mut b = a.twin(2);
    // The stamp of the first add, so that the put repeats the current value.
    assert_eq!(a.edit(1, &[Edit::Add { field: field("tags"), member: json!("x") }]), 1);
    b.edit(
        9,
        &[
            Edit::Remove { field: field("tags"), member: json!("x") },
            Edit::Remove { field: field("tags"), member: json!("y") },
        ],
    );
    exchange(&mut a, &mut b);
    assert_eq!(a.field("tags"), json!(["x"]));
}

#[test]
fn nested_slots_are_contested_and_settled_by_path() {
    let mut a = Replica::create(1, json!({ "facts": { "who": { "name": "?" } }, "steps": ["one", "two"] }));
    let mut b = a.twin(2);
    let name = path([Step::from("who"), Step::from("name")]);
    a.edit(9, &[put("facts", name.clone(), json!("ada")), put("steps", path([Step::from(1)]), json!("2a"))]);
    b.edit(5, &[put("facts", name.clone(), json!("bob")), put("steps", path([Step::from(1)]), json!("2b"))]);
    exchange(&mut a, &mut b);
    assert_eq!(a.field("facts"), json!({ "who": { "name": "ada" } }));
    assert_eq!(a.field("steps"), json!(["one", "2a"]));
    let contested: Vec<_> = a.state().contests.iter().map(Contest::place).collect();
    assert_eq!(contested, ["facts.who.name", "steps.1"]);
    // A whole-field write that changes another entry leaves the contest alone; a put settles it.
    a.edit(10, &[set("facts", json!({ "who": { "name": "ada" }, "when": 1843 }))]);
    assert_eq!(a.state().contests.len(), 2);
    assert_eq!(a.edit(11, &[put("facts", name, json!("ada")), put("steps", path([Step::from(1)]), json!("2a"))]), 1);
    exchange(&mut a, &mut b);
    assert!(b.state().contests.is_empty());
}

#[test]
fn concurrent_objects_at_one_key_do_not_merge() {
    let mut a = Replica::create(1, json!({ "facts": { "k": 0 } }));
    let mut b = a.twin(2);
    a.edit(9, &[put("facts", path([Step::from("k")]), json!({ "from": "a" }))]);
    b.edit(5, &[put("facts", path([Step::from("k")]), json!({ "from": "b" }))]);
    exchange(&mut a, &mut b);
    assert_eq!(a.field("facts"), json!({ "k": { "from": "a" } }));
    assert_eq!(a.state().contests[0].contenders[1].value, json!({ "from": "b" }));
    // Edits go into the one that shows.
    b.edit(10, &[put("facts", path([Step::from("k"), Step::from("more")]), json!(1))]);
    exchange(&mut a, &mut b);
    assert_eq!(a.field("facts"), json!({ "k": { "from": "a", "more": 1 } }));
}

#[test]
fn a_field_that_was_another_kind_keeps_its_edits() {
    let mut a = Replica::create(1, json!({ "title": "as a register", "body": "as a text" }));
    let mut changed = notes();
    changed.fields["title"].kind = crate::Kind::Text;
    changed.fields["body"].kind = crate::Kind::Register;
    // A register cannot take the place of a text, which others may still be editing.
    let refused = a.document.clone().edit(&changed, at(2), &[set("body", json!("x"))]);
    assert_eq!(refused, Err(EditError::KindChanged { field: field("body") }));
    // A text stands beside the register; each schema sees its own.
    a.document.edit(&changed, at(3), &[set("title", json!("as a text"))]).unwrap();
    assert_eq!(a.field("title"), json!("as a register"));
    let state = a.document.state(Some(&changed)).unwrap();
    assert_eq!(Value::Object(state.fields), json!({ "title": "as a text" }));
}
