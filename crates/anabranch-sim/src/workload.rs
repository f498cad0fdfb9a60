//! What the people in front of the clients do: writes to all kinds of fields of few entities, under all policies,
//! and what they decide about the outcome.

mod edits;

use std::sync::atomic::{AtomicUsize, Ordering};

use anabranch_core::document::{Choice, Page};
use anabranch_core::{CollectionName, Digest, EntityId, Functions, Heads, Schema, SpaceName, Stamp};
use anabranch_store::{Mine, StoreError, Write};
use serde_json::{Map, Value, json};

use crate::bug::{Bug, Planted};
use crate::dice::Dice;
use crate::model::Effect;

pub(crate) use edits::Targets;

/// Only drafts are purged, and they are in no transaction: one that has lost a part to a purge is refused, and
/// waits for a person.
const SCHEMA: &str = r#"
    version = 1
    [collections.folders.fields]
    title = { kind = "register" }
    due = { kind = "register", policy = "manual" }
    parent = { kind = "reference", to = "folders", parent = true }
    owner = { kind = "reference", to = "folders", on_delete = "restrict" }
    [collections.notes]
    deletion = "delete_wins"
    [collections.notes.fields]
    title = { kind = "register", max_length = 6 }
    rank = { kind = "register", policy = "causal" }
    first = { kind = "register", policy = "first_writer" }
    high = { kind = "register", policy = "max" }
    low = { kind = "register", policy = "min" }
    due = { kind = "register", policy = "manual" }
    best = { kind = "register", policy = { custom = "all", version = 1 } }
    body = { kind = "text" }
    stars = { kind = "counter", max = 20 }
    tags = { kind = "set" }
    items = { kind = "list" }
    extra = { kind = "map", policy = "manual" }
    folder = { kind = "reference", to = "folders", parent = true }
    shelf = { kind = "reference", to = "folders", policy = "manual", on_delete = "nullify" }
    friend = { kind = "reference", to = "notes", on_delete = "cascade" }
    [collections.drafts.fields]
    title = { kind = "register" }
    body = { kind = "text" }
    stars = { kind = "counter" }
"#;

/// What the next version of the application adds and changes.
const NEXT: [(&str, &str); 4] = [
    ("version = 1\n    [", "version = 2\n    ["),
    ("max_length = 6", "max_length = 8"),
    ("    shelf = ", "    cover = { kind = \"register\", policy = \"max\" }\n    shelf = "),
    ("[collections.drafts.fields]", "[collections.drafts.fields]\n    mood = { kind = \"register\" }"),
];

/// Entities of a space, as far as one client has them, beyond which it makes no more.
const POOL: usize = 7;

/// The schema of clients of version 1 or 2; with a planted bug, another than the one that the checkers judge by.
pub(crate) fn schema(version: u32, planted: Planted) -> Schema {
    let mut text = SCHEMA.to_owned();
    for (old, new) in NEXT.iter().filter(|_| version > 1) {
        text = text.replace(old, new);
    }
    if planted.is(Bug::SettleOtherwise) {
        text = text.replace("\"max\"", "\"greatest\"").replace("\"min\"", "\"max\"").replace("\"greatest\"", "\"min\"");
    }
    if planted.is(Bug::DeleteOtherwise) {
        text = text.replace("delete_wins", "edit_wins");
    }
    if planted.is(Bug::FlagNoOrphans) {
        text = text.replace(", parent = true", "");
    }
    Schema::from_toml(&text).expect("the workload's schema is sound")
}

/// What the schema names: a policy that shows all values, in the order in which it is given them.
pub(crate) fn functions(planted: Planted) -> Functions {
    let mut functions = Functions::default();
    let looks = AtomicUsize::new(0);
    functions.policy("all", 1, move |all| {
        let mut values: Vec<Value> = all.iter().map(|one| one.value.clone()).collect();
        if planted.is(Bug::SettleByArrival) && !values.is_empty() {
            let turn = looks.fetch_add(1, Ordering::Relaxed) % values.len();
            values.rotate_left(turn);
        }
        values.into()
    });
    functions
}

/// One intended write.
#[derive(Clone, Debug)]
pub(crate) enum Intent {
    /// Makes an entity.
    Create { space: SpaceName, collection: CollectionName, id: Option<EntityId> },
    /// Changes one.
    Edit { space: SpaceName, id: EntityId, collection: CollectionName },
    /// Settles a conflict.
    Resolve { space: SpaceName, id: EntityId, conflict: Digest },
    /// Takes an edit of one's own back, or takes that back.
    Undo { space: SpaceName, id: EntityId, again: bool },
    /// Brings in another system's edit of its copy.
    Import { space: SpaceName, id: EntityId },
    /// Deletes one.
    Delete { space: SpaceName, id: EntityId },
    /// Brings one back.
    Restore { space: SpaceName, id: EntityId },
    /// Asks for a deleted one's history to go for good.
    Purge { space: SpaceName, id: EntityId },
}

impl Intent {
    pub(crate) const fn space(&self) -> &SpaceName {
        match self {
            Self::Create { space, .. }
            | Self::Edit { space, .. }
            | Self::Resolve { space, .. }
            | Self::Undo { space, .. }
            | Self::Import { space, .. }
            | Self::Delete { space, .. }
            | Self::Restore { space, .. }
            | Self::Purge { space, .. } => space,
        }
    }

    /// Whether it cannot be told from outside how many changes it makes.
    pub(crate) const fn is_uncertain(&self) -> bool {
        // Undoing a creation deletes, and what a deletion takes along follows.
        matches!(self, Self::Undo { .. } | Self::Delete { .. } | Self::Restore { .. } | Self::Purge { .. })
    }

    /// Whether it can be a part of a transaction.
    pub(crate) fn joins(&self) -> bool {
        match self {
            Self::Create { collection, .. } | Self::Edit { collection, .. } => collection.as_str() != "drafts",
            _ => false,
        }
    }
}

/// What there is to choose from.
pub(crate) struct Known<'a> {
    pub(crate) spaces: &'a [SpaceName],
    pub(crate) entities: &'a [(SpaceName, EntityId, CollectionName)],
    pub(crate) conflicts: &'a [(SpaceName, EntityId, Digest)],
    /// Deleted drafts that are on the server; none if this run purges nothing.
    pub(crate) purgeable: &'a [(SpaceName, EntityId)],
}

/// Chooses a write, given what is there.
pub(crate) fn choose(dice: &mut Dice, known: &Known<'_>) -> Option<Intent> {
    let space = dice.one_of(known.spaces)?.clone();
    let here: Vec<_> = known.entities.iter().filter(|(of, ..)| *of == space).collect();
    if here.len() < POOL && (here.is_empty() || dice.once_in(5)) {
        let collection = name_of(["folders", "notes", "notes", "drafts"][dice.below(4)]);
        // Ids that several replicas make up independently are the hard case.
        let id = dice.once_in(3).then(|| EntityId::named(&collection, ["a", "b"][dice.below(2)]));
        let taken = id.is_some_and(|id| here.iter().any(|(_, other, _)| *other == id));
        return (!taken).then_some(Intent::Create { space, collection, id });
    }
    let conflicts: Vec<_> = known.conflicts.iter().filter(|(of, ..)| *of == space).collect();
    if dice.once_in(5)
        && let Some((_, id, conflict)) = dice.one_of(&conflicts)
    {
        return Some(Intent::Resolve { space, id: *id, conflict: *conflict });
    }
    if dice.once_in(2)
        && let Some((space, id)) = dice.one_of(known.purgeable)
    {
        return Some(Intent::Purge { space: space.clone(), id: *id });
    }
    let (_, id, collection) = dice.one_of(&here)?;
    let id = *id;
    let is_draft = collection.as_str() == "drafts";
    Some(match dice.below(20) {
        0 => Intent::Delete { space, id },
        1 => Intent::Restore { space, id },
        2 => Intent::Undo { space, id, again: false },
        3 => Intent::Undo { space, id, again: true },
        4 => Intent::Import { space, id },
        5..=6 if is_draft => Intent::Delete { space, id },
        _ => Intent::Edit { space, id, collection: collection.clone() },
    })
}

/// Carries out a write inside a transaction. Returns the effect of the first change that it made, if it made one for
/// sure.
pub(crate) fn carry_out(
    write: &mut Write<'_>,
    dice: &mut Dice,
    intent: &Intent,
    targets: &Targets,
) -> Result<Option<Effect>, StoreError> {
    match intent {
        Intent::Create { space, collection, id } => {
            let (fields, effect) = edits::first_fields(dice, collection, targets);
            write.create(space, collection, *id, &fields)?;
            Ok(Some(effect))
        }
        Intent::Edit { space, id, collection } => {
            let state = write.state(space, *id)?;
            let (edits, effect) = edits::edits(dice, &state.fields, collection, targets);
            Ok(write.edit(space, *id, &edits)?.then_some(effect))
        }
        Intent::Resolve { space, id, conflict } => {
            let choice = if dice.once_in(3) { Choice::Value(Value::Null) } else { Choice::This(dice.below(2)) };
            write.resolve(space, *id, conflict, &choice)?;
            Ok(Some(Effect::default()))
        }
        Intent::Undo { space, id, again } => {
            let mine = [Mine::Session, Mine::Replica][dice.below(2)];
            measured(write, space, *id, |write| match again {
                true => write.redo(space, *id, mine),
                false => write.undo(space, *id, mine),
            })
        }
        Intent::Import { space, id } => measured(write, space, *id, |write| import(write, dice, space, *id)),
        Intent::Delete { space, id } => write.delete(space, *id).map(|_| None),
        Intent::Restore { space, id } => write.restore(space, *id).map(|()| None),
        Intent::Purge { space, id } => write.purge(space, *id).map(|()| None),
    }
}

/// Does something whose effect is seen only afterwards.
fn measured(
    write: &mut Write<'_>,
    space: &SpaceName,
    id: EntityId,
    work: impl FnOnce(&mut Write<'_>) -> Result<bool, StoreError>,
) -> Result<Option<Effect>, StoreError> {
    let before = write.state(space, id)?.fields;
    if !work(write)? {
        return Ok(None);
    }
    let after = write.state(space, id)?.fields;
    let stars = |fields: &Map<String, Value>| fields.get("stars").and_then(Value::as_i64).unwrap_or(0);
    Ok(Some(Effect {
        increment: stars(&after) - stars(&before),
        // No more than this can have been inserted.
        characters: after.get("body").and_then(Value::as_str).map_or(0, |text| text.chars().count()),
        elements: after.get("items").and_then(Value::as_array).map_or(0, Vec::len),
    }))
}

/// The other system had the entity as of some point of its history, and has changed two fields since.
fn import(write: &mut Write<'_>, dice: &mut Dice, space: &SpaceName, id: EntityId) -> Result<bool, StoreError> {
    let history = write.history(space, id, Page { before: None, limit: 6 })?;
    let Some(entry) = dice.one_of(&history) else { return Ok(false) };
    let base = Heads::new(vec![entry.hash]);
    let body = write.state_at(space, id, &base)?.fields;
    let mut remote = body.clone();
    remote.insert("title".to_owned(), json!(["far", "off", ""][dice.below(3)]));
    if remote.contains_key("stars") {
        remote.insert("stars".to_owned(), json!(dice.below(9)));
    }
    let stamp = Stamp::at(1 + i64::try_from(dice.below(3)).unwrap_or(0) * 900_000_000_000);
    write.import(space, id, &base, &body, &remote, stamp)
}

fn name_of(name: &str) -> CollectionName {
    CollectionName::new(name).expect("the workload's collections have good names")
}
