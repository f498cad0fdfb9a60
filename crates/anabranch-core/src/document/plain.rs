//! The state of a *plain* history, without Automerge.
//!
//! Most entities have a short, linear history: each change has seen all changes before it, nothing is contested,
//! nothing is nested. What such a history comes to is plain: the last write of each field. Reading it from the
//! changes themselves takes a few microseconds, and proves the state rather than believing somebody's word for
//! it. Everything else, be it unusual or hostile, is no plain history, and takes the ordinary way.

mod content;

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value as Json};

use self::content::{Born, Held, OpId, Slots};
use super::genesis::genesis;
use super::state::State;
use super::value::canonical_json;
use super::{COLLECTION_KEY, DELETED_KEY};
use crate::change::{Action, Change, Key, Op, OpName, Ops};
use crate::id::{Actor, ChangeHash, Digest, Heads};
use crate::name::{CollectionName, FieldName};
use crate::schema::{Collection, Field, Kind};
use crate::stamp::Stamp;

/// The root key of a purged entity's marker.
const PURGED_KEY: &str = "$purged";

/// What a plain history comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Plain {
    /// The state, as [`Document::state`](super::Document::state) gives it.
    pub state: State,
    /// The state's fields as canonical JSON.
    pub fields: String,
    /// The state's digest.
    pub digest: Digest,
    /// The heads.
    pub heads: Heads,
}

/// Reads the plain histories of one collection's entities.
#[derive(Debug)]
pub struct PlainReader<'s> {
    collection: &'s CollectionName,
    schema: Option<&'s Collection>,
    /// The geneses of the schema's fields.
    births: HashMap<ChangeHash, Birth<'s>>,
}

#[derive(Debug, Clone, Copy)]
struct Birth<'s> {
    key: &'s FieldName,
    kind: Kind,
}

impl<'s> PlainReader<'s> {
    /// A reader for a collection, under a schema.
    #[must_use]
    pub fn new(collection: &'s CollectionName, schema: Option<&'s Collection>) -> Self {
        let mut births = HashMap::new();
        for (name, field) in schema.into_iter().flat_map(|schema| &schema.fields) {
            let key = field.key_under(name);
            if let Some(genesis) = field.kind.has_genesis().then(|| genesis(collection, key, field.kind)) {
                births.extend(genesis.map(|genesis| (genesis.change.hash(), Birth { key, kind: field.kind })));
            }
        }
        Self { collection, schema, births }
    }

    /// What the changes of an entity come to: all of them, each after those it depends on. `None` if they are no
    /// plain history.
    ///
    /// A history that is read here is one that every replica admits (docs/src/admission.md, steps 1 and 2).
    #[must_use]
    pub fn read(&self, changes: &[Change]) -> Option<Plain> {
        let mut history = History::default();
        for change in changes {
            match self.births.get(&change.hash()) {
                Some(birth) => history.bear(change, *birth)?,
                None => history.add(change)?,
            }
        }
        self.finish(history)
    }

    fn finish(&self, history: History<'_>) -> Option<Plain> {
        let History { heads, root, born, updated, .. } = history;
        let birth = root.get(COLLECTION_KEY)?;
        if birth.text() != Some(self.collection.as_str()) || root.contains_key(PURGED_KEY) {
            return None;
        }
        let mut fields = Map::new();
        let mut keys: BTreeMap<&str, Option<&Held<'_>>> = root.iter().map(|(key, held)| (*key, Some(held))).collect();
        keys.extend(born.iter().map(|born| (born.key, None)));
        for (key, held) in keys.into_iter().filter(|(key, _)| !key.starts_with('$')) {
            let known = self.schema.and_then(|schema| schema.field_at(key));
            let (name, value) = match (known, held) {
                (Some((name, field)), None) => (name.to_string(), of_kind(&born, key, field.kind)?),
                (Some((name, field)), Some(held)) if !field.kind.has_genesis() => (name.to_string(), seen(field, held)),
                (None, Some(held)) => {
                    let taken = self.schema.is_some_and(|schema| schema.fields.contains_key(key));
                    (if taken { format!("${key}") } else { key.to_owned() }, held.json())
                }
                _ => return None,
            };
            if !value.is_null() {
                fields.insert(name, value);
            }
        }
        let mut state = State {
            collection: Some(self.collection.clone()),
            fields,
            deleted: root.get(DELETED_KEY).is_some_and(|held| !held.is_null()),
            created: birth.stamp,
            updated,
            ..State::default()
        };
        if let Some(schema) = self.schema {
            state.complete(schema);
        }
        let value = Json::Object(std::mem::take(&mut state.fields));
        let fields = canonical_json(&value);
        if let Json::Object(back) = value {
            state.fields = back;
        }
        Some(Plain { digest: digest(&state, &fields), state, fields, heads: Heads::new(heads) })
    }
}

/// The state's digest, as [`State::digest`] computes it, put together from what is text already.
fn digest(state: &State, fields: &str) -> Digest {
    let collection = canonical_json(&state.collection.as_ref().map(CollectionName::as_str).into());
    let (created, updated, deleted) = (state.created.raw(), state.updated.raw(), state.deleted);
    let text = format!(
        r#"{{"collection":{collection},"contests":[],"created":{created},"deleted":{deleted},"fields":{fields},"updated":{updated}}}"#
    );
    Digest::of(text.as_bytes())
}

/// The content of the container or counter under a key.
fn of_kind(born: &[Born<'_>], key: &str, kind: Kind) -> Option<Json> {
    let mut at_key = born.iter().filter(|born| born.key == key);
    let only = at_key.next().filter(|born| born.kind == kind)?;
    if at_key.next().is_some() { None } else { Some(only.json()) }
}

/// A register's value, as this schema version reads it.
fn seen(field: &Field, held: &Held<'_>) -> Json {
    match &field.lens {
        Some(lens) => lens.read(held.json(), &field.rules),
        None => held.json(),
    }
}

/// A linear history while it is read.
#[derive(Debug, Default)]
struct History<'a> {
    heads: Vec<ChangeHash>,
    max_op: u64,
    /// The last change of each actor.
    last: HashMap<&'a Actor, (u64, ChangeHash)>,
    root: Slots<'a>,
    born: Vec<Born<'a>>,
    updated: Stamp,
}

impl<'a> History<'a> {
    /// A genesis: nobody's edit, and built on nothing.
    fn bear(&mut self, change: &'a Change, birth: Birth<'a>) -> Option<()> {
        let key = birth.key.as_str();
        if self.root.contains_key(key) || self.last.contains_key(change.actor()) {
            return None;
        }
        let id = OpId { counter: 1, actor: change.actor().as_bytes() };
        self.born.push(Born::new(key, birth.kind, id)?);
        self.note(change);
        Some(())
    }

    /// A change that has seen everything before it.
    fn add(&mut self, change: &'a Change) -> Option<()> {
        if change.purge_of().is_some() || (change.actor().is_derived() && change.dependencies().is_empty()) {
            return None;
        }
        let (seq, previous) = self.last.get(change.actor()).map_or((0, None), |(seq, hash)| (*seq, Some(*hash)));
        let mut expected = self.heads.clone();
        expected.extend(previous);
        expected.sort_unstable();
        expected.dedup();
        if change.dependencies() != expected || change.seq() != seq + 1 || change.start_op() != self.max_op + 1 {
            return None;
        }
        let (actors, ops) = change.ops().ok()?;
        let mut context = Context { change, actors: &actors, ops: &ops, id: OpId::default() };
        for (counter, op) in (change.start_op()..).zip(ops.all()) {
            context.id = OpId { counter: u32::try_from(counter).ok()?, actor: change.actor().as_bytes() };
            self.take(&context, op)?;
        }
        self.heads.clear();
        self.updated = self.updated.max(change.stamp());
        self.note(change);
        Some(())
    }

    fn note(&mut self, change: &'a Change) {
        self.heads.push(change.hash());
        self.max_op = self.max_op.max(change.max_op());
        self.last.insert(change.actor(), (change.seq(), change.hash()));
    }

    fn take(&mut self, context: &Context<'a, '_>, op: &Op) -> Option<()> {
        match op.object {
            Some(object) => {
                let id = context.op_id(object)?;
                self.born.iter_mut().find(|born| born.id == id)?.take(context, op)
            }
            None => {
                let key = context.key(op)?;
                match self.born.iter_mut().find(|born| born.key == key) {
                    Some(born) => born.increment(context, op),
                    None => content::write(&mut self.root, key, context, op),
                }
            }
        }
    }
}

/// The change that is being read, and the op at hand.
struct Context<'a, 'o> {
    change: &'a Change,
    actors: &'o [&'a [u8]],
    ops: &'o Ops,
    id: OpId<'a>,
}

impl<'a> Context<'a, '_> {
    fn op_id(&self, name: OpName) -> Option<OpId<'a>> {
        let actor = self.actors.get(usize::try_from(name.actor).ok()?)?;
        Some(OpId { counter: name.counter, actor })
    }

    fn key(&self, op: &Op) -> Option<&'a str> {
        let Key::Text { at, length } = op.key else { return None };
        std::str::from_utf8(self.change.bytes().get(at..at + length)?).ok()
    }

    /// The one op that is replaced; `Some(None)` if there is none.
    fn replaced(&self, op: &Op) -> Option<Option<OpId<'a>>> {
        match self.ops.predecessors(op) {
            [] => Some(None),
            [only] => self.op_id(*only).map(Some),
            _ => None,
        }
    }

    /// What a put leaves. A counter that is no field's own is nothing plain.
    fn held(&self, op: &Op) -> Option<Held<'a>> {
        if op.action != Action::Put {
            return None;
        }
        Held::new(self.id, op.value.read(self.change.bytes())?, self.change.stamp())
    }
}
