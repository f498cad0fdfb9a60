//! Reading: the ops visible in a slot, the value they settle to, and the contests met on the way.

use std::ops::RangeFull;

use automerge::transaction::Transaction;
use automerge::{Automerge, ChangeHash, ObjId, ObjType, Prop, ROOT, ReadDoc, ScalarValue, Value};
use serde_json::{Map, Value as Json};

use super::error::DocumentError;
use super::resolve::{Candidate, OpId, rank};
use super::state::{Contender, Contest};
use super::value::{MAX_DEPTH, compare, from_scalar, member_of};
use crate::id::Actor;
use crate::schema::Policy;
use crate::stamp::Stamp;

/// A document or an open transaction on one.
pub(super) trait Source: ReadDoc {
    /// The change that holds an op; `None` for an op of the open transaction.
    fn change_of(&self, op: &ObjId) -> Option<ChangeHash>;

    /// When a change was made.
    fn stamp_of_change(&self, hash: &ChangeHash) -> Option<i64>;

    /// When an op was written.
    fn stamp_of(&self, op: &ObjId) -> Stamp {
        match self.change_of(op) {
            // Nothing is contested within one transaction, so this one is never compared.
            None => Stamp::ZERO,
            Some(hash) => self.stamp_of_change(&hash).and_then(Stamp::from_raw).unwrap_or_default(),
        }
    }
}

impl Source for Automerge {
    fn change_of(&self, op: &ObjId) -> Option<ChangeHash> {
        self.hash_for_opid(op)
    }

    fn stamp_of_change(&self, hash: &ChangeHash) -> Option<i64> {
        self.get_change_meta_by_hash(hash).map(|meta| meta.timestamp)
    }
}

impl Source for Transaction<'_> {
    fn change_of(&self, op: &ObjId) -> Option<ChangeHash> {
        self.hash_for_opid(op)
    }

    fn stamp_of_change(&self, hash: &ChangeHash) -> Option<i64> {
        self.get_change_by_hash(hash).map(|change| change.timestamp())
    }
}

/// An op that is visible in a slot: what it put there, and its id.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) value: Value<'static>,
    pub(super) id: ObjId,
}

impl Held {
    /// Whether the op put this scalar there.
    pub(super) fn is(&self, scalar: &ScalarValue) -> bool {
        matches!(&self.value, Value::Scalar(held) if held.as_ref() == scalar)
    }
}

/// All ops visible in a slot, Automerge's own winner last.
pub(super) fn held(source: &impl ReadDoc, object: &ObjId, prop: impl Into<Prop>) -> Result<Vec<Held>, DocumentError> {
    let ops = source.get_all(object, prop)?;
    Ok(ops.into_iter().map(|(value, id)| Held { value: value.into_owned(), id }).collect())
}

/// A slot's settled content.
#[derive(Debug)]
pub(super) struct Settled {
    /// Which of the ops won.
    pub(super) winner: Held,
    pub(super) value: Json,
}

/// Turns what a document holds into JSON.
#[derive(Debug)]
pub(super) struct Reader<'a, S> {
    source: &'a S,
    path: Vec<String>,
    /// The contests met so far; `None` while they are of no interest.
    contests: Option<Vec<Contest>>,
}

impl<'a, S: Source> Reader<'a, S> {
    /// A reader that lists the contests that it meets.
    pub(super) const fn attentive(source: &'a S) -> Self {
        Self { source, path: Vec::new(), contests: Some(Vec::new()) }
    }

    /// A reader of values only.
    pub(super) const fn new(source: &'a S) -> Self {
        Self { source, path: Vec::new(), contests: None }
    }

    pub(super) fn into_contests(self) -> Vec<Contest> {
        self.contests.unwrap_or_default()
    }

    /// Reads with `step` added to the path that contests are reported under.
    pub(super) fn under<T>(&mut self, step: String, read: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(step);
        let result = read(self);
        self.path.pop();
        result
    }

    /// What the ops of a slot settle to; `None` if there are none. `depth` is the slot's own: 0 at the root.
    pub(super) fn settle(
        &mut self,
        mut ops: Vec<Held>,
        policy: Policy,
        depth: usize,
    ) -> Result<Option<Settled>, DocumentError> {
        if ops.len() < 2 {
            let Some(winner) = ops.pop() else { return Ok(None) };
            let value = self.value(&winner.value, &winner.id, depth)?;
            return Ok(Some(Settled { winner, value }));
        }
        let candidates = self.candidates(&ops, depth)?;
        let ranked = rank(policy, &candidates);
        let winner = ops.swap_remove(ranked[0]);
        let mut value = candidates[ranked[0]].value.clone();
        if self.contests.is_some() {
            self.report(&ranked, &candidates);
            // Once more, for the contests inside the winner.
            value = self.value(&winner.value, &winner.id, depth)?;
        }
        Ok(Some(Settled { winner, value }))
    }

    /// The value that an op holds, in a slot at `depth`.
    pub(super) fn value(&mut self, value: &Value<'_>, id: &ObjId, depth: usize) -> Result<Json, DocumentError> {
        match value {
            Value::Scalar(scalar) => Ok(from_scalar(scalar)),
            Value::Object(ObjType::Text) => Ok(Json::String(self.source.text(id)?)),
            Value::Object(_) if depth >= MAX_DEPTH => Err(DocumentError::TooDeep),
            Value::Object(ObjType::List) => self.list(id, depth + 1).map(Json::Array),
            Value::Object(ObjType::Map | ObjType::Table) => self.map(id, depth + 1).map(Json::Object),
        }
    }

    /// A list's elements, which are slots at `depth`.
    pub(super) fn list(&mut self, list: &ObjId, depth: usize) -> Result<Vec<Json>, DocumentError> {
        let mut items = Vec::new();
        for item in self.source.list_range(list, RangeFull) {
            let ops = match item.conflict {
                true => held(self.source, list, item.index)?,
                false => vec![Held { id: item.id(), value: item.value.into_value() }],
            };
            let settled = self.under(item.index.to_string(), |reader| reader.settle(ops, Policy::Lww, depth))?;
            items.extend(settled.map(|settled| settled.value));
        }
        Ok(items)
    }

    /// A map's entries, which are slots at `depth`.
    pub(super) fn map(&mut self, map: &ObjId, depth: usize) -> Result<Map<String, Json>, DocumentError> {
        let mut entries = Map::new();
        for item in self.source.map_range(map, RangeFull) {
            let key = item.key.to_string();
            let ops = match item.conflict {
                true => held(self.source, map, key.as_str())?,
                false => vec![Held { id: item.id(), value: item.value.into_value() }],
            };
            let settled = self.under(key.clone(), |reader| reader.settle(ops, Policy::Lww, depth))?;
            entries.extend(settled.map(|settled| (key, settled.value)));
        }
        Ok(entries)
    }

    /// A set's members, in the order of values. Which of several concurrent adds counts makes no difference.
    pub(super) fn set(&self, set: &ObjId) -> Vec<Json> {
        let mut members: Vec<Json> = self.source.keys(set).filter_map(|key| member_of(&key)).collect();
        members.sort_by(compare);
        members
    }

    fn candidates(&mut self, ops: &[Held], depth: usize) -> Result<Vec<Candidate>, DocumentError> {
        let outer = self.contests.take();
        let candidates = ops.iter().map(|op| {
            let value = self.value(&op.value, &op.id, depth)?;
            Ok(Candidate { value, stamp: self.source.stamp_of(&op.id), op: op_id(&op.id)? })
        });
        let candidates = candidates.collect();
        self.contests = outer;
        candidates
    }

    /// Equal values are no contest: whoever wins, nobody's value is lost.
    fn report(&mut self, ranked: &[usize], candidates: &[Candidate]) {
        if candidates.iter().all(|candidate| candidate.value == candidates[0].value) {
            return;
        }
        let contenders = ranked.iter().map(|at| {
            let Candidate { value, stamp, op } = candidates[*at].clone();
            Contender { value, stamp, actor: op.actor }
        });
        let contest = Contest { field: self.path.join("."), contenders: contenders.collect() };
        self.contests.get_or_insert_default().push(contest);
    }
}

/// A root key's ops, Automerge's own winner last.
pub(super) fn held_at_root(source: &impl ReadDoc, key: &str) -> Result<Vec<Held>, DocumentError> {
    held(source, &ROOT, key)
}

fn op_id(id: &ObjId) -> Result<OpId, DocumentError> {
    match id {
        ObjId::Root => Err(DocumentError::Damaged),
        ObjId::Id(counter, actor, _) => {
            let actor = Actor::from_bytes(actor.to_bytes()).ok_or(DocumentError::Damaged)?;
            Ok(OpId { counter: *counter, actor })
        }
    }
}
