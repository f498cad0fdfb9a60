//! What the people in front of the clients do: writes to all kinds of fields of few entities.

use anabranch_core::document::{Edit, Path, Step};
use anabranch_core::{CollectionName, EntityId, FieldName, Schema, SpaceName};
use anabranch_store::{StoreError, Write};
use serde_json::{Map, Value, json};

use crate::dice::Dice;
use crate::model::Effect;

const SCHEMA: &str = r#"
    version = 1
    [collections.folders.fields]
    title = { kind = "register" }
    parent = { kind = "reference", to = "folders", parent = true }
    [collections.notes]
    deletion = "delete_wins"
    [collections.notes.fields]
    title = { kind = "register" }
    rank = { kind = "register", policy = "causal" }
    body = { kind = "text" }
    stars = { kind = "counter" }
    tags = { kind = "set" }
    items = { kind = "list" }
    extra = { kind = "map" }
    folder = { kind = "reference", to = "folders", parent = true }
"#;

/// Entities of a space, as far as one client has them, beyond which it makes no more.
const POOL: usize = 6;

pub(crate) fn schema() -> Schema {
    Schema::from_toml(SCHEMA).expect("the workload's schema is sound")
}

/// One intended write.
#[derive(Clone, Debug)]
pub(crate) enum Intent {
    /// Makes an entity.
    Create { space: SpaceName, collection: CollectionName, id: Option<EntityId> },
    /// Changes one.
    Edit { space: SpaceName, id: EntityId, collection: CollectionName },
    /// Deletes one.
    Delete { space: SpaceName, id: EntityId },
    /// Brings one back.
    Restore { space: SpaceName, id: EntityId },
}

impl Intent {
    pub(crate) const fn space(&self) -> &SpaceName {
        match self {
            Self::Create { space, .. }
            | Self::Edit { space, .. }
            | Self::Delete { space, .. }
            | Self::Restore { space, .. } => space,
        }
    }
}

/// Chooses a write, given what is there.
pub(crate) fn choose(
    dice: &mut Dice,
    spaces: &[SpaceName],
    known: &[(SpaceName, EntityId, CollectionName)],
) -> Option<Intent> {
    let space = dice.one_of(spaces)?.clone();
    let here: Vec<_> = known.iter().filter(|(of, ..)| *of == space).collect();
    if here.len() < POOL && (here.is_empty() || dice.once_in(5)) {
        let name = if dice.once_in(3) { "folders" } else { "notes" };
        let collection = name_of(name);
        // Ids that several replicas make up independently are the hard case.
        let id = dice.once_in(3).then(|| EntityId::named(&collection, ["a", "b"][dice.below(2)]));
        let taken = id.is_some_and(|id| here.iter().any(|(_, other, _)| *other == id));
        return (!taken).then_some(Intent::Create { space, collection, id });
    }
    let (_, id, collection) = dice.one_of(&here)?;
    let id = *id;
    Some(match dice.below(14) {
        0 => Intent::Delete { space, id },
        1 => Intent::Restore { space, id },
        _ => Intent::Edit { space, id, collection: collection.clone() },
    })
}

/// Carries out a write inside a transaction. Returns its effect, and whether it changed anything for sure.
pub(crate) fn carry_out(
    write: &mut Write<'_>,
    dice: &mut Dice,
    intent: &Intent,
    folders: &[(SpaceName, EntityId)],
) -> Result<Option<Effect>, StoreError> {
    match intent {
        Intent::Create { space, collection, id } => {
            let (fields, effect) = first_fields(dice, collection, space, folders);
            write.create(space, collection, *id, &fields)?;
            Ok(Some(effect))
        }
        Intent::Edit { space, id, collection } => {
            let state = write.state(space, *id)?;
            let (edits, effect) = edits(dice, &state.fields, collection, space, folders);
            Ok(write.edit(space, *id, &edits)?.then_some(effect))
        }
        Intent::Delete { space, id } => write.delete(space, *id).map(|_| None),
        Intent::Restore { space, id } => write.restore(space, *id).map(|()| None),
    }
}

fn first_fields(
    dice: &mut Dice,
    collection: &CollectionName,
    space: &SpaceName,
    folders: &[(SpaceName, EntityId)],
) -> (Map<String, Value>, Effect) {
    let mut fields = Map::new();
    let mut effect = Effect::default();
    fields.insert("title".to_owned(), word(dice));
    let parent = a_folder(dice, space, folders);
    if collection.as_str() == "folders" {
        if dice.once_in(2) {
            fields.extend(parent.map(|id| ("parent".to_owned(), id)));
        }
        return (fields, effect);
    }
    if dice.once_in(2) {
        fields.extend(parent.map(|id| ("folder".to_owned(), id)));
    }
    if dice.once_in(2) {
        effect.increment = i64::try_from(dice.below(9)).unwrap_or(0) + 1;
        fields.insert("stars".to_owned(), effect.increment.into());
    }
    if dice.once_in(2) {
        effect.characters = 5;
        fields.insert("body".to_owned(), "hello".into());
    }
    if dice.once_in(2) {
        effect.elements = 2;
        fields.insert("items".to_owned(), json!([1, 2]));
    }
    if dice.once_in(2) {
        fields.insert("tags".to_owned(), json!(["t0"]));
    }
    (fields, effect)
}

fn edits(
    dice: &mut Dice,
    state: &Map<String, Value>,
    collection: &CollectionName,
    space: &SpaceName,
    folders: &[(SpaceName, EntityId)],
) -> (Vec<Edit>, Effect) {
    let mut effect = Effect::default();
    let fields: &[&str] = if collection.as_str() == "folders" {
        &["title", "parent"]
    } else {
        &["title", "rank", "body", "stars", "tags", "items", "extra", "folder"]
    };
    let start = dice.below(fields.len());
    let count = 1 + dice.below(3).min(fields.len() - 1);
    let chosen = (0..count).map(|step| fields[(start + step) % fields.len()]);
    let edits = chosen.filter_map(|name| edit(dice, name, state.get(name), space, folders, &mut effect)).collect();
    (edits, effect)
}

fn edit(
    dice: &mut Dice,
    name: &str,
    value: Option<&Value>,
    space: &SpaceName,
    folders: &[(SpaceName, EntityId)],
    effect: &mut Effect,
) -> Option<Edit> {
    let field = FieldName::new(name).ok()?;
    let length = match value {
        Some(Value::String(text)) => text.chars().count(),
        Some(Value::Array(items)) => items.len(),
        _ => 0,
    };
    Some(match name {
        "title" | "rank" => Edit::Set { field, value: word(dice) },
        "parent" | "folder" => Edit::Set { field, value: a_folder(dice, space, folders).unwrap_or(Value::Null) },
        "stars" => {
            let by = i64::try_from(dice.below(20)).unwrap_or(0) - 8;
            effect.increment += by;
            Edit::Increment { field, by }
        }
        "body" => {
            let at = dice.below(length + 1);
            let insert: String = ["", "é", "abc", "🌊 wave"][dice.below(4)].to_owned();
            effect.characters += insert.chars().count();
            Edit::Splice { field, at, delete: dice.below(4).min(length - at), insert }
        }
        "tags" => {
            let member = json!(format!("t{}", dice.below(4)));
            if dice.once_in(2) { Edit::Remove { field, member } } else { Edit::Add { field, member } }
        }
        "items" => match dice.below(4) {
            0 if length > 0 => Edit::Delete { field, path: index(dice.below(length)) },
            1 if length > 0 => Edit::Put { field, path: index(dice.below(length)), value: nested(dice) },
            _ => {
                effect.elements += 1;
                Edit::Insert { field, path: Path::default(), at: dice.below(length + 1), values: vec![nested(dice)] }
            }
        },
        _ => {
            let path = Path(vec![Step::Key(format!("k{}", dice.below(3)))]);
            if dice.once_in(4) { Edit::Delete { field, path } } else { Edit::Put { field, path, value: nested(dice) } }
        }
    })
}

fn index(at: usize) -> Path {
    Path(vec![Step::Index(at)])
}

fn word(dice: &mut Dice) -> Value {
    match dice.below(6) {
        0 => Value::Null,
        1 => json!(dice.below(3)),
        2 => json!(true),
        3 => json!(1.5),
        _ => json!(format!("word {}", dice.below(50))),
    }
}

fn nested(dice: &mut Dice) -> Value {
    match dice.below(4) {
        0 => json!({ "a": [dice.below(9), "x"], "b": {} }),
        1 => json!([dice.below(9)]),
        _ => word(dice),
    }
}

fn a_folder(dice: &mut Dice, space: &SpaceName, folders: &[(SpaceName, EntityId)]) -> Option<Value> {
    let here: Vec<_> = folders.iter().filter(|(of, _)| of == space).collect();
    dice.one_of(&here).map(|(_, id)| Value::String(id.to_string()))
}

fn name_of(name: &str) -> CollectionName {
    CollectionName::new(name).expect("the workload's collections have good names")
}
