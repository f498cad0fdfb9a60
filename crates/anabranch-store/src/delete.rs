//! Deleting, restoring and purging, with what refers to the entity.

use std::collections::BTreeSet;

use anabranch_core::document::{Document, Edit, EditError};
use anabranch_core::{Change, Deletion, EntityId, FieldName, OnDelete, SpaceName, Stamp};
use rusqlite::{OptionalExtension as _, params};
use serde_json::Value;

use crate::cache::EntityKey;
use crate::conflicts;
use crate::engine::Write;
use crate::error::{QuarantineReason, StoreError};
use crate::rows::{self, EntityRow, Origin};

/// The most entities that one deletion takes along: it is one transaction.
pub const MAX_CASCADE: usize = anabranch_core::sync::MAX_TRANSACTION_CHANGES;

/// What a deletion does besides.
#[derive(Debug, Default)]
struct Plan {
    /// The entities to delete, those that refer to another before it.
    delete: Vec<EntityRow>,
    /// The references to clear.
    nullify: Vec<(EntityRow, FieldName)>,
}

impl Write<'_> {
    /// Deletes an entity: it leaves the view, and its history stays. What refers to it is treated as the schema's
    /// `on_delete` says, in the same transaction. The job that calls this must
    /// [read rows](crate::Job::reads_rows), or references that share its transaction go unseen.
    ///
    /// Returns how many entities were deleted.
    ///
    /// # Errors
    /// [`StoreError::Referenced`] if a reference forbids it, or if the entity is not there.
    pub fn delete(&mut self, space: &SpaceName, id: EntityId) -> Result<usize, StoreError> {
        let row = self.own_entity(space, id)?;
        self.flush_rows()?;
        let plan = self.plan_deletion(row)?;
        if plan.delete.len() + plan.nullify.len() == 1 {
            return self.carry_out(space, &plan);
        }
        self.transaction(|write| write.carry_out(space, &plan))
    }

    /// Does with what refers to an entity that has just been deleted what its deletion asks for.
    pub(crate) fn delete_with(&mut self, space: &SpaceName, row: &EntityRow) -> Result<(), StoreError> {
        let mut plan = self.plan_deletion(row.clone())?;
        plan.delete.retain(|other| other.key != row.key);
        self.carry_out(space, &plan).map(drop)
    }

    /// Brings a deleted entity back.
    ///
    /// # Errors
    /// If the entity was never there, or has been purged.
    pub fn restore(&mut self, space: &SpaceName, id: EntityId) -> Result<(), StoreError> {
        let row = self.own_entity(space, id)?;
        self.mark(&row, Document::restore)
    }

    fn carry_out(&mut self, space: &SpaceName, plan: &Plan) -> Result<usize, StoreError> {
        for (row, field) in &plan.nullify {
            self.edit(space, row.id, &[Edit::Set { field: field.clone(), value: Value::Null }])?;
        }
        for row in &plan.delete {
            self.mark(row, Document::delete)?;
        }
        Ok(plan.delete.len())
    }

    fn mark(
        &mut self,
        row: &EntityRow,
        mark: impl FnOnce(&mut Document, Stamp) -> Result<Vec<Change>, EditError>,
    ) -> Result<(), StoreError> {
        let stamp = self.tick();
        self.with_document(row, |write, document| {
            if document.is_purged() {
                return Err(StoreError::Purged(row.id));
            }
            let changes = mark(document, stamp)?;
            write.log(row, &changes)
        })
    }

    /// Follows the references to an entity, and to those that go with it.
    fn plan_deletion(&self, root: EntityRow) -> Result<Plan, StoreError> {
        let id = root.id;
        let mut plan = Plan::default();
        let mut going: BTreeSet<EntityKey> = BTreeSet::from([root.key]);
        let mut open = vec![root];
        let mut restricting = Vec::new();
        while let Some(row) = open.pop() {
            for (key, field) in conflicts::referring(&self.engine.connection, &row)? {
                let Some(child) = rows::entity_by_key(&self.engine.connection, key)? else { continue };
                let schema = self.engine.schema.collection(child.collection.as_str());
                let Some((name, field)) = schema.and_then(|schema| schema.fields.get_key_value(field.as_str())) else {
                    continue;
                };
                match field.on_delete {
                    OnDelete::Keep => {}
                    OnDelete::Restrict => restricting.push((row.id, child, name.to_string())),
                    OnDelete::Nullify => plan.nullify.push((child, name.clone())),
                    OnDelete::Cascade if !going.insert(key) => {}
                    OnDelete::Cascade if going.len() > MAX_CASCADE => return Err(StoreError::CascadeTooLarge(id)),
                    OnDelete::Cascade => open.push(child),
                }
            }
            plan.delete.push(row);
        }
        // One that goes itself neither forbids anything nor keeps a reference to clear.
        if let Some((entity, by, field)) = restricting.into_iter().find(|(_, by, _)| !going.contains(&by.key)) {
            return Err(StoreError::Referenced { entity, by: by.id, field });
        }
        plan.nullify.retain(|(child, _)| !going.contains(&child.key));
        plan.delete.reverse();
        Ok(plan)
    }
}

impl Write<'_> {
    /// Purges a deleted entity: once a server has agreed, its history goes for good, here and everywhere. The
    /// server agrees if it holds nothing of the entity that this replica has not seen; otherwise the entity stays.
    ///
    /// An entity of a local-only collection is purged at once.
    ///
    /// A change that some replica had not pushed by then is refused, and set aside on that replica.
    ///
    /// # Errors
    /// [`StoreError::NotPurgeable`] if it is not deleted, or not all of it is on every server it syncs with.
    pub fn purge(&mut self, space: &SpaceName, id: EntityId) -> Result<(), StoreError> {
        let row = self.own_entity(space, id)?;
        let document = self.engine.take_document(&row)?;
        // Deleted by the stricter policy, whatever this schema version says: another may not see it as deleted.
        let deleted = document.is_deleted(Deletion::EditWins);
        let facts = (document.is_purged(), deleted, document.heads().version());
        self.engine.cache.put(row.key, document);
        let (purged, deleted, version) = facts;
        let damaged = |source| StoreError::Damaged { entity: id, source };
        if purged {
            return Ok(());
        }
        let pending =
            self.engine.connection.prepare_cached("SELECT 1 FROM outbox WHERE entity = ?")?.exists([row.key])?;
        if !deleted.map_err(damaged)? || pending {
            return Err(StoreError::NotPurgeable(id));
        }
        let marker = Document::purge_marker(&version).map_err(damaged)?;
        if self.engine.is_local(&row.collection) {
            return self.take_marker(&row, &marker, Origin::Local).map(drop);
        }
        // Into the log and the outbox, but not yet into the document.
        let seq = rows::insert_change(&self.engine.connection, row.key, &marker, None, Origin::Local)?;
        self.offer(&row, seq, None)
    }

    /// The marker, if this row of the log is one.
    pub(crate) fn marker_at(&self, seq: i64) -> Result<Option<Change>, StoreError> {
        let mut statement =
            self.engine.connection.prepare_cached("SELECT bytes FROM changes WHERE seq = ? AND stamp = 0")?;
        let bytes: Option<Vec<u8>> = statement.query_row([seq], |row| row.get(0)).optional()?;
        Ok(bytes.and_then(|bytes| Change::parse(bytes).ok()).filter(|change| change.purge_of().is_some()))
    }

    /// Takes a marker back out of log and outbox: a server has not agreed to the purge. `false` if this is no
    /// marker, or another server has agreed: then there is nothing to go back to.
    pub(crate) fn withdraw_marker(&mut self, entity: EntityKey, seq: i64) -> Result<bool, StoreError> {
        let row = rows::entity_by_key(&self.engine.connection, entity)?;
        let is_purged = row.map_or(Ok(false), |row| self.is_purged(&row))?;
        if is_purged || self.marker_at(seq)?.is_none() {
            return Ok(false);
        }
        let connection = &self.engine.connection;
        connection.prepare_cached("DELETE FROM outbox WHERE change = ?")?.execute([seq])?;
        connection.prepare_cached("DELETE FROM changes WHERE seq = ?")?.execute([seq])?;
        self.dirty(entity).recount = true;
        Ok(true)
    }

    /// A server has purged an entity. `false` if this replica has not wanted to; otherwise the history goes, as the server
    /// will agree to the marker that is under way.
    pub(crate) fn purge_as_well(&mut self, entity: EntityKey) -> Result<bool, StoreError> {
        let Some(row) = rows::entity_by_key(&self.engine.connection, entity)? else { return Ok(false) };
        let logged = rows::logged_changes(&self.engine.connection, entity)?;
        let Some(marker) = logged.iter().find(|change| change.purge_of().is_some()) else { return Ok(false) };
        self.pending.pushable.insert(row.space);
        self.take_marker(&row, marker, Origin::Local)?;
        Ok(true)
    }

    /// Whether nothing but purge markers is left of an entity.
    pub(crate) fn is_purged(&self, row: &EntityRow) -> Result<bool, StoreError> {
        let mut statement =
            self.engine.connection.prepare_cached("SELECT 1 FROM entities WHERE key = ? AND purged = 1")?;
        Ok(statement.exists([row.key])?)
    }

    /// Leaves of an entity nothing but purge markers: this one, and those that it had already. What was not
    /// pushed yet is set aside, not thrown away. `false` if the marker was here already.
    pub(crate) fn take_marker(&mut self, row: &EntityRow, marker: &Change, from: Origin) -> Result<bool, StoreError> {
        let logged = rows::change_seq(&self.engine.connection, row.key, &marker.hash())?;
        if logged.is_none() || !self.is_purged(row)? {
            // One of this replica's own may be under way: another has purged another version meanwhile.
            let mut markers = rows::logged_changes(&self.engine.connection, row.key)?;
            markers.retain(|change| change.purge_of().is_some() && change.hash() != marker.hash());
            markers.push(marker.clone());
            let damaged = |source| StoreError::Damaged { entity: row.id, source };
            let document = Document::purged(&self.engine.actor, &markers).map_err(damaged)?;
            self.forget_history(row)?;
            self.used.push(row.key);
            self.engine.cache.put(row.key, document);
            let dirty = self.dirty(row.key);
            dirty.document = true;
            dirty.recount = true;
            dirty.added_bytes = markers.iter().map(|marker| marker.bytes().len()).sum();
        }
        match (logged, from) {
            (Some(seq), Origin::Remote(remote)) => drop(self.settle(remote, row.key, seq)?),
            (Some(_), _) => {}
            (None, from) => {
                let except = if let Origin::Remote(remote) = from { Some(remote) } else { None };
                let seq = rows::insert_change(&self.engine.connection, row.key, marker, None, from)?;
                self.offer(row, seq, except)?;
            }
        }
        Ok(logged.is_none())
    }

    /// Drops all but the markers. What the purge of this replica's own has named it need not set aside.
    fn forget_history(&self, row: &EntityRow) -> Result<(), StoreError> {
        let connection = &self.engine.connection;
        let mut select = connection.prepare_cached(
            "SELECT seq, bytes, EXISTS (SELECT 1 FROM outbox WHERE change = seq) FROM changes WHERE entity = ? \
             ORDER BY seq DESC",
        )?;
        let mut markers = Vec::new();
        let mut logged = select.query([row.key])?;
        while let Some(found) = logged.next()? {
            let (seq, is_pending): (i64, bool) = (found.get(0)?, found.get(2)?);
            match Change::parse(found.get(1)?) {
                Ok(change) if change.purge_of().is_some() => markers.push(seq),
                Ok(change) if is_pending && markers.is_empty() => {
                    self.set_aside(row, &change, &QuarantineReason::Purged)?
                }
                _ => {}
            }
        }
        // Other changes of its transactions were parked because of it; they are offered again, without it.
        let mut release = connection.prepare_cached(
            "UPDATE outbox SET state = 'pending', attempts = 0, not_before = 0, last_error = NULL \
             WHERE state = 'parked' AND last_error = 'another change of the transaction was refused' AND entity <> ?1 \
               AND change IN (SELECT seq FROM changes WHERE txn IN (SELECT txn FROM changes WHERE entity = ?1))",
        )?;
        release.execute([row.key])?;
        let markers = Value::from(markers).to_string();
        for sql in [
            "DELETE FROM outbox WHERE entity = ? AND change NOT IN (SELECT value FROM json_each(?))",
            "DELETE FROM changes WHERE entity = ? AND seq NOT IN (SELECT value FROM json_each(?))",
        ] {
            connection.prepare_cached(sql)?.execute(params![row.key, markers])?;
        }
        for sql in [
            "DELETE FROM snapshots WHERE entity = ?",
            "DELETE FROM orphans WHERE entity = ?",
            "DELETE FROM links WHERE entity = ?",
            "DELETE FROM unchecked WHERE entity = ?",
            "UPDATE entities SET log_bytes = 0, purged = 1 WHERE key = ?",
        ] {
            connection.prepare_cached(sql)?.execute([row.key])?;
        }
        Ok(())
    }
}
