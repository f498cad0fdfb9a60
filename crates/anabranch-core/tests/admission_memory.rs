//! What a hostile change can cost: within the limits, and beyond them. One test in a program of its own, since
//! memory is counted for the whole process.

#![expect(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]
#![expect(dead_code, reason = "each test program uses its part of what is shared")]
#![expect(unreachable_pub, reason = "modules are shared between test programs")]

#[path = "admission/bombs.rs"]
mod bombs;
#[path = "admission/chunk.rs"]
mod chunk;

use std::io::Write as _;
use std::path::Path;

use anabranch_core::document::{ApplyError, Document};
use anabranch_core::{Actor, Change, ChangeError, MAX_CHANGE_OPS, MAX_KEYS_BYTES};
use peak_alloc::PeakAlloc;

use chunk::{Chunk, column, unsigned};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// What one change may cost.
const MOST: usize = 64 << 20;

/// How much more memory was held at some point of the work.
fn cost<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let result = work();
    (result, MEMORY.peak_usage() - before)
}

fn document() -> Document {
    Document::new(&Actor::from_bytes(&[1]).unwrap())
}

/// One test, so that nothing else allocates meanwhile.
#[test]
fn no_change_costs_more_than_64_mib() {
    the_largest_that_are_taken();
    one_more_is_refused_and_so_is_any_number();
    hostile_files();
    deflated_ones();
    forged_headers();
    nested_ones();
}

fn the_largest_that_are_taken() {
    let ops = u64::try_from(MAX_CHANGE_OPS).unwrap();
    let key = "k".repeat(MAX_KEYS_BYTES / MAX_CHANGE_OPS);
    let largest = [
        ("a list of nulls", bombs::list_of_nulls(ops)),
        ("a list of maps", bombs::list_of_maps(ops)),
        ("nulls, overwritten", bombs::overwritten_nulls(ops, &key)),
        ("maps, overwritten", bombs::overwritten_maps(ops, &key)),
    ];
    for (what, chunk) in largest {
        let (change, reading) = cost(|| Change::parse(chunk.seal()).unwrap());
        let size = change.bytes().len();
        let (applied, applying) = cost(|| document().apply(&[change]).map(|new| new.len()));
        assert_eq!(applied, Ok(1), "{what}");
        println!("{what}: {size} bytes, {} KiB to read, {} KiB to apply", reading >> 10, applying >> 10);
        assert!(reading.max(applying) < MOST, "{what}");
    }
}

/// The error with which the bytes are refused, at hardly any cost.
fn refused(what: &str, bytes: Vec<u8>) -> ChangeError {
    let size = bytes.len();
    let (read, reading) = cost(|| Change::parse(bytes).map(drop));
    println!("{what}: {size} bytes, {} KiB to read", reading >> 10);
    assert!(reading < MOST / 4, "{what}");
    read.expect_err(what)
}

fn one_more_is_refused_and_so_is_any_number() {
    let ops = u64::try_from(MAX_CHANGE_OPS).unwrap();
    for many in [ops + 1, 5_000_000, 1 << 40, i64::MAX.unsigned_abs()] {
        for bomb in [bombs::list_of_nulls(many), bombs::list_of_maps(many), bombs::overwritten_nulls(many, "k")] {
            assert_eq!(refused(&format!("{many} ops"), bomb.seal()), ChangeError::TooManyOps);
        }
    }
    let key = "k".repeat(MAX_KEYS_BYTES / MAX_CHANGE_OPS + 1);
    let long = refused("long keys", bombs::overwritten_nulls(ops, &key).seal());
    assert_eq!(long, ChangeError::OutOfRange("the length of all keys"));
    let mut predecessors = bombs::overwritten_nulls(3, "k");
    *predecessors.column(column::PREDECESSOR_COUNT) = [vec![0x7d, 0, 1], unsigned(1 << 60)].concat();
    assert_eq!(refused("predecessors", predecessors.seal()), ChangeError::TooManyPredecessors);
}

/// Every file is refused, for the reason that is written here.
fn hostile_files() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut seen = Vec::new();
    for path in files.filter(|path| path.extension().is_some_and(|it| it == "change")) {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let bytes = std::fs::read(&path).unwrap();
        let (reason, memory) = cost(|| match Change::parse(bytes) {
            Err(error) => error.to_string(),
            Ok(change) => document().apply(&[change]).expect_err("it is hostile").to_string(),
        });
        println!("{name}: {} KiB: {reason}", memory >> 10);
        assert!(memory < MOST / 4, "{name}");
        let (_, expected) = REASONS.iter().find(|(known, _)| *known == name).expect("what is expected of it?");
        assert!(reason.contains(expected), "{name}: {reason}");
        seen.push(name);
    }
    assert_eq!(seen.len(), REASONS.len());
}

/// The hostile files, and what is said of each.
const REASONS: &[(&str, &str)] = &[
    ("a_bundle", "not a plain change chunk"),
    ("a_document", "not a plain change chunk"),
    ("an_endless_chunk", "checksum"),
    ("bad_actor_index", "a run of the change is not in its one form"),
    ("cut_off", "checksum"),
    ("deflate_128_mib", "not a plain change chunk"),
    ("deflated_column", "a column that the protocol does not know"),
    ("first_op_is_7", "builds on nothing, and its first op is not 1"),
    ("first_seq_is_5", "builds on nothing, and its sequence number is not 1"),
    ("five_million_ops", "more than 110000 ops"),
    ("forged_derived_actor", "a derived actor that is not its own"),
    ("insert_after_no_element", "names what is no element"),
    ("last_op_beyond_the_end", "the first op of the change is out of range"),
    ("names_an_op_of_nobody", "names one that comes later"),
    ("names_itself", "names one that comes later"),
    ("negative_stamp", "the stamp of the change is out of range"),
    ("nested_500_deep", "nests a value too deeply"),
    ("second_without_a_first", "builds on nothing, and its sequence number is not 1"),
    ("start_op_u32_max", "the first op of the change is out of range"),
    ("two_to_the_40_dependencies", "the number of dependencies"),
    ("two_to_the_60_predecessors", "replace more than 110000 others"),
    ("two_to_the_62_maps", "more than 110000 ops"),
    ("two_to_the_62_ops", "more than 110000 ops"),
    ("wrong_checksum", "checksum"),
];

/// Neither a deflated chunk nor a deflated column is looked into.
fn deflated_ones() {
    let deflated = |bytes: usize| {
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::copy(&mut std::io::Read::take(std::io::repeat(0), bytes.try_into().unwrap()), &mut encoder).unwrap();
        encoder.flush().unwrap();
        encoder.finish().unwrap()
    };
    let mut chunk = chunk::wrap(&deflated(128 << 20));
    chunk[8] = 2;
    chunk::reseal(&mut chunk);
    assert_eq!(refused("a deflated chunk", chunk), ChangeError::NotAChange);
    let mut column = bombs::overwritten_nulls(3, "k");
    column.columns[0] = (column::KEY_TEXT | 8, deflated(128 << 20));
    assert_eq!(refused("a deflated column", column.seal()), ChangeError::Unknown("a column"));
}

fn forged_headers() {
    let forged = |forge: fn(&mut Chunk)| {
        let mut chunk = bombs::overwritten_nulls(3, "k");
        forge(&mut chunk);
        refused("a forged header", chunk.seal())
    };
    assert_eq!(forged(|it| it.time = -1), ChangeError::OutOfRange("the stamp"));
    assert_eq!(forged(|it| it.start_op = u64::from(u32::MAX)), ChangeError::OutOfRange("the first op"));
    let last = |it: &mut Chunk| (it.dependencies, it.start_op) = (vec![[7; 32]], (1 << 30) - 2);
    assert_eq!(forged(last), ChangeError::OutOfRange("the last op"));
    assert_eq!(forged(|it| it.seq = u64::MAX), ChangeError::OutOfRange("the sequence number"));
    let actor = forged(|it| *it.column(column::PREDECESSOR_ACTOR) = vec![2, 1]);
    assert_eq!(actor, ChangeError::Inconsistent("an op names an actor that is not listed"));
    let object = forged(|it| {
        *it.column(column::OBJECT_ACTOR) = vec![3, 0];
        *it.column(column::OBJECT_COUNTER) = vec![3, 1];
    });
    assert_eq!(object, ChangeError::Inconsistent("an op names one that comes later"));
    // What builds on nothing comes first. A fifth change that builds on the first alone lacks the other three.
    assert_eq!(forged(|it| it.seq = 5), ChangeError::NotFirst("its sequence number"));
    assert_eq!(forged(|it| it.start_op = 7), ChangeError::NotFirst("its first op"));
    let first = bombs::overwritten_nulls(3, "k");
    let mut fifth = first.clone();
    let first = Change::parse(first.seal()).unwrap();
    (fifth.seq, fifth.start_op, fifth.dependencies) = (5, 4, vec![*first.hash().as_bytes()]);
    let fifth = Change::parse(fifth.seal()).unwrap();
    assert_eq!(document().apply(&[first, fifth.clone()]), Err(ApplyError::OutOfSequence(fifth.hash())));
    // The last of all times is one: it is only a stamp, and neighbours of it do no harm.
    let mut last = bombs::overwritten_nulls(3, "k");
    last.time = i64::MAX;
    let mut first = bombs::overwritten_nulls(3, "k");
    first.actor = vec![8];
    first.time = 0;
    let changes = [last, first].map(|chunk| Change::parse(chunk.seal()).unwrap());
    let mut document = document();
    document.apply(&changes).unwrap();
    document.fold().unwrap();
}

/// Lists in lists, each the only element of the one before: read within a thread's stack, or refused.
fn nested_ones() {
    for levels in [33, 500, 100_000] {
        assert_eq!(refused("nested lists", bombs::nested_lists(levels).seal()), ChangeError::TooDeep);
    }
    let mut document = document();
    let fine = Change::parse(bombs::nested_lists(32).seal()).unwrap();
    document.apply(&[fine]).unwrap();
    document.state(None).unwrap();
    document.fold().unwrap();
}
