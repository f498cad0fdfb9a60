//! Bringing the rows of entities up to date, once per transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anabranch_core::SpaceName;
use anabranch_core::document::canonical_json;
use rusqlite::params;
use serde_json::Value;

use crate::cache::EntityKey;
use crate::conflicts;
use crate::engine::{Committed, Engine, Touched};
use crate::error::StoreError;
use crate::rows::{self, EntityRow, SpaceKey};

/// What has to be brought up to date in an entity's row before the commit.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    pub(crate) fields: BTreeSet<String>,
    pub(crate) added_bytes: usize,
    /// How many changes have come into the outbox, less those that have left it.
    pub(crate) pending: i64,
    /// That difference is not known: the outbox must be counted.
    pub(crate) recount: bool,
    pub(crate) synced: bool,
    /// The document changed, not just the outbox.
    pub(crate) document: bool,
}

/// The changes of one transaction under way.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    pub(crate) dirty: BTreeMap<EntityKey, Dirty>,
    pub(crate) pushable: BTreeSet<SpaceKey>,
    pub(crate) sync_state: bool,
    pub(crate) clock_moved: bool,
    /// What has been flushed so far.
    pub(super) committed: Committed,
}

impl Pending {
    /// Notes an entity whose row has been written already.
    pub(crate) fn touch(&mut self, space: SpaceName, row: &EntityRow) {
        let (collection, id) = (row.collection.clone(), row.id);
        self.committed.entities.push(Touched { space, collection, id });
    }

    /// The entities whose rows have been written.
    pub(crate) fn touched(self) -> Vec<Touched> {
        self.committed.entities
    }
}

impl Pending {
    /// Adds what a job that has succeeded did.
    pub(crate) fn absorb(&mut self, job: Self) {
        for (key, done) in job.dirty {
            let dirty = self.dirty.entry(key).or_default();
            dirty.fields.extend(done.fields);
            dirty.added_bytes += done.added_bytes;
            dirty.pending += done.pending;
            dirty.recount |= done.recount;
            dirty.synced |= done.synced;
            dirty.document |= done.document;
        }
        self.pushable.extend(job.pushable);
        self.sync_state |= job.sync_state;
        self.clock_moved |= job.clock_moved;
        self.committed.entities.extend(job.committed.entities);
        self.committed.pushable.extend(job.committed.pushable);
        self.committed.sync_state |= job.committed.sync_state;
    }
}

impl Engine {
    /// Brings the rows of all touched entities up to date, once per transaction however often they were written.
    pub(crate) fn flush(&mut self, pending: &mut Pending) -> Result<(), StoreError> {
        let now = self.environment.now();
        for (key, dirty) in std::mem::take(&mut pending.dirty) {
            let Some(row) = rows::entity_by_key(&self.connection, key)? else { continue };
            if dirty.document && self.flush_document(&row, &dirty)? {
                self.flush_referring(&row, pending)?;
            }
            self.flush_outbox(&row, &dirty, now)?;
            let space = rows::space_name(&self.connection, row.space)?;
            pending.committed.entities.push(Touched { space, collection: row.collection, id: row.id });
        }
        for space in std::mem::take(&mut pending.pushable) {
            pending.committed.pushable.insert(rows::space_name(&self.connection, space)?);
        }
        pending.committed.sync_state |= pending.sync_state;
        if std::mem::take(&mut pending.clock_moved) {
            rows::set_meta(&self.connection, "clock", self.clock.last().raw())?;
        }
        Ok(())
    }

    /// Derives the entity's row from its document. `true` if it has been deleted or has come back.
    fn flush_document(&mut self, row: &EntityRow, dirty: &Dirty) -> Result<bool, StoreError> {
        let document = self.take_document(row)?;
        if row.damaged && !self.is_whole_again(row, &document)? {
            self.cache.put(row.key, document);
            return Ok(false);
        }
        let damaged = |source| StoreError::Damaged { entity: row.id, source };
        let purged = document.is_purged();
        let schema = Arc::clone(&self.schema);
        let schema = schema.collection(row.collection.as_str());
        let mut state = document.state(schema).map_err(damaged)?;
        state.deleted |= purged;
        let digest = state.digest();
        let counts = conflicts::rewrite(&self.connection, row, &state, schema)?;
        let json = canonical_json(&Value::Object(std::mem::take(&mut state.fields)));
        let mut before = self.connection.prepare_cached("SELECT deleted FROM entities WHERE key = ?")?;
        let before: bool = before.query_row([row.key], |found| found.get(0))?;
        let mut statement = self.connection.prepare_cached(
            "UPDATE entities SET state = ?, digest = ?, heads = ?, created_at = ?, updated_at = ?, deleted = ?, \
             born = ?, purged = ?, conflicts = ?, items = ?, log_bytes = log_bytes + ? WHERE key = ?",
        )?;
        statement.execute(params![
            json,
            digest.as_bytes(),
            document.heads().to_bytes(),
            state.created.millis(),
            state.updated.millis(),
            state.deleted,
            purged || state.collection.is_some(),
            purged,
            i64::try_from(counts.contested)?,
            counts.open,
            i64::try_from(dirty.added_bytes)?,
            row.key,
        ])?;
        drop(statement);
        self.cache.put(row.key, document);
        Ok(state.deleted != before)
    }

    /// Looks again at the entities whose references name one that has been deleted or has come back.
    pub(crate) fn flush_referring(&self, row: &EntityRow, pending: &mut Pending) -> Result<(), StoreError> {
        let referring: BTreeSet<_> =
            conflicts::referring(&self.connection, row)?.into_iter().map(|(key, _)| key).collect();
        for key in referring {
            let Some(child) = rows::entity_by_key(&self.connection, key)? else { continue };
            conflicts::look_again(&self.connection, &child, self.schema.collection(child.collection.as_str()))?;
            let space = rows::space_name(&self.connection, child.space)?;
            pending.committed.entities.push(Touched { space, collection: child.collection, id: child.id });
        }
        Ok(())
    }

    fn flush_outbox(&self, row: &EntityRow, dirty: &Dirty, now: i64) -> Result<(), StoreError> {
        let mut select = self.connection.prepare_cached("SELECT pending, dirty_fields FROM entities WHERE key = ?")?;
        let (before, fields): (i64, String) = select.query_row([row.key], |row| Ok((row.get(0)?, row.get(1)?)))?;
        // Counting costs time proportional to what is pending, so it is not done for every keystroke.
        let count = if dirty.recount {
            let mut count =
                self.connection.prepare_cached("SELECT count(DISTINCT change) FROM outbox WHERE entity = ?")?;
            count.query_row([row.key], |row| row.get(0))?
        } else {
            before + dirty.pending
        };
        let fields = if count == 0 {
            "[]".to_owned()
        } else if dirty.fields.is_empty() {
            fields
        } else {
            let mut all: BTreeSet<String> = serde_json::from_str(&fields).unwrap_or_default();
            all.extend(dirty.fields.iter().cloned());
            serde_json::to_string(&all).map_err(|_| StoreError::OutOfRange)?
        };
        let synced_at = dirty.synced.then_some(now);
        let mut update = self.connection.prepare_cached(
            "UPDATE entities SET pending = ?, dirty_fields = ?, last_sync_at = coalesce(?, last_sync_at) WHERE key = ?",
        )?;
        update.execute(params![count, fields, synced_at, row.key])?;
        Ok(())
    }
}
