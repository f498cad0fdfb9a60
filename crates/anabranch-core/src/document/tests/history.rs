//! Changes in any order, damaged, missing, forked, folded.

use super::*;

#[test]
fn changes_come_in_any_order_again_and_again() {
    let mut a = Replica::create(1, json!({ "body": "x" }));
    for stamp in 2..30 {
        a.edit(stamp, &[set("body", json!(format!("{stamp}"))), set("votes", json!(stamp))]);
    }
    let mut reversed = a.changes.clone();
    reversed.reverse();
    reversed.extend(a.changes.clone());
    let mut b = Replica::empty(2);
    assert_eq!(b.document.apply(&reversed).unwrap().len(), a.changes.len());
    assert_eq!(b.state(), a.state());
    assert_eq!(b.document.apply(&reversed), Ok(vec![]));
    let c = Document::load(&actor(3), None, reversed).unwrap();
    assert_eq!((c.heads(), c.state(None).unwrap()), (a.document.heads(), a.document.state(None).unwrap()));
    for change in &a.changes {
        assert_eq!(b.document.change(&change.hash()).as_ref(), Some(change));
    }
    assert_eq!(b.document.changes_since(&Heads::default()).unwrap().len(), a.changes.len());
    assert_eq!(b.document.changes_since(&a.document.heads()), Ok(vec![]));
}

#[test]
fn changes_since_ignores_heads_that_are_unknown() {
    let mut a = Replica::create(1, json!({}));
    let before = a.document.heads();
    a.edit(2, &[set("title", json!("x"))]);
    let mut heads = before.hashes().to_vec();
    heads.push(ChangeHash::from_bytes([7; 32]));
    let since = a.document.changes_since(&Heads::new(heads)).unwrap();
    assert_eq!(since, a.changes[1..]);
}

#[test]
fn a_missing_dependency_is_named_and_nothing_is_applied() {
    let mut a = Replica::create(1, json!({}));
    a.edit(2, &[set("title", json!("x"))]);
    let mut b = Replica::empty(2);
    let missing = ApplyError::MissingDependency(a.changes[0].hash());
    assert_eq!(b.document.apply(&a.changes[1..]), Err(missing));
    assert!(b.document.heads().is_empty());
    b.document.apply(&a.changes).unwrap();
    assert_eq!(b.state(), a.state());
}

#[test]
fn a_fork_is_named_and_nothing_is_applied() {
    let a = Replica::create(1, json!({}));
    // The same replica's file, copied: the same actor goes on in two ways.
    let (mut one, mut other) = (a.twin(1), a.twin(1));
    one.edit(2, &[set("title", json!("one"))]);
    other.edit(2, &[set("title", json!("other"))]);
    let foreign = other.changes.last().unwrap();
    let before = one.state();
    let fork = ApplyError::Fork { hash: foreign.hash(), actor: actor(1), seq: 2 };
    assert_eq!(one.document.apply(std::slice::from_ref(foreign)), Err(fork.clone()));
    assert_eq!(one.state(), before);
    // Both in one batch, too.
    let both = [one.changes.clone(), other.changes].concat();
    assert!(matches!(Document::new(&actor(3)).apply(&both), Err(ApplyError::Fork { .. })));
}

#[test]
fn a_document_survives_folding_and_goes_on() {
    let mut a = Replica::create(1, json!({ "title": 1.5, "body": "x", "tags": ["a"], "steps": [[1]], "votes": 3 }));
    let mut b = a.twin(2);
    a.edit(2, &[set("title", json!("a")), set("body", json!("xy"))]);
    b.edit(3, &[set("title", json!("b"))]);
    b.delete(4);
    exchange(&mut a, &mut b);
    let folded = a.document.fold().unwrap();
    assert_eq!(folded.heads, a.document.heads());
    a.edit(5, &[Edit::Increment { field: field("votes"), by: 1 }]);
    // The changes since, and some that the fold holds.
    let mut back = Document::load(&actor(1), Some(&folded.bytes), a.changes[3..].to_vec()).unwrap();
    assert_eq!(back.state(Some(&notes())).unwrap(), a.state());
    // The actor goes on where it was.
    let made = back.edit(&notes(), at(6), &[set("title", json!("c"))]).unwrap();
    a.document.apply(&made).unwrap();
    assert_eq!(back.state(Some(&notes())).unwrap(), a.state());
    assert!(a.document.memory() > 16 << 10);
}

#[test]
fn a_damaged_fold_is_noticed() {
    let a = Replica::create(1, json!({ "title": "x", "body": "some text" }));
    let folded = a.document.fold().unwrap().bytes;
    for at in 0..folded.len() {
        let mut damaged = folded.clone();
        damaged[at] ^= 0x10;
        assert!(Document::load(&actor(1), Some(&damaged), Vec::new()).is_err(), "byte {at}");
    }
    for end in 0..folded.len() {
        assert!(Document::load(&actor(1), Some(&folded[..end]), Vec::new()).is_err(), "length {end}");
    }
}

#[test]
fn documents_move_between_threads() {
    fn is_send<T: Send>() {}
    is_send::<Document>();
}
