//! What people do, drawn from dice, whatever the schema.

use anabranch_core::document::{Choice, Edit, Page, Path, State, Step};
use anabranch_core::{CollectionName, EntityId, Field, FieldName, Heads, Kind, Schema, SpaceName, Stamp};
use anabranch_sim::Dice;
use anabranch_store::{Conflict, ConflictKind, Mine, StoreError, Write};
use serde_json::{Map, Value, json};

/// A local write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Create,
    Edit,
    /// Edits of several entities that stand or fall together.
    Transaction,
    Resolve,
    Delete,
    Restore,
    Undo,
    Redo,
    Import,
}

pub(crate) const ACTS: [Act; 9] = [
    Act::Create,
    Act::Edit,
    Act::Transaction,
    Act::Resolve,
    Act::Delete,
    Act::Restore,
    Act::Undo,
    Act::Redo,
    Act::Import,
];

/// What there is to choose from.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) space: SpaceName,
    pub(crate) entities: Vec<(EntityId, CollectionName)>,
    pub(crate) conflicts: Vec<Conflict>,
}

impl Known {
    fn one(&self, dice: &mut Dice) -> Option<(EntityId, CollectionName)> {
        dice.one_of(&self.entities).cloned()
    }

    fn ids(&self, collection: &str) -> Vec<EntityId> {
        self.entities.iter().filter(|(_, of)| of.as_str() == collection).map(|(id, _)| *id).collect()
    }
}

/// Carries out an act inside a write.
pub(crate) fn carry_out(write: &mut Write<'_>, act: Act, dice: &mut Dice, known: &Known) -> Result<(), StoreError> {
    if act == Act::Create {
        return create(write, dice, known);
    }
    let space = &known.space;
    let Some((id, _)) = known.one(dice) else { return Ok(()) };
    match act {
        Act::Create => Ok(()),
        Act::Edit => edit(write, dice, known, id),
        Act::Transaction => write.transaction(|write| {
            for _ in 0..=dice.below(3) {
                if dice.once_in(3) {
                    create(write, dice, known)?;
                }
                if let Some((id, _)) = known.one(dice) {
                    edit(write, dice, known, id)?;
                }
            }
            Ok(())
        }),
        Act::Resolve => {
            // Now and then one that is no choice between values, which is refused.
            let settles = |one: &&Conflict| one.kind == ConflictKind::Values || one.id.as_bytes()[0] < 32;
            let some: Vec<&Conflict> = known.conflicts.iter().filter(settles).collect();
            let Some(conflict) = dice.one_of(&some) else { return Ok(()) };
            let choice = match dice.below(3) {
                0 => Choice::Value(value(dice)),
                place => Choice::This(place - 1),
            };
            write.resolve(space, conflict.entity, &conflict.id, &choice)
        }
        Act::Delete => write.delete(space, id).map(drop),
        Act::Restore => write.restore(space, id),
        Act::Undo => write.undo(space, id, [Mine::Session, Mine::Replica][dice.below(2)]).map(drop),
        Act::Redo => write.redo(space, id, [Mine::Session, Mine::Replica][dice.below(2)]).map(drop),
        Act::Import => import(write, dice, known, id),
    }
}

fn create(write: &mut Write<'_>, dice: &mut Dice, known: &Known) -> Result<(), StoreError> {
    let schema = std::sync::Arc::clone(write.schema());
    let names: Vec<_> = schema.collections.keys().cloned().collect();
    let name = if dice.once_in(2) { &names[1] } else { &names[dice.below(names.len())] };
    let mut fields = Map::new();
    for (field, definition) in &schema.collections[name].fields {
        if definition.rules.required || definition.rules.min_length.is_some() || dice.once_in(3) {
            fields.insert(field.to_string(), content(dice, definition, known));
        }
    }
    // Ids that several make up independently are the hard case.
    let id = dice.once_in(2).then(|| EntityId::named(name, ["x", "y"][dice.below(2)]));
    write.create(&known.space, name, id, &fields).map(drop)
}

fn edit(write: &mut Write<'_>, dice: &mut Dice, known: &Known, id: EntityId) -> Result<(), StoreError> {
    let state = write.state(&known.space, id)?;
    let schema = std::sync::Arc::clone(write.schema());
    let edits: Vec<Edit> = (0..=dice.below(2)).filter_map(|_| an_edit(dice, &schema, &state, known)).collect();
    write.edit(&known.space, id, &edits).map(drop)
}

fn an_edit(dice: &mut Dice, schema: &Schema, state: &State, known: &Known) -> Option<Edit> {
    let collection = schema.collection(state.collection.as_ref()?.as_str())?;
    // Half of the time one of the first few, so that people meet.
    let among = if dice.once_in(2) { 3 } else { collection.fields.len() };
    let (name, field) = collection.fields.get_index(dice.below(among.min(collection.fields.len())))?;
    let current = state.fields.get(name.as_str());
    let name = name.clone();
    if dice.once_in(4) {
        return Some(Edit::Set { value: content(dice, field, known), field: name });
    }
    Some(match field.kind {
        Kind::Register | Kind::Reference => Edit::Set { value: content(dice, field, known), field: name },
        Kind::Counter => Edit::Increment { field: name, by: [1, -1, 3, -2][dice.below(4)] },
        Kind::Text => {
            let length = current.and_then(Value::as_str).map_or(0, |text| text.chars().count());
            let at = dice.below(length + 1);
            let insert = ["a", "bc", "é", "!", ""][dice.below(5)].to_owned();
            Edit::Splice { field: name, at, delete: dice.below(3).min(length - at), insert }
        }
        Kind::Set if dice.once_in(2) => Edit::Remove { field: name, member: member(dice) },
        Kind::Set => Edit::Add { field: name, member: member(dice) },
        Kind::List | Kind::Map => inside(dice, name, field.kind, current),
    })
}

/// An edit of a list or map, or of what is nested in it.
fn inside(dice: &mut Dice, field: FieldName, kind: Kind, current: Option<&Value>) -> Edit {
    let step = |dice: &mut Dice, value: Option<&Value>, kind: Kind| match (kind, value) {
        (Kind::List, Some(Value::Array(items))) => Step::from(dice.below(items.len().max(1))),
        (Kind::List, _) => Step::from(0),
        _ => Step::from(["k", "l"][dice.below(2)]),
    };
    let mut path = vec![step(dice, current, kind)];
    if dice.once_in(3) {
        path.push(if dice.once_in(2) { Step::from("k") } else { Step::from(0) });
    }
    let path = Path(path);
    match dice.below(5) {
        0 => Edit::Delete { field, path },
        1 => Edit::Assign { field, path, value: value(dice) },
        2 if kind == Kind::List => {
            let length = current.and_then(Value::as_array).map_or(0, Vec::len);
            Edit::Insert { field, path: Path::default(), at: dice.below(length + 1), values: vec![value(dice)] }
        }
        _ => Edit::Put { field, path, value: value(dice) },
    }
}

/// Another system has changed its copy, which it had as of some point of the entity's history.
fn import(write: &mut Write<'_>, dice: &mut Dice, known: &Known, id: EntityId) -> Result<(), StoreError> {
    let history = write.history(&known.space, id, Page { before: None, limit: 8 })?;
    let Some(entry) = dice.one_of(&history) else { return Ok(()) };
    let base = Heads::new(vec![entry.hash]);
    let body = write.state_at(&known.space, id, &base)?;
    let schema = std::sync::Arc::clone(write.schema());
    let collection = body.collection.as_ref().and_then(|name| schema.collection(name.as_str()));
    let mut remote = body.fields.clone();
    for _ in 0..=dice.below(2) {
        let Some(collection) = collection else { return Ok(()) };
        let Some((name, field)) = collection.fields.get_index(dice.below(collection.fields.len())) else { continue };
        remote.insert(name.to_string(), content(dice, field, known));
    }
    let stamp = Stamp::at(i64::try_from(dice.below(4)).unwrap_or(0) * 900_000_000_000);
    write.import(&known.space, id, &base, &body.fields, &remote, stamp).map(drop)
}

/// A whole field; most of the time one that its rules allow.
fn content(dice: &mut Dice, field: &Field, known: &Known) -> Value {
    let tries = if dice.once_in(10) { 1 } else { 12 };
    let mut drawn = (0..tries).map(|_| any_content(dice, field, known));
    let good = |value: &Value| field.rules.broken(Some(value), &Map::new()).is_none();
    let last = drawn.next().unwrap_or_default();
    if good(&last) { last } else { drawn.find(good).unwrap_or(last) }
}

fn any_content(dice: &mut Dice, field: &Field, known: &Known) -> Value {
    match field.kind {
        Kind::Register => value(dice),
        Kind::Reference => {
            let ids = field.to.as_ref().map(|to| known.ids(to.as_str())).unwrap_or_default();
            dice.one_of(&ids).map_or(Value::Null, |id| json!(id.to_string()))
        }
        Kind::Counter => json!(dice.below(9)),
        Kind::Text => json!(["", "text", "longer"][dice.below(3)]),
        Kind::Set => json!([member(dice)]),
        Kind::List => Value::Array((0..dice.below(3)).map(|_| value(dice)).collect()),
        Kind::Map => (0..dice.below(3)).map(|_| (["k", "l"][dice.below(2)].to_owned(), value(dice))).collect(),
    }
}

fn value(dice: &mut Dice) -> Value {
    let values = [
        json!(null),
        json!(1),
        json!(2),
        json!(12),
        json!(1.5),
        json!(true),
        json!("word"),
        json!("longer"),
        json!(["x", 1]),
        json!({ "k": 1 }),
        json!({ "k": { "k": "deep" }, "l": [] }),
    ];
    values[dice.below(values.len())].clone()
}

fn member(dice: &mut Dice) -> Value {
    [json!("t"), json!("u"), json!(1)][dice.below(3)].clone()
}
