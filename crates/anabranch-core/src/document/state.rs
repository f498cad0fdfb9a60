//! The state of an entity: a pure function of its changes and the schema.

use std::collections::{HashMap, HashSet};
use std::ops::RangeFull;

use automerge::{Automerge, ChangeHash, ObjType, ROOT, ReadDoc as _, ScalarValue, Value};
use serde_json::{Map, Value as Json, json};

use super::Document;
use super::contain::contained;
use super::edit::{Path, Step};
use super::error::DocumentError;
use super::genesis::{genesis, is_birth, is_genesis};
use super::resolve::Contender;
use super::slot::{Held, Reader, Source as _, held_at_root};
use super::value::canonical_json;
use super::{COLLECTION_KEY, DELETED_KEY};
use crate::id::Digest;
use crate::name::{CollectionName, FieldName};
use crate::schema::{Collection, Deletion, Field, Kind, Policy, Rule};
use crate::stamp::Stamp;

/// An entity as the application sees it.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct State {
    /// The entity's collection; `None` before the change that says so has arrived.
    pub collection: Option<CollectionName>,
    /// The fields that have a value. A field that was never written, or was cleared, is absent.
    pub fields: Map<String, Json>,
    /// Whether the entity is deleted.
    pub deleted: bool,
    /// When the entity was created.
    pub created: Stamp,
    /// When it was last written to.
    pub updated: Stamp,
    /// The slots in which several different values stand.
    pub contests: Vec<Contest>,
    /// The rules that the fields break.
    pub breaches: Vec<Breach>,
}

/// A slot in which concurrent writes left different values.
#[derive(Clone, Debug, PartialEq)]
pub struct Contest {
    /// The field.
    pub field: String,
    /// The way from the field to the slot; empty if the field itself is the slot.
    pub path: Path,
    /// Names the contest: the same on every replica, and another once a value has come or gone.
    pub id: Digest,
    /// The policy that it settled by.
    pub policy: Policy,
    /// Whether it waits for a person: the policy is [`Policy::Manual`], and not all values are resolutions.
    pub open: bool,
    /// The value that the state shows.
    pub value: Json,
    /// All values: first the winner's, then the others', best first.
    pub contenders: Vec<Contender>,
}

/// A rule that the entity breaks: a merge did it, or an older schema version did not have the rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Breach {
    /// The field.
    pub field: FieldName,
    /// The rule.
    pub rule: Rule,
}

impl Breach {
    /// Whether this is the same rule of the same field.
    pub(super) fn is_of(&self, other: &Self) -> bool {
        self.field == other.field && self.rule.name() == other.rule.name()
    }
}

impl Contest {
    /// The field and the path into it, for a person: `title`, `address.city`, `steps.3`.
    #[must_use]
    pub fn place(&self) -> String {
        let mut place = self.field.clone();
        for step in &self.path.0 {
            place.push('.');
            match step {
                Step::Key(key) => place.push_str(key),
                Step::Index(index) => place.push_str(&index.to_string()),
            }
        }
        place
    }
}

impl State {
    /// The whole state as canonical JSON: equal on two replicas exactly if their states are equal.
    #[must_use]
    pub fn to_canonical_json(&self) -> String {
        let contender = |contender: &Contender| {
            json!({
                "actor": contender.actor.to_string(),
                "stamp": contender.stamp.raw(),
                "value": contender.value,
            })
        };
        let contest = |contest: &Contest| {
            let contenders: Vec<_> = contest.contenders.iter().map(contender).collect();
            json!({ "contenders": contenders, "field": contest.place() })
        };
        canonical_json(&json!({
            "collection": self.collection.as_ref().map(CollectionName::as_str),
            "contests": self.contests.iter().map(contest).collect::<Vec<_>>(),
            "created": self.created.raw(),
            "deleted": self.deleted,
            "fields": self.fields,
            "updated": self.updated.raw(),
        }))
    }

    /// The digest of [`State::to_canonical_json`].
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(self.to_canonical_json().as_bytes())
    }

    /// Fills in the defaults, and lists the rules that are broken.
    pub(super) fn complete(&mut self, schema: &Collection) {
        for (name, field) in &schema.fields {
            if let Some(default) = field.default.as_ref().filter(|_| !self.fields.contains_key(name.as_str())) {
                self.fields.insert(name.to_string(), default.clone());
            }
        }
        if self.deleted {
            return;
        }
        for (name, field) in schema.fields.iter().filter(|(_, field)| !field.rules.is_empty()) {
            let broken = field.rules.broken(self.fields.get(name.as_str()), &self.fields);
            self.breaches.extend(broken.map(|rule| Breach { field: name.clone(), rule }));
        }
    }
}

impl Document {
    /// The entity's state under a schema's collection.
    ///
    /// Fields that the collection does not know (they come from a newer schema), and all fields if there is
    /// no collection, are shown by what the document tells of them, contested values settled as by
    /// [`Policy::Lww`].
    ///
    /// # Errors
    /// [`DocumentError::Poisoned`] if Automerge panicked, [`DocumentError::TooDeep`] if a foreign writer
    /// nested values deeper than [`MAX_DEPTH`](super::MAX_DEPTH).
    pub fn state(&self, collection: Option<&Collection>) -> Result<State, DocumentError> {
        self.sound()?;
        contained(|| self.read_state(collection))?
    }

    fn read_state(&self, schema: Option<&Collection>) -> Result<State, DocumentError> {
        let (collection, created) = self.birth()?.map_or((None, Stamp::ZERO), |(name, stamp)| (Some(name), stamp));
        let mut fields = Fields { collection: collection.as_ref(), reader: Reader::attentive(&self.automerge) };
        let mut values = Map::new();
        for item in self.automerge.map_range(ROOT, RangeFull) {
            let key = item.key.to_string();
            if key.starts_with('$') {
                continue;
            }
            let ops = match item.conflict {
                true => held_at_root(&self.automerge, &key)?,
                false => vec![Held { id: item.id(), value: item.value.into_value() }],
            };
            let (name, value) = match schema.and_then(|schema| Some((schema, schema.field_at(&key)?))) {
                Some((schema, (name, field))) => {
                    fields.reader.enter(name.as_str(), schema.policy_of(field), Some(field));
                    (name.to_string(), fields.known(&self.automerge, field.key_under(name), field, ops)?)
                }
                None => {
                    // A field of a newer schema may have the name that this one shows another under.
                    let taken = schema.is_some_and(|schema| schema.fields.contains_key(key.as_str()));
                    let name = if taken { format!("${key}") } else { key.clone() };
                    fields.reader.enter(&name, &Policy::Lww, None);
                    (name, fields.unknown(&key, ops)?)
                }
            };
            // A cleared register is as good as one that was never written.
            values.extend(value.filter(|value| !value.is_null()).map(|value| (name, value)));
        }
        let contests = fields.reader.into_contests();
        let deletion = schema.map_or_else(Deletion::default, |schema| schema.deletion);
        let deleted = self.is_deleted(deletion)?;
        let mut state = State {
            collection,
            fields: values,
            deleted,
            created,
            updated: self.updated,
            contests,
            breaches: Vec::new(),
        };
        if let Some(schema) = schema.filter(|_| state.collection.is_some()) {
            state.complete(schema);
        }
        Ok(state)
    }

    /// The collection, and when it was first written. Several replicas may create an entity of a well-known
    /// id; the earliest is the creator.
    pub(super) fn birth(&self) -> Result<Option<(CollectionName, Stamp)>, DocumentError> {
        let ops = held_at_root(&self.automerge, COLLECTION_KEY)?;
        let named = ops.into_iter().filter_map(|op| {
            let name = CollectionName::new(op.value.as_str()?).ok()?;
            Some((self.automerge.stamp_of(&op.id), op.id, name))
        });
        let first = named.min_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        Ok(first.map(|(stamp, _, name)| (name, stamp)))
    }

    /// Whether the entity is deleted, by its collection's policy.
    ///
    /// Under [`Deletion::EditWins`] it is if no edit stands beside its deletions. Whoever deletes, deletes what
    /// they have seen: an edit that one of the visible deletions has seen does not count, nor do deletions, so
    /// two people who delete at the same time do not bring the entity back.
    ///
    /// # Errors
    /// As [`Document::state`].
    pub fn is_deleted(&self, policy: Deletion) -> Result<bool, DocumentError> {
        let mut deletes = held_at_root(&self.automerge, DELETED_KEY)?;
        deletes.retain(|op| !op.is(&ScalarValue::Null));
        let deletes: Vec<_> = deletes.iter().filter_map(|op| self.automerge.hash_for_opid(&op.id)).collect();
        Ok(!deletes.is_empty() && (policy == Deletion::DeleteWins || !self.is_edited_beside(&deletes)))
    }

    /// Whether there is an edit that none of the deletions has seen, and that has not seen all of them. Geneses
    /// are nobody's edits.
    fn is_edited_beside(&self, deletes: &[ChangeHash]) -> bool {
        // Which of the deletions each change comes after.
        let mut after: HashMap<ChangeHash, HashSet<ChangeHash>> =
            deletes.iter().map(|delete| (*delete, HashSet::from([*delete]))).collect();
        self.automerge.get_changes_meta(deletes).iter().any(|change| {
            let known = change.deps.iter().filter_map(|dependency| after.get(dependency));
            let seen: HashSet<_> = known.flatten().copied().collect();
            let beside = seen.len() < deletes.len();
            after.insert(change.hash, seen);
            beside && !is_genesis(change)
        })
    }
}

/// Reads the fields at the root of a document.
struct Fields<'a> {
    collection: Option<&'a CollectionName>,
    reader: Reader<'a, Automerge>,
}

impl Fields<'_> {
    /// A field whose kind the schema tells; `key` is what documents hold it under.
    fn known(
        &mut self,
        automerge: &Automerge,
        key: &FieldName,
        field: &Field,
        mut ops: Vec<Held>,
    ) -> Result<Option<Json>, DocumentError> {
        if !field.kind.has_genesis() {
            ops.retain(|op| !is_birth(&op.value, &op.id));
            return self.register(ops);
        }
        let Some(collection) = self.collection else { return Ok(None) };
        let genesis = genesis(collection, key, field.kind)?;
        if field.kind == Kind::Counter {
            let born = ops.into_iter().find(|op| op.id == genesis.object);
            return born.map(|op| self.born(field.kind, &op)).transpose();
        }
        // By its id and not by its key: what else stands at the key does not matter.
        let hash = ChangeHash(*genesis.change.hash().as_bytes());
        if automerge.get_change_meta_by_hash(&hash).is_none() {
            return Ok(None);
        }
        let value = Value::Object(automerge.object_type(&genesis.object)?);
        let op = Held { value, id: genesis.object.clone() };
        self.born(field.kind, &op).map(Some)
    }

    /// A field that only the document tells of.
    fn unknown(&mut self, key: &str, ops: Vec<Held>) -> Result<Option<Json>, DocumentError> {
        let Some(op) = ops.iter().rfind(|op| is_birth(&op.value, &op.id)).cloned() else {
            return self.register(ops);
        };
        let is_set = match (self.collection, FieldName::new(key)) {
            (Some(collection), Ok(field)) => genesis(collection, &field, Kind::Set)?.object == op.id,
            _ => false,
        };
        let kind = match op.value {
            _ if is_set => Kind::Set,
            Value::Object(ObjType::Text) => Kind::Text,
            Value::Object(ObjType::List) => Kind::List,
            Value::Object(_) => Kind::Map,
            Value::Scalar(_) => Kind::Counter,
        };
        self.born(kind, &op).map(Some)
    }

    fn register(&mut self, ops: Vec<Held>) -> Result<Option<Json>, DocumentError> {
        Ok(self.reader.settle(ops, 0)?.map(|settled| settled.value))
    }

    /// The content of a container or counter.
    fn born(&mut self, kind: Kind, op: &Held) -> Result<Json, DocumentError> {
        match kind {
            Kind::Set => Ok(Json::Array(self.reader.set(&op.id))),
            _ => self.reader.value(&op.value, &op.id, 0),
        }
    }
}
