//! Changes altered the way a hostile writer would: bytes, header, columns, or the ops themselves, under a right
//! checksum. The choices come from a source of numbers, random or a fuzzer's.

use anabranch_core::Change;
use automerge::legacy::{ElementId, Key, ObjectId, Op, OpId, OpType};
use automerge::{ActorId, ExpandedChange, ObjType, ScalarValue};

use super::chunk::{self, Chunk};

/// Where the choices come from.
pub trait Choose {
    /// A number below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize;

    fn one<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap()
    }
}

const NUMBERS: [u64; 12] = [0, 1, 2, 63, 64, 127, 128, 100_000, 1 << 30, (1 << 32) - 1, 1 << 40, u64::MAX];
const TIMES: [i64; 6] = [-1, 0, 1, i64::MAX, i64::MIN, 1 << 40];
const COLUMNS: [u64; 17] =
    [0x01, 0x02, 0x11, 0x13, 0x15, 0x34, 0x42, 0x56, 0x57, 0x70, 0x71, 0x73, 0x94, 0xa5, 0x3c, 0x61, 0x1234];

/// An altered `change`, which stands among others of its history. It may come out as it was.
pub fn mutate(choose: &mut impl Choose, history: &[Change], change: &Change) -> Vec<u8> {
    match choose.below(8) {
        0 => bytes(choose, change.bytes().to_vec()),
        1..=3 => columns(choose, change),
        4 => header(choose, history, Chunk::open(change.bytes())).certified().seal(),
        _ => ops(choose, history, change),
    }
}

fn bytes(choose: &mut impl Choose, mut chunk: Vec<u8>) -> Vec<u8> {
    for _ in 0..=choose.below(3) {
        let at = 9 + choose.below(chunk.len() - 9);
        match choose.below(3) {
            0 => chunk[at] ^= 1 << choose.below(8),
            1 => chunk[at] = choose.byte(),
            _ => drop(chunk.splice(at..at, [choose.byte()])),
        }
    }
    if choose.below(8) > 0 {
        chunk::reseal(&mut chunk);
    }
    chunk
}

fn header(choose: &mut impl Choose, history: &[Change], mut chunk: Chunk) -> Chunk {
    match choose.below(10) {
        0 => chunk.seq = near(choose, chunk.seq),
        1 | 2 => chunk.start_op = near(choose, chunk.start_op),
        3 => chunk.time = choose.one(&TIMES),
        4 => drop(chunk.dependencies.pop()),
        5 => {
            chunk.dependencies.push(*choose.one(history).hash().as_bytes());
            chunk.dependencies.sort_unstable();
        }
        6 => chunk.actor = choose.one(history).actor().as_bytes().to_vec(),
        7 => chunk.others.push(choose.one(history).actor().as_bytes().to_vec()),
        8 => drop(chunk.others.pop()),
        _ => chunk.rest = vec![choose.byte(); choose.below(4)],
    }
    chunk
}

fn near(choose: &mut impl Choose, number: u64) -> u64 {
    match choose.below(4) {
        0 => choose.one(&NUMBERS),
        1 => number.saturating_sub(1),
        2 => number.saturating_add(1),
        _ => number.wrapping_add(choose.one(&NUMBERS)),
    }
}

fn columns(choose: &mut impl Choose, change: &Change) -> Vec<u8> {
    let mut chunk = Chunk::open(change.bytes());
    for _ in 0..=choose.below(2) {
        if chunk.columns.is_empty() {
            chunk.column(choose.one(&COLUMNS)).push(choose.byte());
        }
        let place = choose.below(chunk.columns.len());
        let (number, data) = &mut chunk.columns[place];
        match choose.below(12) {
            0..=2 => data_byte(choose, data),
            3 | 4 => replace_number(choose, data),
            5 => *number = choose.one(&COLUMNS),
            6 => *number ^= 8, // deflated
            7 => data.clear(),
            8 => drop(chunk.columns.remove(place)),
            9 => {
                let other = choose.below(chunk.columns.len());
                let data = chunk.columns[other].1.clone();
                chunk.columns[place].1 = data;
            }
            10 => {
                let more = data.clone();
                data.extend(more);
            }
            _ => *chunk.column(choose.one(&COLUMNS)) = vec![0x7f, choose.byte()],
        }
    }
    if choose.below(16) > 0 {
        chunk.columns.sort_by_key(|(number, _)| *number);
    }
    chunk.certified().seal()
}

fn data_byte(choose: &mut impl Choose, data: &mut Vec<u8>) {
    let at = choose.below(data.len() + 1);
    match (choose.below(4), data.get_mut(at)) {
        (0, Some(byte)) => *byte = byte.wrapping_add(1),
        (1, Some(byte)) => *byte = byte.wrapping_sub(1),
        (2, Some(byte)) => *byte = choose.byte(),
        _ => data.insert(at, choose.byte()),
    }
}

/// One number of a column, most often the count of a run, becomes another.
fn replace_number(choose: &mut impl Choose, data: &mut Vec<u8>) {
    let at = choose.below(data.len() + 1);
    let end = data[at..].iter().position(|byte| byte & 0x80 == 0).map_or(data.len(), |length| at + length + 1);
    let number = choose.one(&NUMBERS);
    let number = match (choose.below(2), i64::try_from(number)) {
        (0, Ok(number)) => chunk::signed(-number),
        _ => chunk::unsigned(number),
    };
    data.splice(at..end, number);
}

/// The ops say something else; what they name is taken from anywhere in the history.
fn ops(choose: &mut impl Choose, history: &[Change], change: &Change) -> Vec<u8> {
    let mut expanded = automerge::Change::from_bytes(change.bytes().to_vec()).unwrap().decode();
    expanded.hash = None;
    if choose.below(2) == 0 {
        // A writer of its own: whatever else there is, it is no fork.
        expanded.actor_id = ActorId::from([9, choose.byte(), choose.byte(), choose.byte()]);
        expanded.seq = 1.try_into().unwrap();
    }
    for _ in 0..=choose.below(2) {
        op(choose, history, &mut expanded);
    }
    let bytes = automerge::Change::from(expanded).raw_bytes().to_vec();
    // Automerge's own encoder knows no certified actors.
    if change.actor().is_derived() { Chunk::open(&bytes).certified().seal() } else { bytes }
}

fn op(choose: &mut impl Choose, history: &[Change], change: &mut ExpandedChange) {
    if change.operations.is_empty() {
        return;
    }
    let place = choose.below(change.operations.len());
    let id = some_op(choose, history, change);
    let other = change.operations[choose.below(change.operations.len())].clone();
    let op = &mut change.operations[place];
    match choose.below(12) {
        0 => op.obj = ObjectId::Id(id),
        1 => op.obj = ObjectId::Root,
        2 | 3 => op.key = Key::Seq(ElementId::Id(id)),
        4 => op.key = Key::Seq(ElementId::Head),
        5 => op.key = Key::Map(choose.one(&["k", "title", "", "a"]).into()),
        6 | 7 => op.pred = std::iter::once(id).collect(),
        8 => op.pred = op.pred.iter().cloned().chain([id]).collect(),
        9 => op.insert = !op.insert,
        10 => op.action = action(choose),
        _ => change.operations.insert(place, Op { pred: std::iter::empty().collect(), ..other }),
    }
}

fn action(choose: &mut impl Choose) -> OpType {
    match choose.below(7) {
        0 => OpType::Make(ObjType::Map),
        1 => OpType::Make(ObjType::List),
        2 => OpType::Make(ObjType::Text),
        3 => OpType::Make(ObjType::Table),
        4 => OpType::Delete,
        5 => OpType::Increment(1),
        _ => OpType::Put(choose.one(&[ScalarValue::Null, ScalarValue::counter(1), "x".into()])),
    }
}

/// An op of the history, or of the change itself, or one that is nowhere.
fn some_op(choose: &mut impl Choose, history: &[Change], change: &ExpandedChange) -> OpId {
    let (start, count) = (change.start_op.get(), u64::try_from(change.operations.len()).unwrap());
    let within = |choose: &mut dyn FnMut(usize) -> usize, first: u64, last: u64| {
        first + u64::try_from(choose(usize::try_from(last.saturating_sub(first) + 1).unwrap())).unwrap()
    };
    match choose.below(8) {
        0 => OpId::new(within(&mut |end| choose.below(end), start, start + count), &change.actor_id),
        1 => OpId::new(choose.one(&[1, 2, 77]), &ActorId::from(choose.one(history).actor().as_bytes())),
        _ => {
            let other = choose.one(history);
            let counter = within(&mut |end| choose.below(end), other.start_op(), other.max_op());
            OpId::new(counter, &ActorId::from(other.actor().as_bytes()))
        }
    }
}
