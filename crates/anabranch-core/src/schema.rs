//! The schema as data: which collections there are, what kind each field is, and how contested values settle.

mod carried;
mod field;
mod functions;
mod lens;
mod policy;
mod rules;
mod upgrade;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::name::{CollectionName, FieldName};

pub use field::{Field, Kind, OnDelete};
pub use functions::Functions;
pub use lens::Lens;
pub use policy::{CustomPolicy, Policy, Settle};
pub use rules::{Check, CustomCheck, MAX_PATTERN_BYTES, Rule, Rules, ValueType};
pub use upgrade::{Effect, SchemaChange};

/// The most collections a schema may have.
pub const MAX_COLLECTIONS: usize = 256;
/// The most fields a collection may have.
pub const MAX_FIELDS: usize = 256;

/// Collections and their fields, under a version number that the application raises when it changes them.
///
/// ```
/// use anabranch_core::Schema;
/// let schema = Schema::from_toml(r#"
///     version = 1
///     [collections.notes.fields]
///     title = { kind = "register" }
///     body = { kind = "text" }
///     votes = { kind = "counter" }
/// "#)?;
/// assert_eq!(schema.collection("notes").map(|notes| notes.fields.len()), Some(3));
/// # Ok::<(), anabranch_core::SchemaError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schema {
    /// Raised by the application whenever the rest changes; a replica refuses to go back.
    pub version: u32,
    /// The collections, in the order they were declared.
    pub collections: IndexMap<CollectionName, Collection>,
}

/// One collection: entities of the same shape.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Collection {
    /// What becomes of an entity that one replica deletes while another edits it.
    #[serde(default)]
    pub deletion: Deletion,
    /// How contested values of fields that do not say otherwise settle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// Whether its entities stay in this file: they are never pushed, exchanged or compared.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub local: bool,
    /// The fields, in the order they were declared; the view's columns stand in the same order.
    pub fields: IndexMap<FieldName, Field>,
}

/// What becomes of an entity that one replica deletes while another edits it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deletion {
    /// The edit brings the entity back.
    #[default]
    EditWins,
    /// The entity stays deleted.
    DeleteWins,
}

/// A schema that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// The text is not TOML of the expected shape; the message names line and column.
    #[error("the schema cannot be read: {0}")]
    Syntax(String),
    /// Two names differ only in case, which SQL does not tell apart.
    #[error("{0:?} and {1:?} differ only in case")]
    AmbiguousNames(String, String),
    /// Something is said of a field that does not fit its kind.
    #[error("{collection}.{field}: {rule}")]
    Field {
        /// The field's collection.
        collection: CollectionName,
        /// The field.
        field: FieldName,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// The name is the system's own.
    #[error("the collection {0:?} is the system's own")]
    Reserved(CollectionName),
    /// A file of the older schema cannot be opened with the newer one.
    #[error("the schema cannot follow the file's: {0}")]
    Upgrade(String),
    /// The schema names a function that the application has not registered.
    #[error("{0} has no function: register it when the replica is opened")]
    Unregistered(String),
    /// There are too many collections or fields.
    #[error("{0}")]
    TooLarge(&'static str),
}

impl Schema {
    /// Reads and checks a schema file.
    ///
    /// # Errors
    /// [`SchemaError`] says what is wrong and where.
    pub fn from_toml(text: &str) -> Result<Self, SchemaError> {
        let schema: Self = toml::from_str(text).map_err(|error| SchemaError::Syntax(error.to_string()))?;
        schema.check()?;
        Ok(schema)
    }

    /// The schema as TOML, as [`Schema::from_toml`] reads it.
    ///
    /// # Errors
    /// [`SchemaError::Syntax`] if TOML cannot express it (it always can for a checked schema).
    pub fn to_toml(&self) -> Result<String, SchemaError> {
        toml::to_string(self).map_err(|error| SchemaError::Syntax(error.to_string()))
    }

    /// The collection of this name; the system's own one included.
    #[must_use]
    pub fn collection(&self, name: &str) -> Option<&Collection> {
        let system = || (name == CollectionName::schema().as_str()).then_some(&*carried::COLLECTION);
        self.collections.get(name).or_else(system)
    }

    /// Checks the rules that the types alone do not express.
    ///
    /// # Errors
    /// [`SchemaError`] names the first rule that is broken.
    pub fn check(&self) -> Result<(), SchemaError> {
        if self.collections.len() > MAX_COLLECTIONS {
            return Err(SchemaError::TooLarge("a schema has at most 256 collections"));
        }
        distinct_in_sql(self.collections.keys().map(CollectionName::as_str))?;
        for (name, collection) in &self.collections {
            if name.is_system() {
                return Err(SchemaError::Reserved(name.clone()));
            }
            if collection.fields.len() > MAX_FIELDS {
                return Err(SchemaError::TooLarge("a collection has at most 256 fields"));
            }
            distinct_in_sql(collection.fields.keys().map(FieldName::as_str))?;
            distinct_keys(name, collection)?;
            let mut parents = 0;
            for (field_name, field) in &collection.fields {
                parents += usize::from(field.parent);
                let checked = self.check_field(field, parents).and_then(|()| self.check_reach(collection, field));
                if let Err(rule) = checked {
                    let (collection, field) = (name.clone(), field_name.clone());
                    return Err(SchemaError::Field { collection, field, rule });
                }
            }
        }
        Ok(())
    }

    fn check_field(&self, field: &Field, parents: usize) -> Result<(), &'static str> {
        let is_reference = field.kind == Kind::Reference;
        match &field.to {
            None if is_reference => return Err("a reference says which collection it points `to`"),
            Some(_) if !is_reference => return Err("only a reference has `to`"),
            Some(to) if !self.collections.contains_key(to) => return Err("`to` names no collection of this schema"),
            _ => {}
        }
        if !is_reference && (field.parent || field.on_delete != OnDelete::Keep) {
            return Err("only a reference can be `parent` or have `on_delete`");
        }
        if parents > 1 {
            return Err("a collection has at most one `parent`");
        }
        field.check()
    }

    /// What leaves must not lean on what stays: elsewhere the reference would lead nowhere, and a child would wait
    /// for its parent for ever.
    fn check_reach(&self, collection: &Collection, field: &Field) -> Result<(), &'static str> {
        let target = field.to.as_ref().and_then(|to| self.collections.get(to));
        match target {
            Some(target) if target.local && !collection.local => Err("`to` names a collection that is `local`"),
            _ => Ok(()),
        }
    }
}

impl Collection {
    /// The reference field that names an entity's parent, if the collection has one.
    #[must_use]
    pub fn parent_field(&self) -> Option<&FieldName> {
        self.fields.iter().find(|(_, field)| field.parent).map(|(name, _)| name)
    }

    /// How a field's contested values settle: by its own policy, or else by the collection's. A custom one settles
    /// registers and references only; the slots of lists and maps then go by [`Policy::Lww`].
    #[must_use]
    pub fn policy_of<'a>(&'a self, field: &'a Field) -> &'a Policy {
        const DEFAULT: &Policy = &Policy::Lww;
        let whole = matches!(field.kind, Kind::Register | Kind::Reference);
        let fits = |policy: &&Policy| whole || !matches!(policy, Policy::Custom(_));
        field.policy.as_ref().or(self.policy.as_ref()).filter(fits).unwrap_or(DEFAULT)
    }

    /// The field that documents hold under this key.
    #[must_use]
    pub fn field_at(&self, key: &str) -> Option<(&FieldName, &Field)> {
        let own = self.fields.get_key_value(key).filter(|(name, field)| field.key_under(name).as_str() == key);
        own.or_else(|| self.fields.iter().find(|(_, field)| field.key.as_ref().is_some_and(|own| own.as_str() == key)))
    }

    /// Whether any field has rules.
    #[must_use]
    pub fn has_rules(&self) -> bool {
        self.fields.values().any(|field| !field.rules.is_empty())
    }
}

/// Two fields under one key would be the same data, read in two ways.
fn distinct_keys(name: &CollectionName, collection: &Collection) -> Result<(), SchemaError> {
    let mut seen = std::collections::BTreeSet::new();
    for (field_name, field) in &collection.fields {
        if !seen.insert(field.key_under(field_name)) {
            let (collection, field) = (name.clone(), field_name.clone());
            return Err(SchemaError::Field { collection, field, rule: "another field has the same `key`" });
        }
    }
    Ok(())
}

fn distinct_in_sql<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), SchemaError> {
    let mut seen = std::collections::BTreeMap::new();
    for name in names {
        if let Some(other) = seen.insert(name.to_ascii_lowercase(), name) {
            return Err(SchemaError::AmbiguousNames(other.to_owned(), name.to_owned()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = r#"
        version = 1
        [collections.folders.fields]
        name = { kind = "register", indexed = true }
        [collections.notes]
        deletion = "delete_wins"
        [collections.notes.fields]
        title = { kind = "register", policy = "causal", required = true, max_length = 80, pattern = "[^\\n]*" }
        body = { kind = "text", min_length = 1 }
        level = { kind = "register", type = "integer", min = 1, max = 3, default = 2, key = "rank", lens = { map = { high = 3 }, otherwise = 1 } }
        size = { kind = "register", one_of = ["s", "m", 1], policy = { custom = "widest", version = 2 }, check = "fits" }
        folder = { kind = "reference", to = "folders", parent = true, on_delete = "restrict", policy = "manual" }
    "#;

    #[test]
    fn a_schema_survives_toml_and_json_in_declared_order() -> Result<(), SchemaError> {
        let schema = Schema::from_toml(EXAMPLE)?;
        assert_eq!(Schema::from_toml(&schema.to_toml()?)?, schema);
        let json = serde_json::to_string(&schema).unwrap();
        let back: Schema = serde_json::from_str(&json).unwrap();
        let names: Vec<_> = back.collections["notes"].fields.keys().map(FieldName::as_str).collect();
        assert_eq!(names, ["title", "body", "level", "size", "folder"]);
        assert_eq!(back.collections["notes"].parent_field().map(FieldName::as_str), Some("folder"));
        Ok(())
    }

    #[test]
    fn what_leaves_does_not_refer_to_what_stays() {
        let schema = |drafts: &str, notes: &str| {
            Schema::from_toml(&format!(
                "version = 1\n[collections.drafts]\n{drafts}\n[collections.drafts.fields]\n\
                 note = {{ kind = \"reference\", to = \"notes\" }}\n[collections.notes]\n{notes}\n\
                 [collections.notes.fields]\ndraft = {{ kind = \"reference\", to = \"drafts\" }}"
            ))
        };
        assert!(schema("", "").is_ok());
        let error = schema("local = true", "").expect_err("a reference to what stays").to_string();
        assert!(error.contains("`local`"), "{error}");
        let both = schema("local = true", "local = true").expect("both stay");
        assert!(both.collections["notes"].local);
        assert_eq!(Schema::from_toml(&both.to_toml().unwrap()).unwrap(), both);
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            ("body = { kind = \"text\", policy = \"causal\" }", "policy"),
            ("folder = { kind = \"reference\" }", "points `to`"),
            ("folder = { kind = \"reference\", to = \"nowhere\" }", "names no collection"),
            ("title = { kind = \"register\", parent = true }", "parent"),
            ("title = { kind = \"registre\" }", "registre"),
            ("title = { kind = \"register\", indexd = true }", "indexd"),
            ("title = { kind = \"register\" }\nTITLE = { kind = \"register\" }", "case"),
            ("\"$x\" = { kind = \"register\" }", "$x"),
            ("title = { kind = \"register\", policy = \"newest\" }", "unknown policy"),
            ("tags = { kind = \"set\", policy = \"max\" }", "have no `policy`"),
            ("facts = { kind = \"map\", policy = { custom = \"a\", version = 1 } }", "custom"),
            ("body = { kind = \"text\", default = \"x\" }", "only a register"),
            ("votes = { kind = \"counter\", max_length = 3 }", "no length"),
            ("tags = { kind = \"set\", pattern = \"a\" }", "pattern"),
            ("title = { kind = \"register\", pattern = \"(\" }", "regular expression"),
            ("votes = { kind = \"counter\", required = true }", "always has a value"),
            ("title = { kind = \"register\", max = 3, lens = { otherwise = 9 } }", "`lens` reads breaks"),
            ("title = { kind = \"register\", type = \"integer\", default = \"x\" }", "`default` breaks"),
            ("title = { kind = \"register\", on_delete = \"cascade\" }", "on_delete"),
            ("title = { kind = \"register\" }\nname = { kind = \"register\", key = \"title\" }", "same `key`"),
        ];
        for (field, expected) in cases {
            let text = format!("version = 1\n[collections.notes.fields]\n{field}\n");
            let error = Schema::from_toml(&text).expect_err(field).to_string();
            assert!(error.contains(expected), "{field}: {error}");
        }
    }
}
