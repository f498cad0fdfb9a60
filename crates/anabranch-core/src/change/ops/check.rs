//! Whether an op fits to those before it in its change.

use super::{Action, Key, ObjectKind, Op, OpName, Ops};
use crate::change::{ChangeError, MAX_DEPTH};
use crate::id::Actor;

/// An op among those before it in its change.
pub(super) struct Within<'a> {
    pub(super) chunk: &'a [u8],
    pub(super) start_op: u64,
    pub(super) actors: &'a [&'a [u8]],
    pub(super) ops: &'a Ops,
    /// How deep what each of those before it makes is nested at least; 0 if it makes nothing.
    pub(super) depths: &'a [u8],
}

impl Within<'_> {
    pub(super) fn check(&self, op: &Op) -> Result<(), ChangeError> {
        let predecessors = self.ops.predecessors(op);
        let wrong = match op.key {
            _ if op.object.is_none() && !ObjectKind::Map.takes(op.key) => Some("the root has no elements"),
            Key::Text { .. } if op.insert => Some("an insertion without a place"),
            Key::Head if !op.insert => Some("the beginning of a list is no element"),
            _ if op.insert && !op.action.leaves_value() => Some("an insertion of nothing"),
            _ if op.insert && !predecessors.is_empty() => Some("an insertion replaces nothing"),
            _ if !op.action.leaves_value() && predecessors.is_empty() => {
                Some("there is nothing to delete or increment")
            }
            Key::Element(_) if !op.insert && predecessors.is_empty() => Some("an element has a value"),
            _ => None,
        };
        if let Some(wrong) = wrong {
            return Err(ChangeError::Inconsistent(wrong));
        }
        self.check_object(op)?;
        if let Key::Element(element) = op.key {
            self.check_element(op, element)?;
        }
        let order = |name: &OpName| (name.counter, self.actor(*name));
        if !predecessors.is_sorted_by(|a, b| order(a) < order(b)) {
            return Err(ChangeError::NotCanonical("the order of the predecessors"));
        }
        predecessors.iter().try_for_each(|predecessor| self.check_predecessor(op, *predecessor))
    }

    fn check_object(&self, op: &Op) -> Result<(), ChangeError> {
        let Some(object) = op.object else { return Ok(()) };
        match self.own(object)?.map(|made| made.action) {
            None => Ok(()),
            Some(Action::Make(kind)) if kind.takes(op.key) => Ok(()),
            Some(_) => Err(ChangeError::Inconsistent("an op writes to what is no such object")),
        }
    }

    fn check_element(&self, op: &Op, element: OpName) -> Result<(), ChangeError> {
        match self.own(element)? {
            Some(made) if !made.insert || made.object != op.object => {
                Err(ChangeError::Inconsistent("an op names what is no element of its object"))
            }
            _ => Ok(()),
        }
    }

    fn check_predecessor(&self, op: &Op, predecessor: OpName) -> Result<(), ChangeError> {
        if op.action != Action::Increment && predecessor.counter == 1 && is_derived(self.actor(predecessor)) {
            return Err(ChangeError::ReplacesBirth);
        }
        let Some(replaced) = self.own(predecessor)? else { return Ok(()) };
        let same_key = match (op.key, replaced.key) {
            (Key::Text { at, length }, Key::Text { at: there, length: its }) => {
                self.chunk.get(at..at + length) == self.chunk.get(there..there + its)
            }
            (Key::Element(element), _) if replaced.insert => element == predecessor,
            (key, its) => key == its && !replaced.insert,
        };
        if same_key && replaced.object == op.object && replaced.action.leaves_value() {
            Ok(())
        } else {
            Err(ChangeError::Inconsistent("an op replaces what stands elsewhere"))
        }
    }

    /// How deep what the op makes is nested, in an object of another change at least two levels; 0 if it makes nothing.
    pub(super) fn depth(&self, op: &Op) -> Result<u8, ChangeError> {
        let parent = match (op.action, op.object) {
            (Action::Make(_), None) => 0,
            (Action::Make(_), Some(parent)) => self.depth_of(parent),
            _ => return Ok(0),
        };
        if usize::from(parent) < MAX_DEPTH { Ok(parent + 1) } else { Err(ChangeError::TooDeep) }
    }

    fn depth_of(&self, object: OpName) -> u8 {
        let place = u64::from(object.counter).checked_sub(self.start_op).and_then(|place| usize::try_from(place).ok());
        place.and_then(|place| self.depths.get(place)).copied().unwrap_or(1)
    }

    /// The op of this name, if it is one of this change; an error if it is not from before the op at hand.
    pub(super) fn own(&self, name: OpName) -> Result<Option<&Op>, ChangeError> {
        let counter = u64::from(name.counter);
        let Some(place) = counter.checked_sub(self.start_op) else { return Ok(None) };
        let earlier = usize::try_from(place).ok().and_then(|place| self.ops.ops.get(place));
        match earlier {
            Some(op) if name.actor == 0 => Ok(Some(op)),
            _ => Err(ChangeError::Inconsistent("an op names one that comes later")),
        }
    }

    pub(super) fn actor(&self, name: OpName) -> &[u8] {
        let place = usize::try_from(name.actor).unwrap_or(usize::MAX);
        self.actors.get(place).copied().unwrap_or_default()
    }
}

fn is_derived(actor: &[u8]) -> bool {
    actor.first() == Some(&Actor::DERIVED)
}
