//! Collections that stay in this file: never pushed, never exchanged, in no digest that others compare with. Nor does
//! anything come in from outside.

use anabranch_core::CollectionName;

use crate::cache::EntityKey;
use crate::engine::{Engine, Pending, Write};
use crate::error::{QuarantineReason, StoreError};
use crate::receive::{Incoming, Received, same_collection};
use crate::rows::{self, EntityRow};

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
        // So that what the quarantine had no room for comes.
        let has_some = "space IN (SELECT space FROM entities WHERE collection = ?)";
        rows::compare_again(&self.connection, has_some, [name.as_str()])?;
        self.connection.execute("DELETE FROM local_collections WHERE name = ?", [name.as_str()])?;
        self.local_only.remove(name.as_str());
        let mut statement = self.connection.prepare("SELECT key FROM entities WHERE collection = ?")?;
        let keys: Vec<EntityKey> = statement.query_map([name.as_str()], |row| row.get(0))?.collect::<Result<_, _>>()?;
        drop(statement);
        let mut write = Write::of(self, pending);
        for key in keys {
            write.try_again(key, &QuarantineReason::LocalOnly.to_string())?;
            write.offer_everywhere(key)?;
        }
        Ok(())
    }
}

impl Write<'_> {
    /// Sets aside what others wrote under the id of an entity that is nobody else's, as ids made from names can be
    /// the same: it must not change what is here.
    pub(crate) fn keep_out(
        &mut self,
        row: &EntityRow,
        incoming: Vec<Incoming>,
        received: &mut Received,
    ) -> Result<(), StoreError> {
        for one in incoming {
            let reason = same_collection(&row.collection, &one.collection).err().unwrap_or(QuarantineReason::LocalOnly);
            self.quarantine(row, one.hash(), one.bytes(), &reason, received)?;
        }
        Ok(())
    }

    fn offer_everywhere(&mut self, key: EntityKey) -> Result<(), StoreError> {
        let Some(row) = rows::entity_by_key(&self.engine.connection, key)? else { return Ok(()) };
        rows::remotes(&self.engine.connection)?.into_iter().try_for_each(|remote| self.reoffer_entity(remote, &row))
    }
}
