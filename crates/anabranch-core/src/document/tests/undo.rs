//! Undo and redo by example.

use super::*;

impl Replica {
    fn undo(&mut self, stamp: i64) -> usize {
        let own = self.own();
        let made = self.document.undo(&notes(), at(stamp), &|actor, _| *actor == own).unwrap();
        self.keep(made)
    }

    fn redo(&mut self, stamp: i64) -> usize {
        let own = self.own();
        let made = self.document.redo(&notes(), at(stamp), &|actor, _| *actor == own).unwrap();
        self.keep(made)
    }

    fn own(&self) -> Actor {
        Actor::from_bytes(self.document.automerge.get_actor().to_bytes()).unwrap()
    }

    fn keep(&mut self, made: Vec<Change>) -> usize {
        for change in &made {
            assert_eq!(Change::parse(change.bytes().to_vec()).as_ref(), Ok(change));
        }
        let count = made.len();
        self.changes.extend(made);
        count
    }

    fn splice(&mut self, stamp: i64, at: usize, delete: usize, insert: &str) {
        self.edit(stamp, &[Edit::Splice { field: field("body"), at, delete, insert: insert.to_owned() }]);
    }
}

fn fields(replica: &Replica) -> Value {
    Value::Object(replica.state().fields)
}

/// One edit of every kind, one after the other.
fn edits() -> Vec<Vec<Edit>> {
    let list = |at, values: Value| Edit::Insert {
        field: field("steps"),
        path: Path::default(),
        at,
        values: values.as_array().unwrap().clone(),
    };
    let put_step = |steps, value| put("steps", steps, value);
    vec![
        vec![set("title", json!("one"))],
        vec![set("title", json!({ "two": [2] })), set("body", json!("hello world"))],
        vec![set("title", json!(null))],
        vec![Edit::Splice { field: field("body"), at: 5, delete: 1, insert: ", ".into() }],
        vec![set("body", json!("help the old world"))],
        vec![set("body", json!(""))],
        vec![Edit::Increment { field: field("votes"), by: 5 }, set("votes", json!(-2))],
        vec![set("tags", json!(["a", 1]))],
        vec![
            Edit::Add { field: field("tags"), member: json!("a") },
            Edit::Remove { field: field("tags"), member: json!(1) },
        ],
        vec![list(0, json!([1, { "a": { "b": 1 } }, 3]))],
        vec![put_step(path([1.into(), "a".into(), "b".into()]), json!(2))],
        vec![Edit::Delete { field: field("steps"), path: path([1.into()]) }],
        vec![put_step(path([1.into()]), json!("three")), list(1, json!([[7, 8, 9]]))],
        vec![set("steps", json!([1, [7, 9], "three", 4]))],
        vec![set("steps", json!([]))],
        vec![set("facts", json!({ "x": 1, "y": { "z": [1, 2] } }))],
        vec![
            put("facts", path(["y".into(), "z".into(), 0.into()]), json!(0)),
            put("facts", path(["x".into()]), json!(2)),
        ],
        vec![put("facts", path(["y".into()]), json!("flat"))],
        vec![Edit::Delete { field: field("facts"), path: path(["x".into()]) }],
        vec![set("facts", json!({ "x": { "again": true } }))],
    ]
}

#[test]
fn every_edit_is_undone_and_redone_exactly() {
    let created = json!({ "title": 0, "body": "x", "votes": 1, "tags": [true], "steps": [[0]], "facts": { "k": {} } });
    let mut a = Replica::create(1, created);
    let mut moments = vec![fields(&a)];
    let mut stamp = 2;
    let mut next = || {
        stamp += 1;
        stamp
    };
    for edit in edits() {
        a.edit(next(), &edit);
        moments.push(fields(&a));
    }
    for round in 0..3 {
        for (back, moment) in moments.iter().rev().enumerate().skip(1) {
            assert_eq!(a.undo(next()), 1, "round {round}, {back} steps back");
            assert_eq!(fields(&a), *moment, "round {round}, {back} steps back");
        }
        for (on, moment) in moments.iter().enumerate().skip(1) {
            assert_eq!(a.redo(next()), 1, "round {round}, {on} steps on");
            assert_eq!(fields(&a), *moment, "round {round}, {on} steps on");
        }
        assert_eq!(a.redo(next()), 0);
    }
    let b = a.twin(2);
    assert_eq!(b.state().to_canonical_json(), a.state().to_canonical_json());
    assert_eq!(b.document.fold().unwrap().heads, a.document.heads());
}

#[test]
fn the_creation_is_undone_last() {
    let mut a = Replica::create(1, json!({ "title": "x" }));
    a.edit(2, &[set("title", json!("y"))]);
    a.delete(3);
    assert_eq!((a.undo(4), a.state().deleted), (1, false));
    assert_eq!((a.undo(5), a.field("title")), (1, json!("x")));
    assert_eq!((a.undo(6), a.state().deleted), (1, true));
    assert_eq!(a.undo(7), 0, "nothing is left");
    assert_eq!((a.redo(8), a.state().deleted), (1, false));
    assert_eq!((a.redo(9), a.field("title")), (1, json!("y")));
    assert_eq!((a.redo(10), a.state().deleted), (1, true));
    assert_eq!(a.redo(11), 0);
    assert_eq!((a.undo(12), a.state().deleted), (1, false), "and again");
    let mut nobody = Replica::empty(3);
    assert_eq!(nobody.document.undo(&notes(), at(1), &|_, _| true), Err(EditError::NotBorn));
    nobody.pull(&a);
    assert_eq!((nobody.undo(13), nobody.redo(14)), (0, 0), "none of it is theirs");
}

#[test]
fn a_new_edit_ends_what_could_be_redone() {
    let mut a = Replica::create(1, json!({ "title": "x" }));
    a.edit(2, &[set("title", json!("y"))]);
    a.undo(3);
    a.edit(4, &[set("votes", json!(1))]);
    assert_eq!(a.redo(5), 0);
    assert_eq!((a.undo(6), a.field("votes")), (1, json!(0)));
    assert_eq!((a.undo(7), a.state().deleted), (1, true), "what was undone is not undone again");
}

#[test]
fn what_others_have_written_stays() {
    let mut a = Replica::create(1, json!({ "title": "x", "body": "one three", "votes": 1, "steps": [1, 2, 3] }));
    let mut b = a.twin(2);
    a.edit(
        2,
        &[
            set("title", json!("mine")),
            Edit::Splice { field: field("body"), at: 4, delete: 0, insert: "two ".into() },
            Edit::Increment { field: field("votes"), by: 10 },
            Edit::Delete { field: field("steps"), path: path([1.into()]) },
            Edit::Add { field: field("tags"), member: json!("t") },
            put("facts", path(["k".into()]), json!("mine")),
        ],
    );
    b.pull(&a);
    b.edit(
        3,
        &[
            set("title", json!("theirs")),
            Edit::Splice { field: field("body"), at: 6, delete: 0, insert: "-B-".into() },
            Edit::Increment { field: field("votes"), by: 100 },
            Edit::Insert { field: field("steps"), path: Path::default(), at: 0, values: vec![json!(0)] },
            put("facts", path(["k".into()]), json!("theirs")),
        ],
    );
    a.pull(&b);
    assert_eq!(b.field("body"), "one tw-B-o three");
    assert_eq!(a.undo(4), 1);
    let expected = json!({
        "title": "theirs", "body": "one -B-three", "votes": 101, "steps": [0, 1, 2, 3], "tags": [],
        "facts": { "k": "theirs" },
    });
    assert_eq!(fields(&a), expected);
    exchange(&mut a, &mut b);
    // The redo leaves it alone, too.
    a.redo(5);
    assert_eq!(a.field("body"), "one tw-B-o three");
    assert_eq!((a.field("title"), a.field("votes"), a.field("tags")), (json!("theirs"), json!(111), json!(["t"])));
    exchange(&mut a, &mut b);
}

#[test]
fn what_others_write_at_the_same_time_stays() {
    let mut a = Replica::create(1, json!({ "title": "x", "body": "one three", "tags": ["s"] }));
    let mut b = a.twin(2);
    a.edit(9, &[set("title", json!("mine")), set("tags", json!(["s", "t"])), set("steps", json!([1]))]);
    a.splice(10, 0, 4, "");
    b.edit(5, &[set("title", json!("theirs")), set("tags", json!(["s", "t", "u"]))]);
    b.splice(6, 2, 0, "BB");
    exchange(&mut a, &mut b);
    assert_eq!((a.field("title"), a.field("body")), (json!("mine"), json!("BBthree")));
    a.undo(11);
    // The letters come back on either side of what was written between them.
    assert_eq!(a.field("body").as_str().unwrap().replace("BB", ""), "one three");
    assert!(a.field("body").as_str().unwrap().contains("BB"));
    a.undo(12);
    assert_eq!((a.field("title"), a.field("tags")), (json!("theirs"), json!(["s", "t", "u"])));
    assert_eq!((a.field("steps"), a.state().contests.len()), (json!([]), 0));
    exchange(&mut a, &mut b);
}

#[test]
fn what_is_overwritten_is_passed_over() {
    let mut a = Replica::create(1, json!({ "votes": 0 }));
    a.edit(2, &[set("votes", json!(5))]);
    a.edit(3, &[set("title", json!("mine"))]);
    let mut b = a.twin(2);
    b.edit(4, &[set("title", json!("theirs"))]);
    a.pull(&b);
    assert_eq!((a.undo(5), a.field("votes"), a.field("title")), (1, json!(0), json!("theirs")));
    let last = a.document.history(&notes(), Page { before: None, limit: 1 }).unwrap();
    assert_eq!(last[0].action, Action::Undo(a.changes[2].hash()));
    // Once they undo theirs, mine is there again, and can be undone.
    b.pull(&a);
    assert_eq!((b.undo(6), b.field("title")), (1, json!("mine")));
    a.pull(&b);
    assert_eq!((a.undo(7), a.field("title")), (1, json!(null)));
}

#[test]
fn a_resolution_is_undone_to_what_was_shown() {
    let mut a = Replica::create(1, json!({ "title": "x" }));
    let mut b = a.twin(2);
    a.edit(2, &[set("title", json!("a"))]);
    b.edit(3, &[set("title", json!("b"))]);
    exchange(&mut a, &mut b);
    let conflict = a.state().contests[0].id;
    let made = a.document.resolve(&notes(), at(4), &conflict, &Choice::Value(json!("both"))).unwrap();
    a.keep(made);
    assert_eq!((a.undo(5), a.field("title")), (1, json!("b")));
    assert_eq!((a.redo(6), a.field("title")), (1, json!("both")));
}

#[test]
fn backspaces_in_one_change_are_undone_in_the_right_order() {
    let mut a = Replica::create(1, json!({ "body": "" }));
    for (at, letter) in "abcdef".chars().enumerate() {
        a.splice(2, at, 0, &letter.to_string());
    }
    a.splice(3, 3, 0, "XY");
    let splice = |at| Edit::Splice { field: field("body"), at, delete: 1, insert: String::new() };
    a.edit(4, &[splice(5), splice(4), splice(3), splice(2), splice(3), splice(0)]);
    assert_eq!(a.field("body"), "be");
    assert_eq!((a.undo(5), a.field("body")), (1, json!("abcXYdef")));
    assert_eq!((a.undo(6), a.field("body")), (1, json!("abcdef")));
    assert_eq!((a.undo(7), a.field("body")), (1, json!("abcde")));
    assert_eq!((a.redo(8), a.redo(9), a.redo(10), a.field("body")), (1, 1, 1, json!("be")));
}

#[test]
fn an_undo_that_would_break_a_rule_is_refused() {
    let schema = SCHEMA.replace("title = { kind = \"register\" }", "title = { kind = \"register\", min = 1, max = 5 }");
    let strict = Schema::from_toml(&schema).unwrap().collections["notes"].clone();
    let mut a = Replica::create(1, json!({ "title": 9 }));
    a.document.edit(&strict, at(2), &[set("title", json!(3))]).unwrap();
    let refused = a.document.undo(&strict, at(3), &|_, _| true);
    assert!(matches!(refused, Err(EditError::Rule { .. })), "{refused:?}");
}

#[test]
fn what_several_have_brought_back_is_undone_together() {
    let mut a = Replica::create(1, json!({ "body": "" }));
    a.splice(2, 0, 0, "one two");
    let mut b = a.twin(2);
    a.splice(3, 0, 4, "");
    b.splice(4, 0, 3, "");
    exchange(&mut a, &mut b);
    a.undo(5);
    b.undo(6);
    exchange(&mut a, &mut b);
    // Both have brought the word back, so it is there twice.
    assert_eq!(a.field("body").as_str().map(|text| text.matches("one").count()), Some(2));
    let mut elsewhere = Replica::empty(1);
    elsewhere.document.apply(&[b.changes.clone(), a.changes.clone()].concat()).unwrap();
    assert_eq!((a.undo(7), elsewhere.undo(7)), (1, 1));
    assert_eq!(a.field("body"), "", "all that stands for what was typed");
    assert_eq!(a.document.heads(), elsewhere.document.heads(), "wherever it is undone");
}

#[test]
fn a_copy_that_others_have_written_to_stays() {
    let mut a = Replica::create(1, json!({}));
    a.edit(2, &[set("facts", json!({ "k": { "x": 1 } })), set("title", json!("t"))]);
    a.edit(3, &[set("title", json!("u"))]);
    a.edit(4, &[put("facts", path(["k".into(), "x".into()]), json!(2))]);
    a.edit(5, &[Edit::Delete { field: field("facts"), path: path(["k".into()]) }]);
    // The map comes back as a copy, in which the edit before can be undone.
    a.undo(6);
    let mut alone = a.twin(1);
    assert_eq!((alone.undo(7), alone.field("facts")), (1, json!({ "k": { "x": 1 } })));
    assert_eq!((alone.redo(8), alone.field("facts")), (1, json!({ "k": { "x": 2 } })));
    assert_eq!((alone.redo(9), alone.field("facts")), (1, json!({})));
    // Not once somebody else has written there.
    let mut b = a.twin(2);
    b.edit(7, &[put("facts", path(["k".into(), "y".into()]), json!(3))]);
    a.pull(&b);
    assert_eq!((a.undo(8), a.field("title"), a.field("facts")), (1, json!("t"), json!({ "k": { "x": 2, "y": 3 } })));
}

#[test]
fn a_value_that_an_undo_left_standing_is_still_its_writers() {
    let mut a = Replica::create(1, json!({ "title": "x" }));
    let mut b = a.twin(2);
    b.edit(2, &[set("title", json!("b"))]);
    a.edit(3, &[set("title", json!("a"))]);
    exchange(&mut a, &mut b);
    assert_eq!((a.undo(4), a.field("title")), (1, json!("b")));
    b.pull(&a);
    assert_eq!((b.undo(5), b.field("title")), (1, json!("x")));
}

#[test]
fn undo_goes_on_from_one_open_of_the_file_to_the_one_before() {
    let mut first = Replica::create(1, json!({ "title": "x" }));
    first.edit(9, &[set("title", json!("y"))]);
    let mut second = first.twin(2);
    second.edit(3, &[set("title", json!("z"))]); // the clock was put right in between
    let mine = |actor: &Actor, _: Stamp| *actor == self::actor(1) || *actor == self::actor(2);
    let mut titles = Vec::new();
    for stamp in 10..12 {
        let made = second.document.undo(&notes(), at(stamp), &mine).unwrap();
        titles.push((made.len(), second.field("title")));
    }
    assert_eq!(titles, [(1, json!("y")), (1, json!("x"))]);
    second.document.redo(&notes(), at(12), &mine).unwrap();
    assert_eq!(second.field("title"), "y");
}

#[test]
fn a_conflict_among_others_stays_open() {
    let schema =
        SCHEMA.replace("title = { kind = \"register\" }", "title = { kind = \"register\", policy = \"manual\" }");
    let manual = Schema::from_toml(&schema).unwrap().collections["notes"].clone();
    let mut a = Replica::create(1, json!({ "title": 0, "steps": [0], "facts": { "k": 0 } }));
    let (mut b, mut c) = (a.twin(2), a.twin(3));
    let write = |value: i64| {
        let value = || json!(value);
        [set("title", value()), put("steps", path([0.into()]), value()), put("facts", path(["k".into()]), value())]
    };
    a.edit(2, &[set("votes", json!(1))]);
    a.edit(3, &write(1));
    b.edit(4, &write(2));
    c.edit(5, &write(3));
    b.pull(&c);
    a.pull(&b);
    let contests = |replica: &Replica| {
        let contests = replica.document.state(Some(&manual)).unwrap().contests;
        let values = |contest: &Contest| contest.contenders.iter().map(|it| it.value.clone()).collect::<Vec<_>>();
        contests.iter().map(|contest| (contest.field.clone(), values(contest))).collect::<Vec<_>>()
    };
    let before = contests(&a);
    assert_eq!(before.iter().map(|(_, values)| values.len()).collect::<Vec<_>>(), [3, 3, 3]);
    let made = a.document.undo(&manual, at(6), &|actor, _| *actor == self::actor(1)).unwrap();
    assert_eq!(made.len(), 1, "what was written before it is undone instead");
    assert_eq!((contests(&a), a.field("votes")), (before, json!(0)));
}

#[test]
fn others_who_agree_do_not_contend() {
    let mut a = Replica::create(1, json!({ "title": "x" }));
    let (mut b, mut c) = (a.twin(2), a.twin(3));
    a.edit(5, &[set("title", json!("mine"))]);
    b.edit(2, &[set("title", json!("theirs"))]);
    c.edit(3, &[set("title", json!("theirs"))]);
    a.pull(&b);
    a.pull(&c);
    assert_eq!((a.undo(6), a.field("title")), (1, json!("theirs")));
    assert!(a.state().contests.is_empty());
}

#[test]
fn what_others_have_filled_is_not_deleted() {
    let mut a = Replica::create(1, json!({ "title": "x" }));
    a.edit(2, &[set("votes", json!(1))]);
    let mut b = a.twin(2);
    b.edit(3, &[set("body", json!("theirs"))]);
    a.pull(&b);
    assert_eq!((a.undo(4), a.undo(5), a.state().deleted), (1, 0, false), "the creation is passed over");
    assert_eq!((a.redo(6), a.field("votes")), (1, json!(1)));
    exchange(&mut a, &mut b);
    assert_eq!(b.field("body"), "theirs");
}

#[test]
fn a_deletion_does_not_come_back_over_what_others_have_written() {
    // Undone, and redone: to take that back would be to undo the creation after all.
    let mut a = Replica::create(1, json!({ "title": "x" }));
    assert_eq!((a.undo(2), a.state().deleted), (1, true));
    assert_eq!((a.redo(3), a.state().deleted), (1, false));
    let mut b = a.twin(2);
    b.edit(4, &[set("body", json!("theirs"))]);
    a.pull(&b);
    assert_eq!((a.undo(5), a.state().deleted), (0, false));
    // So it is with a deletion that was undone, and with a restoration.
    a.delete(6);
    assert_eq!((a.undo(7), a.state().deleted), (1, false));
    assert_eq!((a.redo(8), a.state().deleted), (1, true), "they wrote before it");
    a.restore(9);
    b.pull(&a);
    b.edit(10, &[set("body", json!("more"))]);
    a.pull(&b);
    assert_eq!((a.undo(11), a.state().deleted, a.field("body")), (0, false, json!("more")));
}

#[test]
fn an_undo_passes_over_a_bounded_number_of_changes() {
    let mut a = Replica::create(1, json!({ "votes": 0 }));
    a.edit(2, &[set("votes", json!(5))]);
    for value in 0..1_000 {
        a.edit(3, &[set("title", json!(value))]);
    }
    let mut b = a.twin(2);
    b.edit(4, &[set("title", json!("theirs"))]);
    a.pull(&b);
    let mut more = a.document.clone();
    assert_eq!((a.undo(5), a.field("votes")), (1, json!(0)));
    let own = |actor: &Actor, _: Stamp| *actor == self::actor(1);
    // One more is too many.
    more.edit(&notes(), at(5), &[set("first", json!("mine"))]).unwrap();
    b.document.apply(&more.changes_since(&b.document.heads()).unwrap()).unwrap();
    b.edit(6, &[set("first", json!("theirs"))]);
    more.apply(&b.document.changes_since(&more.heads()).unwrap()).unwrap();
    assert_eq!(more.undo(&notes(), at(7), &own), Ok(vec![]));
}

#[test]
fn a_text_that_was_written_anew_has_no_holes() {
    let mut a = Replica::create(1, json!({ "body": "" }));
    a.splice(2, 0, 0, "mine");
    let mut b = a.twin(2);
    b.edit(3, &[set("body", json!("a long text of b's"))]);
    a.splice(4, 1, 2, "");
    exchange(&mut a, &mut b);
    assert_eq!(a.field("body"), "a long text of b's", "what was deleted beside it was replaced, too");
    a.undo(5);
    a.undo(6);
    assert!(a.field("body").as_str().unwrap().contains("a long text of b's"), "{}", a.field("body"));
}
