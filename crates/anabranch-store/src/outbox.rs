//! The outbox: what is to be pushed next, and what must be offered again.

mod answers;
mod decide;
mod page;
mod parents;
mod waiting;

use std::collections::HashSet;

use anabranch_core::sync::{MAX_BACKOFF_MILLIS, OutboxItem, OutboxRead};
use anabranch_core::{SpaceName, UnixMillis};
use rusqlite::{OptionalExtension as _, params};

pub use self::decide::{Discarded, OutboxEntry, OutboxState, Resend};
use self::page::PageBuilder;
use crate::cache::EntityKey;
use crate::engine::Write;
use crate::error::StoreError;
use crate::rows::{self, EntityRow, Origin, RemoteKey, SpaceKey};

/// A page of the outbox.
#[derive(Clone, Debug, Default)]
pub struct OutboxPage {
    /// What to push, in order: each change after those it depends on, children after their parents, transactions
    /// whole.
    pub items: Vec<OutboxItem>,
    /// When something that is waiting now may be tried again.
    pub retry_at: Option<UnixMillis>,
}

impl Write<'_> {
    /// Notes which server `url` names, and returns its key. The first server that is reached takes over what has
    /// been waiting in the outbox; a further one is offered everything. `free` are remotes that the caller keeps others
    /// from syncing with ([`Store::lock_sync`](crate::Store::lock_sync)): one that nothing has ever reached is given the
    /// new address.
    ///
    /// # Errors
    /// If the database fails.
    pub fn ensure_remote(&mut self, url: &str, free: &[RemoteKey]) -> Result<RemoteKey, StoreError> {
        let connection = &self.engine.connection;
        let known =
            connection.query_row("SELECT key FROM remotes WHERE url = ?", [url], |row| row.get(0)).optional()?;
        if let Some(key) = known {
            return Ok(key);
        }
        self.pending.sync_state = true;
        // Nothing has ever reached it: no server yet, or an address that was mistyped.
        let mut statement =
            connection.prepare("SELECT key, url IS NULL FROM remotes WHERE lineage IS NULL ORDER BY key")?;
        let unreached = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let unreached: Vec<(RemoteKey, bool)> = unreached.collect::<Result<_, _>>()?;
        drop(statement);
        if let Some((key, _)) = unreached.into_iter().find(|(key, is_nobodys)| *is_nobodys || free.contains(key)) {
            connection.execute("UPDATE remotes SET url = ? WHERE key = ?", params![url, key])?;
            return Ok(key);
        }
        connection.execute("INSERT INTO remotes (url) VALUES (?)", [url])?;
        let key = connection.last_insert_rowid();
        self.reoffer_everything(key)?;
        Ok(key)
    }

    /// Makes a space known before anything is in it, so that it can be pulled.
    ///
    /// # Errors
    /// If the database fails.
    pub fn ensure_space(&mut self, space: &SpaceName) -> Result<(), StoreError> {
        rows::ensure_space(&self.engine.connection, space).map(drop)
    }

    /// Notes a failed attempt to reach a remote.
    ///
    /// # Errors
    /// If the database fails.
    pub fn note_failure(&mut self, remote: RemoteKey, failures: u32, reason: &str) -> Result<(), StoreError> {
        self.pending.sync_state = true;
        let mut update =
            self.engine.connection.prepare_cached("UPDATE remotes SET failures = ?, last_error = ? WHERE key = ?")?;
        update.execute(params![failures, reason, remote])?;
        Ok(())
    }

    /// Reads what is to be pushed next.
    ///
    /// # Errors
    /// If the database fails.
    pub fn outbox_page(&mut self, remote: RemoteKey, read: &OutboxRead) -> Result<OutboxPage, StoreError> {
        let (connection, now) = (&self.engine.connection, self.now());
        let Some(space) = rows::space_key(connection, &read.space)? else { return Ok(OutboxPage::default()) };
        let items = PageBuilder::new(connection, &self.engine.schema, now, remote, space, read)?.fill()?;
        if items.is_empty() {
            self.check_pending()?;
        }
        let connection = &self.engine.connection;
        let retry_at = connection
            .prepare_cached(
                "SELECT min(not_before) FROM outbox INDEXED BY outbox_blocking WHERE remote = ? AND state = 'pending' \
                 AND (state = 'parked' OR not_before > 0) AND not_before BETWEEN ? AND ?",
            )?
            .query_row([remote, now + 1, now.saturating_add(MAX_BACKOFF_MILLIS)], |row| row.get(0))?;
        Ok(OutboxPage { items, retry_at })
    }

    /// Offers every change of every space again.
    pub(crate) fn reoffer_everything(&mut self, remote: RemoteKey) -> Result<(), StoreError> {
        let mut statement = self.engine.connection.prepare("SELECT key FROM spaces")?;
        let spaces: Vec<SpaceKey> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        drop(statement);
        spaces.into_iter().try_for_each(|space| self.reoffer_space(remote, space))
    }

    /// Offers every change of a space again: the server has lost some, and which is not known.
    pub(crate) fn reoffer_space(&mut self, remote: RemoteKey, space: SpaceKey) -> Result<(), StoreError> {
        let mut statement = self.engine.connection.prepare("SELECT key FROM entities WHERE space = ? ORDER BY key")?;
        let keys: Vec<EntityKey> = statement.query_map([space], |row| row.get(0))?.collect::<Result<_, _>>()?;
        drop(statement);
        self.forget_refusals(remote, space)?;
        for key in keys {
            if let Some(row) = rows::entity_by_key(&self.engine.connection, key)? {
                self.reoffer_entity(remote, &row)?;
            }
        }
        Ok(())
    }

    /// A server that has lost its history has lost its refusals, too.
    pub(crate) fn forget_refusals(&mut self, remote: RemoteKey, space: SpaceKey) -> Result<(), StoreError> {
        let mut update = self.engine.connection.prepare_cached(
            "UPDATE outbox SET state = 'pending', attempts = 0, not_before = 0 \
             WHERE remote = ? AND entity IN (SELECT key FROM entities WHERE space = ?)",
        )?;
        update.execute([remote, space])?;
        Ok(())
    }

    /// Offers every change of an entity again; those that compaction has folded are unfolded first.
    pub(crate) fn reoffer_entity(&mut self, remote: RemoteKey, row: &EntityRow) -> Result<(), StoreError> {
        if self.engine.is_local(&row.collection) {
            return Ok(());
        }
        let folded =
            self.engine.connection.prepare_cached("SELECT 1 FROM snapshots WHERE entity = ?")?.exists([row.key])?;
        if folded {
            self.unfold(row)?;
        }
        let mut insert = self.engine.connection.prepare_cached(
            "INSERT OR IGNORE INTO outbox (remote, change, entity) SELECT ?, seq, entity FROM changes WHERE entity = ?",
        )?;
        insert.execute([remote, row.key])?;
        drop(insert);
        self.dirty(row.key).recount = true;
        self.pending.pushable.insert(row.space);
        Ok(())
    }

    /// Puts folded changes back into the log, in causal order and before the ones that build on them.
    pub(crate) fn unfold(&mut self, row: &EntityRow) -> Result<(), StoreError> {
        let document = self.engine.take_document(row)?;
        let all = document.changes_since(&anabranch_core::Heads::default());
        self.engine.cache.put(row.key, document);
        let all = all.map_err(|source| StoreError::Damaged { entity: row.id, source })?;
        // In the order of the log, which is causal: that is the order in which they must be pushed.
        let logged: Vec<_> =
            rows::logged_changes(&self.engine.connection, row.key)?.iter().map(anabranch_core::Change::hash).collect();
        let known: HashSet<_> = logged.iter().collect();
        let folded: Vec<_> = all.into_iter().filter(|change| !known.contains(&change.hash())).collect();
        if folded.is_empty() {
            return Ok(());
        }
        // Rows come out in the order of seq, so what is in the log already must move behind the unfolded ones.
        let connection = &self.engine.connection;
        for change in &folded {
            rows::insert_change(connection, row.key, change, None, Origin::Peer)?;
        }
        for hash in logged {
            if let Some(seq) = rows::change_seq(connection, row.key, &hash)? {
                self.move_to_end(seq)?;
            }
        }
        self.dirty(row.key).added_bytes += folded.iter().map(|change| change.bytes().len()).sum::<usize>();
        Ok(())
    }

    fn move_to_end(&self, seq: i64) -> Result<(), StoreError> {
        let connection = &self.engine.connection;
        connection.execute_batch("PRAGMA defer_foreign_keys = on")?;
        // Behind every key there ever was: that of a row which compaction has removed is not used again.
        let end: i64 = connection.query_row(
            "UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = 'changes' RETURNING seq",
            [],
            |row| row.get(0),
        )?;
        connection.prepare_cached("UPDATE changes SET seq = ? WHERE seq = ?")?.execute([end, seq])?;
        connection.prepare_cached("UPDATE outbox SET change = ? WHERE change = ?")?.execute([end, seq])?;
        Ok(())
    }
}
