//! Reading: the ops visible in a slot, the value they settle to, and the contests met on the way.

use std::ops::RangeFull;

use automerge::transaction::Transaction;
use automerge::{Automerge, ChangeHash, ObjId, ObjType, Prop, ROOT, ReadDoc, ScalarValue, Value};
use serde_json::{Map, Value as Json};

use super::edit::{Path, Step};
use super::error::DocumentError;
use super::note::Note;
use super::resolve::{Contender, contest_id, is_open, settle};
use super::state::Contest;
use super::value::{MAX_DEPTH, compare, from_scalar, member_of};
use crate::id::Actor;
use crate::schema::{Field, Policy};
use crate::stamp::Stamp;

/// A document or an open transaction on one.
pub(super) trait Source: ReadDoc {
    /// The change that holds an op; `None` for an op of the open transaction.
    fn change_of(&self, op: &ObjId) -> Option<ChangeHash>;

    /// When a change was made, and whether it was made to settle a conflict.
    fn about_change(&self, hash: &ChangeHash) -> Option<(i64, bool)>;

    /// When an op was written.
    fn stamp_of(&self, op: &ObjId) -> Stamp {
        let change = self.change_of(op).and_then(|hash| self.about_change(&hash));
        change.and_then(|(stamp, _)| Stamp::from_raw(stamp)).unwrap_or_default()
    }

    /// The op as one of several in its slot.
    fn contender(&self, op: &ObjId, value: Json) -> Result<Contender, DocumentError> {
        let ObjId::Id(counter, actor, _) = op else { return Err(DocumentError::Damaged) };
        let actor = Actor::from_bytes(actor.to_bytes()).ok_or(DocumentError::Damaged)?;
        // Nothing is contested within one transaction, so an op of the open one is never compared.
        let hash = self.change_of(op).unwrap_or(ChangeHash([0; 32]));
        let (stamp, resolution) = self.about_change(&hash).unwrap_or_default();
        let stamp = Stamp::from_raw(stamp).unwrap_or_default();
        let change = crate::id::ChangeHash::from_bytes(hash.0);
        Ok(Contender { value, stamp, actor, change, resolution, counter: *counter })
    }
}

fn is_resolution(message: Option<&str>) -> bool {
    message.and_then(Note::parse) == Some(Note::Resolve)
}

impl Source for Automerge {
    fn change_of(&self, op: &ObjId) -> Option<ChangeHash> {
        self.hash_for_opid(op)
    }

    fn about_change(&self, hash: &ChangeHash) -> Option<(i64, bool)> {
        let meta = self.get_change_meta_by_hash(hash)?;
        Some((meta.timestamp, is_resolution(meta.message.as_deref())))
    }
}

impl Source for Transaction<'_> {
    fn change_of(&self, op: &ObjId) -> Option<ChangeHash> {
        self.hash_for_opid(op)
    }

    fn about_change(&self, hash: &ChangeHash) -> Option<(i64, bool)> {
        let change = self.get_change_by_hash(hash)?;
        Some((change.timestamp(), is_resolution(change.message())))
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
    /// How what is contested settles.
    policy: &'a Policy,
    /// The field that is being read, if the schema knows it.
    field: Option<&'a Field>,
    path: Vec<Step>,
    /// The contests met so far; `None` while they are of no interest.
    contests: Option<Vec<Contest>>,
}

impl<'a, S: Source> Reader<'a, S> {
    /// A reader of values only.
    pub(super) const fn new(source: &'a S, policy: &'a Policy) -> Self {
        Self { source, policy, field: None, path: Vec::new(), contests: None }
    }

    /// A reader that lists the contests that it meets.
    pub(super) const fn attentive(source: &'a S) -> Self {
        Self { source, policy: &Policy::Lww, field: None, path: Vec::new(), contests: Some(Vec::new()) }
    }

    /// Goes on to a field of this name; `field` is what the schema says of it.
    pub(super) fn enter(&mut self, name: &str, policy: &'a Policy, field: Option<&'a Field>) {
        (self.policy, self.field) = (policy, field);
        self.path = vec![Step::Key(name.to_owned())];
    }

    pub(super) fn into_contests(self) -> Vec<Contest> {
        self.contests.unwrap_or_default()
    }

    fn under<T>(&mut self, step: Step, read: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(step);
        let result = read(self);
        self.path.pop();
        result
    }

    /// What the ops of a slot settle to; `None` if there are none. `depth` is the slot's own: 0 at the root.
    pub(super) fn settle(&mut self, mut ops: Vec<Held>, depth: usize) -> Result<Option<Settled>, DocumentError> {
        if ops.len() < 2 {
            let Some(winner) = ops.pop() else { return Ok(None) };
            let value = self.value(&winner.value, &winner.id, depth)?;
            let value = if depth == 0 { self.through_lens(value) } else { value };
            return Ok(Some(Settled { winner, value }));
        }
        let mut contenders = self.contenders(&ops, depth)?;
        let custom = settle(self.policy, &mut contenders);
        let won = |op: &Held| {
            matches!(&op.id, ObjId::Id(counter, actor, _)
            if *counter == contenders[0].counter && actor.to_bytes() == contenders[0].actor.as_bytes())
        };
        let place = ops.iter().position(won).ok_or(DocumentError::Damaged)?;
        let winner = ops.swap_remove(place);
        let value = custom.unwrap_or_else(|| contenders[0].value.clone());
        if self.contests.is_some() {
            let is_winners = value == contenders[0].value;
            self.report(value.clone(), contenders);
            if is_winners && winner.value.is_object() {
                // Once more, for the contests inside the winner.
                self.value(&winner.value, &winner.id, depth)?;
            }
        }
        Ok(Some(Settled { winner, value }))
    }

    /// Only registers have lenses, and only at the root.
    fn through_lens(&self, value: Json) -> Json {
        match self.field.and_then(|field| field.lens.as_ref().zip(Some(&field.rules))) {
            Some((lens, rules)) => lens.read(value, rules),
            None => value,
        }
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
            let settled = self.under(Step::Index(item.index), |reader| reader.settle(ops, depth))?;
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
            let settled = self.under(Step::Key(key.clone()), |reader| reader.settle(ops, depth))?;
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

    /// The ops of a slot as its contenders, in their order.
    pub(super) fn contenders(&mut self, ops: &[Held], depth: usize) -> Result<Vec<Contender>, DocumentError> {
        let outer = self.contests.take();
        let contenders = ops.iter().map(|op| {
            let value = self.value(&op.value, &op.id, depth)?;
            let value = if depth == 0 { self.through_lens(value) } else { value };
            self.source.contender(&op.id, value)
        });
        let contenders = contenders.collect();
        self.contests = outer;
        contenders
    }

    /// Equal values are no contest: whoever wins, nobody's value is lost.
    fn report(&mut self, value: Json, contenders: Vec<Contender>) {
        if contenders.iter().all(|contender| contender.value == contenders[0].value) {
            return;
        }
        let Some((Step::Key(field), path)) = self.path.split_first() else { return };
        let contest = Contest {
            field: field.clone(),
            path: Path(path.to_vec()),
            id: contest_id(&contenders),
            policy: self.policy.clone(),
            open: is_open(self.policy, &contenders),
            value,
            contenders,
        };
        self.contests.get_or_insert_default().push(contest);
    }
}

/// A root key's ops, Automerge's own winner last.
pub(super) fn held_at_root(source: &impl ReadDoc, key: &str) -> Result<Vec<Held>, DocumentError> {
    held(source, &ROOT, key)
}
