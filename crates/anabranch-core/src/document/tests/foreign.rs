//! Changes that no replica of ours would write: they are read, refused or contained, and never abort.

use automerge::transaction::{CommitOptions, Transactable as _, Transaction};
use automerge::{ActorId, ObjType, ROOT, ScalarValue};

use super::*;
use crate::ChangeError;

/// What a foreign writer makes of a note, in one change.
fn foreign(note: &Replica, write: impl FnOnce(&mut Transaction<'_>)) -> Change {
    offered(note, write).unwrap()
}

fn offered(note: &Replica, write: impl FnOnce(&mut Transaction<'_>)) -> Result<Change, ChangeError> {
    let mut document = note.document.automerge.clone().with_actor(ActorId::from([2, 2]));
    let mut transaction = document.transaction();
    write(&mut transaction);
    transaction.commit_with(CommitOptions::default().with_time(5));
    Change::parse(document.get_last_local_change().unwrap().raw_bytes().to_vec())
}

/// A change as its author would have it, with the header made to lie.
fn lying(change: &Change, lie: impl FnOnce(&mut automerge::ExpandedChange)) -> Change {
    told(change, lie).unwrap()
}

fn told(change: &Change, lie: impl FnOnce(&mut automerge::ExpandedChange)) -> Result<Change, ChangeError> {
    let mut expanded = automerge::Change::from_bytes(change.bytes().to_vec()).unwrap().decode();
    expanded.hash = None;
    lie(&mut expanded);
    Change::parse(automerge::Change::from(expanded).raw_bytes().to_vec())
}

#[test]
fn values_of_a_foreign_writer_have_a_form() {
    let mut note = Replica::create(1, json!({ "title": "x" }));
    let change = foreign(&note, |transaction| {
        let object = transaction.put_object(ROOT, "title", ObjType::Map).unwrap();
        transaction.put(&object, "bytes", ScalarValue::Bytes(vec![1, b'{'])).unwrap();
        transaction.put(&object, "counter", ScalarValue::counter(3)).unwrap();
        transaction.put(&object, "nan", f64::NAN).unwrap();
        transaction.put(&object, "when", ScalarValue::Timestamp(7)).unwrap();
        let text = transaction.put_object(&object, "text", ObjType::Text).unwrap();
        transaction.splice_text(&text, 0, 0, "abc").unwrap();
        transaction.put(ROOT, "unknown field", 1).unwrap();
        transaction.put(ROOT, "$deleted", "yes").unwrap();
    });
    note.document.apply(&[change]).unwrap();
    let state = note.state();
    assert_eq!(
        Value::Object(state.fields),
        json!({
            "title": {
                "bytes": { "$bytes": "017b" }, "counter": 3, "nan": null, "when": 7, "text": "abc",
            },
            "unknown field": 1,
        })
    );
    assert!(state.deleted);
    note.document.fold().unwrap();
}

#[test]
fn a_value_nested_too_deeply_is_refused_and_no_abort() {
    let mut note = Replica::create(1, json!({ "title": "x" }));
    let nested = |note: &Replica, levels: usize| {
        offered(note, |transaction| {
            let mut object = transaction.put_object(ROOT, "deep", ObjType::List).unwrap();
            for _ in 1..levels {
                object = transaction.insert_object(&object, 0, ObjType::List).unwrap();
            }
        })
    };
    // That much a change says by itself.
    for levels in [MAX_DEPTH + 1, 3_000] {
        assert_eq!(nested(&note, levels), Err(ChangeError::TooDeep));
    }
    let deepest = nested(&note, MAX_DEPTH).unwrap();
    note.document.apply(std::slice::from_ref(&deepest)).unwrap();
    assert!(note.field("deep").is_array());
    let before = note.state();
    // Some levels in the object that is so many levels deep, by a change that builds on that.
    let within = |depth: usize, levels: usize| {
        offered(&note, |transaction| {
            let mut object = transaction.get(ROOT, "deep").unwrap().unwrap().1;
            for _ in 1..depth {
                object = transaction.get(&object, 0).unwrap().unwrap().1;
            }
            for _ in 0..levels {
                object = transaction.insert_object(&object, 0, ObjType::List).unwrap();
            }
        })
    };
    assert_eq!(within(1, MAX_DEPTH), Err(ChangeError::TooDeep), "it lies in an object, whichever that is");
    let (allowed, deeper) = (within(1, MAX_DEPTH - 1).unwrap(), within(MAX_DEPTH, 1).unwrap());
    assert_eq!(note.document.apply(std::slice::from_ref(&deeper)), Err(ApplyError::TooDeep(deeper.hash())));
    assert_eq!(note.state(), before);
    // The same in one batch, where the document has neither.
    let mut other = Document::new(&actor(9));
    other.apply(&note.changes).unwrap();
    assert_eq!(other.apply(&[deepest, deeper.clone()]), Err(ApplyError::TooDeep(deeper.hash())));
    note.document.apply(&[allowed]).unwrap();
    note.document.fold().unwrap();
}

#[test]
fn a_change_that_skips_its_actors_previous_one_is_out_of_sequence() {
    let mut a = Replica::create(1, json!({}));
    a.edit(2, &[set("title", json!("x"))]);
    let skipping = lying(&a.changes[1], |change| change.seq = 3.try_into().unwrap());
    let mut document = Document::new(&actor(2));
    document.apply(&a.changes[..1]).unwrap();
    let error = document.apply(std::slice::from_ref(&skipping));
    assert_eq!(error, Err(ApplyError::OutOfSequence(skipping.hash())));
    document.apply(&a.changes).unwrap();
    assert_eq!(document.state(Some(&notes())).unwrap(), a.state());
}

#[test]
fn a_change_that_hides_its_actors_previous_one_is_out_of_sequence() {
    let first = Replica::create(1, json!({ "title": "x" })).changes.remove(0);
    let mut second = Replica::create(1, json!({}));
    second.edit(2, &[set("title", json!("y"))]);
    // It claims to be the actor's second change, and to know nothing of the first.
    let alone = told(&first, |change| change.seq = 2.try_into().unwrap());
    assert_eq!(alone, Err(ChangeError::NotFirst("its sequence number")));
    let late = told(&first, |change| change.start_op = 2.try_into().unwrap());
    assert_eq!(late, Err(ChangeError::NotFirst("its first op")));
    // It knows another one's instead.
    let other = Replica::create(4, json!({})).changes.remove(0);
    let hiding = lying(&first, |change| {
        change.seq = 2.try_into().unwrap();
        change.start_op = (other.max_op() + 1).try_into().unwrap();
        change.deps = vec![theirs(other.hash())];
    });
    let refused = Err(ApplyError::OutOfSequence(hiding.hash()));
    let mut document = Document::new(&actor(3));
    document.apply(&[other]).unwrap();
    assert_eq!(document.apply(&[hiding.clone(), second.changes[0].clone()]), refused);
    document.apply(&second.changes[..1]).unwrap();
    assert_eq!(document.apply(&[hiding]), refused);
    document.apply(&second.changes).unwrap();
    assert_eq!(document.state(Some(&notes())).unwrap(), second.state());
}

#[test]
fn after_a_panic_the_document_is_poisoned() {
    let mut note = Replica::create(1, json!({}));
    let honest = foreign(&note, |transaction| {
        let text = transaction.put_object(ROOT, "title", ObjType::Text).unwrap();
        transaction.splice_text(&text, 0, 0, "ab").unwrap();
    });
    // An element that is none: Automerge panics on it.
    let hostile = lying(&honest, |change| {
        let birth = automerge::legacy::OpId::new(1, &ActorId::from(actor(1).as_bytes()));
        change.operations[2].key = automerge::legacy::Key::Seq(automerge::legacy::ElementId::Id(birth));
    });
    assert_eq!(note.document.apply(&[hostile]), Err(ApplyError::Poisoned));
    assert_eq!(note.document.state(None), Err(DocumentError::Poisoned));
    assert_eq!(note.document.fold(), Err(DocumentError::Poisoned));
    assert_eq!(note.document.apply(&[]), Err(ApplyError::Poisoned));
    assert_eq!(note.document.delete(at(9)), Err(EditError::Document(DocumentError::Poisoned)));
    // The log is untouched, and gives the document back.
    assert!(Document::load(&actor(1), None, note.changes).unwrap().is_born());
}
