//! The second half of an edit: the ops that it becomes.
//!
//! Automerge drops a put that repeats the current value, and turns a put of a conflict's winner into a mere
//! deletion of the losers, which keeps the old stamp. Where the new stamp matters, a write is [`force`]d.

use automerge::transaction::{Transactable, Transaction};
use automerge::{ObjId, ObjType, Prop, ROOT, ReadDoc as _, ScalarValue, Value};
use serde_json::{Map, Value as Json};

use super::diff::rewrite;
use super::edit::Step;
use super::error::{DocumentError, EditError};
use super::genesis::is_birth;
use super::prepare::{Action, Prepared};
use super::slot::{Held, Reader, Settled, held, held_at_root};
use super::text::TextSplice;
use super::value::{to_nested, to_scalar};
use crate::name::FieldName;
use crate::schema::Policy;
use crate::stamp::Stamp;

/// Puts a scalar into a slot by an op of this transaction, whatever stands there.
pub(super) fn force(
    transaction: &mut Transaction<'_>,
    object: &ObjId,
    prop: Prop,
    scalar: &ScalarValue,
) -> Result<(), EditError> {
    let ops = held(transaction, object, prop.clone())?;
    if let Some(winner) = ops.last().filter(|winner| winner.is(scalar)) {
        if ops.len() == 1 && transaction.hash_for_opid(&winner.id).is_none() {
            return Ok(()); // this transaction has just put it there
        }
        let other = if *scalar == ScalarValue::Null { ScalarValue::Boolean(false) } else { ScalarValue::Null };
        transaction.put(object, prop.clone(), other)?;
    }
    Ok(transaction.put(object, prop, scalar.clone())?)
}

/// Writes one edit into a transaction.
pub(super) struct Writer<'a, 'd> {
    transaction: &'a mut Transaction<'d>,
    edit: &'a Prepared,
    /// The field's container, or the root for a register.
    container: ObjId,
    stamp: Stamp,
}

impl<'a, 'd> Writer<'a, 'd> {
    pub(super) fn new(transaction: &'a mut Transaction<'d>, edit: &'a Prepared, stamp: Stamp) -> Self {
        let container = edit.genesis.as_ref().map_or(ROOT, |genesis| genesis.object.clone());
        Self { transaction, edit, container, stamp }
    }

    pub(super) fn write(mut self) -> Result<(), EditError> {
        let container = self.container.clone();
        match &self.edit.action {
            Action::Register(scalar) => self.register(scalar),
            Action::Count(target) => {
                let current = self.count()?;
                let by = target.checked_sub(current).ok_or_else(|| self.overflow())?;
                self.increment(by)
            }
            Action::Increment(by) => self.increment(*by),
            Action::Text(text) => self.text(text),
            Action::Splice { at, delete, insert } => self.splice(*at, *delete, insert),
            Action::Members(members) => self.members(members.keys()),
            Action::Add(member) => self.add(member),
            Action::Remove(member) => Ok(self.transaction.delete(&container, member.as_str())?),
            Action::Content(Json::Object(entries)) => self.assign_map(&container, entries, 1),
            Action::Content(Json::Array(items)) => self.assign_list(&container, items, 1),
            Action::Content(_) => Err(DocumentError::Damaged.into()),
            Action::Insert { path, at, values } => self.insert(path, *at, values),
            Action::Put { path, last, value } => self.put(path, last, value),
            Action::Assign { path, last, value } => {
                let (object, kind) = self.descend(path)?;
                let prop = self.prop(&object, kind, last)?;
                self.assign(&object, prop, value, path.len() + 1)
            }
            Action::Settle { path, value } => self.settle(path, value),
            Action::Delete { path, last } => self.delete(path, last),
        }
    }

    fn register(&mut self, scalar: &ScalarValue) -> Result<(), EditError> {
        let ops = held_at_root(self.transaction, self.edit.key.as_str())?;
        if ops.iter().any(|op| is_birth(&op.value, &op.id)) {
            // The put would name the genesis as its predecessor, which every replica refuses.
            return Err(EditError::KindChanged { field: self.field() });
        }
        let unchanged = if ops.is_empty() { *scalar == ScalarValue::Null } else { ops.iter().all(|op| op.is(scalar)) };
        if unchanged {
            return Ok(());
        }
        self.writable(&ops, 0)?;
        force(self.transaction, &ROOT, self.edit.key.as_str().into(), scalar)
    }

    /// A write-once slot at `depth` that has a value, uncontested, keeps it.
    fn writable(&self, ops: &[Held], depth: usize) -> Result<(), EditError> {
        let Some(first) = ops.first().filter(|first| self.is_write_once() && !self.is_own(first)) else {
            return Ok(());
        };
        let value = self.reader().value(&first.value, &first.id, depth)?;
        let mut settled = !value.is_null();
        for op in &ops[1..] {
            settled &= self.reader().value(&op.value, &op.id, depth)? == value;
        }
        if settled { Err(EditError::WriteOnce { field: self.field() }) } else { Ok(()) }
    }

    fn is_write_once(&self) -> bool {
        self.edit.policy == Policy::FirstWriter
    }

    /// Whether the open transaction wrote the op: several edits of one change may touch a slot.
    fn is_own(&self, op: &Held) -> bool {
        self.transaction.hash_for_opid(&op.id).is_none()
    }

    fn settle(&mut self, path: &[Step], value: &Json) -> Result<(), EditError> {
        let Some((last, path)) = path.split_last() else {
            return force(self.transaction, &ROOT, self.edit.key.as_str().into(), &to_scalar(value));
        };
        let (object, kind) = self.descend(path)?;
        let prop = self.prop(&object, kind, last)?;
        self.put_value(&object, prop, value)
    }

    fn field(&self) -> FieldName {
        self.edit.field.clone()
    }

    /// The counter's value: that of its genesis op, whatever else stands at the key.
    fn count(&self) -> Result<i64, EditError> {
        let ops = held_at_root(self.transaction, self.edit.key.as_str())?;
        let born = ops.iter().find(|op| op.id == self.container);
        match born.and_then(|op| op.value.as_scalar()) {
            Some(ScalarValue::Counter(counter)) => Ok(counter.into()),
            _ => Err(DocumentError::Damaged.into()),
        }
    }

    fn increment(&mut self, by: i64) -> Result<(), EditError> {
        if by == 0 {
            return Ok(());
        }
        self.count()?.checked_add(by).ok_or_else(|| self.overflow())?;
        Ok(self.transaction.increment(ROOT, self.edit.key.as_str(), by)?)
    }

    fn overflow(&self) -> EditError {
        EditError::Overflow { field: self.field() }
    }

    fn text(&mut self, new: &str) -> Result<(), EditError> {
        let old = self.transaction.text(&self.container)?;
        let mut splices = rewrite(&old, new).into_iter();
        splices.try_for_each(|TextSplice { at, delete, insert }| self.splice(at, delete, &insert))
    }

    fn splice(&mut self, at: usize, delete: usize, insert: &str) -> Result<(), EditError> {
        let length = self.transaction.length(&self.container);
        self.within(at, delete, length)?;
        if delete == 0 && insert.is_empty() {
            return Ok(());
        }
        Ok(self.transaction.splice_text(&self.container, at, signed(delete)?, insert)?)
    }

    fn within(&self, at: usize, count: usize, length: usize) -> Result<(), EditError> {
        let end = at.checked_add(count).filter(|end| *end <= length);
        let at = if at > length { at } else { at.saturating_add(count) };
        end.map(drop).ok_or_else(|| EditError::OutOfRange { field: self.field(), at, length })
    }

    fn members<'k>(&mut self, wanted: impl Iterator<Item = &'k String>) -> Result<(), EditError> {
        let mut surplus: std::collections::BTreeSet<String> = self.transaction.keys(&self.container).collect();
        for member in wanted {
            if !surplus.remove(member) {
                self.add(member)?;
            }
        }
        surplus.iter().try_for_each(|member| Ok(self.transaction.delete(&self.container, member.as_str())?))
    }

    fn add(&mut self, member: &str) -> Result<(), EditError> {
        // A new op even if the member is there: a concurrent removal knows only the old one.
        let added = ScalarValue::Int(self.stamp.raw());
        force(self.transaction, &self.container, member.into(), &added)
    }

    fn insert(&mut self, path: &[Step], at: usize, values: &[Json]) -> Result<(), EditError> {
        let (list, kind) = self.descend(path)?;
        if kind != ObjType::List {
            return Err(self.nowhere());
        }
        self.within(at, 0, self.transaction.length(&list))?;
        if values.is_empty() {
            return Ok(());
        }
        Ok(self.transaction.splice(&list, at, 0, values.iter().map(to_nested))?)
    }

    fn put(&mut self, path: &[Step], last: &Step, value: &Json) -> Result<(), EditError> {
        let (object, kind) = self.descend(path)?;
        let prop = self.prop(&object, kind, last)?;
        let ops = held(self.transaction, &object, prop.clone())?;
        let mut unchanged = !ops.is_empty();
        for op in &ops {
            unchanged &= self.reader().value(&op.value, &op.id, path.len() + 1)? == *value;
        }
        if unchanged {
            return Ok(());
        }
        self.writable(&ops, path.len() + 1)?;
        self.put_value(&object, prop, value)
    }

    fn delete(&mut self, path: &[Step], last: &Step) -> Result<(), EditError> {
        let (object, kind) = self.descend(path)?;
        let prop = self.prop(&object, kind, last)?;
        self.writable(&held(self.transaction, &object, prop.clone())?, path.len() + 1)?;
        Ok(self.transaction.delete(&object, prop)?)
    }

    /// The list or map that a path leads to, through the winner of every contest on the way.
    fn descend(&self, path: &[Step]) -> Result<(ObjId, ObjType), EditError> {
        let mut object = self.container.clone();
        let mut kind = self.transaction.object_type(&object)?;
        for (depth, step) in path.iter().enumerate() {
            let prop = self.prop(&object, kind, step)?;
            let settled = self.settled(&object, prop, depth + 1)?.ok_or_else(|| self.nowhere())?;
            (object, kind) = match settled.winner.value {
                Value::Object(inner @ (ObjType::List | ObjType::Map)) => (settled.winner.id, inner),
                _ => return Err(self.nowhere()),
            };
        }
        Ok((object, kind))
    }

    fn reader(&self) -> Reader<'_, Transaction<'d>> {
        Reader::new(self.transaction, &self.edit.policy)
    }

    fn settled(&self, object: &ObjId, prop: Prop, depth: usize) -> Result<Option<Settled>, EditError> {
        let ops = held(self.transaction, object, prop)?;
        Ok(self.reader().settle(ops, depth)?)
    }

    fn prop(&self, object: &ObjId, kind: ObjType, step: &Step) -> Result<Prop, EditError> {
        match (kind, step) {
            (ObjType::Map, Step::Key(key)) => Ok(key.as_str().into()),
            (ObjType::List, Step::Index(at)) => {
                self.within(*at, 1, self.transaction.length(object))?;
                Ok((*at).into())
            }
            _ => Err(self.nowhere()),
        }
    }

    fn nowhere(&self) -> EditError {
        EditError::NoSuchElement { field: self.field() }
    }

    /// Replaces whatever stands in a slot.
    fn put_value(&mut self, object: &ObjId, prop: Prop, value: &Json) -> Result<(), EditError> {
        match value {
            Json::Array(_) | Json::Object(_) => {
                self.transaction.batch_create_object(object, prop, &to_nested(value), false)?;
                Ok(())
            }
            scalar => force(self.transaction, object, prop, &to_scalar(scalar)),
        }
    }

    /// Makes a slot at `depth` equal to the value, by the smallest difference.
    fn assign(&mut self, object: &ObjId, prop: Prop, value: &Json, depth: usize) -> Result<(), EditError> {
        let Some(Settled { winner, value: current }) = self.settled(object, prop.clone(), depth)? else {
            return self.put_value(object, prop, value);
        };
        if current == *value {
            return Ok(());
        }
        match (winner.value, value) {
            (Value::Object(ObjType::Map), Json::Object(entries)) => self.assign_map(&winner.id, entries, depth + 1),
            (Value::Object(ObjType::List), Json::Array(items)) => self.assign_list(&winner.id, items, depth + 1),
            _ => {
                self.writable(&held(self.transaction, object, prop.clone())?, depth)?;
                self.put_value(object, prop, value)
            }
        }
    }

    fn assign_map(&mut self, map: &ObjId, wanted: &Map<String, Json>, depth: usize) -> Result<(), EditError> {
        let surplus: Vec<String> = self.transaction.keys(map).filter(|key| !wanted.contains_key(key)).collect();
        for key in surplus {
            self.writable(&held(self.transaction, map, key.as_str())?, depth)?;
            self.transaction.delete(map, key)?;
        }
        wanted.iter().try_for_each(|(key, value)| self.assign(map, key.as_str().into(), value, depth))
    }

    fn assign_list(&mut self, list: &ObjId, wanted: &[Json], depth: usize) -> Result<(), EditError> {
        let current = self.reader().list(list, depth)?;
        let (prefix, suffix) = shared_ends(&current, wanted);
        let surplus = current.len() - prefix - suffix;
        match &wanted[prefix..wanted.len() - suffix] {
            [] if surplus == 0 => Ok(()),
            // One element for one: the same element, changed.
            [value] if surplus == 1 => self.assign(list, prefix.into(), value, depth),
            values => {
                for at in prefix..if self.is_write_once() { prefix + surplus } else { prefix } {
                    self.writable(&held(self.transaction, list, at)?, depth)?;
                }
                Ok(self.transaction.splice(list, prefix, signed(surplus)?, values.iter().map(to_nested))?)
            }
        }
    }
}

/// How many elements two sequences share at their beginning, and then at their end.
pub(super) fn shared_ends<T: PartialEq>(old: &[T], new: &[T]) -> (usize, usize) {
    let prefix = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    let suffix = old[prefix..].iter().rev().zip(new[prefix..].iter().rev()).take_while(|(old, new)| old == new).count();
    (prefix, suffix)
}

pub(super) fn signed(count: usize) -> Result<isize, EditError> {
    isize::try_from(count).map_err(|_| EditError::TooLarge)
}
