//! Nothing that an honest writer makes is refused.

use anabranch_core::document::{Document, Edit, EditError};
use anabranch_core::{Change, ChangeError, FieldName, MAX_CHANGE_OPS};
use serde_json::Map;

use super::fleet::{self, Dice, actor, name, notes, stamp};

/// Every change reads again, and a document takes them at once, one by one, and in any order that it can.
fn is_taken(changes: &[Change], seed: u64) {
    let mut dice = Dice::new(seed);
    let mut at_once = Document::new(&actor(9));
    assert_eq!(at_once.apply(changes).unwrap().len(), changes.len());
    let mut one_by_one = Document::new(&actor(9));
    let mut waiting: Vec<_> = changes.to_vec();
    while !waiting.is_empty() {
        let next = waiting.swap_remove(dice.below(waiting.len()));
        if next.dependencies().iter().all(|hash| one_by_one.has(hash)) {
            one_by_one.apply(std::slice::from_ref(&next)).unwrap();
        } else {
            waiting.push(next);
        }
    }
    for change in changes {
        assert_eq!(Change::parse(change.bytes().to_vec()).as_ref(), Ok(change));
        let theirs = automerge::Change::from_bytes(change.bytes().to_vec()).unwrap();
        assert_eq!(change.max_op(), theirs.max_op());
        assert_eq!(*change.hash().as_bytes(), theirs.hash().0);
    }
    let state = at_once.state(Some(&notes())).unwrap();
    assert_eq!(one_by_one.state(Some(&notes())).unwrap(), state);
    at_once.fold().unwrap();
}

#[test]
fn what_this_library_writes_is_admitted() {
    for seed in 0..60 {
        is_taken(&fleet::library(seed, 40), seed);
    }
}

#[test]
fn what_plain_automerge_writes_is_admitted() {
    for seed in 0..150 {
        is_taken(&fleet::plain(seed, 40), seed);
    }
}

#[test]
fn a_local_write_beyond_a_limit_is_refused() {
    let body = |length: usize| [Edit::Set { field: FieldName::new("body").unwrap(), value: "x".repeat(length).into() }];
    let mut document = Document::new(&actor(1));
    document.create(&name(), &notes(), stamp(1), &Map::new()).unwrap();
    let refused = document.clone().edit(&notes(), stamp(2), &body(MAX_CHANGE_OPS + 1));
    assert_eq!(refused, Err(EditError::NotAdmitted(ChangeError::TooManyOps)));
    assert_eq!(document.edit(&notes(), stamp(2), &body(MAX_CHANGE_OPS)).unwrap().len(), 2);
}

/// Keystroke by keystroke, as somebody really typed it: `ANABRANCH_TRACES` is a folder of traces as published in
/// the `editing-traces` collection, unzipped.
#[test]
fn real_typing_is_admitted() {
    let Ok(folder) = std::env::var("ANABRANCH_TRACES") else {
        println!("skipped: ANABRANCH_TRACES names no folder of editing traces");
        return;
    };
    let traces = std::fs::read_dir(folder).expect("the folder of traces");
    let mut typed = 0;
    for path in traces
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|it| it == "json"))
    {
        let trace: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).expect("a trace")).expect("JSON");
        typed += type_trace(&trace);
    }
    assert!(typed > 0, "there is a trace in the folder");
}

fn type_trace(trace: &serde_json::Value) -> usize {
    let collection = notes();
    let mut writer = Document::new(&actor(1));
    let mut reader = Document::new(&actor(2));
    let made = writer.create(&name(), &collection, stamp(1), &Map::new()).unwrap();
    reader.apply(&made).unwrap();
    let number = |value: &serde_json::Value| usize::try_from(value.as_u64().unwrap()).unwrap();
    let mut batch = Vec::new();
    let mut count = 0;
    for (at, transaction) in (2..).zip(trace["txns"].as_array().unwrap()) {
        let edits: Vec<_> = transaction["patches"]
            .as_array()
            .unwrap()
            .iter()
            .map(|patch| Edit::Splice {
                field: FieldName::new("body").unwrap(),
                at: number(&patch[0]),
                delete: number(&patch[1]),
                insert: patch[2].as_str().unwrap().to_owned(),
            })
            .collect();
        batch.extend(writer.edit(&collection, stamp(at), &edits).unwrap());
        if batch.len() >= 500 {
            count += reader.apply(&batch).unwrap().len();
            batch.clear();
        }
    }
    count += reader.apply(&batch).unwrap().len();
    let fields = reader.state(Some(&collection)).unwrap().fields;
    assert_eq!(fields["body"], trace["endContent"]);
    count
}
