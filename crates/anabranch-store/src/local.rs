//! Local writes: create, edit, delete.

use anabranch_core::document::{Choice, Document, Edit, State};
use anabranch_core::wire::Envelope;
use anabranch_core::{
    Change, Collection, CollectionName, Digest, EntityId, FieldName, Heads, Schema, SpaceName, Stamp,
};
use rusqlite::params;
use serde_json::{Map, Value};

use crate::engine::Write;
use crate::error::StoreError;
use crate::rows::{self, EntityRow, Origin};
use crate::transaction::transaction_of;

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
        if collection.is_system() {
            return Err(StoreError::NoCollection(collection.clone()));
        }
        self.create_any(space, collection, id, fields)
    }

    fn create_any(
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
            if document.is_purged() {
                return Err(StoreError::Purged(id));
            }
            if document.is_born() {
                return Err(StoreError::EntityExists(id));
            }
            let changes = document.create(collection, &schema, stamp, fields).map_err(StoreError::of_edit(id))?;
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
        let row = self.own_entity(space, id)?;
        self.edit_row(row, edits)
    }

    fn edit_row(&mut self, row: EntityRow, edits: &[Edit]) -> Result<bool, StoreError> {
        let id = row.id;
        let schema = self.collection(&row.collection)?;
        let stamp = self.tick();
        self.with_document(&row, |write, document| {
            editable(document, &schema, id)?;
            let changes = document.edit(&schema, stamp, edits).map_err(StoreError::of_edit(id))?;
            write.log(&row, &changes)?;
            if !changes.is_empty() {
                write.dirty(row.key).fields.extend(edits.iter().map(|edit| edit.field().to_string()));
            }
            Ok(!changes.is_empty())
        })
    }

    /// Settles a conflict; it must still be the one that was looked at.
    ///
    /// # Errors
    /// [`StoreError::ConflictChanged`] if a value has come or gone since, or if the entity is not there or is deleted,
    /// or the choice does not fit; nothing is stored then.
    pub fn resolve(
        &mut self,
        space: &SpaceName,
        id: EntityId,
        conflict: &Digest,
        choice: &Choice,
    ) -> Result<(), StoreError> {
        let row = self.entity(space, id)?;
        let schema = self.collection(&row.collection)?;
        let stamp = self.tick();
        self.with_document(&row, |write, document| {
            editable(document, &schema, id)?;
            let damaged = |source| StoreError::Damaged { entity: id, source };
            let contests = document.state(Some(&schema)).map_err(damaged)?.contests;
            let changes = document.resolve(&schema, stamp, conflict, choice).map_err(StoreError::of_edit(id))?;
            write.log(&row, &changes)?;
            let settled = contests.into_iter().filter(|contest| contest.id == *conflict).map(|contest| contest.field);
            write.dirty(row.key).fields.extend(settled);
            Ok(())
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

    /// Makes sure that an entity is in this collection.
    ///
    /// # Errors
    /// [`StoreError::NoEntity`] if it is in another, or not there.
    pub fn expect(&self, space: &SpaceName, id: EntityId, collection: &CollectionName) -> Result<(), StoreError> {
        let row = self.entity(space, id)?;
        if row.collection == *collection { Ok(()) } else { Err(StoreError::NoEntity(id)) }
    }

    /// An entity that applications may write: not one of the system's own.
    pub(crate) fn own_entity(&self, space: &SpaceName, id: EntityId) -> Result<EntityRow, StoreError> {
        let row = self.entity(space, id)?;
        if row.collection.is_system() { Err(StoreError::NoCollection(row.collection)) } else { Ok(row) }
    }

    pub(crate) fn entity(&self, space: &SpaceName, id: EntityId) -> Result<EntityRow, StoreError> {
        let connection = &self.engine.connection;
        let Some(space) = rows::space_key(connection, space)? else { return Err(StoreError::NoEntity(id)) };
        match rows::find_entity(connection, space, id)? {
            None => Err(StoreError::NoEntity(id)),
            Some(row) if row.damaged => {
                let reason = "a part of its history is missing; the next sync fetches what a server has of it";
                Err(StoreError::DamagedEntity { entity: id, reason })
            }
            Some(row) => Ok(row),
        }
    }

    pub(crate) fn collection(&self, name: &CollectionName) -> Result<Collection, StoreError> {
        let found = self.engine.schema.collection(name.as_str()).cloned();
        found.ok_or_else(|| StoreError::NoCollection(name.clone()))
    }

    pub(crate) fn tick(&mut self) -> Stamp {
        self.pending.clock_moved = true;
        let now = self.now();
        self.engine.clock.tick(now)
    }

    /// Appends local changes to the log and to every remote's outbox.
    pub(crate) fn log(&mut self, row: &EntityRow, changes: &[Change]) -> Result<(), StoreError> {
        for change in changes {
            let transaction = self.join_transaction(row, change)?;
            let transaction = transaction.as_ref().map(|id| id.as_bytes().as_slice());
            let seq = rows::insert_change(&self.engine.connection, row.key, change, transaction, Origin::Local)?;
            self.offer(row, seq, None)?;
            let dirty = self.dirty(row.key);
            dirty.document = true;
            dirty.added_bytes += change.bytes().len();
        }
        Ok(())
    }

    /// Puts a change into the outbox of every remote but one.
    pub(crate) fn offer(&mut self, row: &EntityRow, seq: i64, except: Option<i64>) -> Result<(), StoreError> {
        if self.engine.is_local(&row.collection) {
            return Ok(());
        }
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
    /// Makes sure that a space carries this replica's schema, or a newer one. `true` if it had to be written.
    ///
    /// # Errors
    /// If the database fails.
    pub fn publish_schema(&mut self, space: &SpaceName) -> Result<bool, StoreError> {
        let (collection, id) = (CollectionName::schema(), Schema::carrier());
        let ours = self.engine.schema.to_carried();
        let carried = match self.entity(space, id) {
            // Somebody has taken it away: it is not forced on them.
            Ok(row) if self.is_purged(&row)? => return Ok(false),
            Ok(_) => Some(self.state(space, id)?).filter(|state| state.collection.is_some()),
            Err(StoreError::NoEntity(_)) => None,
            Err(error) => return Err(error),
        };
        let Some(state) = carried else {
            self.create_any(space, &collection, Some(id), &ours)?;
            return Ok(true);
        };
        let known = Schema::carried_version(&state.fields);
        if state.deleted || known.is_some_and(|version| version >= self.engine.schema.version) {
            return Ok(false);
        }
        let set = |(field, value)| Ok(Edit::Set { field: FieldName::new(field)?, value });
        let edits: Vec<Edit> = ours.into_iter().map(set).collect::<Result<_, StoreError>>()?;
        let row = self.entity(space, id)?;
        self.edit_row(row, &edits)
    }

    /// The changes of an entity that a replica with these heads lacks, ready to be handed over; none of an entity
    /// that stays here.
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
        if self.engine.is_local(&row.collection) {
            return Ok(Vec::new());
        }
        let document = self.engine.take_document(&row)?;
        let changes = document.changes_since(theirs);
        self.engine.cache.put(row.key, document);
        let changes = changes.map_err(|source| StoreError::Damaged { entity: id, source })?;
        let envelope = |change: Change| {
            Ok(Envelope {
                entity: id,
                collection: row.collection.clone(),
                parent: None,
                transaction: transaction_of(&self.engine.connection, row.key, &change.hash())?,
                change: change.into_bytes(),
            })
        };
        changes.into_iter().map(envelope).collect()
    }
}

fn editable(document: &Document, schema: &Collection, id: EntityId) -> Result<(), StoreError> {
    if document.is_purged() {
        return Err(StoreError::Purged(id));
    }
    match document.is_deleted(schema.deletion) {
        Ok(false) => Ok(()),
        Ok(true) => Err(StoreError::Deleted(id)),
        Err(source) => Err(StoreError::Damaged { entity: id, source }),
    }
}
