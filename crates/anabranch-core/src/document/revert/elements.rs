//! Elements of lists and texts: taken out wherever they are now, brought back where they stood.

use automerge::legacy::{ObjectId, OpId};
use automerge::{Cursor, ObjId, ObjType, ReadDoc as _};

use super::effects::{Effect, Effects, op_id};
use super::inverse::{Inverter, Standing};
use super::plan::Write;
use crate::document::error::{DocumentError, EditError};
use crate::document::slot::{Held, held};
use crate::document::theirs;

impl Inverter<'_> {
    /// An element that was inserted, or whose value was replaced.
    pub(super) fn revert_element(&mut self, effect: &Effect, element: &OpId) -> Result<(), EditError> {
        let object = self.object(&effect.slot.object);
        let Some(after) = &effect.after else { return Ok(()) };
        for (place, ops) in self.find(&object, element)? {
            let Standing { own, others } = self.standing(ops, after)?;
            if own.is_empty() || (effect.inserted && !others.is_empty()) || self.contend(&effect.slot, &others)? {
                continue; // somebody has put something else there
            }
            if effect.inserted {
                let is_text = self.is_text(&object)?;
                self.plan.elements(&object, is_text).deleted.insert(place);
            } else {
                let content = match others.is_empty() {
                    true => self.settled(&effect.slot, &effect.before)?,
                    false => self.settle(&effect.slot, others)?,
                };
                let Some(content) = content else { continue };
                self.plan.push(Write::Put(object.clone(), place.into(), content));
            }
            self.touch(&effect.slot)?;
        }
        Ok(())
    }

    /// Elements that were taken away come back, those that stood side by side as one insertion.
    pub(super) fn bring_back(&mut self, effects: &Effects) -> Result<(), EditError> {
        let mut objects: Vec<&ObjectId> = Vec::new();
        for effect in effects.slots.iter().filter(|effect| effect.removes_element()) {
            if !objects.contains(&&effect.slot.object) {
                objects.push(&effect.slot.object);
            }
        }
        for id in objects {
            if self.gone_with(id)?.is_some() {
                continue;
            }
            let object = self.object(id);
            let mut removed = Vec::new();
            for effect in effects.slots.iter().filter(|effect| effect.removes_element() && effect.slot.object == *id) {
                let element = effect.slot.element().ok_or(DocumentError::Damaged)?;
                if self.visible(&object, element)?.is_none() {
                    removed.push(effect.clone());
                }
            }
            let removed = self.lineage.in_order(removed, effects)?;
            if self.lineage.has_heirs(id)? {
                self.insert_between(&object, &removed, effects)?;
            } else {
                self.insert(&object, &removed)?;
            }
        }
        Ok(())
    }

    /// Inserts elements where they stood; they are in order.
    fn insert(&mut self, object: &ObjId, removed: &[Effect]) -> Result<(), EditError> {
        let (Some(first), Some(last)) = (removed.first(), removed.last()) else { return Ok(()) };
        let place = self.place(object, first)?;
        if removed.len() == 1 || place == self.place(object, last)? {
            return self.insert_at(object, place, removed);
        }
        // Somebody has written between them.
        let (left, right) = removed.split_at(removed.len() / 2);
        self.insert(object, left)?;
        self.insert(object, right)
    }

    /// As `insert`, where elements beside them have been brought back before. Those stand for others, but not at
    /// their place; so each goes between what stands for its neighbours.
    fn insert_between(&mut self, object: &ObjId, removed: &[Effect], effects: &Effects) -> Result<(), EditError> {
        let heads: Vec<_> = effects.dependencies.hashes().iter().copied().map(theirs).collect();
        let then: Vec<OpId> =
            self.document.automerge.list_range_at(object, .., &heads).filter_map(|item| op_id(&item.id())).collect();
        let mut stood = Vec::with_capacity(removed.len());
        for (at, op) in then.iter().enumerate() {
            if removed.get(stood.len()).is_some_and(|effect| effect.before.contains(op)) {
                stood.push(at);
            }
        }
        if stood.len() != removed.len() {
            return self.insert(object, removed);
        }
        let length = self.document.automerge.length(object);
        let mut ends = Vec::with_capacity(removed.len());
        let (mut end, mut right) = (length, then.len());
        for at in stood.iter().rev() {
            end = self.nearest(object, then[at + 1..right].iter())?.unwrap_or(end);
            right = *at;
            ends.push(end);
        }
        let (mut start, mut left) = (0, 0);
        for ((effect, at), end) in removed.iter().zip(&stood).zip(ends.into_iter().rev()) {
            let neighbour = self.nearest(object, then[left..*at].iter().rev())?;
            start = neighbour.map_or(start, |place| place + 1).max(start);
            left = at + 1;
            start = self.place(object, effect)?.min(end).max(start);
            self.insert_at(object, start, std::slice::from_ref(effect))?;
        }
        Ok(())
    }

    /// The place of the first of some elements, or what stands for it, that is there. Ops tell the elements.
    fn nearest<'o>(&mut self, object: &ObjId, ops: impl Iterator<Item = &'o OpId>) -> Result<Option<usize>, EditError> {
        for op in ops {
            let slot = self.lineage.past.slot_of(op)?;
            let found = slot.element().map(|element| self.find(object, element)).transpose()?.unwrap_or_default();
            if let Some((place, _)) = found.first() {
                return Ok(Some(*place));
            }
        }
        Ok(None)
    }

    fn insert_at(&mut self, object: &ObjId, place: usize, removed: &[Effect]) -> Result<(), EditError> {
        let is_text = self.is_text(object)?;
        for effect in removed {
            if let Some(content) = self.settled(&effect.slot, &effect.before)? {
                self.plan.elements(object, is_text).inserted.entry(place).or_default().push(content);
            }
        }
        removed.first().map_or(Ok(()), |effect| self.touch(&effect.slot))
    }

    fn is_text(&self, object: &ObjId) -> Result<bool, EditError> {
        Ok(self.document.automerge.object_type(object)? == ObjType::Text)
    }

    /// The place and the ops of an element, or of those that stand for it; by place.
    pub(super) fn find(&mut self, object: &ObjId, element: &OpId) -> Result<Vec<(usize, Vec<Held>)>, EditError> {
        let within = op_id(object).map_or(ObjectId::Root, ObjectId::Id);
        let mut found = Vec::new();
        let mut elements = vec![element.clone()];
        let mut at = 0;
        while let Some(element) = elements.get(at).cloned() {
            match self.visible(object, &element)? {
                Some(visible) => found.push(visible),
                None => {
                    let heirs = self.lineage.heirs(&within)?.of(&element);
                    elements.extend(heirs.iter().filter(|heir| !elements.contains(heir)).cloned().collect::<Vec<_>>());
                }
            }
            at += 1;
        }
        found.sort_by_key(|(place, _)| *place);
        Ok(found)
    }

    /// The place and the ops of an element, if it is there.
    pub(super) fn visible(&mut self, object: &ObjId, element: &OpId) -> Result<Option<(usize, Vec<Held>)>, EditError> {
        let place = self.document.position(object, &cursor(element)?)?;
        if place >= self.document.automerge.length(object) {
            return Ok(None);
        }
        let mut ops = held(&self.document.automerge, object, place)?;
        let mut own = Vec::with_capacity(ops.len());
        for op in ops.drain(..) {
            let Some(id) = op_id(&op.id) else { continue };
            let is_own = id == *element || self.lineage.past.slot_of(&id)?.element() == Some(element);
            own.extend(is_own.then_some(op));
        }
        Ok(Some((place, own)).filter(|(_, own)| !own.is_empty()))
    }

    /// Where an element that was taken away would be.
    fn place(&self, object: &ObjId, effect: &Effect) -> Result<usize, EditError> {
        let element = effect.slot.element().ok_or(DocumentError::Damaged)?;
        Ok(self.document.position(object, &cursor(element)?)?)
    }
}

fn cursor(element: &OpId) -> Result<Cursor, DocumentError> {
    let text = format!("{}@{}", element.counter(), element.actor());
    Ok(Cursor::try_from(text)?)
}
