//! Hostile changes of our own, as files beside those that were found: other crates' tests send them through every
//! door. The files are what this builds; `ANABRANCH_WRITE_HOSTILE=1` writes them.

use std::path::Path;

use anabranch_core::document::{ApplyError, Document};
use anabranch_core::{Actor, Change};

use super::bombs;
use super::chunk::{self, Chunk, column, signed, unsigned};

const NULL_AT_K: [(u64, [u8; 2]); 3] =
    [(column::ACTION, [0x7f, 1]), (column::VALUE_META, [0x7f, 0]), (column::PREDECESSOR_COUNT, [0x7f, 0])];

/// A null put to a key: harmless, until something is changed about it.
fn null() -> Chunk {
    let mut columns = vec![(column::KEY_TEXT, vec![0x7f, 1, b'k']), (column::INSERT, vec![1])];
    columns.extend(NULL_AT_K.map(|(number, data)| (number, data.to_vec())));
    Chunk::first(&[0xee, 1], columns)
}

fn with(spoil: impl FnOnce(&mut Chunk)) -> Vec<u8> {
    let mut chunk = null();
    spoil(&mut chunk);
    chunk.seal()
}

/// A chunk of another kind.
fn of_kind(kind: u8) -> Vec<u8> {
    let mut chunk = bombs::overwritten_nulls(1 << 40, "k").seal();
    chunk[8] = kind;
    chunk::reseal(&mut chunk);
    chunk
}

/// A list, and in it an element after an op that is no element.
fn insert_after_no_element() -> Vec<u8> {
    Chunk::first(
        &[0xee, 2],
        vec![
            (column::OBJECT_ACTOR, vec![0, 1, 0x7f, 0]),
            (column::OBJECT_COUNTER, vec![0, 1, 0x7f, 1]),
            (column::KEY_ACTOR, vec![0, 1, 0x7f, 0]),
            (column::KEY_COUNTER, vec![0, 1, 0x7f, 1]),
            (column::KEY_TEXT, vec![0x7f, 1, b'l', 0, 1]),
            (column::INSERT, vec![1, 1]),
            (column::ACTION, vec![0x7e, 2, 1]),
            (column::VALUE_META, vec![2, 0]),
            (column::PREDECESSOR_COUNT, vec![2, 0]),
        ],
    )
    .seal()
}

/// It replaces an op of somebody who never was.
fn names_an_op_of_nobody() -> Vec<u8> {
    with(|it| {
        it.others = vec![vec![0xdd]];
        *it.column(column::PREDECESSOR_COUNT) = vec![0x7f, 1];
        *it.column(column::PREDECESSOR_ACTOR) = vec![0x7f, 1];
        *it.column(column::PREDECESSOR_COUNTER) = vec![0x7f, 1];
    })
}

/// An honest list, and a change of it that passes every check of ours, and makes Automerge panic: an element after the
/// op that made the list.
fn a_list_and_what_panics_on_it() -> [Vec<u8>; 2] {
    let mut list = null();
    list.columns[0].1 = vec![0x7f, 1, b'l'];
    *list.column(column::ACTION) = vec![0x7f, 2];
    let first = Change::parse(list.seal()).unwrap();
    let mut second = list.clone();
    second.columns = vec![
        (column::OBJECT_ACTOR, vec![0x7f, 0]),
        (column::OBJECT_COUNTER, vec![0x7f, 1]),
        (column::KEY_ACTOR, vec![0x7f, 0]),
        (column::KEY_COUNTER, vec![0x7f, 1]),
        (column::INSERT, vec![0, 1]),
    ];
    second.columns.extend(NULL_AT_K.map(|(number, data)| (number, data.to_vec())));
    (second.seq, second.start_op, second.dependencies) = (2, 2, vec![*first.hash().as_bytes()]);
    [list.seal(), second.seal()]
}

fn all() -> Vec<(&'static str, Vec<u8>)> {
    let many_dependencies = [unsigned(1 << 40), vec![7; 64]].concat();
    let mut endless = null().seal();
    endless.splice(9..10, unsigned(u64::MAX));
    vec![
        ("a_bundle", of_kind(3)),
        ("a_document", of_kind(0)),
        ("an_endless_chunk", endless),
        ("cut_off", null().seal()[..30].to_vec()),
        ("deflated_column", with(|it| it.columns[0] = (column::KEY_TEXT | 8, vec![0x4b, 0x04, 0x00]))),
        ("first_op_is_7", with(|it| it.start_op = 7)),
        ("forged_derived_actor", with(|it| it.actor = [vec![Actor::DERIVED], vec![9; 15]].concat())),
        ("insert_after_no_element", insert_after_no_element()),
        ("last_op_beyond_the_end", with(|it| it.start_op = (1 << 30) + 1)),
        ("names_an_op_of_nobody", names_an_op_of_nobody()),
        (
            "names_itself",
            with(|it| {
                *it.column(column::OBJECT_ACTOR) = vec![0x7f, 0];
                *it.column(column::OBJECT_COUNTER) = vec![0x7f, 1];
            }),
        ),
        ("negative_stamp", with(|it| it.time = i64::MIN)),
        ("nested_500_deep", bombs::nested_lists(500).seal()),
        ("second_without_a_first", with(|it| it.seq = 2)),
        ("two_to_the_40_dependencies", chunk::wrap(&many_dependencies)),
        (
            "two_to_the_60_predecessors",
            with(|it| *it.column(column::PREDECESSOR_COUNT) = [signed(-1), unsigned(1 << 60)].concat()),
        ),
        ("two_to_the_62_maps", bombs::overwritten_maps(1 << 62, "k").seal()),
        ("two_to_the_62_ops", bombs::list_of_nulls(1 << 62).seal()),
        ("wrong_checksum", {
            let mut chunk = null().seal();
            chunk[4] ^= 1;
            chunk
        }),
    ]
}

#[test]
fn the_hostile_files_are_what_is_built_here() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile");
    let write = std::env::var_os("ANABRANCH_WRITE_HOSTILE").is_some();
    let [list, panics] = a_list_and_what_panics_on_it();
    let pair = [("panics/list", list.clone()), ("panics/insert_after_the_list", panics.clone())];
    for (name, bytes) in all().into_iter().chain(pair) {
        let path = folder.join(format!("{name}.change"));
        if write {
            std::fs::write(&path, &bytes).unwrap();
        }
        assert_eq!(std::fs::read(&path).expect("the file"), bytes, "{name}");
    }
    // Nothing but the one that is spoilt is wrong with them.
    Change::parse(null().seal()).unwrap();
    let mut document = Document::new(&Actor::from_bytes(&[1]).unwrap());
    let changes = [list, panics].map(|bytes| Change::parse(bytes).unwrap());
    document.apply(&changes[..1]).unwrap();
    assert_eq!(document.apply(&changes[1..]), Err(ApplyError::Poisoned));
}
