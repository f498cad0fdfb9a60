//! Collections that stay in this file: never pushed, never exchanged, in no digest that others compare with.

use anabranch_core::CollectionName;

use crate::cache::EntityKey;
use crate::engine::{Engine, Pending, Write};
use crate::error::StoreError;
use crate::rows;

/// In SQL: an entity `e` that others may see.
pub(crate) const NOT_LOCAL: &str = "e.collection NOT IN (SELECT name FROM local_collections)";

impl Engine {
    pub(crate) fn is_local(&self, collection: &CollectionName) -> bool {
        self.local_only.contains(collection.as_str())
    }

    pub(crate) fn load_local_collections(&mut self) -> Result<(), StoreError> {
        let mut statement = self.connection.prepare("SELECT name FROM local_collections")?;
        self.local_only = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        Ok(())
    }

    /// Notes which collections the schema keeps here. One that it kept here before and now does not is offered to
    /// every server; one that it no longer knows stays here.
    pub(crate) fn note_local_collections(&mut self) -> Result<(), StoreError> {
        self.load_local_collections()?;
        let schema = std::sync::Arc::clone(&self.schema);
        let mut pending = Pending::default();
        for (name, collection) in &schema.collections {
            match (self.local_only.contains(name.as_str()), collection.local) {
                (false, true) => {
                    self.connection.execute("INSERT INTO local_collections (name) VALUES (?)", [name.as_str()])?;
                }
                (true, false) => self.release(name, &mut pending)?,
                _ => {}
            }
        }
        self.flush(&mut pending)
    }

    fn release(&mut self, name: &CollectionName, pending: &mut Pending) -> Result<(), StoreError> {
        self.connection.execute("DELETE FROM local_collections WHERE name = ?", [name.as_str()])?;
        self.local_only.remove(name.as_str());
        let mut statement = self.connection.prepare("SELECT key FROM entities WHERE collection = ?")?;
        let keys: Vec<EntityKey> = statement.query_map([name.as_str()], |row| row.get(0))?.collect::<Result<_, _>>()?;
        drop(statement);
        let mut write = Write::of(self, pending);
        keys.into_iter().try_for_each(|key| write.offer_everywhere(key))
    }
}

impl Write<'_> {
    fn offer_everywhere(&mut self, key: EntityKey) -> Result<(), StoreError> {
        let Some(row) = rows::entity_by_key(&self.engine.connection, key)? else { return Ok(()) };
        rows::remotes(&self.engine.connection)?.into_iter().try_for_each(|remote| self.reoffer_entity(remote, &row))
    }
}
