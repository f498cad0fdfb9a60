//! Local writes: create, edit, delete.

use anabranch_core::document::{Document, Edit, State, TextSplice};
use anabranch_core::wire::Envelope;
use anabranch_core::{Change, Collection, CollectionName, EntityId, FieldName, Heads, SpaceName, Stamp};
use rusqlite::params;
use serde_json::{Map, Value};

use crate::engine::Write;
use crate::error::StoreError;
use crate::rows::{self, EntityRow, Origin};

impl Write<'_> {
    /// Creates an entity; with no `id`, a fresh one is minted.
    ///
    /// # Errors
    /// If the collection or a field is unknown, a value does not fit, or the id is taken.
    pub fn create(
        &mut self,
        space: &SpaceName,
        collection: &CollectionName,
        id: Option<EntityId>,
        fields: &Map<String, Value>,
    ) -> Result<EntityId, StoreError> {
        let schema = self.collection(collection)?;
        let now = self.now();
        let id = id.unwrap_or_else(|| EntityId::mint(now, self.engine.environment.entropy()));
        let space = rows::ensure_space(&self.engine.connection, space)?;
        let stamp = self.tick();
        let row = match rows::find_entity(&self.engine.connection, space, id)? {
            // It may be here in fragments only (its creation has not been pulled yet); the document knows.
            Some(row) => {
                let row = rows::with_collection(&self.engine.connection, row, collection)?;
                if row.collection != *collection {
                    return Err(StoreError::EntityExists(id));
                }
                row
            }
            None => {
                let row = rows::insert_entity(&self.engine.connection, space, id, collection)?;
                self.engine.cache.put(row.key, Document::new(&self.engine.actor));
                row
            }
        };
        self.with_document(&row, |write, document| {
            if document.is_born() {
                return Err(StoreError::EntityExists(id));
            }
            let changes = document.create(collection, &schema, stamp, fields)?;
            write.log(&row, &changes)?;
            write.dirty(row.key).fields.extend(fields.keys().cloned());
            Ok(())
        })?;
        Ok(id)
    }

    /// Makes all edits in one change. `false` if they change nothing.
    ///
    /// # Errors
    /// If the entity is not there or is deleted, or an edit does not fit it; nothing is stored then.
    pub fn edit(&mut self, space: &SpaceName, id: EntityId, edits: &[Edit]) -> Result<bool, StoreError> {
        let row = self.entity(space, id)?;
        let schema = self.collection(&row.collection)?;
        let stamp = self.tick();
        self.with_document(&row, |write, document| {
            let damaged = |source| StoreError::Damaged { entity: id, source };
            if document.is_deleted(schema.deletion).map_err(damaged)? {
                return Err(StoreError::Deleted(id));
            }
            let changes = document.edit(&schema, stamp, edits)?;
            write.log(&row, &changes)?;
            if !changes.is_empty() {
                write.dirty(row.key).fields.extend(edits.iter().map(|edit| edit.field().to_string()));
            }
            Ok(!changes.is_empty())
        })
    }

    /// Deletes an entity: it leaves the view, and its history stays.
    ///
    /// # Errors
    /// If the entity is not there.
    pub fn delete(&mut self, space: &SpaceName, id: EntityId) -> Result<(), StoreError> {
        self.mark_deleted(space, id, Document::delete)
    }

    /// Brings a deleted entity back.
    ///
    /// # Errors
    /// If the entity was never there.
    pub fn restore(&mut self, space: &SpaceName, id: EntityId) -> Result<(), StoreError> {
        self.mark_deleted(space, id, Document::restore)
    }

    fn mark_deleted(
        &mut self,
        space: &SpaceName,
        id: EntityId,
        mark: impl FnOnce(&mut Document, Stamp) -> Result<Vec<Change>, anabranch_core::document::EditError>,
    ) -> Result<(), StoreError> {
        let row = self.entity(space, id)?;
        let stamp = self.tick();
        self.with_document(&row, |write, document| {
            let changes = mark(document, stamp)?;
            write.log(&row, &changes)
        })
    }

    /// The state of an entity as of this point of the transaction.
    ///
    /// # Errors
    /// If the entity is not there.
    pub fn state(&mut self, space: &SpaceName, id: EntityId) -> Result<State, StoreError> {
        let row = self.entity(space, id)?;
        let document = self.engine.take_document(&row)?;
        let schema = std::sync::Arc::clone(&self.engine.schema);
        let state = document.state(schema.collection(row.collection.as_str()));
        self.engine.cache.put(row.key, document);
        state.map_err(|source| StoreError::Damaged { entity: id, source })
    }

    /// The heads of an entity as of this point of the transaction.
    ///
    /// # Errors
    /// If the entity is not there.
    pub fn heads(&mut self, space: &SpaceName, id: EntityId) -> Result<Heads, StoreError> {
        let row = self.entity(space, id)?;
        let document = self.engine.take_document(&row)?;
        let heads = document.heads();
        self.engine.cache.put(row.key, document);
        Ok(heads)
    }

    /// What has been done to a text since the entity had these heads, whoever did it.
    ///
    /// # Errors
    /// If the entity is not there or never had the heads, or the field is no text.
    pub fn text_splices(
        &mut self,
        space: &SpaceName,
        id: EntityId,
        field: &FieldName,
        since: &Heads,
    ) -> Result<Vec<TextSplice>, StoreError> {
        let row = self.entity(space, id)?;
        let schema = self.collection(&row.collection)?;
        let document = self.engine.take_document(&row)?;
        let splices = match document.heads() == *since {
            true => Ok(Vec::new()),
            false => document.text_splices(&schema, field, since),
        };
        self.engine.cache.put(row.key, document);
        splices.map_err(|source| StoreError::Damaged { entity: id, source })
    }

    pub(crate) fn entity(&self, space: &SpaceName, id: EntityId) -> Result<EntityRow, StoreError> {
        let connection = &self.engine.connection;
        let Some(space) = rows::space_key(connection, space)? else { return Err(StoreError::NoEntity(id)) };
        rows::find_entity(connection, space, id)?.ok_or(StoreError::NoEntity(id))
    }

    fn collection(&self, name: &CollectionName) -> Result<Collection, StoreError> {
        let found = self.engine.schema.collection(name.as_str()).cloned();
        found.ok_or_else(|| StoreError::NoCollection(name.clone()))
    }

    fn tick(&mut self) -> Stamp {
        self.pending.clock_moved = true;
        let now = self.now();
        self.engine.clock.tick(now)
    }

    /// Appends local changes to the log and to every remote's outbox.
    fn log(&mut self, row: &EntityRow, changes: &[Change]) -> Result<(), StoreError> {
        for change in changes {
            let seq = rows::insert_change(&self.engine.connection, row.key, change, None, Origin::Local)?;
            self.offer(row, seq, None)?;
            let dirty = self.dirty(row.key);
            dirty.document = true;
            dirty.added_bytes += change.bytes().len();
        }
        Ok(())
    }

    /// Puts a change into the outbox of every remote but one.
    pub(crate) fn offer(&mut self, row: &EntityRow, seq: i64, except: Option<i64>) -> Result<(), StoreError> {
        let mut offered = false;
        for remote in rows::remotes(&self.engine.connection)? {
            if Some(remote) == except {
                continue;
            }
            let mut statement = self
                .engine
                .connection
                .prepare_cached("INSERT OR IGNORE INTO outbox (remote, change, entity) VALUES (?, ?, ?)")?;
            statement.execute(params![remote, seq, row.key])?;
            drop(statement);
            self.pending.pushable.insert(row.space);
            offered = true;
        }
        self.dirty(row.key).pending += i64::from(offered);
        Ok(())
    }
}

impl Write<'_> {
    /// The changes of an entity that a replica with these heads lacks, ready to be handed over.
    ///
    /// # Errors
    /// If the entity is not there, or its document cannot be loaded.
    pub fn changes_beyond(
        &mut self,
        space: &SpaceName,
        id: EntityId,
        theirs: &Heads,
    ) -> Result<Vec<Envelope>, StoreError> {
        let row = self.entity(space, id)?;
        let document = self.engine.take_document(&row)?;
        let changes = document.changes_since(theirs);
        self.engine.cache.put(row.key, document);
        let changes = changes.map_err(|source| StoreError::Damaged { entity: id, source })?;
        let envelope = |change: Change| Envelope {
            entity: id,
            collection: row.collection.clone(),
            parent: None,
            transaction: None,
            change: change.into_bytes(),
        };
        Ok(changes.into_iter().map(envelope).collect())
    }
}
