//! The schema that a space carries, so that a replica can be made from the space alone.

use std::sync::LazyLock;

use indexmap::IndexMap;
use serde_json::{Map, Value};

use super::{Collection, Field, Kind, Policy, Schema};
use crate::id::EntityId;
use crate::name::{CollectionName, FieldName};

const FIELD: &str = "schema";

/// The collection of a space's one schema entity: one register, and the newest version wins.
pub(super) static COLLECTION: LazyLock<Collection> = LazyLock::new(|| {
    let field = Field { policy: Some(Policy::Max), ..Field::of(Kind::Register) };
    let fields = FieldName::new(FIELD).map(|name| (name, field)).into_iter().collect::<IndexMap<_, _>>();
    Collection { fields, ..Collection::default() }
});

impl Schema {
    /// The id of the entity in which every space carries its schema.
    #[must_use]
    pub fn carrier() -> EntityId {
        EntityId::named(&CollectionName::schema(), FIELD)
    }

    /// The fields of that entity.
    #[must_use]
    pub fn to_carried(&self) -> Map<String, Value> {
        // The version comes first and in full width, so that the greatest text is the newest schema.
        let json = serde_json::to_string(self).unwrap_or_default();
        Map::from_iter([(FIELD.to_owned(), Value::String(format!("{:010} {json}", self.version)))])
    }

    /// The version of the schema in that entity's state, also of one that this release cannot use.
    #[must_use]
    pub fn carried_version(state: &Map<String, Value>) -> Option<u32> {
        state.get(FIELD)?.as_str()?.split_once(' ')?.0.parse().ok()
    }

    /// Reads that entity's state. `None` if there is no schema that this release can use.
    #[must_use]
    pub fn from_carried(state: &Map<String, Value>) -> Option<Self> {
        let (_, json) = state.get(FIELD)?.as_str()?.split_once(' ')?;
        let schema: Self = serde_json::from_str(json).ok()?;
        schema.check().ok()?;
        Some(schema)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_carried_schema_reads_back_and_newer_ones_are_greater() {
        let text = |version| {
            format!(
                "version = {version}\n[collections.notes.fields]\n\
                 title = {{ kind = \"register\", policy = {{ custom = \"mine\", version = 2 }}, max_length = 3 }}"
            )
        };
        let (nine, ten) = (Schema::from_toml(&text(9)).unwrap(), Schema::from_toml(&text(10)).unwrap());
        assert_eq!(Schema::from_carried(&ten.to_carried()), Some(ten.clone()));
        assert!(nine.to_carried()[FIELD].as_str() < ten.to_carried()[FIELD].as_str());
        assert_eq!(Schema::from_carried(&Map::new()), None);
        assert_eq!(Schema::carried_version(&Map::new()), None);
        // A newer release may say what this one does not understand; its version counts all the same.
        let newer = Map::from_iter([(FIELD.to_owned(), "0000000011 {\"news\":1}".into())]);
        assert_eq!((Schema::from_carried(&newer), Schema::carried_version(&newer)), (None, Some(11)));
        assert_eq!(COLLECTION.fields.len(), 1);
    }
}
