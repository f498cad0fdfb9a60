//! What the entities must show, worked out from the server's log alone: the policies, deletions, rules and
//! references of the workload's schema, in plain words.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use anabranch_core::{EntityId, SpaceName};
use automerge::{Automerge, Change, ChangeHash, ObjId, ROOT, ReadDoc as _, ScalarValue};
use serde_json::{Map, Value, json};

use crate::failure::{Failure, broken, ensure};
use crate::file::{self, Conflict, Entity};
use crate::log::Log;
use crate::model::{Item as Stored, hash_of};

/// The registers and references of each collection, with their policies.
const SLOTS: [(&str, &[(&str, &str)]); 3] = [
    ("folders", &[("title", "lww"), ("due", "manual"), ("parent", "lww"), ("owner", "lww")]),
    (
        "notes",
        &[
            ("title", "lww"),
            ("rank", "causal"),
            ("first", "first_writer"),
            ("high", "max"),
            ("cover", "max"),
            ("low", "min"),
            ("due", "manual"),
            ("best", "custom"),
            ("folder", "lww"),
            ("shelf", "manual"),
            ("friend", "lww"),
        ],
    ),
    ("drafts", &[("title", "lww"), ("mood", "lww")]),
];
/// The references that are flagged if what they name is deleted.
const GUARDED: [&str; 5] = ["parent", "owner", "folder", "shelf", "friend"];

/// What one visible op put into a slot.
struct Held {
    value: Value,
    stamp: i64,
    op: (u64, Vec<u8>),
    resolution: bool,
}

/// The document of one entity, and its changes by hash.
struct Case {
    document: Automerge,
    changes: HashMap<ChangeHash, Change>,
}

/// A conflict as far as it is judged: kind, field, and whether it is open.
type Item = (String, String, bool);

/// What intruders have brought into the log.
#[derive(Clone, Copy)]
pub(crate) struct Forged<'a> {
    /// Changes that no replica has taken.
    pub(crate) refused: &'a BTreeSet<Stored>,
    /// The entities of those that all have taken: what these make of them is compared between the clients only.
    pub(crate) tainted: &'a BTreeSet<(SpaceName, EntityId)>,
}

/// Compares what is shown with what the log says.
pub(crate) fn judge(
    log: &Log,
    entities: &[Entity],
    conflicts: &[Conflict],
    version: u32,
    forged: Forged<'_>,
) -> Result<(), Failure> {
    // What the newest schema in use allows, which all have by now.
    let longest = if version > 1 { 8 } else { 6 };
    let mut cases = cases(log, forged.refused)?;
    let deleted: BTreeSet<(&SpaceName, EntityId)> =
        entities.iter().filter(|entity| entity.deleted).map(|entity| (&entity.space, entity.id)).collect();
    let is_judged = |entity: &&Entity| !entity.purged && !forged.tainted.contains(&(entity.space.clone(), entity.id));
    for entity in entities.iter().filter(is_judged) {
        let Some(case) = cases.remove(&(entity.space.clone(), entity.id)) else {
            return Err(Failure::new(format!("entity {} is not in the log", entity.id)));
        };
        let state: Map<String, Value> = serde_json::from_str(&entity.state).map_err(broken("a state is not JSON"))?;
        let collection = entity.collection.as_str();
        let is_deleted = case.is_deleted(collection == "notes");
        ensure(is_deleted == entity.deleted, || {
            format!("entity {} is shown as deleted: {}, and should not be", entity.id, entity.deleted)
        })?;
        let mut expected = BTreeSet::new();
        for (name, policy) in SLOTS.iter().find(|(name, _)| *name == collection).map_or(&[][..], |(_, slots)| *slots) {
            let (value, contest) = case.settle(name, policy)?;
            let shown = state.get(*name).cloned().unwrap_or_default();
            ensure(shown == value, || format!("entity {}: {name} shows {shown}, not {value}", entity.id))?;
            expected.extend(contest.map(|open| ("values".to_owned(), (*name).to_owned(), open)));
        }
        let target = |name: &str| state.get(name).and_then(Value::as_str).and_then(|id| id.parse().ok());
        for name in GUARDED {
            let gone = target(name).is_some_and(|id| deleted.contains(&(&entity.space, id)));
            expected.extend(gone.then(|| ("orphan".to_owned(), name.to_owned(), true)));
        }
        if collection == "notes" {
            let too_long =
                state.get("title").and_then(Value::as_str).is_some_and(|title| title.chars().count() > longest);
            let too_many = state.get("stars").and_then(Value::as_i64).is_some_and(|stars| stars > 20);
            expected.extend(too_long.then(|| ("rule".to_owned(), "title".to_owned(), true)));
            expected.extend(too_many.then(|| ("rule".to_owned(), "stars".to_owned(), true)));
        }
        if is_deleted {
            expected.clear();
        }
        let found = listed(entity, conflicts);
        ensure(found == expected, || format!("entity {} lists {found:?}, not {expected:?}", entity.id))?;
    }
    Ok(())
}

/// The conflicts of an entity but those inside lists and maps, which are compared between the clients only.
fn listed(entity: &Entity, conflicts: &[Conflict]) -> BTreeSet<Item> {
    let own = conflicts.iter().filter(|conflict| (&conflict.space, conflict.id) == (&entity.space, entity.id));
    let whole = own.filter(|conflict| !conflict.field.contains('.'));
    whole.map(|conflict| (conflict.kind.clone(), conflict.field.clone(), conflict.open)).collect()
}

fn cases(log: &Log, refused: &BTreeSet<Stored>) -> Result<BTreeMap<(SpaceName, EntityId), Case>, Failure> {
    let mut cases = BTreeMap::new();
    for (space, rows) in log.spaces() {
        for row in rows.iter().filter(|row| !file::is_marker(row.offered.change.bytes())) {
            let bytes = row.offered.change.bytes();
            if refused.contains(&(space.clone(), row.offered.entity, hash_of(bytes))) {
                continue;
            }
            let change = Change::from_bytes(bytes.to_vec()).map_err(broken("reading a stored change"))?;
            let case = cases
                .entry((space.clone(), row.offered.entity))
                .or_insert_with(|| Case { document: Automerge::new(), changes: HashMap::new() });
            case.changes.insert(change.hash(), change);
        }
    }
    for case in cases.values_mut() {
        let changes: Vec<_> = case.changes.values().cloned().collect();
        case.document.apply_changes(changes).map_err(broken("applying stored changes"))?;
    }
    Ok(cases)
}

impl Case {
    /// The slot's value, and whether the contest for it is open, if there is one.
    fn settle(&self, name: &str, policy: &str) -> Result<(Value, Option<bool>), Failure> {
        let ops = self.document.get_all(ROOT, name).map_err(broken("reading a slot"))?;
        let mut held = Vec::new();
        for (value, id) in ops {
            let ObjId::Id(counter, actor, _) = &id else { continue };
            let Some(change) = self.wrote(*counter, actor) else {
                return Err(Failure::new(format!("nobody wrote an op of {name}")));
            };
            held.push(Held {
                value: value.as_scalar().map_or(Value::Null, plain),
                stamp: change.timestamp(),
                op: (*counter, actor.to_bytes().to_vec()),
                resolution: change.message().is_some_and(|message| message.ends_with("$resolve")),
            });
        }
        match policy {
            "first_writer" => held.sort_by_key(|one| (one.stamp, one.op.clone())),
            "causal" => held.sort_by_key(|one| Reverse(one.op.clone())),
            "max" => held.sort_by_key(|one| Reverse((rank(&one.value), one.op.clone()))),
            // The smallest value, but still the greatest op.
            "min" => held.sort_by_key(|one| (rank(&one.value), Reverse(one.op.clone()))),
            _ => held.sort_by_key(|one| Reverse((one.stamp, one.op.clone()))),
        }
        let Some(first) = held.first() else { return Ok((Value::Null, None)) };
        let contested = held.iter().any(|one| one.value != first.value);
        let open = policy == "manual" && held.iter().any(|one| !one.resolution);
        let value = match policy {
            "custom" if held.len() > 1 => held.iter().map(|one| one.value.clone()).collect(),
            _ => first.value.clone(),
        };
        Ok((value, contested.then_some(open)))
    }

    /// The change that holds an op.
    fn wrote(&self, counter: u64, actor: &automerge::ActorId) -> Option<&Change> {
        self.changes
            .values()
            .find(|change| change.actor_id() == actor && (change.start_op().get()..=change.max_op()).contains(&counter))
    }

    /// Somebody has deleted it and, unless deletions win, nobody has edited it without knowing of that.
    fn is_deleted(&self, deletions_win: bool) -> bool {
        let ops = self.document.get_all(ROOT, "$deleted").unwrap_or_default();
        let deletions: Vec<ChangeHash> = ops
            .iter()
            .filter(|(value, _)| !value.as_scalar().is_none_or(ScalarValue::is_null))
            .filter_map(|(_, id)| match id {
                ObjId::Id(counter, actor, _) => self.wrote(*counter, actor).map(Change::hash),
                ObjId::Root => None,
            })
            .collect();
        if deletions.is_empty() || deletions_win {
            return !deletions.is_empty();
        }
        let seen: Vec<HashSet<ChangeHash>> = deletions.iter().map(|deletion| self.past(*deletion)).collect();
        self.changes.values().filter(|change| !is_genesis(change)).all(|change| {
            let hash = change.hash();
            let deleted = seen.iter().any(|past| past.contains(&hash));
            deleted || {
                let past = self.past(hash);
                deletions.iter().all(|deletion| past.contains(deletion))
            }
        })
    }

    /// A change and all that it builds on.
    fn past(&self, hash: ChangeHash) -> HashSet<ChangeHash> {
        let (mut past, mut open) = (HashSet::new(), vec![hash]);
        while let Some(hash) = open.pop() {
            if past.insert(hash) {
                open.extend(self.changes.get(&hash).into_iter().flat_map(|change| change.deps().to_vec()));
            }
        }
        past
    }
}

fn is_genesis(change: &Change) -> bool {
    change.timestamp() == 0 && change.deps().is_empty() && change.actor_id().to_bytes().first() == Some(&0xA7)
}

/// A scalar as JSON; arrays and objects are in bytes that begin with 1.
fn plain(scalar: &ScalarValue) -> Value {
    match scalar {
        ScalarValue::Boolean(flag) => json!(flag),
        ScalarValue::Str(text) => json!(text.as_str()),
        ScalarValue::Int(number) => json!(number),
        ScalarValue::Uint(number) => json!(number),
        ScalarValue::F64(number) => json!(number),
        ScalarValue::Bytes(bytes) => serde_json::from_slice(bytes.get(1..).unwrap_or_default()).unwrap_or_default(),
        _ => Value::Null,
    }
}

/// The order of the workload's values: null, then booleans, small numbers, strings, and arrays.
fn rank(value: &Value) -> (u8, i64, String) {
    match value {
        Value::Null => (0, 0, String::new()),
        Value::Bool(flag) => (1, i64::from(*flag), String::new()),
        Value::Number(_) => (2, value.as_i64().map_or(3, |number| number * 2), value.to_string()),
        Value::String(text) => (3, 0, text.clone()),
        other => (4, 0, other.to_string()),
    }
}
