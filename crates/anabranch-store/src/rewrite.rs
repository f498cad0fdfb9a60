//! Taking changes out of an entity's log, and putting in what was written in their place.

use anabranch_core::document::{Removal, Rewritten};
use anabranch_core::{Actor, Change, ChangeHash};
use rusqlite::{OptionalExtension as _, params};

use crate::engine::Write;
use crate::error::{QuarantineReason, StoreError};
use crate::rows::{self, EntityRow, Origin};

/// What became of a change that was taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It is gone for good.
    Discarded,
    /// What it did was written again, as far as it could be.
    Rewritten,
}

impl Refused {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Discarded => "discarded",
            Self::Rewritten => "rewritten",
        }
    }

    pub(crate) fn parse(text: &str) -> Self {
        if text == "discarded" { Self::Discarded } else { Self::Rewritten }
    }
}

impl Write<'_> {
    /// Takes changes out of an entity's history, in document, log and outbox; what builds on them is written again
    /// and offered to every server. Returns how many were written again, and what was taken out.
    pub(crate) fn rewrite_history(&mut self, row: &EntityRow, removal: &Removal) -> Result<Rewrote, StoreError> {
        let document = self.engine.take_document(row)?;
        let outcome = document.rewrite(removal);
        self.engine.cache.put(row.key, document);
        let Rewritten { document, changes, lost } =
            outcome.map_err(|source| StoreError::Damaged { entity: row.id, source })?;
        let mut rewrote = Rewrote::default();
        for hash in removal.discard.iter().filter(|hash| document.has(hash)) {
            self.offer_again(row, hash)?;
            rewrote.kept += 1;
        }
        if changes.is_empty() {
            return Ok(rewrote);
        }
        self.unfold_for(row, changes.iter().map(|(hash, _)| hash))?;
        for (hash, made) in &changes {
            let removed = self.remove_change(row, hash)?;
            // Its place in its actor's history may be known elsewhere: it is never taken again.
            self.engine.retire_actor_if(removed.change.actor());
            if lost.contains(hash) {
                self.set_aside(row, &removed.change, &QuarantineReason::NotRewritable)?;
            }
            let refused = if removal.discard.contains(hash) { Refused::Discarded } else { Refused::Rewritten };
            self.note_gone(row, &removed.change, refused)?;
            for change in made {
                self.put_in_place(row, change, &removed)?;
            }
            rewrote.gone += 1;
            rewrote.rewritten += usize::from(!made.is_empty());
        }
        let connection = &self.engine.connection;
        connection.execute(
            "UPDATE entities SET log_bytes = (SELECT coalesce(sum(length(bytes)), 0) FROM changes WHERE entity = ?1) \
             WHERE key = ?1",
            [row.key],
        )?;
        self.used.push(row.key);
        self.engine.cache.put(row.key, document);
        let dirty = self.dirty(row.key);
        dirty.document = true;
        dirty.recount = true;
        self.pending.sync_state = true;
        // What has waited behind what goes may be pushed now, also of other entities.
        self.pending.pushable.insert(row.space);
        Ok(rewrote)
    }

    /// What was refused and is needed by what stays, the birth of a container, is offered again with that.
    fn offer_again(&mut self, row: &EntityRow, hash: &ChangeHash) -> Result<(), StoreError> {
        let mut update = self.engine.connection.prepare_cached(
            "UPDATE outbox SET state = 'pending', attempts = 0, not_before = 0, last_error = NULL, code = NULL, \
             refused_at = NULL WHERE entity = ?1 AND change = (SELECT seq FROM changes WHERE entity = ?1 AND hash = ?2)",
        )?;
        update.execute(params![row.key, hash.as_bytes()])?;
        drop(update);
        self.pending.pushable.insert(row.space);
        self.dirty(row.key).recount = true;
        Ok(())
    }

    /// If one of these changes has been folded, all are put back into the log, and the fold is dropped.
    fn unfold_for<'h>(
        &mut self,
        row: &EntityRow,
        hashes: impl Iterator<Item = &'h ChangeHash>,
    ) -> Result<(), StoreError> {
        for hash in hashes {
            if rows::change_seq(&self.engine.connection, row.key, hash)?.is_none() {
                self.unfold(row)?;
                self.engine.connection.execute("DELETE FROM snapshots WHERE entity = ?", [row.key])?;
                break;
            }
        }
        Ok(())
    }

    fn remove_change(&self, row: &EntityRow, hash: &ChangeHash) -> Result<Removed, StoreError> {
        let connection = &self.engine.connection;
        let mut delete = connection
            .prepare_cached("DELETE FROM changes WHERE entity = ? AND hash = ? RETURNING seq, txn, origin, bytes")?;
        // What refers to the row goes with it, a line further down.
        connection.execute_batch("PRAGMA defer_foreign_keys = on")?;
        let removed = delete.query_row(params![row.key, hash.as_bytes()], |found| {
            Ok((found.get::<_, i64>(0)?, found.get(1)?, found.get::<_, String>(2)?, found.get::<_, Vec<u8>>(3)?))
        });
        let (seq, transaction, origin, bytes) =
            removed.optional()?.ok_or(StoreError::DamagedRow("a change that was taken out is not in the log"))?;
        if connection.prepare_cached("DELETE FROM outbox WHERE change = ?")?.execute([seq])? > 0 {
            // It may be on its way.
            connection.prepare_cached("INSERT OR IGNORE INTO overtaken (seq) VALUES (?)")?.execute([seq])?;
        }
        let change = Change::parse(bytes).map_err(|_| StoreError::DamagedRow("a change cannot be read"))?;
        Ok(Removed { change, transaction, local: origin == Origin::Local.as_str() })
    }

    fn put_in_place(&mut self, row: &EntityRow, change: &Change, removed: &Removed) -> Result<(), StoreError> {
        if rows::change_seq(&self.engine.connection, row.key, &change.hash())?.is_some() {
            // Somebody else's came here before.
            return Ok(());
        }
        // What is rewritten is still this replica's own word, if the original was.
        let origin = if removed.local { Origin::Local } else { Origin::Peer };
        let transaction = removed.transaction.as_deref();
        let seq = rows::insert_change(&self.engine.connection, row.key, change, transaction, origin)?;
        self.offer(row, seq, None)
    }

    /// Remembers that a change was taken out, if it can come again. A rewrite is known by its original: who has discarded
    /// it wants no form of that; one that made way for another, and was written again as if it were no rewrite, would
    /// become itself.
    pub(crate) fn note_gone(&self, row: &EntityRow, change: &Change, kind: Refused) -> Result<(), StoreError> {
        match (change.rewrite_of(), kind) {
            _ if is_genesis(change) => Ok(()),
            (None, _) => self.note_refused(row, &change.hash(), kind),
            (Some(of), Refused::Discarded) => self.note_refused(row, &of.original, kind),
            (Some(_), Refused::Rewritten) => Ok(()),
        }
    }

    /// Remembers that a change of this hash is not taken any more. That it was discarded counts for more than that it was
    /// written again.
    pub(crate) fn note_refused(&self, row: &EntityRow, hash: &ChangeHash, kind: Refused) -> Result<(), StoreError> {
        let mut insert = self.engine.connection.prepare_cached(
            "INSERT INTO refused (entity, hash, kind, refused_at) VALUES (?, ?, ?, ?) \
                 ON CONFLICT DO UPDATE SET kind = excluded.kind WHERE excluded.kind = 'discarded'",
        )?;
        insert.execute(params![row.key, hash.as_bytes(), kind.as_str(), self.now()])?;
        Ok(())
    }

    /// A change of ours stands where another's has been accepted: what we wrote there is written again, and the
    /// next change comes from another actor. `false` if that cannot help, since the actor is derived.
    pub(crate) fn yield_to_fork(
        &mut self,
        row: &EntityRow,
        hash: ChangeHash,
        actor: &Actor,
    ) -> Result<bool, StoreError> {
        if actor.is_derived() {
            return Ok(false);
        }
        self.rewrite_history(row, &Removal::replacing([hash]))?;
        Ok(true)
    }

    /// Whether some server has this change.
    pub(crate) fn is_accepted(&self, row: &EntityRow, hash: &ChangeHash) -> Result<bool, StoreError> {
        // What has been folded was accepted before.
        let Some(seq) = rows::change_seq(&self.engine.connection, row.key, hash)? else { return Ok(true) };
        let mut statement = self.engine.connection.prepare_cached(
            "SELECT 1 FROM remotes WHERE lineage IS NOT NULL AND key NOT IN (SELECT remote FROM outbox WHERE change = ?)",
        )?;
        Ok(statement.exists([seq])?)
    }
}

/// What a rewrite did to an entity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rewrote {
    /// Changes that were taken out.
    pub(crate) gone: usize,
    /// Those of them that were written again.
    pub(crate) rewritten: usize,
    /// Those that were to be discarded and stay, since what stays needs them.
    pub(crate) kept: usize,
}

struct Removed {
    change: Change,
    transaction: Option<Vec<u8>>,
    local: bool,
}

/// The birth of a container belongs to everybody: it may come again.
fn is_genesis(change: &Change) -> bool {
    change.actor().is_derived() && change.dependencies().is_empty() && change.rewrite_of().is_none()
}
