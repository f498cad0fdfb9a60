//! Compaction: an acknowledged log becomes a folded document.

use std::sync::atomic::Ordering;

use rusqlite::{OptionalExtension as _, params};
use tracing::error;

use crate::cache::EntityKey;
use crate::engine::{Committed, Engine, Job, Undo, Write};
use crate::error::StoreError;
use crate::rows;

impl Write<'_> {
    /// Folds an entity's log into its snapshot: built, loaded back, compared in heads and values, then swapped
    /// in this transaction. `false` if something is still pending, or the entity is gone or purged.
    ///
    /// # Errors
    /// If the document cannot be folded; the log stays as it is.
    pub fn compact(&mut self, key: EntityKey) -> Result<bool, StoreError> {
        let Some(row) = rows::entity_by_key(&self.engine.connection, key)? else { return Ok(false) };
        let pending = self.engine.connection.prepare_cached("SELECT 1 FROM outbox WHERE entity = ?")?.exists([key])?;
        // What is purged has nothing to fold, and its markers are looked for in the log.
        if pending || row.damaged || self.is_purged(&row)? {
            return Ok(false);
        }
        if self.engine.is_unchecked(key)? {
            let document = self.engine.take_document(&row)?;
            self.engine.cache.put(key, document);
        }
        // From the file, not from the cache: what is folded is what has been stored.
        let document = rows::load_document(&self.engine.connection, &row, &self.engine.actor)?;
        let folded = document.fold().map_err(|source| StoreError::Damaged { entity: row.id, source })?;
        let connection = &self.engine.connection;
        connection.execute(
            "INSERT OR REPLACE INTO snapshots (entity, heads, document) VALUES (?, ?, ?)",
            params![key, folded.heads.to_bytes(), folded.bytes],
        )?;
        connection.execute("DELETE FROM changes WHERE entity = ?", [key])?;
        connection.execute("UPDATE entities SET log_bytes = 0 WHERE key = ?", [key])?;
        self.engine.stats().compactions.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    /// Takes an entity that cannot be folded out of the compaction's view until its log grows again.
    fn skip_compaction(&mut self, key: EntityKey) -> Result<(), StoreError> {
        self.engine.connection.execute("UPDATE entities SET log_bytes = 0 WHERE key = ?", [key])?;
        Ok(())
    }
}

impl Engine {
    /// Folds one entity's log in a transaction of its own. `None` if that failed.
    pub fn compact(&mut self, key: EntityKey) -> Option<Committed> {
        self.commit(vec![Box::new(Compaction { key })])
    }

    /// An entity whose log is worth folding now: wholly acknowledged, past the threshold, and larger than what
    /// it was folded into last, so that folding costs each change a constant share however large the document.
    ///
    /// # Errors
    /// If the database fails.
    pub fn next_to_compact(&self) -> Result<Option<EntityKey>, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT key FROM entities e WHERE log_bytes > 16384 AND pending = 0 \
               AND log_bytes > coalesce((SELECT length(document) FROM snapshots s WHERE s.entity = e.key), 0) \
             ORDER BY log_bytes DESC LIMIT 1",
        )?;
        Ok(statement.query_row([], |row| row.get(0)).optional()?)
    }
}

struct Compaction {
    key: EntityKey,
}

impl Job for Compaction {
    fn run(&mut self, write: &mut Write<'_>) -> Result<(), Undo> {
        match write.compact(self.key) {
            Ok(_) => Ok(()),
            Err(failure) => {
                error!(%failure, "an entity cannot be folded");
                // Out of the queue until it grows again, so that it does not keep the others waiting.
                write.skip_compaction(self.key).map_err(|_| Undo)
            }
        }
    }

    fn finish(self: Box<Self>, _outcome: Result<(), StoreError>) {}
}
