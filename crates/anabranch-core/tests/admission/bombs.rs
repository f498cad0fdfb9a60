//! The most that a few bytes can ask for within the limits of a change.

use super::chunk::{Chunk, column, runs, signed, unsigned};

/// A list with `ops - 1` nulls in it.
pub fn list_of_nulls(ops: u64) -> Chunk {
    list(ops, 1)
}

/// A list with `ops - 1` maps in it.
pub fn list_of_maps(ops: u64) -> Chunk {
    list(ops, 0)
}

fn list(ops: u64, action: u8) -> Chunk {
    let rest = times(ops) - 1;
    let nulls = |count: u64| [vec![0], unsigned(count)].concat();
    Chunk::first(
        &[7],
        vec![
            (column::OBJECT_ACTOR, [nulls(1), runs(&[(rest, &[0])])].concat()),
            (column::OBJECT_COUNTER, [nulls(1), runs(&[(rest, &[1])])].concat()),
            (column::KEY_ACTOR, [nulls(2), runs(&[(rest - 1, &[0])])].concat()),
            // The beginning, then each after the one before: 0, 2, 3, 4, …
            (column::KEY_COUNTER, [nulls(1), signed(-2), vec![0, 2], runs(&[(rest - 2, &[1])])].concat()),
            (column::KEY_TEXT, [signed(-1), vec![1, b'l'], nulls(ops - 1)].concat()),
            (column::INSERT, [unsigned(1), unsigned(ops - 1)].concat()),
            (column::ACTION, runs(&[(1, &[2]), (rest, &[action])])),
            (column::VALUE_META, runs(&[(rest + 1, &[0])])),
            (column::PREDECESSOR_COUNT, runs(&[(rest + 1, &[0])])),
        ],
    )
}

/// Nulls put to one key, each replacing the one before.
pub fn overwritten_nulls(ops: u64, key: &str) -> Chunk {
    overwritten(ops, key, 1)
}

/// Maps put to one key, each replacing the one before.
pub fn overwritten_maps(ops: u64, key: &str) -> Chunk {
    overwritten(ops, key, 0)
}

fn overwritten(ops: u64, key: &str, action: u8) -> Chunk {
    let count = times(ops);
    let key = [unsigned(u64::try_from(key.len()).unwrap()), key.as_bytes().to_vec()].concat();
    Chunk::first(
        &[7],
        vec![
            (column::KEY_TEXT, runs(&[(count, &key)])),
            (column::INSERT, unsigned(ops)),
            (column::ACTION, runs(&[(count, &[action])])),
            (column::VALUE_META, runs(&[(count, &[0])])),
            (column::PREDECESSOR_COUNT, runs(&[(1, &[0]), (count - 1, &[1])])),
            (column::PREDECESSOR_ACTOR, runs(&[(count - 1, &[0])])),
            (column::PREDECESSOR_COUNTER, runs(&[(count - 1, &[1])])),
        ],
    )
}

/// Lists, each the only element of the one before.
pub fn nested_lists(levels: u64) -> Chunk {
    let count = times(levels);
    let nulls = |count: u64| [vec![0], unsigned(count)].concat();
    let objects: Vec<u8> = (1..levels).flat_map(unsigned).collect();
    Chunk::first(
        &[7],
        vec![
            (column::OBJECT_ACTOR, [nulls(1), runs(&[(count - 1, &[0])])].concat()),
            (column::OBJECT_COUNTER, [nulls(1), signed(1 - count), objects].concat()),
            (column::KEY_COUNTER, [nulls(1), runs(&[(count - 1, &[0])])].concat()),
            (column::KEY_TEXT, [signed(-1), vec![1, b'l'], nulls(levels - 1)].concat()),
            (column::INSERT, [unsigned(1), unsigned(levels - 1)].concat()),
            (column::ACTION, runs(&[(count, &[2])])),
            (column::VALUE_META, runs(&[(count, &[0])])),
            (column::PREDECESSOR_COUNT, runs(&[(count, &[0])])),
        ],
    )
}

fn times(ops: u64) -> i64 {
    i64::try_from(ops).unwrap()
}
