//! Every kind of field, there and back.

use anabranch::{Counter, EntityId, Error, List, Map, Reference, Set, Text};
use proptest::prelude::*;
use serde_json::json;

use crate::entities::{Folder, Note, Step, notes, replica};
use crate::support::Folder as Files;

#[test]
fn every_kind_is_read_as_it_was_written() -> Result<(), Error> {
    let files = Files::new();
    let replica = replica(&files, "a.db");
    let folders = replica.space("main")?.collection::<Folder>();
    let folder = folders.create(Folder { name: "inbox".to_owned(), above: None }).wait()?;
    let note = Note {
        title: "Größe \u{0}".to_owned(),
        body: "line\nline 🏝️".into(),
        stars: (-3).into(),
        tags: ["b".to_owned(), "a".to_owned()].into(),
        steps: [Step { text: "go".to_owned(), done: true, hints: vec!["slowly".to_owned()] }, Step::default()].into(),
        numbers: [3, 1, 2].into(),
        prices: [("milk", 1.5), ("", 0.1)].into(),
        table: [("a", List::new()), ("b", [i64::MIN, i64::MAX].into())].into(),
        rows: [Map::new(), [("k", "v".to_owned())].into()].into(),
        due: Some("2026-11-22".to_owned()),
        settings: [("x".to_owned(), true)].into(),
        folder: Some(folder.into()),
    };
    let id = notes(&replica).create(note.clone()).wait()?;
    let record = notes(&replica).get(id)?.expect("the note");
    assert_eq!(record.value, note);
    assert_eq!((record.id, record.title.as_str()), (id, note.title.as_str()));
    assert_eq!(record.folder.map(|folder| folder.id()), Some(folder));
    assert_eq!(notes(&replica).list(None, 10)?.records, [record]);
    let rows = replica.query("SELECT stars, tags, folder FROM notes", &[])?;
    assert_eq!(rows[0]["stars"], -3);
    assert_eq!(rows[0]["folder"], json!(folder.to_string()));
    Ok(())
}

#[test]
fn the_types_are_plain_json() {
    let id = EntityId::from_bytes([7; 16]);
    let note = Note {
        body: "b".into(),
        stars: 2.into(),
        tags: ["t".to_owned()].into(),
        numbers: [1].into(),
        prices: [("p", 1.5)].into(),
        folder: Some(Reference::to(id)),
        ..Note::default()
    };
    let written = json!({
        "title": "", "body": "b", "stars": 2, "tags": ["t"], "steps": [], "numbers": [1], "prices": { "p": 1.5 },
        "table": {}, "rows": [], "due": null, "settings": {}, "folder": id.to_string(),
    });
    assert_eq!(serde_json::to_value(&note).expect("JSON"), written);
    assert_eq!(serde_json::from_value::<Note>(written).expect("a note"), note);
}

/// Edits by the types' own methods, each with the model that says what it does.
#[derive(Clone, Debug)]
enum Op {
    Splice(usize, usize, String),
    Push(u32),
    Insert(usize, u32),
    Remove(usize),
    Change(usize, u32),
    Tag(u8, bool),
    Price(u8, Option<u8>),
    Star(i8),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        (0..8_usize, 0..4_usize, "[aé🏝]{0,3}").prop_map(|(at, delete, insert)| Op::Splice(at, delete, insert)),
        any::<u32>().prop_map(Op::Push),
        (0..6_usize, 0..3_u32).prop_map(|(at, item)| Op::Insert(at, item)),
        (0..6_usize).prop_map(Op::Remove),
        (0..6_usize, 0..3_u32).prop_map(|(at, item)| Op::Change(at, item)),
        (0..4_u8, any::<bool>()).prop_map(|(tag, there)| Op::Tag(tag, there)),
        (0..4_u8, any::<Option<u8>>()).prop_map(|(key, price)| Op::Price(key, price)),
        any::<i8>().prop_map(Op::Star),
    ];
    prop::collection::vec(op, 0..12)
}

/// What plain collections make of an operation.
fn do_plainly(op: &Op, text: &mut Vec<char>, numbers: &mut Vec<u32>) {
    match op {
        Op::Splice(at, delete, insert) => {
            let at = (*at).min(text.len());
            let end = (at + delete).min(text.len());
            text.splice(at..end, insert.chars());
        }
        Op::Push(item) => numbers.push(*item),
        Op::Insert(at, item) => numbers.insert((*at).min(numbers.len()), *item),
        Op::Remove(at) if *at < numbers.len() => drop(numbers.remove(*at)),
        Op::Change(at, item) if *at < numbers.len() => numbers[*at] = *item,
        _ => {}
    }
}

fn do_typed(op: &Op, note: &mut Note) {
    match op {
        Op::Splice(at, delete, insert) => {
            let length = note.body.length();
            let at = (*at).min(length);
            note.body.splice(at, (*delete).min(length - at), insert);
        }
        Op::Push(item) => note.numbers.push(*item),
        Op::Insert(at, item) => note.numbers.insert((*at).min(note.numbers.len()), *item),
        Op::Remove(at) if *at < note.numbers.len() => drop(note.numbers.remove(*at)),
        Op::Change(at, item) if *at < note.numbers.len() => note.numbers[*at] = *item,
        Op::Remove(_) | Op::Change(..) => {}
        Op::Tag(tag, true) => drop(note.tags.insert(tag.to_string())),
        Op::Tag(tag, false) => drop(note.tags.remove(&tag.to_string())),
        Op::Price(key, Some(price)) => drop(note.prices.insert(key.to_string(), f64::from(*price))),
        Op::Price(key, None) => drop(note.prices.remove(&key.to_string())),
        Op::Star(by) => note.stars += i64::from(*by),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn what_an_edit_does_in_memory_is_what_is_read_after_it(edits in prop::collection::vec(ops(), 1..5)) {
        let files = Files::new();
        let replica = replica(&files, "a.db");
        let notes = notes(&replica);
        let start = Note { body: "aé🏝".into(), numbers: [0, 1, 0].into(), ..Note::default() };
        let id = notes.create(start.clone()).wait().expect("a note");
        let (mut model, mut text, mut numbers) = (start, "aé🏝".chars().collect(), vec![0, 1, 0]);
        for ops in edits {
            for op in &ops {
                do_typed(op, &mut model);
                do_plainly(op, &mut text, &mut numbers);
            }
            notes.edit(id, move |note| ops.iter().for_each(|op| do_typed(op, note))).wait().expect("an edit");
            let note = notes.get(id).expect("a read").expect("the note").value;
            prop_assert_eq!(&note, &model);
            prop_assert_eq!(note.body.chars().collect::<Vec<_>>(), text.clone());
            prop_assert_eq!(&note.numbers[..], &numbers[..]);
        }
    }
}

#[test]
fn the_types_compare_and_print_by_value() {
    let mut text = Text::from("a");
    text.push('b');
    assert_eq!((text.clone(), format!("{text:?} {text}")), (Text::from("ab"), "\"ab\" ab".to_owned()));
    let mut set = Set::<u8>::new();
    assert!(set.insert(1) && !set.insert(1));
    assert_eq!((set.clone(), format!("{set:?}")), ([1].into(), "{1}".to_owned()));
    let mut list: List<u8> = [1, 2, 3, 4].into();
    list.retain(|item| item % 2 == 0);
    list.extend([5]);
    assert_eq!((list.clone(), format!("{list:?}"), list.pop()), ([2, 4, 5].into(), "[2, 4, 5]".to_owned(), Some(5)));
    let mut map: Map<u8> = [("a", 1), ("b", 2)].into();
    map.retain(|_, value| *value > 1);
    assert_eq!((map.clone(), format!("{map:?}")), ([("b", 2)].into(), "{\"b\": 2}".to_owned()));
    let counter = Counter::from(3);
    assert_eq!(format!("{counter:?} {counter}"), "3 3");
}
