//! What stands in the slots, containers and counters of a plain history.

use std::collections::BTreeMap;

use automerge::ScalarValue;
use serde_json::{Map, Value as Json};

use super::super::value::{compare, from_scalar, member_of};
use super::Context;
use crate::change::{Action, Key, Op, Scalar};
use crate::schema::Kind;
use crate::stamp::Stamp;

/// How many elements are looked through for those that writes name, in one container, before its history is no
/// longer taken for plain: it bounds the time that hostile changes can cost.
const MAX_SEARCH: usize = 1 << 17;

/// The name of an op.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct OpId<'a> {
    pub(super) counter: u32,
    pub(super) actor: &'a [u8],
}

/// A value in a slot, and the op that put it there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held<'a> {
    op: OpId<'a>,
    value: Scalar<'a>,
    pub(super) stamp: Stamp,
}

/// The slots of a map.
pub(super) type Slots<'a> = BTreeMap<&'a str, Held<'a>>;

impl<'a> Held<'a> {
    pub(super) fn new(op: OpId<'a>, value: Scalar<'a>, stamp: Stamp) -> Option<Self> {
        if matches!(value, Scalar::Counter(_)) { None } else { Some(Self { op, value, stamp }) }
    }

    pub(super) fn text(&self) -> Option<&'a str> {
        if let Scalar::Text(text) = self.value { Some(text) } else { None }
    }

    pub(super) fn is_null(&self) -> bool {
        self.value == Scalar::Null
    }

    pub(super) fn json(&self) -> Json {
        // Texts and integers, the bulk, need no detour.
        match self.value {
            Scalar::Text(text) => Json::String(text.to_owned()),
            Scalar::Null => Json::Null,
            Scalar::Boolean(flag) => Json::Bool(flag),
            Scalar::Signed(int) | Scalar::Time(int) | Scalar::Counter(int) => int.into(),
            Scalar::Unsigned(uint) => uint.into(),
            Scalar::Float(float) => from_scalar(&ScalarValue::F64(float)),
            Scalar::Bytes(bytes) => from_scalar(&ScalarValue::Bytes(bytes.to_vec())),
        }
    }
}

/// Writes to a slot of a map, if the write has seen what stands there.
pub(super) fn write<'a>(slots: &mut Slots<'a>, key: &'a str, context: &Context<'a, '_>, op: &Op) -> Option<()> {
    let replaced = context.replaced(op)?;
    if slots.get(key).map(|held| held.op) != replaced {
        return None;
    }
    match op.action {
        Action::Put => slots.insert(key, context.held(op)?),
        Action::Delete => slots.remove(key),
        Action::Make(_) | Action::Increment => return None,
    };
    Some(())
}

/// A field's container or counter.
#[derive(Debug)]
pub(super) struct Born<'a> {
    pub(super) key: &'a str,
    pub(super) kind: Kind,
    pub(super) id: OpId<'a>,
    content: Content<'a>,
}

#[derive(Debug)]
enum Content<'a> {
    Count(i64),
    Slots(Slots<'a>),
    Sequence(Sequence<'a>),
}

impl<'a> Born<'a> {
    pub(super) fn new(key: &'a str, kind: Kind, id: OpId<'a>) -> Option<Self> {
        let content = match kind {
            Kind::Counter => Content::Count(0),
            Kind::Map | Kind::Set => Content::Slots(Slots::new()),
            Kind::Text | Kind::List => Content::Sequence(Sequence::default()),
            Kind::Register | Kind::Reference => return None,
        };
        Some(Self { key, kind, id, content })
    }

    pub(super) fn increment(&mut self, context: &Context<'a, '_>, op: &Op) -> Option<()> {
        let Content::Count(count) = &mut self.content else { return None };
        let (Action::Increment, Some(Scalar::Signed(by))) = (op.action, op.value.read(context.change.bytes())) else {
            return None;
        };
        if context.replaced(op)? != Some(self.id) {
            return None;
        }
        *count = count.checked_add(by)?;
        Some(())
    }

    pub(super) fn take(&mut self, context: &Context<'a, '_>, op: &Op) -> Option<()> {
        match &mut self.content {
            Content::Count(_) => None,
            Content::Slots(slots) => write(slots, context.key(op)?, context, op),
            Content::Sequence(sequence) => sequence.take(context, op, self.kind == Kind::Text),
        }
    }

    pub(super) fn json(&self) -> Json {
        match &self.content {
            Content::Count(count) => (*count).into(),
            Content::Slots(slots) if self.kind == Kind::Set => {
                let mut members: Vec<Json> = slots.keys().filter_map(|key| member_of(key)).collect();
                members.sort_by(compare);
                Json::Array(members)
            }
            Content::Slots(slots) => {
                Json::Object(slots.iter().map(|(key, held)| ((*key).to_owned(), held.json())).collect::<Map<_, _>>())
            }
            Content::Sequence(sequence) => {
                let visible = sequence.elements.iter().filter_map(|element| element.held.as_ref());
                match self.kind {
                    Kind::Text => Json::String(visible.filter_map(Held::text).collect()),
                    _ => Json::Array(visible.map(Held::json).collect()),
                }
            }
        }
    }
}

/// The elements of a list or text, deleted ones included.
#[derive(Debug, Default)]
struct Sequence<'a> {
    elements: Vec<Element<'a>>,
    /// Where the last write was: the next one is close by, mostly.
    near: usize,
    searched: usize,
}

#[derive(Debug)]
struct Element<'a> {
    id: OpId<'a>,
    held: Option<Held<'a>>,
}

impl<'a> Sequence<'a> {
    fn take(&mut self, context: &Context<'a, '_>, op: &Op, is_text: bool) -> Option<()> {
        let held = match op.action {
            Action::Put => Some(context.held(op)?),
            Action::Delete => None,
            Action::Make(_) | Action::Increment => return None,
        };
        let is_character = |held: &Held<'_>| held.text().is_some_and(|text| text.chars().nth(1).is_none());
        if is_text && held.is_some_and(|held| !is_character(&held) || held.text() == Some("")) {
            return None;
        }
        let at = match op.key {
            Key::Element(name) => Some(self.find(context.op_id(name)?)?),
            Key::Head => None,
            Key::Text { .. } => return None,
        };
        if op.insert {
            // In a linear history the newest element comes right after the one it names.
            let at = at.map_or(0, |at| at + 1);
            self.searched = self.searched.saturating_add((self.elements.len() - at) / 64);
            self.near = at;
            self.elements.insert(at, Element { id: context.id, held });
            return Some(());
        }
        let element = self.elements.get_mut(at?)?;
        if element.held.map(|held| held.op) != context.replaced(op)? || element.held.is_none() {
            return None;
        }
        element.held = held;
        self.near = at?;
        Some(())
    }

    fn find(&mut self, id: OpId<'a>) -> Option<usize> {
        let close = self.near.saturating_sub(1)..self.elements.len().min(self.near + 3);
        let found = self.elements.get(close.clone())?.iter().position(|element| element.id == id);
        if let Some(found) = found {
            return Some(close.start + found);
        }
        self.searched = self.searched.saturating_add(self.elements.len());
        if self.searched > MAX_SEARCH {
            return None;
        }
        self.elements.iter().position(|element| element.id == id)
    }
}
