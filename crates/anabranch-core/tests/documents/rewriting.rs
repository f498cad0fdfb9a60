//! Changes taken out of a history: what is left, and that every replica writes the same again.

mod fleet;

use anabranch_core::document::{Action, Document, Edit, Page, Path, Removal, Step};
use anabranch_core::{Change, ChangeHash, Rewrite, Stamp};
use serde_json::{Map, Value, json};

use crate::{actor, field, name, notes};

fn set(name: &str, value: Value) -> Edit {
    Edit::Set { field: field(name), value }
}

fn splice(at: usize, delete: usize, insert: &str) -> Edit {
    Edit::Splice { field: field("body"), at, delete, insert: insert.to_owned() }
}

fn put(name: &str, step: impl Into<Step>, value: Value) -> Edit {
    Edit::Put { field: field(name), path: Path(vec![step.into()]), value }
}

/// A document with one writer whose clock ticks, and what it has written.
struct Writer {
    document: Document,
    now: i64,
}

impl Writer {
    fn new(index: u8) -> Self {
        Self { document: Document::new(&actor(index.into())), now: i64::from(index) << 20 }
    }

    fn born(fields: Value) -> Self {
        let mut writer = Self::new(1);
        let (stamp, Value::Object(fields)) = (writer.tick(), fields) else { panic!("an object") };
        writer.document.create(&name(), &notes(), stamp, &fields).unwrap();
        writer
    }

    fn tick(&mut self) -> Stamp {
        self.now += 1;
        Stamp::from_raw(self.now).unwrap()
    }

    /// Writes, and returns the change, without the geneses that came along.
    fn edit(&mut self, edit: Edit) -> ChangeHash {
        let stamp = self.tick();
        self.document.edit(&notes(), stamp, &[edit]).unwrap().last().unwrap().hash()
    }

    fn fields(&self) -> Map<String, Value> {
        fields(&self.document)
    }
}

fn fields(document: &Document) -> Map<String, Value> {
    document.state(Some(&notes())).unwrap().fields
}

fn all(document: &Document) -> Vec<Change> {
    document.changes_since(&anabranch_core::Heads::default()).unwrap()
}

/// What is left without a change, proven to be admitted elsewhere.
fn without(document: &Document, gone: ChangeHash) -> Document {
    let rewritten = document.rewrite(&Removal::discarding([gone])).unwrap();
    assert!(rewritten.lost.is_empty());
    let mut elsewhere = Document::new(&actor(9));
    elsewhere.apply(&all(&rewritten.document)).unwrap();
    assert_eq!(elsewhere.heads(), rewritten.document.heads());
    assert_eq!(fields(&elsewhere), fields(&rewritten.document));
    rewritten.document.fold().unwrap();
    rewritten.document
}

#[test]
fn later_edits_of_a_text_stay_where_they_can() {
    let mut writer = Writer::born(json!({ "body": "ab" }));
    let refused = writer.edit(splice(1, 0, "XYZ"));
    writer.edit(splice(4, 0, "12")); // behind Z
    writer.edit(splice(7, 0, "!")); // behind b
    writer.edit(splice(2, 1, "")); // of Y
    assert_eq!(writer.fields()["body"], "aXZ12b!");
    assert_eq!(fields(&without(&writer.document, refused))["body"], "a12b!");
}

#[test]
fn a_value_that_goes_uncovers_what_it_replaced_but_not_beneath_a_later_one() {
    let mut writer = Writer::born(json!({ "title": "one" }));
    let refused = writer.edit(set("title", json!("two")));
    assert_eq!(fields(&without(&writer.document, refused))["title"], "one");
    writer.edit(set("title", json!("three")));
    let left = without(&writer.document, refused);
    let state = left.state(Some(&notes())).unwrap();
    assert_eq!((&state.fields["title"], state.contests.len()), (&json!("three"), 0));
}

#[test]
fn a_key_that_the_refused_change_took_away_is_replaced_by_a_later_write() {
    let mut writer = Writer::born(json!({ "facts": { "a": 1 } }));
    let refused = writer.edit(Edit::Delete { field: field("facts"), path: Path(vec![Step::from("a")]) });
    writer.edit(put("facts", "a", json!(2)));
    let left = without(&writer.document, refused);
    let state = left.state(Some(&notes())).unwrap();
    assert_eq!((&state.fields["facts"], state.contests.len()), (&json!({ "a": 2 }), 0));
}

#[test]
fn what_happens_inside_something_that_goes_is_dropped_and_the_rest_of_the_change_stays() {
    let mut writer = Writer::born(json!({ "title": "x" }));
    let refused = writer.edit(put("facts", "a", json!({ "b": 1 })));
    let stamp = writer.tick();
    let inside =
        Edit::Put { field: field("facts"), path: Path(vec![Step::from("a"), Step::from("b")]), value: json!(2) };
    writer.document.edit(&notes(), stamp, &[inside, set("title", json!("y"))]).unwrap();
    writer.edit(Edit::Put {
        field: field("facts"),
        path: Path(vec![Step::from("a"), Step::from("c")]),
        value: json!(3),
    });
    let rewritten = writer.document.rewrite(&Removal::discarding([refused])).unwrap();
    let made: Vec<_> = rewritten.changes.iter().map(|(_, made)| made.len()).collect();
    assert_eq!(made, [0, 1, 0], "the last has nothing left");
    let state = fields(&rewritten.document);
    assert_eq!((&state["facts"], &state["title"]), (&json!({}), &json!("y")));
}

/// Another replica has discarded what here is kept, and what was built on that has the other's form now. Whatever comes
/// after it may still name what is kept.
#[test]
fn what_builds_on_a_form_that_lacks_some_of_the_past_is_written_again_whole() {
    let mut writer = Writer::born(json!({ "steps": ["a"], "title": "x" }));
    let insert = |at: usize, value: &str| Edit::Insert {
        field: field("steps"),
        path: Path::default(),
        at,
        values: vec![json!(value)],
    };
    let kept = writer.edit(insert(1, "kept"));
    let ours = writer.edit(set("title", json!("y")));
    let elsewhere = writer.document.rewrite(&Removal::discarding([kept])).unwrap();
    let theirs = elsewhere.changes.iter().find(|(of, _)| *of == ours).unwrap().1[0].clone();
    let stamp = writer.tick();
    let after = writer.document.edit(&notes(), stamp, &[insert(2, "after"), set("title", json!("z"))]).unwrap();
    let after = after.last().unwrap().hash();
    writer.document.apply(std::slice::from_ref(&theirs)).unwrap();
    let removal = Removal { instead: [(ours, theirs.hash())].into(), ..Removal::default() };
    let rewritten = writer.document.rewrite(&removal).unwrap();
    assert!(rewritten.lost.is_empty(), "it was admitted");
    let made = &rewritten.changes.iter().find(|(of, _)| *of == after).unwrap().1[0];
    let mut both = vec![kept, theirs.hash()];
    both.sort();
    assert_eq!(made.dependencies(), both);
    let state = fields(&rewritten.document);
    assert_eq!((&state["steps"], &state["title"]), (&json!(["a", "kept", "after"]), &json!("z")));
    let mut other = Document::new(&actor(9));
    other.apply(&all(&rewritten.document)).unwrap();
    assert_eq!(fields(&other), state);
}

#[test]
fn counters_sets_and_lists_keep_what_was_added_later() {
    let mut writer = Writer::born(json!({ "steps": ["a"], "tags": ["old"] }));
    let stamp = writer.tick();
    let edits = [
        Edit::Increment { field: field("votes"), by: 100 },
        Edit::Remove { field: field("tags"), member: json!("old") },
        Edit::Add { field: field("tags"), member: json!("refused") },
        Edit::Insert { field: field("steps"), path: Path::default(), at: 1, values: vec![json!("refused")] },
    ];
    let refused = writer.document.edit(&notes(), stamp, &edits).unwrap().last().unwrap().hash();
    writer.edit(Edit::Increment { field: field("votes"), by: 1 });
    writer.edit(Edit::Add { field: field("tags"), member: json!("new") });
    writer.edit(Edit::Insert { field: field("steps"), path: Path::default(), at: 2, values: vec![json!("b")] });
    writer.edit(put("steps", 0, json!("A")));
    writer.edit(put("steps", 1, json!("of the refused")));
    let left = fields(&without(&writer.document, refused));
    assert_eq!(
        (&left["votes"], &left["tags"], &left["steps"]),
        (&json!(1), &json!(["new", "old"]), &json!(["A", "b"]))
    );
}

/// It used to go with the edit that came with it, and with it what others had put into the container since.
#[test]
fn a_container_stays_if_something_is_put_into_it_later() {
    let mut writer = Writer::born(json!({ "title": "x" }));
    let stamp = writer.tick();
    let edits = [splice(0, 0, "refused"), Edit::Increment { field: field("votes"), by: 100 }];
    let refused: Vec<ChangeHash> =
        writer.document.edit(&notes(), stamp, &edits).unwrap().iter().map(Change::hash).collect();
    assert_eq!(refused.len(), 3, "two births, and the edit");
    writer.edit(splice(7, 0, "later"));
    let rewritten = writer.document.rewrite(&Removal::discarding(refused.clone())).unwrap();
    assert_eq!(fields(&rewritten.document)["body"], "later");
    let gone: Vec<ChangeHash> = rewritten.changes.iter().map(|(hash, _)| *hash).collect();
    let births: Vec<_> = refused[..2].iter().filter(|hash| !gone.contains(hash)).collect();
    assert_eq!(births.len(), 1, "nothing is in the counter, and that goes");
    assert!(gone.contains(&refused[2]));
}

#[test]
fn without_its_creation_nothing_of_an_entity_is_left() {
    let mut writer = Writer::born(json!({ "title": "x" }));
    let creation = writer.document.heads().hashes()[0];
    writer.edit(set("title", json!("y")));
    let rewritten = writer.document.rewrite(&Removal::discarding([creation])).unwrap();
    assert!(rewritten.document.heads().is_empty() && !rewritten.document.is_born());
    assert!(rewritten.changes.iter().all(|(_, made)| made.is_empty()) && rewritten.lost.is_empty());
}

/// The creation is the first op of an actor derived from its change, like the birth of a container. It is none.
#[test]
fn what_builds_on_a_creation_that_is_written_again_says_what_it_said() {
    let mut writer = Writer::born(json!({ "title": "x" }));
    let creation = writer.document.heads().hashes()[0];
    writer.edit(splice(0, 0, "typed"));
    writer.edit(set("title", json!("y")));
    let rewritten = writer.document.rewrite(&Removal::replacing([creation])).unwrap();
    assert!(rewritten.changes.iter().all(|(_, made)| made.len() == 1), "{:?}", rewritten.changes);
    assert_eq!(fields(&rewritten.document), writer.fields());
    let again = rewritten.changes[0].1[0].hash();
    let rewritten = rewritten.document.rewrite(&Removal::replacing([again])).unwrap();
    assert_eq!(fields(&rewritten.document), writer.fields());
}

#[test]
fn a_rewrite_names_its_original_and_is_what_that_was() {
    let mut writer = Writer::born(json!({ "title": "one" }));
    let refused = writer.edit(splice(0, 0, "x"));
    let title = writer.edit(set("title", json!("two")));
    let stamp = writer.tick();
    let undo = writer.document.undo(&notes(), stamp, &|_, _| true).unwrap()[0].hash();
    let rewritten = writer.document.rewrite(&Removal::discarding([refused])).unwrap();
    let [(_, none), (_, of_title), (_, of_undo)] = &rewritten.changes[..] else { panic!("three changes") };
    assert!(none.is_empty());
    let first = |original| Some(Rewrite { original, part: 0 });
    assert_eq!((of_title[0].rewrite_of(), of_undo[0].rewrite_of()), (first(title), first(undo)));
    assert!(of_title[0].actor().is_derived() && of_title[0].stamp().raw() == writer.now - 1);
    let page = Page { before: None, limit: 1 };
    let newest = &rewritten.document.history(&notes(), page).unwrap()[0];
    assert_eq!((newest.action, newest.original), (Action::Undo(of_title[0].hash()), Some(undo)));
    // And again: nothing is different, so it is the same.
    let again = rewritten.document.rewrite(&Removal::replacing([of_title[0].hash()])).unwrap();
    assert_eq!(again.changes[0].1, *of_title);
    assert_eq!(again.document.rewrites()[&first(title).unwrap()], of_title[0].hash());
}

#[test]
fn a_change_that_names_more_writers_than_one_may_comes_in_parts() {
    let mut writer = Writer::born(json!({ "body": "ab" }));
    let refused = writer.edit(splice(1, 0, "X"));
    let typed = 1_500;
    for at in 0..typed {
        writer.edit(splice(2 + at, 0, "x"));
    }
    let last = writer.edit(splice(2, typed, "y"));
    assert_eq!(writer.fields()["body"], "aXyb");
    let rewritten = writer.document.rewrite(&Removal::discarding([refused])).unwrap();
    assert_eq!(rewritten.changes.last().map(|(hash, made)| (*hash, made.len())), Some((last, 2)));
    assert_eq!((fields(&rewritten.document)["body"].clone(), rewritten.lost.len()), (json!("ayb"), 0));
    // What others have built on the original is found in the second part.
    let mut other = Writer { document: Document::new(&actor(2)), now: 1 << 40 };
    other.document.apply(&all(&writer.document)).unwrap();
    other.edit(splice(2, 1, "z"));
    assert_eq!(other.fields()["body"], "aXzb");
    let made: Vec<Change> = rewritten.changes.iter().flat_map(|(_, made)| made.clone()).collect();
    other.document.apply(&made).unwrap();
    let forms = rewritten.changes.iter().filter_map(|(hash, made)| Some((*hash, made.first()?.hash())));
    let removal = Removal { instead: forms.collect(), ..Removal::discarding([refused]) };
    let turned = other.document.rewrite(&removal).unwrap();
    assert_eq!((fields(&turned.document)["body"].clone(), turned.lost.len()), (json!("azb"), 0));
}

/// Somebody writes under the name under which rewrites are drafted: no draft of that can be told from what it names.
#[test]
fn what_cannot_be_written_again_is_said_and_the_rest_is_whole() {
    let mut writer = Writer::born(json!({ "title": "one", "body": "ab" }));
    let refused = writer.edit(splice(1, 0, "X"));
    let nobody = anabranch_core::Actor::from_bytes(&[0; 16]).expect("an actor");
    let mut blank = Writer { document: Document::new(&nobody), now: 2 << 20 };
    blank.document.apply(&all(&writer.document)).unwrap();
    let lost = blank.edit(set("title", json!("two")));
    writer.document.apply(&all(&blank.document)).unwrap();
    writer.now = 3 << 20;
    writer.edit(splice(3, 0, "c"));
    let rewritten = writer.document.rewrite(&Removal::discarding([refused])).unwrap();
    assert_eq!(rewritten.lost, [lost]);
    let state = fields(&rewritten.document);
    assert_eq!((&state["title"], &state["body"]), (&json!("one"), &json!("abc")));
    let mut elsewhere = Document::new(&actor(9));
    elsewhere.apply(&all(&rewritten.document)).unwrap();
    assert_eq!((elsewhere.heads(), fields(&elsewhere)), (rewritten.document.heads(), state));
}

#[test]
fn two_branches_of_one_actor_meet() {
    let writer = Writer::born(json!({ "title": "one", "body": "ab" }));
    let branch = |title: &str, body: &str| {
        let mut copy = Writer { document: writer.document.clone(), now: 100 };
        let first = copy.edit(set("title", json!(title)));
        copy.edit(splice(1, 0, body));
        (copy, first)
    };
    let ((mut here, ours), (there, theirs)) = (branch("here", "1"), branch("there", "2"));
    assert!(here.document.apply(&all(&there.document)).is_err(), "a fork");
    assert_eq!(here.document.written_by(&actor(1), 2), Some(ours));
    let mut settled = here.document.rewrite(&Removal::replacing([ours])).unwrap();
    assert_eq!(fields(&settled.document), here.fields(), "the same ops");
    settled.document.apply(&all(&there.document)).unwrap();
    let state = fields(&settled.document);
    assert!([json!("a12b"), json!("a21b")].contains(&state["body"]));
    // The other side comes to the same: it takes what is ours as it has been rewritten.
    let mut elsewhere = there.document;
    let made: Vec<Change> = settled.changes.into_iter().flat_map(|(_, made)| made).collect();
    elsewhere.apply(&made).unwrap();
    assert_eq!((elsewhere.heads(), fields(&elsewhere)), (settled.document.heads(), state));
    assert!(elsewhere.has(&theirs) && !elsewhere.has(&ours));
    // And if it had been the other way round, what was built on the rewrite finds its way back to the original.
    let rewrite = made[0].hash();
    let mut later = Writer { document: elsewhere.clone(), now: 500 };
    let text = later.edit(splice(0, 0, "0"));
    let back = Removal { replace: [theirs].into(), ..Removal::default() };
    let mut turned = later.document.rewrite(&back).unwrap().document;
    turned.apply(&all(&here.document)[..]).unwrap();
    let form = Rewrite { original: ours, part: 0 };
    assert_eq!(turned.rewrites().get(&form), Some(&rewrite));
    let instead = Removal { instead: [(rewrite, ours)].into(), ..Removal::default() };
    let turned = turned.rewrite(&instead).unwrap();
    assert!(
        !turned.document.rewrites().contains_key(&form) && turned.document.has(&ours) && !turned.document.has(&text)
    );
    assert_eq!(
        turned.document.state(Some(&notes())).unwrap().fields["title"],
        json!(if ours > theirs { "here" } else { "there" })
    );
}

#[test]
fn what_builds_on_a_form_finds_its_ops_in_another_that_lacks_some_of_them() {
    // What was typed is refused, and part of it was deleted again by the next change: its form without that is shorter.
    let mut writer = Writer::born(json!({ "body": "" }));
    let mut other = Writer { document: Document::new(&actor(2)), now: 500 };
    let typed = writer.edit(splice(0, 0, "teh"));
    let mended = writer.edit(splice(1, 2, "he!"));
    let without_typed = writer.document.rewrite(&Removal::discarding([typed])).unwrap();
    assert_eq!(fields(&without_typed.document)["body"], "he!");
    let [(_, _), (_, shorter)] = &without_typed.changes[..] else { panic!("two are gone") };

    other.document.apply(&all(&writer.document)).unwrap();
    other.edit(splice(3, 1, ""));
    assert_eq!(other.fields()["body"], "the");
    other.document.apply(shorter).unwrap();
    let removal =
        Removal { discard: [typed].into(), instead: [(mended, shorter[0].hash())].into(), ..Removal::default() };
    let turned = other.document.rewrite(&removal).unwrap();
    assert!(turned.lost.is_empty());
    assert_eq!(fields(&turned.document)["body"], "he", "the exclamation mark stays deleted");

    // The other way round: the longer form stands after all.
    let mut third = Writer { document: Document::new(&actor(3)), now: 900 };
    third.document.apply(&all(&without_typed.document)).unwrap();
    third.edit(splice(2, 1, "?"));
    assert_eq!(third.fields()["body"], "he?");
    third.document.apply(&all(&writer.document)).unwrap();
    let removal = Removal { instead: [(shorter[0].hash(), mended)].into(), ..Removal::default() };
    assert_eq!(fields(&third.document.rewrite(&removal).unwrap().document)["body"], "the?");
}
