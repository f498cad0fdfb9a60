//! What the writes put into fields.

use anabranch_core::document::{Edit, Path, Step};
use anabranch_core::{CollectionName, EntityId, FieldName, SpaceName};
use serde_json::{Map, Value, json};

use crate::dice::Dice;
use crate::model::Effect;

/// The entities of a space that can be referred to: folders, and notes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Targets {
    pub(crate) folders: Vec<EntityId>,
    pub(crate) notes: Vec<EntityId>,
    /// The writer's schema has the fields of the next version.
    pub(crate) newer: bool,
}

impl Targets {
    pub(crate) fn of(known: &[(SpaceName, EntityId, CollectionName)], space: &SpaceName, newer: bool) -> Self {
        let of = |name: &str| {
            let here = known.iter().filter(|(of, _, collection)| of == space && collection.as_str() == name);
            here.map(|(_, id, _)| *id).collect()
        };
        Self { folders: of("folders"), notes: of("notes"), newer }
    }

    fn one(&self, dice: &mut Dice, field: &str) -> Option<Value> {
        let ids = if field == "friend" { &self.notes } else { &self.folders };
        dice.one_of(ids).map(|id| Value::String(id.to_string()))
    }
}

pub(super) fn first_fields(
    dice: &mut Dice,
    collection: &CollectionName,
    targets: &Targets,
) -> (Map<String, Value>, Effect) {
    let mut fields = Map::new();
    let mut effect = Effect::default();
    fields.insert("title".to_owned(), word(dice));
    let references: &[&str] = match collection.as_str() {
        "folders" => &["parent", "owner"],
        "notes" => &["folder", "shelf", "friend"],
        _ => &[],
    };
    for name in references {
        if dice.once_in(2) {
            fields.extend(targets.one(dice, name).map(|id| ((*name).to_owned(), id)));
        }
    }
    if collection.as_str() == "folders" {
        return (fields, effect);
    }
    if dice.once_in(2) {
        effect.increment = i64::try_from(dice.below(9)).unwrap_or(0) + 1;
        fields.insert("stars".to_owned(), effect.increment.into());
    }
    if dice.once_in(2) {
        effect.characters = 5;
        fields.insert("body".to_owned(), "hello".into());
    }
    if collection.as_str() == "drafts" {
        return (fields, effect);
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

pub(super) fn edits(
    dice: &mut Dice,
    state: &Map<String, Value>,
    collection: &CollectionName,
    targets: &Targets,
) -> (Vec<Edit>, Effect) {
    let mut effect = Effect::default();
    let fields: &[&str] = match collection.as_str() {
        "folders" => &["title", "parent", "due", "owner"],
        "drafts" if targets.newer => &["title", "mood", "body", "stars"],
        "drafts" => &["title", "body", "stars"],
        _ if targets.newer => &[
            "title", "rank", "due", "cover", "body", "stars", "low", "tags", "first", "items", "best", "extra",
            "folder", "cover", "high",
        ],
        _ => &[
            "title", "rank", "due", "high", "body", "stars", "low", "tags", "first", "items", "best", "extra",
            "folder", "friend", "shelf",
        ],
    };
    let start = dice.below(fields.len());
    let count = 1 + dice.below(3).min(fields.len() - 1);
    let chosen = (0..count).map(|step| fields[(start + step) % fields.len()]);
    let edits = chosen.filter_map(|name| edit(dice, name, state.get(name), targets, &mut effect)).collect();
    (edits, effect)
}

fn edit(dice: &mut Dice, name: &str, value: Option<&Value>, targets: &Targets, effect: &mut Effect) -> Option<Edit> {
    let field = FieldName::new(name).ok()?;
    let length = match value {
        Some(Value::String(text)) => text.chars().count(),
        Some(Value::Array(items)) => items.len(),
        _ => 0,
    };
    Some(match name {
        "title" | "rank" | "due" | "high" | "low" | "first" | "best" | "cover" | "mood" => {
            Edit::Set { field, value: word(dice) }
        }
        "parent" | "owner" | "folder" | "shelf" | "friend" => {
            Edit::Set { field, value: targets.one(dice, name).unwrap_or(Value::Null) }
        }
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
