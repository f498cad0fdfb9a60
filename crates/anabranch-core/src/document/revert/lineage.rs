//! What stands for what: an undo cannot bring an op back, so it writes another that stands for it.

use std::collections::HashMap;
use std::sync::Arc;

use automerge::legacy::{ObjectId, OpId};
use automerge::{Automerge, ReadDoc as _};

use super::effects::{Effect, Effects, Past, Slot, object_id, op_id};
use super::heirs::{Heirs, Revival, known, remember};
use crate::document::error::DocumentError;
use crate::document::note::Note;
use crate::document::theirs;

/// Finds what stands for ops and elements that undos have brought back.
#[derive(Debug)]
pub(super) struct Lineage<'a> {
    automerge: &'a Automerge,
    pub(super) past: Past<'a>,
    /// What each undo and redo has brought back; read when it is first needed.
    revivals: Option<Vec<Arc<[Revival]>>>,
    /// By the object that they are in.
    heirs: HashMap<ObjectId, Heirs>,
    originals: HashMap<OpId, OpId>,
    /// What each element that an undo inserted held before it was deleted.
    restored: HashMap<OpId, OpId>,
}

impl<'a> Lineage<'a> {
    pub(super) fn of(automerge: &'a Automerge) -> Self {
        Self {
            automerge,
            past: Past::of(automerge),
            revivals: None,
            heirs: HashMap::new(),
            originals: HashMap::new(),
            restored: HashMap::new(),
        }
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
        let element = self.first(&slot.object, element)?;
        for effect in effects.slots.iter().filter(|effect| effect.slot.object == slot.object) {
            let other = effect.slot.element().map(|other| self.first(&slot.object, other)).transpose()?;
            if other.as_ref() == Some(&element) {
                return Ok(Some(effect.clone()));
            }
        }
        Ok(None)
    }

    /// The element that all its heirs stand for.
    fn first(&mut self, object: &ObjectId, element: &OpId) -> Result<OpId, DocumentError> {
        Ok(self.heirs(object)?.first(element).clone())
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

    /// Whether an object has elements that stand for others.
    pub(super) fn has_heirs(&mut self, object: &ObjectId) -> Result<bool, DocumentError> {
        Ok(self.revivals()?.iter().flat_map(|revivals| revivals.iter()).any(|revival| revival.object == *object))
    }

    /// What stands for an object's elements.
    pub(super) fn heirs(&mut self, object: &ObjectId) -> Result<&Heirs, DocumentError> {
        if !self.heirs.contains_key(object) {
            let all = self.revivals()?.iter().flat_map(|revivals| revivals.iter());
            let heirs = all.filter(|revival| revival.object == *object).collect();
            self.heirs.insert(object.clone(), heirs);
        }
        Ok(self.heirs.entry(object.clone()).or_default())
    }

    fn revivals(&mut self) -> Result<&[Arc<[Revival]>], DocumentError> {
        let read = self.revivals.take().map_or_else(|| self.read_revivals(), Ok)?;
        Ok(self.revivals.insert(read))
    }

    fn read_revivals(&mut self) -> Result<Vec<Arc<[Revival]>>, DocumentError> {
        let (mut revivals, mut new) = (Vec::new(), Vec::new());
        for meta in self.automerge.get_changes_meta(&[]) {
            let Some(message) = &meta.message else { continue };
            if let Some(known) = known(&meta.hash) {
                revivals.push(known);
            } else if let Some(Note::Undo(hash) | Note::Redo(hash)) = Note::parse(message) {
                new.push((meta.hash, theirs(hash)));
            }
        }
        self.past.prepare(new.iter().map(|(by, _)| *by))?;
        new.retain(|(by, _)| {
            let inserts = self.past.effects(*by).is_some_and(|by| by.inserts_elements());
            if !inserts {
                remember(*by, &Arc::from([]));
            }
            inserts
        });
        self.past.prepare(new.iter().map(|(_, hash)| *hash))?;
        for (by, hash) in new {
            let (Some(effects), Some(taken_back)) = (self.past.effects(by), self.past.effects(hash)) else { continue };
            let read: Arc<[Revival]> = self.revivals_of(&effects, &taken_back)?.into();
            remember(by, &read);
            revivals.push(read);
        }
        Ok(revivals)
    }

    fn revivals_of(&mut self, by: &Effects, taken_back: &Effects) -> Result<Vec<Revival>, DocumentError> {
        let mut objects: Vec<&ObjectId> = Vec::new();
        for effect in by.slots.iter().filter(|effect| effect.inserted) {
            if !objects.contains(&&effect.slot.object) {
                objects.push(&effect.slot.object);
            }
        }
        let mut revivals = Vec::with_capacity(objects.len());
        for object in objects {
            let pairs = self.pairs(by, taken_back, object)?.into_iter();
            let pairs = pairs.filter_map(|(removed, heir)| Some((removed.slot.element()?.clone(), heir))).collect();
            revivals.push(Revival { object: object.clone(), pairs });
        }
        Ok(revivals)
    }
}
