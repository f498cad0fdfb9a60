//! What takes a change back, in a document in which others have gone on writing.

use automerge::legacy::{Key, ObjectId, OpId, OpType};
use automerge::{ObjId, ObjType, Prop, ROOT, ReadDoc as _, ScalarValue, Value};
use serde_json::Value as Json;

use super::effects::{Effect, Slot, object_id, op_id};
use super::is_own;
use super::lineage::Lineage;
use super::plan::{Content, Plan, Write};
use crate::document::error::{DocumentError, EditError};
use crate::document::genesis::{genesis, is_birth, is_genesis};
use crate::document::slot::{Held, Reader, held, held_at_root};
use crate::document::{COLLECTION_KEY, DELETED_KEY, Document, theirs};
use crate::id::{Actor, ChangeHash, Heads};
use crate::name::{CollectionName, FieldName};
use crate::schema::{Collection, Kind, Policy};
use crate::stamp::Stamp;

/// Works out what takes one change back, and then another: what it learns of the past serves for all.
pub(super) struct Inverter<'a> {
    pub(super) document: &'a Document,
    name: &'a CollectionName,
    collection: &'a Collection,
    stamp: Stamp,
    /// Tells one's own actors.
    mine: &'a dyn Fn(&Actor, Stamp) -> bool,
    pub(super) lineage: Lineage<'a>,
    pub(super) plan: Plan,
    /// The values that have been compared as wholes, because what was written in them is gone.
    within: Vec<OpId>,
}

/// The ops in a slot: those that stand for what is taken back, and what others have put there.
pub(super) struct Standing {
    pub(super) own: Vec<Held>,
    pub(super) others: Vec<Held>,
}

impl<'a> Inverter<'a> {
    pub(super) fn new(
        document: &'a Document,
        name: &'a CollectionName,
        collection: &'a Collection,
        stamp: Stamp,
        mine: &'a dyn Fn(&Actor, Stamp) -> bool,
    ) -> Self {
        let lineage = Lineage::of(&document.automerge);
        Self { document, name, collection, stamp, mine, lineage, plan: Plan::default(), within: Vec::new() }
    }

    /// What takes a change back: nothing, if nothing of it is left.
    pub(super) fn inverse(&mut self, hash: &ChangeHash) -> Result<Plan, EditError> {
        (self.plan, self.within) = (Plan::default(), Vec::new());
        let effects = self.lineage.past.effects(theirs(*hash)).ok_or(DocumentError::Damaged)?;
        if effects.creates && held_at_root(&self.document.automerge, COLLECTION_KEY)?.len() == 1 {
            self.delete_entity()?;
            return Ok(std::mem::take(&mut self.plan));
        }
        for effect in &effects.slots {
            self.invert(hash, effect)?;
        }
        self.bring_back(&effects)?;
        for (slot, counters, by) in &effects.increments {
            self.count_back(slot, counters, *by)?;
        }
        Ok(std::mem::take(&mut self.plan))
    }
}

impl Inverter<'_> {
    fn delete_entity(&mut self) -> Result<(), EditError> {
        if !self.document.is_deleted(self.collection.deletion)? && !self.others_wrote_since(&[]) {
            let tombstone = Content::Scalar(ScalarValue::Int(self.stamp.raw()));
            self.plan.push(Write::Put(ROOT, DELETED_KEY.into(), tombstone));
        }
        Ok(())
    }

    fn invert(&mut self, hash: &ChangeHash, effect: &Effect) -> Result<(), EditError> {
        if effect.after.is_none() && effect.before.is_empty() {
            return Ok(()); // came and went
        }
        if let Some((slot, value)) = self.gone_with(&effect.slot.object)? {
            return self.revert_whole(hash, &slot, &value);
        }
        match (&effect.slot.key, effect.slot.element()) {
            (Key::Map(key), _) => self.revert_entry(effect, key),
            (_, Some(element)) if effect.after.is_some() => self.revert_element(effect, element),
            _ => Ok(()), // elements that were taken away come back together
        }
    }

    /// A register, or a map's or set's entry.
    fn revert_entry(&mut self, effect: &Effect, key: &str) -> Result<(), EditError> {
        let object = self.object(&effect.slot.object);
        let is_root = effect.slot.object == ObjectId::Root;
        if is_root && key == COLLECTION_KEY {
            return Ok(());
        }
        let ops = held(&self.document.automerge, &object, key)?;
        if is_root && ops.iter().any(|op| is_birth(&op.value, &op.id)) {
            return Ok(()); // a register must not replace a container
        }
        let is_set = self.is_set(&effect.slot.object)?;
        let mut sources = effect.before.clone();
        let content = match &effect.after {
            None if !ops.is_empty() => return Ok(()), // somebody has put something there
            None => self.settled(&effect.slot, &effect.before)?,
            Some(after) => {
                let Standing { own, others } = self.standing(ops, after)?;
                if own.is_empty() || (is_set && !others.is_empty()) || self.contend(&effect.slot, &others)? {
                    return Ok(());
                }
                sources.extend(others.iter().filter_map(|op| op_id(&op.id)));
                match others.is_empty() {
                    true => self.settled(&effect.slot, &effect.before)?,
                    false => self.settle(&effect.slot, others)?,
                }
            }
        };
        let is_deletion = is_root && key == DELETED_KEY;
        if is_deletion
            && content.as_ref().is_some_and(|content| !content.is_null())
            && self.others_wrote_since(&sources)
        {
            return Ok(());
        }
        let is_stamp = is_set || is_deletion;
        let write = match content {
            None if is_root => Write::Put(object, key.into(), Content::Scalar(ScalarValue::Null)),
            None => Write::Delete(object, key.to_owned()),
            Some(content) if content.is_null() => Write::Put(object, key.into(), content),
            Some(_) if is_stamp => Write::Put(object, key.into(), Content::Scalar(ScalarValue::Int(self.stamp.raw()))),
            Some(content) => Write::Put(object, key.into(), content),
        };
        self.plan.push(write);
        self.touch(&effect.slot)
    }

    /// Whether anybody else has written to the entity beside or after these ops. To delete it would hide that.
    fn others_wrote_since(&self, ops: &[OpId]) -> bool {
        let automerge = &self.document.automerge;
        let seen: Vec<_> = ops.iter().filter_map(|op| automerge.hash_for_opid(&object_id(op))).collect();
        let metas = automerge.get_changes_meta(&seen);
        metas.iter().any(|meta| !is_genesis(meta) && !is_own(meta, self.mine))
    }

    fn count_back(&mut self, slot: &Slot, counters: &[OpId], by: i64) -> Result<(), EditError> {
        let (ObjectId::Root, Key::Map(key)) = (&slot.object, &slot.key) else { return Ok(()) };
        let ops = held_at_root(&self.document.automerge, key)?;
        let counter = ops.iter().find(|op| op_id(&op.id).is_some_and(|id| counters.contains(&id)));
        let Some(Value::Scalar(scalar)) = counter.map(|op| &op.value) else { return Ok(()) };
        let ScalarValue::Counter(current) = scalar.as_ref() else { return Ok(()) };
        if by == 0 {
            return Ok(());
        }
        let back = by.checked_neg().filter(|back| i64::from(current).checked_add(*back).is_some());
        let field = || self.collection.field_at(key).map(|(name, _)| name.clone());
        let Some(back) = back else {
            return Err(field().map_or(DocumentError::Damaged.into(), |field| EditError::Overflow { field }));
        };
        self.plan.push(Write::Count(key.to_string(), back));
        self.touch(slot)
    }
}

/// Values that were lost with the object that they were written in, and that came back as a copy of it.
impl Inverter<'_> {
    /// The outermost value that an object lay in and that is no longer where it was put, with its slot.
    pub(super) fn gone_with(&mut self, object: &ObjectId) -> Result<Option<(Slot, OpId)>, EditError> {
        let mut gone = None;
        let mut object = object.clone();
        while let ObjectId::Id(id) = &object {
            let slot = self.lineage.past.slot_of(id)?;
            let born = Value::Object(ObjType::Map);
            if slot.object == ObjectId::Root && is_birth(&born, &object_id(id)) {
                break;
            }
            let ops = self.ops_in(&slot)?;
            if !ops.iter().any(|op| op_id(&op.id).as_ref() == Some(id)) {
                gone = Some((slot.clone(), id.clone()));
            }
            object = slot.object;
        }
        Ok(gone)
    }

    /// If what stands for a value is as the change left that value, it becomes what the value was before.
    fn revert_whole(&mut self, hash: &ChangeHash, slot: &Slot, value: &OpId) -> Result<(), EditError> {
        if self.within.contains(value) {
            return Ok(());
        }
        self.within.push(value.clone());
        let object = self.object(&slot.object);
        let (prop, ops) = match (&slot.key, slot.element()) {
            (Key::Map(key), _) => (Prop::from(key.as_str()), held(&self.document.automerge, &object, key.as_str())?),
            (_, Some(element)) => match self.find(&object, element)?.pop() {
                Some((place, ops)) => (place.into(), ops),
                None => return Ok(()),
            },
            _ => return Ok(()),
        };
        let [only] = ops.as_slice() else { return Ok(()) };
        let policy = self.policy(slot)?;
        let now = Reader::new(&self.document.automerge, &policy).value(&only.value, &only.id, 1)?;
        let after = self.document.at(&Heads::new(vec![*hash]))?;
        if !only.value.is_object() || after.nested(value, &policy)? != now {
            return Ok(());
        }
        let dependencies = self.lineage.past.effects(theirs(*hash)).ok_or(DocumentError::Damaged)?;
        let before = self.document.at(&dependencies.dependencies)?.nested(value, &policy)?;
        self.plan.push(Write::Put(object, prop, Content::Nested(before)));
        self.touch(slot)
    }
}

impl Document {
    /// The content of a list or map.
    fn nested(&self, object: &OpId, policy: &Policy) -> Result<Json, DocumentError> {
        let id = object_id(object);
        let kind = self.automerge.object_type(&id)?;
        Reader::new(&self.automerge, policy).value(&Value::Object(kind), &id, 1)
    }
}

/// Where things are now.
impl Inverter<'_> {
    pub(super) fn object(&self, object: &ObjectId) -> ObjId {
        match object {
            ObjectId::Id(id) => object_id(id),
            ObjectId::Root => ROOT,
        }
    }

    /// The ops visible in a slot itself, not in what stands for it.
    fn ops_in(&mut self, slot: &Slot) -> Result<Vec<Held>, EditError> {
        let object = self.object(&slot.object);
        match (&slot.key, slot.element()) {
            (Key::Map(key), _) => Ok(held(&self.document.automerge, &object, key.as_str())?),
            (_, Some(element)) => Ok(self.visible(&object, element)?.map(|(_, ops)| ops).unwrap_or_default()),
            _ => Ok(Vec::new()),
        }
    }

    pub(super) fn standing(&mut self, ops: Vec<Held>, after: &OpId) -> Result<Standing, EditError> {
        let after = self.lineage.original(after)?;
        let (mut own, mut others) = (Vec::new(), Vec::new());
        for op in ops {
            let id = op_id(&op.id).ok_or(DocumentError::Damaged)?;
            if self.lineage.original(&id)? == after { own.push(op) } else { others.push(op) }
        }
        Ok(Standing { own, others })
    }

    /// Whether ops in a slot hold different values. To write there would decide between them.
    pub(super) fn contend(&mut self, slot: &Slot, ops: &[Held]) -> Result<bool, EditError> {
        let Some((first, rest)) = ops.split_first().filter(|(_, rest)| !rest.is_empty()) else { return Ok(false) };
        let policy = self.policy(slot)?;
        let mut reader = Reader::new(&self.document.automerge, &policy);
        let value = reader.value(&first.value, &first.id, 1)?;
        for op in rest {
            if reader.value(&op.value, &op.id, 1)? != value {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What some ops of the past settle to; objects as they are now.
    pub(super) fn settled(&mut self, slot: &Slot, ops: &[OpId]) -> Result<Option<Content>, EditError> {
        let mut past = Vec::with_capacity(ops.len());
        for id in ops {
            let value = match self.lineage.past.op(id)?.action {
                OpType::Put(scalar) => Value::Scalar(std::borrow::Cow::Owned(scalar)),
                OpType::Make(kind) => Value::Object(kind),
                _ => return Err(DocumentError::Damaged.into()),
            };
            past.push(Held { value, id: object_id(id) });
        }
        self.settle(slot, past)
    }

    pub(super) fn settle(&mut self, slot: &Slot, ops: Vec<Held>) -> Result<Option<Content>, EditError> {
        let policy = self.policy(slot)?;
        let settled = Reader::new(&self.document.automerge, &policy).settle(ops, 1)?;
        Ok(settled.map(|settled| match settled.winner.value {
            Value::Scalar(scalar) => Content::Scalar(scalar.into_owned()),
            Value::Object(ObjType::Text) => Content::Scalar(crate::document::value::to_scalar(&settled.value)),
            Value::Object(_) => Content::Nested(settled.value),
        }))
    }

    /// The root key of the field that a slot is in.
    fn key(&mut self, slot: &Slot) -> Result<Option<String>, DocumentError> {
        let mut slot = slot.clone();
        while let ObjectId::Id(id) = &slot.object {
            slot = self.lineage.past.slot_of(id)?;
        }
        Ok(match slot.key {
            Key::Map(key) => Some(key.to_string()),
            Key::Seq(_) => None,
        })
    }

    fn policy(&mut self, slot: &Slot) -> Result<Policy, DocumentError> {
        let field = self.key(slot)?.and_then(|key| self.collection.field_at(&key));
        Ok(field.map(|(_, field)| self.collection.policy_of(field).clone()).unwrap_or_default())
    }

    pub(super) fn touch(&mut self, slot: &Slot) -> Result<(), EditError> {
        if let Some((name, _)) = self.key(slot)?.and_then(|key| self.collection.field_at(&key)) {
            self.plan.touches(name);
        }
        Ok(())
    }

    fn is_set(&mut self, object: &ObjectId) -> Result<bool, DocumentError> {
        let ObjectId::Id(id) = object else { return Ok(false) };
        let Slot { object: ObjectId::Root, key: Key::Map(key) } = self.lineage.past.slot_of(id)? else {
            return Ok(false);
        };
        match FieldName::new(&key) {
            Ok(field) => Ok(op_id(&genesis(self.name, &field, Kind::Set)?.object).as_ref() == Some(id)),
            Err(_) => Ok(false),
        }
    }
}
