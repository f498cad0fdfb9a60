//! A change's ops, read from its columns row by row and checked as far as the change alone tells.

mod check;

use super::columns::{Column, Columns};
use super::reader::Reader;
use super::runs::{Booleans, Deltas, Runs, Text};
use super::{ChangeError, MAX_CHANGE_OPS, MAX_CHANGE_PREDECESSORS, MAX_KEYS_BYTES, MAX_OP};

use self::check::Within;

/// The name of an op: its counter, and its actor as a place among the change's actors, where 0 is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpName {
    pub(crate) actor: u32,
    pub(crate) counter: u32,
}

/// What an op writes to, within its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// A key of a map: where it begins in the chunk, and its length.
    Text { at: usize, length: usize },
    /// An element of a list or text; for an insertion, the one before it.
    Element(OpName),
    /// The beginning of a list or text.
    Head,
}

/// What kind of object an op makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ObjectKind {
    Map,
    List,
    Text,
}

impl ObjectKind {
    /// Whether the key can be one of such an object.
    pub(crate) const fn takes(self, key: Key) -> bool {
        matches!(self, Self::Map) == matches!(key, Key::Text { .. })
    }
}

/// What an op does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Make(ObjectKind),
    Put,
    Delete,
    Increment,
}

impl Action {
    const fn of(code: u64) -> Result<Self, ChangeError> {
        match code {
            0 => Ok(Self::Make(ObjectKind::Map)),
            1 => Ok(Self::Put),
            2 => Ok(Self::Make(ObjectKind::List)),
            3 => Ok(Self::Delete),
            4 => Ok(Self::Make(ObjectKind::Text)),
            5 => Ok(Self::Increment),
            // Tables (6) make Automerge panic once they are written to; marks (7) are not part of the protocol.
            _ => Err(ChangeError::Unknown("an action")),
        }
    }

    /// Whether the op leaves a value, which later ones can replace.
    pub(crate) const fn leaves_value(self) -> bool {
        matches!(self, Self::Make(_) | Self::Put)
    }
}

/// A value, read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scalar<'a> {
    Null,
    Boolean(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(&'a str),
    Bytes(&'a [u8]),
    Counter(i64),
    Time(i64),
}

impl ValueAt {
    /// The value, out of the chunk that it has been found in.
    pub(crate) fn read(self, chunk: &[u8]) -> Option<Scalar<'_>> {
        let at = usize::try_from(self.at).ok()?;
        let bytes = chunk.get(at..at + usize::try_from(self.length).ok()?)?;
        let mut reader = Reader::new(bytes, 0);
        Some(match self.kind {
            0 => Scalar::Null,
            1 | 2 => Scalar::Boolean(self.kind == 2),
            3 => Scalar::Unsigned(reader.unsigned().ok()?),
            4 => Scalar::Signed(reader.signed().ok()?),
            5 => Scalar::Float(f64::from_le_bytes(bytes.try_into().ok()?)),
            6 => Scalar::Text(std::str::from_utf8(bytes).ok()?),
            7 => Scalar::Bytes(bytes),
            8 => Scalar::Counter(reader.signed().ok()?),
            9 => Scalar::Time(reader.signed().ok()?),
            _ => return None,
        })
    }
}

/// One op. Its counter is the change's first op plus its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Op {
    /// The object that it writes to; the root if there is none.
    pub(crate) object: Option<OpName>,
    pub(crate) key: Key,
    pub(crate) insert: bool,
    pub(crate) action: Action,
    pub(crate) value: ValueAt,
    predecessors: (u32, u32),
}

/// The value of an op: what type it has, and where in the chunk it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ValueAt {
    /// Null, false, true, unsigned, signed, float, text, bytes, counter, time: 0 to 9.
    pub(crate) kind: u8,
    pub(crate) at: u32,
    pub(crate) length: u32,
}

/// All ops of a change.
#[derive(Debug, Default)]
pub(crate) struct Ops {
    ops: Vec<Op>,
    predecessors: Vec<OpName>,
}

impl Ops {
    pub(crate) fn all(&self) -> &[Op] {
        &self.ops
    }

    /// The ops that an op replaces or increments.
    pub(crate) fn predecessors(&self, op: &Op) -> &[OpName] {
        let (start, end) = op.predecessors;
        // The bounds were pushed beside the names; `MAX_CHANGE_PREDECESSORS` keeps them within 32 bits.
        let within = |at: u32| usize::try_from(at).unwrap_or(usize::MAX);
        self.predecessors.get(within(start)..within(end)).unwrap_or_default()
    }

    pub(super) fn read(
        columns: Reader<'_>,
        chunk: &[u8],
        start_op: u64,
        actors: &[&[u8]],
    ) -> Result<Self, ChangeError> {
        let columns = Columns::read(columns)?;
        let mut ops = Self::default();
        if columns.is_empty() {
            return if actors.len() > 1 { Err(UNUSED) } else { Ok(ops) };
        }
        let mut rows = Rows::new(&columns, actors.len())?;
        let mut depths = Vec::new();
        while rows.action.has_more() {
            if ops.ops.len() == MAX_CHANGE_OPS {
                return Err(ChangeError::TooManyOps);
            }
            let op = rows.next(&mut ops.predecessors)?;
            let within = Within { chunk, start_op, actors, ops: &ops, depths: &depths };
            within.check(&op)?;
            depths.push(within.depth(&op)?);
            ops.ops.push(op);
        }
        rows.end()?;
        let count = u64::try_from(ops.ops.len()).map_err(|_| ChangeError::TooManyOps)?;
        if start_op + count > MAX_OP { Err(ChangeError::OutOfRange("the last op")) } else { Ok(ops) }
    }
}

const UNUSED: ChangeError = ChangeError::NotCanonical("the list of actors");
const MISSING: ChangeError = ChangeError::Inconsistent("a column is missing");
const NAME: ChangeError = ChangeError::Inconsistent("the name of an op is incomplete");

/// The columns, abreast.
struct Rows<'a> {
    object_actor: Runs<'a, u64>,
    object_counter: Runs<'a, u64>,
    key_actor: Runs<'a, u64>,
    key_counter: Deltas<'a>,
    key_text: Runs<'a, Text<'a>>,
    insert: Booleans<'a>,
    action: Runs<'a, u64>,
    value_meta: Runs<'a, u64>,
    value: Option<Reader<'a>>,
    predecessor_count: Runs<'a, u64>,
    predecessor_actor: Runs<'a, u64>,
    predecessor_counter: Deltas<'a>,
    /// Which of the change's actors have been named.
    named: Vec<bool>,
    keys_bytes: usize,
}

impl<'a> Rows<'a> {
    fn new(columns: &Columns<'a>, actors: usize) -> Result<Self, ChangeError> {
        let numbers = |column| Runs::new(columns.get(column));
        // These three are there as soon as there is one op.
        let required = |column| columns.get(column).map(|it| Runs::new(Some(it))).ok_or(MISSING);
        let mut named = vec![false; actors];
        if let Some(own) = named.first_mut() {
            *own = true;
        }
        Ok(Self {
            object_actor: numbers(Column::ObjectActor),
            object_counter: numbers(Column::ObjectCounter),
            key_actor: numbers(Column::KeyActor),
            key_counter: Deltas::new(columns.get(Column::KeyCounter)),
            key_text: Runs::new(columns.get(Column::KeyText)),
            insert: Booleans::new(columns.get(Column::Insert).ok_or(MISSING)?),
            action: required(Column::Action)?,
            value_meta: required(Column::ValueMeta)?,
            value: columns.get(Column::Value),
            predecessor_count: required(Column::PredecessorCount)?,
            predecessor_actor: numbers(Column::PredecessorActor),
            predecessor_counter: Deltas::new(columns.get(Column::PredecessorCounter)),
            named,
            keys_bytes: 0,
        })
    }

    fn next(&mut self, predecessors: &mut Vec<OpName>) -> Result<Op, ChangeError> {
        let object = match (self.object_actor.next()?, self.object_counter.next()?) {
            (None, None) => None,
            (Some(actor), Some(counter)) => Some(self.name(actor, counter)?),
            _ => return Err(NAME),
        };
        let key = self.key()?;
        let insert = self.insert.next()?;
        let action = Action::of(self.action.some()?)?;
        let value = self.value(action)?;
        let start = place(predecessors.len())?;
        let count = self.predecessor_count.some()?;
        if count > room(predecessors.len()) {
            return Err(ChangeError::TooManyPredecessors);
        }
        for _ in 0..count {
            let actor = self.predecessor_actor.next()?.ok_or(NAME)?;
            let counter = unsigned(self.predecessor_counter.next()?.ok_or(NAME)?)?;
            predecessors.push(self.name(actor, counter)?);
        }
        Ok(Op { object, key, insert, action, value, predecessors: (start, place(predecessors.len())?) })
    }

    fn key(&mut self) -> Result<Key, ChangeError> {
        match (self.key_actor.next()?, self.key_counter.next()?, self.key_text.next()?) {
            (None, None, Some(Text { at, text })) => {
                // Automerge keeps a copy for every op, so a run of long keys would be a bomb.
                self.keys_bytes = self.keys_bytes.saturating_add(text.len());
                if self.keys_bytes > MAX_KEYS_BYTES {
                    return Err(ChangeError::OutOfRange("the length of all keys"));
                }
                Ok(Key::Text { at, length: text.len() })
            }
            (None, Some(0), None) => Ok(Key::Head),
            (Some(actor), Some(counter), None) => Ok(Key::Element(self.name(actor, unsigned(counter)?)?)),
            _ => Err(ChangeError::Inconsistent("an op has not one key")),
        }
    }

    fn name(&mut self, actor: u64, counter: u64) -> Result<OpName, ChangeError> {
        let place = usize::try_from(actor).map_err(|_| ACTOR)?;
        *self.named.get_mut(place).ok_or(ACTOR)? = true;
        if counter == 0 || counter > MAX_OP {
            return Err(ChangeError::OutOfRange("a counter"));
        }
        let actor = u32::try_from(actor).map_err(|_| ACTOR)?;
        let counter = u32::try_from(counter).map_err(|_| ChangeError::OutOfRange("a counter"))?;
        Ok(OpName { actor, counter })
    }

    /// Checks that the op's value is what its description says, and one that its action can have.
    fn value(&mut self, action: Action) -> Result<ValueAt, ChangeError> {
        const VALUE: ChangeError = ChangeError::Inconsistent("a value and its description");
        let meta = self.value_meta.some()?;
        let length = usize::try_from(meta >> 4).map_err(|_| VALUE)?;
        let mut value = match (&mut self.value, length) {
            (_, 0) => Reader::new(&[], 0),
            (Some(column), length) => column.part(length).map_err(|_| VALUE)?,
            (None, _) => return Err(VALUE),
        };
        let kind = meta & 0xf;
        let at = u32::try_from(value.at()).map_err(|_| VALUE)?;
        match kind {
            // Null, false, true.
            0..=2 => {}
            // An unsigned number; a signed one, a counter, a time.
            3 => value.unsigned().map(drop)?,
            4 | 8 | 9 => value.signed().map(drop)?,
            // A float, in eight bytes.
            5 => value.take(8).map(drop).map_err(|_| VALUE)?,
            6 => std::str::from_utf8(value.take(length)?).map(drop).map_err(|_| ChangeError::OutOfRange("a text"))?,
            7 => value.take(length).map(drop)?,
            _ => return Err(ChangeError::Unknown("a type of value")),
        }
        let suits = match action {
            Action::Put => true,
            Action::Make(_) | Action::Delete => kind == 0,
            Action::Increment => kind == 4,
        };
        if !value.is_at_end() || !suits {
            return Err(VALUE);
        }
        let kind = u8::try_from(kind).map_err(|_| VALUE)?;
        Ok(ValueAt { kind, at, length: u32::try_from(length).map_err(|_| VALUE)? })
    }

    /// Checks that all columns end with the last op, and that no actor was listed in vain.
    fn end(&self) -> Result<(), ChangeError> {
        self.object_actor.end()?;
        self.object_counter.end()?;
        self.key_actor.end()?;
        self.key_counter.end()?;
        self.key_text.end()?;
        self.insert.end()?;
        self.action.end()?;
        self.value_meta.end()?;
        self.predecessor_count.end()?;
        self.predecessor_actor.end()?;
        self.predecessor_counter.end()?;
        if self.value.is_some_and(|value| !value.is_at_end()) {
            return Err(ChangeError::Inconsistent("columns of different lengths"));
        }
        if self.named.iter().all(|named| *named) { Ok(()) } else { Err(UNUSED) }
    }
}

const ACTOR: ChangeError = ChangeError::Inconsistent("an op names an actor that is not listed");

fn unsigned(counter: i64) -> Result<u64, ChangeError> {
    u64::try_from(counter).map_err(|_| ChangeError::OutOfRange("a counter"))
}

fn place(length: usize) -> Result<u32, ChangeError> {
    u32::try_from(length).map_err(|_| ChangeError::TooManyPredecessors)
}

/// How many more predecessors a change may have.
fn room(length: usize) -> u64 {
    u64::try_from(MAX_CHANGE_PREDECESSORS.saturating_sub(length)).unwrap_or(0)
}
