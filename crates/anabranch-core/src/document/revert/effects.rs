//! What a change did, slot by slot: what each slot held before it, and what it left there.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use automerge::ObjId;
use automerge::legacy::{ElementId, Key, ObjectId, Op, OpId, OpType};

use crate::document::COLLECTION_KEY;
use crate::document::error::DocumentError;
use crate::document::history::changes_of;
use crate::document::note::Note;
use crate::id::{ChangeHash, Heads};

/// A place for a value: a map's key, or a list's or text's element, which is named by the op that inserted it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Slot {
    pub(super) object: ObjectId,
    pub(super) key: Key,
}

impl Slot {
    /// The slot's element, if it is one.
    pub(super) const fn element(&self) -> Option<&OpId> {
        match &self.key {
            Key::Seq(ElementId::Id(element)) => Some(element),
            _ => None,
        }
    }
}

/// What a change did to one slot.
#[derive(Clone, Debug)]
pub(super) struct Effect {
    pub(super) slot: Slot,
    /// The ops that were visible in the slot before; none if it was empty, or not there.
    pub(super) before: Vec<OpId>,
    /// The op that the change left there; `None` if it emptied the slot.
    pub(super) after: Option<OpId>,
    /// Whether the change inserted the element.
    pub(super) inserted: bool,
}

impl Effect {
    /// Whether the change took the element away.
    pub(super) const fn removes_element(&self) -> bool {
        self.slot.element().is_some() && !self.inserted && self.after.is_none()
    }
}

/// What a change did. What it wrote into objects that it made itself belongs to their values.
#[derive(Debug)]
pub(super) struct Effects {
    /// The change that this one takes back, if it is an undo or a redo.
    pub(super) takes_back: Option<ChangeHash>,
    /// What it was written on top of.
    pub(super) dependencies: Heads,
    /// Whether it gave the entity its collection.
    pub(super) creates: bool,
    /// In the order in which the slots were first written.
    pub(super) slots: Vec<Effect>,
    /// What was added to counters, with the ops that hold them.
    pub(super) increments: Vec<(Slot, Vec<OpId>, i64)>,
    /// The places in `slots`, but for elements that the change inserted.
    by_slot: HashMap<Slot, usize>,
    /// The places in `slots` of the elements that the change inserted, by op; long texts are made of these.
    inserted: Vec<Option<usize>>,
    start_op: u64,
    ops: Vec<Op>,
}

impl Effects {
    pub(super) fn of(change: &automerge::Change) -> Self {
        let note = change.message().and_then(Note::parse);
        let mut effects = Self {
            takes_back: match note {
                Some(Note::Undo(hash) | Note::Redo(hash)) => Some(hash),
                _ => None,
            },
            dependencies: Heads::new(change.deps().iter().copied().map(crate::document::ours).collect()),
            creates: false,
            slots: Vec::new(),
            increments: Vec::new(),
            by_slot: HashMap::new(),
            inserted: Vec::new(),
            start_op: change.start_op().get(),
            ops: change.decode().operations,
        };
        let ops = std::mem::take(&mut effects.ops);
        for (op, counter) in ops.iter().zip(effects.start_op..) {
            let id = OpId(counter, change.actor_id().clone());
            let own = matches!(&op.obj, ObjectId::Id(object) if object.1 == id.1 && object.0 >= effects.start_op);
            if !own {
                effects.add(op, id);
            }
        }
        effects.ops = ops;
        effects
    }

    fn add(&mut self, op: &Op, id: OpId) {
        self.creates |= op.obj == ObjectId::Root && matches!(&op.key, Key::Map(key) if key == COLLECTION_KEY);
        let key = if op.insert { Key::Seq(ElementId::Id(id.clone())) } else { op.key.clone() };
        let slot = Slot { object: op.obj.clone(), key };
        let before = || op.pred.iter().cloned().collect();
        let after = match &op.action {
            OpType::Increment(by) => return self.increments.push((slot, before(), *by)),
            OpType::MarkBegin(_) | OpType::MarkEnd(_) => return,
            OpType::Delete => None,
            OpType::Put(_) | OpType::Make(_) => Some(id.clone()),
        };
        if op.insert {
            let Some(at) = self.place(&id) else { return };
            self.inserted.resize(at, None);
            self.inserted.push(Some(self.slots.len()));
        } else if let Some(at) = self.find(&slot) {
            self.slots[at].after = after;
            return;
        } else {
            self.by_slot.insert(slot.clone(), self.slots.len());
        }
        self.slots.push(Effect { slot, before: before(), after, inserted: op.insert });
    }

    /// What the change did to a slot.
    pub(super) fn at(&self, slot: &Slot) -> Option<&Effect> {
        self.find(slot).map(|at| &self.slots[at])
    }

    fn find(&self, slot: &Slot) -> Option<usize> {
        let inserted = slot.element().and_then(|element| self.place(element)).and_then(|at| *self.inserted.get(at)?);
        // Another actor's op may have the same counter.
        inserted.filter(|at| self.slots[*at].slot == *slot).or_else(|| self.by_slot.get(slot).copied())
    }

    /// Whether the change inserted elements into what was there before.
    pub(super) fn inserts_elements(&self) -> bool {
        self.slots.iter().any(|effect| effect.inserted)
    }

    /// One of the change's ops.
    pub(super) fn op(&self, id: &OpId) -> Option<&Op> {
        self.ops.get(self.place(id)?)
    }

    /// The place of one of the change's ops among them.
    fn place(&self, id: &OpId) -> Option<usize> {
        usize::try_from(id.counter().checked_sub(self.start_op)?).ok()
    }
}

/// Changes that have been looked at.
#[derive(Debug)]
pub(super) struct Past<'a> {
    automerge: &'a automerge::Automerge,
    changes: HashMap<automerge::ChangeHash, Arc<Effects>>,
}

impl<'a> Past<'a> {
    pub(super) fn of(automerge: &'a automerge::Automerge) -> Self {
        Self { automerge, changes: HashMap::new() }
    }

    #[cfg(test)]
    pub(super) fn looked_at(&self) -> usize {
        self.changes.len()
    }

    /// Looks at many changes at once; those that the document does not have are passed over.
    pub(super) fn prepare(&mut self, hashes: impl Iterator<Item = automerge::ChangeHash>) -> Result<(), DocumentError> {
        let new = |hash: &automerge::ChangeHash| {
            !self.changes.contains_key(hash) && self.automerge.get_change_meta_by_hash(hash).is_some()
        };
        let new: HashSet<_> = hashes.filter(new).collect();
        let changes = changes_of(self.automerge, new)?;
        self.changes.extend(changes.into_iter().map(|(hash, change)| (hash, Arc::new(Effects::of(&change)))));
        Ok(())
    }

    /// What a change did; `None` if the document does not have it.
    pub(super) fn effects(&mut self, hash: automerge::ChangeHash) -> Option<Arc<Effects>> {
        use automerge::ReadDoc as _;
        if let Some(known) = self.changes.get(&hash) {
            return Some(Arc::clone(known));
        }
        let effects = Arc::new(Effects::of(&self.automerge.get_change_by_hash(&hash)?));
        self.changes.insert(hash, Arc::clone(&effects));
        Some(effects)
    }

    /// What the change did that an op is a part of.
    pub(super) fn around(&mut self, op: &OpId) -> Result<Arc<Effects>, DocumentError> {
        let hash = self.automerge.hash_for_opid(&object_id(op)).ok_or(DocumentError::Damaged)?;
        self.effects(hash).ok_or(DocumentError::Damaged)
    }

    /// An op of any change.
    pub(super) fn op(&mut self, id: &OpId) -> Result<Op, DocumentError> {
        self.around(id)?.op(id).cloned().ok_or(DocumentError::Damaged)
    }

    /// Where an object, or a value, was put.
    pub(super) fn slot_of(&mut self, id: &OpId) -> Result<Slot, DocumentError> {
        let op = self.op(id)?;
        let key = if op.insert { Key::Seq(ElementId::Id(id.clone())) } else { op.key };
        Ok(Slot { object: op.obj, key })
    }
}

/// Automerge's name for the object that an op made, or for the op itself.
pub(super) fn object_id(op: &OpId) -> ObjId {
    ObjId::Id(op.counter(), op.actor().clone(), 0)
}

/// The op that Automerge's name stands for; `None` for the root.
pub(super) fn op_id(object: &ObjId) -> Option<OpId> {
    match object {
        ObjId::Id(counter, actor, _) => Some(OpId(*counter, actor.clone())),
        ObjId::Root => None,
    }
}
