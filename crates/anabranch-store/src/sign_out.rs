//! Signing out: everything that belongs to an account goes, what is local-only stays.

use anabranch_core::CollectionName;
use rusqlite::Connection;

use crate::attempts::Unsent;
use crate::engine::{Engine, SignOut, Write};
use crate::error::StoreError;
use crate::rows;

/// What a file keeps of `meta`: who the replica is goes, so that the next account's replica is another one.
const KEPT_META: &str = "'schema', 'projection', 'clock', 'format'";

impl Write<'_> {
    /// Erases everything that could be synced, and forgets every server. Collections that are local-only stay. The
    /// file takes no more writes until it is opened again, as another replica.
    ///
    /// `seen` is what its user has been told would be lost.
    ///
    /// # Errors
    /// [`StoreError::UnsentChanged`] if there is more by now that is on no server: look again.
    pub fn sign_out(&mut self, seen: &Unsent) -> Result<(), StoreError> {
        let now = self.as_read().unsent()?;
        if now.newest > seen.newest || now.changes > seen.changes {
            return Err(StoreError::UnsentChanged);
        }
        let connection = &self.engine.connection;
        // What is deleted is overwritten, not just unlinked.
        connection.pragma_update(None, "secure_delete", true)?;
        connection.execute_batch("PRAGMA defer_foreign_keys = on")?;
        for table in tables(connection)? {
            connection.execute(&erasing(connection, &table)?, [])?;
        }
        connection.execute_batch(&format!(
            "DELETE FROM entities WHERE collection NOT IN (SELECT name FROM local_collections);
             DELETE FROM spaces WHERE key NOT IN (SELECT space FROM entities);
             DELETE FROM actors WHERE key NOT IN (SELECT actor FROM changes);
             DELETE FROM meta WHERE key NOT IN ({KEPT_META});
             INSERT INTO remotes (key) VALUES (1);"
        ))?;
        self.engine.cache.clear();
        self.engine.sign_out = SignOut::UnderWay;
        self.pending.dirty.clear();
        self.pending.sync_state = true;
        Ok(())
    }
}

impl Engine {
    /// Whether this or another process has signed out: the file is then another replica's.
    pub(crate) fn check_signed_in(&self) -> Result<(), StoreError> {
        match rows::meta::<String>(&self.connection, "replica")? {
            Some(id) if id == self.replica().to_string() => Ok(()),
            _ => Err(StoreError::SignedOut),
        }
    }

    /// Whoever opens the file next is another replica, and has lost nothing.
    pub(crate) fn part_with_witness(&mut self) {
        if let Some(witness) = self.witness.take() {
            witness.discard();
        }
    }
}

fn tables(connection: &Connection) -> Result<Vec<String>, StoreError> {
    let mut statement = connection.prepare(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' \
         AND name NOT IN ('entities', 'spaces', 'actors', 'meta', 'local_collections', 'seals')",
    )?;
    Ok(statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

/// A table that is about entities keeps those that stay; any other is emptied. So what a later release adds is
/// erased, too.
fn erasing(connection: &Connection, table: &str) -> Result<String, StoreError> {
    let mut columns = connection.prepare("SELECT 1 FROM pragma_table_info(?) WHERE name = 'entity'")?;
    let of_entities = columns.exists([table])?;
    let kept = "SELECT key FROM entities WHERE collection IN (SELECT name FROM local_collections)";
    let clause = if of_entities { format!(" WHERE entity NOT IN ({kept})") } else { String::new() };
    Ok(format!("DELETE FROM \"{table}\"{clause}"))
}

/// How many entities of each collection have something unsent, the most first.
pub(crate) fn unsent_by_collection(connection: &Connection) -> Result<Vec<(CollectionName, u64)>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT collection, count(*) AS n FROM entities WHERE pending > 0 AND collection <> '$schema' \
         GROUP BY collection ORDER BY n DESC, collection",
    )?;
    let mut rows = statement.query([])?;
    let mut collections = Vec::new();
    while let Some(row) = rows.next()? {
        collections.push((CollectionName::new(row.get::<_, String>(0)?)?, row.get(1)?));
    }
    Ok(collections)
}
