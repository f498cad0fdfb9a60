//! What became of the ops of changes that are gone.

use std::collections::HashMap;

use automerge::ActorId;
use automerge::legacy::{Change as Decoded, ElementId, Key, ObjectId, Op, OpId};

/// What became of an op.
#[derive(Clone, Debug)]
pub(super) enum Fate {
    /// It has another name now.
    Moved(OpId),
    /// It is gone.
    Gone {
        /// If it inserted an element, what comes before that.
        before: Option<ElementId>,
        /// What it had replaced, of what there is.
        replaced: Vec<OpId>,
    },
}

/// What became of the ops of changes that are gone; an op that is not in here has stayed.
#[derive(Debug, Default)]
pub(super) struct Fates(HashMap<OpId, Fate>);

pub(super) fn named(counter: u64, actor: &ActorId) -> OpId {
    OpId(counter, actor.clone())
}

impl Fates {
    pub(super) fn set(&mut self, op: OpId, fate: Fate) {
        self.0.insert(op, fate);
    }

    /// All ops of a change are gone.
    pub(super) fn lose(&mut self, change: &Decoded) {
        for (op, counter) in change.operations.iter().zip(change.start_op.get()..) {
            self.lose_op(op, named(counter, &change.actor_id));
        }
    }

    /// An op is gone. What stands for it is settled now, so that looking it up takes one step.
    pub(super) fn lose_op(&mut self, op: &Op, id: OpId) {
        let before = match &op.key {
            Key::Seq(element) if op.insert => self.element(element),
            _ => None,
        };
        let fate = Fate::Gone { before, replaced: self.replaced(op.pred.iter()) };
        self.set(id, fate);
    }

    /// The op's name now; `None` if it is gone.
    pub(super) fn of(&self, op: &OpId) -> Option<OpId> {
        match self.0.get(op) {
            None => Some(op.clone()),
            Some(Fate::Moved(to)) => Some(to.clone()),
            Some(Fate::Gone { .. }) => None,
        }
    }

    /// The object's name now; `None` if it is gone.
    pub(super) fn object(&self, object: &ObjectId) -> Option<ObjectId> {
        match object {
            ObjectId::Root => Some(ObjectId::Root),
            ObjectId::Id(id) => self.of(id).map(ObjectId::Id),
        }
    }

    /// The nearest element that is there, from this one backwards; `None` if what was taken for one never was.
    pub(super) fn element(&self, element: &ElementId) -> Option<ElementId> {
        let ElementId::Id(id) = element else { return Some(ElementId::Head) };
        match self.0.get(id) {
            None => Some(element.clone()),
            Some(Fate::Moved(to)) => Some(ElementId::Id(to.clone())),
            Some(Fate::Gone { before, .. }) => before.clone(),
        }
    }

    /// What stands for the ops that an op replaces: an op that is gone leaves what it had replaced.
    pub(super) fn replaced<'a>(&self, predecessors: impl Iterator<Item = &'a OpId>) -> Vec<OpId> {
        let mut found: Vec<OpId> = Vec::new();
        for predecessor in predecessors {
            match self.0.get(predecessor) {
                None => found.push(predecessor.clone()),
                Some(Fate::Moved(to)) => found.push(to.clone()),
                Some(Fate::Gone { replaced, .. }) => found.extend(replaced.iter().cloned()),
            }
        }
        found.sort();
        found.dedup();
        found
    }
}
