//! A file that has just been opened: its schema, its views, and who this replica is.

use std::sync::Arc;

use anabranch_core::{Actor, Collection, Field, Schema};

use crate::cache::EntityKey;
use crate::engine::Engine;
use crate::engine::flush::{Dirty, Pending};
use crate::error::StoreError;
use crate::{rows, views};

impl Engine {
    /// Brings a file that has just been opened up to date with the schema, and this replica with the file.
    pub(super) fn prepare(&mut self, given: Option<Schema>) -> Result<(), StoreError> {
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
        self.schema = Arc::new(schema);
        if stored.as_ref() != Some(&*self.schema) {
            let json = serde_json::to_string(&*self.schema).map_err(|_| StoreError::OutOfRange)?;
            rows::set_meta(&self.connection, "schema", json)?;
            views::rebuild(&self.connection, &self.schema)?;
            self.project_again(stored.as_ref())?;
        }
        match rows::meta::<String>(&self.connection, "replica")? {
            Some(id) => self.replica = id.parse()?,
            None => rows::set_meta(&self.connection, "replica", self.replica.to_string())?,
        }
        // Never reused: a file that was copied or restored must not write under its original's name.
        self.actor = Actor::mint(&self.replica, self.environment.entropy());
        self.reload_clock()
    }

    /// Derives the states that a new schema version may read differently: those of collections in which an
    /// existing field, or the deletion policy, means something else now, and contested ones. Fields that were
    /// only added change no state.
    fn project_again(&mut self, before: Option<&Schema>) -> Result<(), StoreError> {
        let Some(before) = before else { return Ok(()) };
        let mut statement = self.connection.prepare("SELECT key, collection, conflicts FROM entities")?;
        let mut rows = statement.query([])?;
        let mut pending = Pending::default();
        while let Some(row) = rows.next()? {
            let (key, collection): (EntityKey, String) = (row.get(0)?, row.get(1)?);
            let contested = row.get::<_, i64>(2)? > 0;
            let (old, new) = (before.collection(&collection), self.schema.collection(&collection));
            if contested || reads_differently(old, new) {
                pending.dirty.insert(key, Dirty { document: true, ..Dirty::default() });
            }
        }
        drop(rows);
        drop(statement);
        self.flush(&mut pending)
    }
}

/// Whether what is known under both versions of a collection means something else under the new one.
fn reads_differently(old: Option<&Collection>, new: Option<&Collection>) -> bool {
    let (Some(old), Some(new)) = (old, new) else { return old.is_some() != new.is_some() };
    let same = |(name, field): (_, &Field)| new.fields.get(name).is_some_and(|now: &Field| now.kind == field.kind);
    old.deletion != new.deletion || !old.fields.iter().all(same)
}
