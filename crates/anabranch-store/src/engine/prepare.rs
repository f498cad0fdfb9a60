//! A file that has just been opened: its schema, its views, and who this replica is.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_core::{Collection, CollectionName, Field, FieldName, Functions, Schema};
use serde_json::{Map, Value};

use crate::engine::Engine;
use crate::engine::flush::{Dirty, Pending};
use crate::error::StoreError;
use crate::{file, rows, seal, views};

/// How rows are derived from documents; raised whenever a release derives them differently.
const PROJECTION: i64 = 2;
/// How foreign changes are judged; raised whenever a release takes what those before it refused.
const ADMISSION: i64 = 1;

impl Engine {
    /// Brings a file that has just been opened up to date with the schema, and this replica with the file.
    pub(super) fn prepare(&mut self, given: Option<Schema>, functions: &Functions) -> Result<(), StoreError> {
        if let Some(table) = seal::broken_table(&self.connection).map_err(file::of_header)? {
            return Err(StoreError::DamagedFile(format!("the table {table} is not what was written")));
        }
        let stored: Option<String> = rows::meta(&self.connection, "schema")?;
        let stored = stored
            .map(|json| serde_json::from_str::<Schema>(&json))
            .transpose()
            .map_err(|_| StoreError::DamagedRow("the schema cannot be read"))?;
        let schema = match (given, stored.as_ref()) {
            (None, None) => return Err(StoreError::NotInitialised(self.path.display().to_string())),
            (None, Some(stored)) => stored.clone(),
            (Some(given), Some(stored)) if given.version < stored.version => {
                return Err(StoreError::SchemaOutdated { stored: stored.version, given: given.version });
            }
            (Some(given), Some(stored)) if given.version == stored.version && given != *stored => {
                return Err(StoreError::SchemaChanged(given.version));
            }
            (Some(given), _) => given,
        };
        schema.check()?;
        if let Some(stored) = &stored {
            stored.check_upgrade(&schema)?;
        }
        let mut schema = schema;
        schema.bind(functions)?;
        self.schema = Arc::new(schema);
        // Before anything is taken in that moves it.
        self.reload_clock()?;
        let projected: Option<i64> = rows::meta(&self.connection, "projection")?;
        if stored.as_ref() != Some(&*self.schema) || projected != Some(PROJECTION) {
            let json = serde_json::to_string(&*self.schema).map_err(|_| StoreError::OutOfRange)?;
            rows::set_meta(&self.connection, "schema", json)?;
            rows::set_meta(&self.connection, "projection", PROJECTION)?;
            views::rebuild(&self.connection, &self.schema)?;
            let before = stored.as_ref().filter(|_| projected == Some(PROJECTION));
            self.projecting = true;
            self.project_again(before)?;
            self.note_local_collections()?;
            self.projecting = false;
        }
        self.check_definitions()?;
        self.load_local_collections()?;
        match rows::meta::<String>(&self.connection, "replica")? {
            Some(id) => self.replica = id.parse()?,
            None => {
                rows::set_meta(&self.connection, "replica", self.replica.to_string())?;
                if let Some(witness) = self.witness.as_mut().filter(|_| stored.is_some()) {
                    witness.begin_anew();
                }
            }
        }
        self.choose_actor()?;
        if rows::meta(&self.connection, "admission")? != Some(ADMISSION) {
            self.judge_again()?;
            rows::set_meta(&self.connection, "admission", ADMISSION)?;
        }
        self.bound_aside()
    }

    /// Tables must be what they are; views and indexes of fields can be made again.
    fn check_definitions(&self) -> Result<(), StoreError> {
        let (expected, found) = (file::expected(&self.schema)?, file::definitions(&self.connection)?);
        let mut views = false;
        for (name, definition) in &expected {
            if found.get(name) != Some(definition) {
                if !definition.starts_with("view ") && !name.starts_with("field:") {
                    return Err(StoreError::DamagedFile(format!("the definition of {name} is not what was written")));
                }
                views = true;
            }
        }
        if views { views::rebuild(&self.connection, &self.schema) } else { Ok(()) }
    }

    /// Derives the rows that a new schema version may read differently; all of them if `before` is not known.
    fn project_again(&mut self, before: Option<&Schema>) -> Result<(), StoreError> {
        let mut pending = Pending::default();
        let mut statement = self
            .connection
            .prepare("SELECT key, collection, conflicts, state FROM entities WHERE length(heads) > 0")?;
        let mut rows = statement.query([])?;
        let scopes: BTreeMap<&str, Scope> = match before {
            Some(before) => {
                self.schema.collections.iter().map(|(name, new)| (name.as_str(), scope(before, name, new))).collect()
            }
            None => BTreeMap::new(),
        };
        while let Some(row) = rows.next()? {
            let collection: String = row.get(1)?;
            let contested = row.get::<_, i64>(2)? > 0;
            let concerned = match scopes.get(collection.as_str()) {
                _ if contested => true,
                None | Some(Scope::All) => true,
                Some(Scope::Holding(fields)) if fields.is_empty() => false,
                Some(Scope::Holding(fields)) => {
                    let state: Map<String, Value> = serde_json::from_str(&row.get::<_, String>(3)?)
                        .map_err(|_| StoreError::DamagedRow("a state is not JSON"))?;
                    fields.iter().any(|field| state.contains_key(field.as_str()))
                }
            };
            if concerned {
                pending.dirty.insert(row.get(0)?, Dirty { document: true, ..Dirty::default() });
            }
        }
        drop(rows);
        drop(statement);
        self.flush(&mut pending)
    }
}

/// Which entities of a collection a new version of it may read differently.
enum Scope {
    All,
    /// Those in which a newer replica has written one of these fields already.
    Holding(Vec<FieldName>),
}

/// Fields that were only added change no state, unless somebody has written them or they have a default or rules.
fn scope(before: &Schema, name: &CollectionName, new: &Collection) -> Scope {
    let Some(old) = before.collections.get(name) else { return Scope::All };
    let plain = |field: &Field| Field { indexed: false, ..field.clone() };
    let kept = |(name, field): (&FieldName, &Field)| new.fields.get(name).is_some_and(|now| plain(now) == plain(field));
    if old.deletion != new.deletion || old.policy != new.policy || !old.fields.iter().all(kept) {
        return Scope::All;
    }
    let added: Vec<_> = new.fields.iter().filter(|(name, _)| !old.fields.contains_key(*name)).collect();
    let quiet = |field: &Field| field.default.is_none() && field.rules.is_empty() && field.key.is_none();
    match added.iter().all(|(_, field)| quiet(field)) {
        true => Scope::Holding(added.into_iter().map(|(name, _)| name.clone()).collect()),
        false => Scope::All,
    }
}
