//! What stands for what: an undo cannot bring an op back, so it writes another that stands for it.

use std::collections::{HashMap, HashSet};

use automerge::legacy::{Key, ObjectId, OpId};
use automerge::{Automerge, ReadDoc as _};

use super::effects::{Effect, Effects, Past, Slot, object_id, op_id};
use crate::document::error::DocumentError;
use crate::document::note::Note;
use crate::document::theirs;

/// Finds what stands for ops and elements that undos have brought back.
#[derive(Debug)]
pub(super) struct Lineage<'a> {
    automerge: &'a Automerge,
    pub(super) past: Past<'a>,
    /// Made when they are first needed.
    heirs: Option<Heirs>,
    originals: HashMap<OpId, OpId>,
    /// What each element that an undo inserted held before it was deleted.
    restored: HashMap<OpId, OpId>,
}

/// Elements that stand for others.
#[derive(Debug, Default)]
struct Heirs {
    of: HashMap<OpId, Vec<OpId>>,
    /// The same the other way.
    to: HashMap<OpId, OpId>,
    /// The objects that have any.
    within: HashSet<ObjectId>,
}

impl<'a> Lineage<'a> {
    pub(super) fn of(automerge: &'a Automerge) -> Self {
        Self { automerge, past: Past::of(automerge), heirs: None, originals: HashMap::new(), restored: HashMap::new() }
    }

    /// The op whose value an op stands for: itself, unless an undo or a redo wrote it.
    pub(super) fn original(&mut self, op: &OpId) -> Result<OpId, DocumentError> {
        let mut trail = Vec::new();
        let mut original = op.clone();
        loop {
            if let Some(known) = self.originals.get(&original) {
                original = known.clone();
                break;
            }
            // Until the end is known, it is its own: should forged changes go round in a circle, this ends it.
            self.originals.insert(original.clone(), original.clone());
            trail.push(original.clone());
            let Some(earlier) = self.brought_back(&original)? else { break };
            original = earlier;
        }
        self.originals.extend(trail.into_iter().map(|op| (op, original.clone())));
        Ok(original)
    }

    /// The op that an op of an undo or a redo stands for, which may stand for yet another.
    fn brought_back(&mut self, op: &OpId) -> Result<Option<OpId>, DocumentError> {
        if let Some(known) = self.restored.get(op) {
            return Ok(Some(known.clone()));
        }
        let by = self.past.around(op)?;
        let Some(taken_back) = by.takes_back.and_then(|hash| self.past.effects(theirs(hash))) else { return Ok(None) };
        let slot = self.past.slot_of(op)?;
        match by.at(&slot).filter(|effect| effect.after.as_ref() == Some(op)) {
            Some(effect) if effect.inserted => {
                for (removed, heir) in self.pairs(&by, &taken_back, &slot.object)? {
                    self.restored.extend(removed.before.iter().max().map(|before| (heir, before.clone())));
                }
                Ok(self.restored.get(op).cloned())
            }
            Some(effect) => self.put_back(effect, &taken_back),
            None => Ok(None),
        }
    }

    /// What a put of an undo stands for.
    fn put_back(&mut self, effect: &Effect, taken_back: &Effects) -> Result<Option<OpId>, DocumentError> {
        let Some(undone) = self.same_slot(&effect.slot, taken_back)? else {
            // What was taken back lies within the value that stood here.
            return Ok(effect.before.iter().max().cloned());
        };
        if let (Some(after), true) = (&undone.after, effect.before.len() > 1) {
            // Others wrote there beside what was taken back, and one of their values was kept.
            let after = self.original(after)?;
            let mut kept = None;
            for other in &effect.before {
                if self.original(other)? != after {
                    kept = kept.max(Some(other.clone()));
                }
            }
            if kept.is_some() {
                return Ok(kept);
            }
        }
        Ok(undone.before.iter().max().cloned())
    }

    /// What a change did to a slot, which may be that of an element's heir.
    fn same_slot(&mut self, slot: &Slot, effects: &Effects) -> Result<Option<Effect>, DocumentError> {
        if let Some(effect) = effects.at(slot) {
            return Ok(Some(effect.clone()));
        }
        let Some(element) = slot.element() else { return Ok(None) };
        let element = self.first(element)?;
        for effect in effects.slots.iter().filter(|effect| effect.slot.object == slot.object) {
            let other = effect.slot.element().map(|other| self.first(other)).transpose()?;
            if other.as_ref() == Some(&element) {
                return Ok(Some(effect.clone()));
            }
        }
        Ok(None)
    }

    /// The element that all its heirs stand for.
    fn first(&mut self, element: &OpId) -> Result<OpId, DocumentError> {
        let heirs = self.heirs()?;
        let earlier = std::iter::successors(Some(element), |element| heirs.to.get(element));
        // No element can stand for itself; should a forged change claim it, there is an end to it.
        Ok(earlier.take(heirs.to.len() + 1).last().unwrap_or(element).clone())
    }

    /// The elements that a change took out of an object, each with the one that another brought back for it.
    fn pairs(
        &mut self,
        by: &Effects,
        taken_back: &Effects,
        object: &ObjectId,
    ) -> Result<Vec<(Effect, OpId)>, DocumentError> {
        let heirs = by.slots.iter().filter(|effect| effect.inserted && effect.slot.object == *object);
        let heirs: Vec<OpId> = heirs.filter_map(|effect| effect.slot.element().cloned()).collect();
        let removed = taken_back.slots.iter().filter(|effect| effect.removes_element());
        let removed: Vec<Effect> = removed.filter(|effect| effect.slot.object == *object).cloned().collect();
        if heirs.is_empty() || heirs.len() != removed.len() {
            return Ok(Vec::new()); // some have stayed away; which is not known
        }
        Ok(self.in_order(removed, taken_back)?.into_iter().zip(heirs).collect())
    }

    /// Elements of one object that a change took away, in the order in which they stood.
    pub(super) fn in_order(
        &mut self,
        mut removed: Vec<Effect>,
        change: &Effects,
    ) -> Result<Vec<Effect>, DocumentError> {
        // What was typed or pasted follows one upon the other, which is cheap to see.
        let (mut ascending, mut descending) = (true, true);
        for pair in removed.windows(2) {
            let follows = |past: &mut Past<'_>, next: &Effect, previous: &Effect| {
                let next = next.slot.element().map(|element| past.op(element)).transpose()?;
                Ok::<_, DocumentError>(next.is_some_and(|op| op.key == previous.slot.key))
            };
            ascending = ascending && follows(&mut self.past, &pair[1], &pair[0])?;
            descending = descending && follows(&mut self.past, &pair[0], &pair[1])?;
        }
        if descending {
            removed.reverse();
        } else if !ascending {
            self.sort(&mut removed, change);
        }
        Ok(removed)
    }

    /// Sorts by where the elements stood before the change: a pass over the whole list or text.
    fn sort(&self, removed: &mut [Effect], change: &Effects) {
        let Some(ObjectId::Id(object)) = removed.first().map(|effect| &effect.slot.object) else { return };
        let heads: Vec<_> = change.dependencies.hashes().iter().copied().map(theirs).collect();
        let items = self.automerge.list_range_at(object_id(object), .., &heads);
        let places: HashMap<OpId, usize> =
            items.enumerate().filter_map(|(at, item)| Some((op_id(&item.id())?, at))).collect();
        removed.sort_by_key(|effect| effect.before.iter().filter_map(|op| places.get(op)).min());
    }

    /// The elements that stand for one that was deleted: several, if several people have brought it back.
    pub(super) fn heirs_of(&mut self, element: &OpId) -> Result<Vec<OpId>, DocumentError> {
        Ok(self.heirs()?.of.get(element).cloned().unwrap_or_default())
    }

    /// Whether an object has elements that stand for others.
    pub(super) fn has_heirs(&mut self, object: &ObjectId) -> Result<bool, DocumentError> {
        Ok(self.heirs()?.within.contains(object))
    }

    fn heirs(&mut self) -> Result<&Heirs, DocumentError> {
        let known = self.heirs.take().map_or_else(|| self.all_heirs(), Ok)?;
        Ok(self.heirs.insert(known))
    }

    fn all_heirs(&mut self) -> Result<Heirs, DocumentError> {
        let automerge = self.automerge;
        let mut taken_back = Vec::new();
        for meta in automerge.get_changes_meta(&[]) {
            if let Some(Note::Undo(hash) | Note::Redo(hash)) = meta.message.as_deref().and_then(Note::parse) {
                taken_back.push((meta.hash, theirs(hash)));
            }
        }
        self.past.prepare(taken_back.iter().flat_map(|(by, hash)| [*by, *hash]))?;
        let mut heirs = Heirs::default();
        for (by, hash) in taken_back {
            let (Some(by), Some(taken_back)) = (self.past.effects(by), self.past.effects(hash)) else { continue };
            let mut objects: Vec<&ObjectId> = Vec::new();
            for effect in by.slots.iter().filter(|effect| effect.inserted && matches!(effect.slot.key, Key::Seq(_))) {
                if !objects.contains(&&effect.slot.object) {
                    objects.push(&effect.slot.object);
                }
            }
            for object in objects {
                let pairs = self.pairs(&by, &taken_back, object)?;
                for (removed, heir) in pairs {
                    let element = removed.slot.element().ok_or(DocumentError::Damaged)?;
                    heirs.of.entry(element.clone()).or_default().push(heir.clone());
                    heirs.to.insert(heir, element.clone());
                }
                heirs.within.insert(object.clone());
            }
        }
        Ok(heirs)
    }
}
