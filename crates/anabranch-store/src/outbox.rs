//! The outbox: what is to be pushed next, and what must be offered again.

use std::collections::HashSet;

use anabranch_core::sync::{MAX_BACKOFF_MILLIS, OutboxItem, OutboxRead};
use anabranch_core::wire::Envelope;
use anabranch_core::{CollectionName, EntityId, SpaceName, TransactionId, UnixMillis};
use rusqlite::{Connection, OptionalExtension as _, params};
use serde_json::Value;

use crate::cache::EntityKey;
use crate::engine::Write;
use crate::error::StoreError;
use crate::rows::{self, EntityRow, Origin, RemoteKey, SpaceKey};

/// How many parents above a child are looked for in the outbox.
const MAX_PARENTS: usize = 32;

/// A page of the outbox.
#[derive(Clone, Debug, Default)]
pub struct OutboxPage {
    /// What to push, in order: each change after those it depends on, children after their parents.
    pub items: Vec<OutboxItem>,
    /// When something that is waiting now may be tried again.
    pub retry_at: Option<UnixMillis>,
}

impl Write<'_> {
    /// Notes which server `url` names, and returns its key. The first server that is reached takes over what has
    /// been waiting in the outbox; a further one is offered everything. `in_use` are the remotes that a sync is
    /// under way with: their addresses stay.
    ///
    /// # Errors
    /// If the database fails.
    pub fn ensure_remote(&mut self, url: &str, in_use: &[RemoteKey]) -> Result<RemoteKey, StoreError> {
        let connection = &self.engine.connection;
        let known =
            connection.query_row("SELECT key FROM remotes WHERE url = ?", [url], |row| row.get(0)).optional()?;
        if let Some(key) = known {
            return Ok(key);
        }
        self.pending.sync_state = true;
        // Nothing has ever reached it: no server yet, or an address that was mistyped.
        let mut statement = connection.prepare("SELECT key FROM remotes WHERE lineage IS NULL ORDER BY key")?;
        let unreached: Vec<RemoteKey> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        drop(statement);
        if let Some(key) = unreached.into_iter().find(|key| !in_use.contains(key)) {
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
        self.engine.connection.execute(
            "UPDATE remotes SET failures = ?, last_error = ? WHERE key = ?",
            params![failures, reason, remote],
        )?;
        Ok(())
    }

    /// Reads what is to be pushed next.
    ///
    /// # Errors
    /// If the database fails.
    pub fn outbox_page(&mut self, remote: RemoteKey, read: &OutboxRead) -> Result<OutboxPage, StoreError> {
        let connection = &self.engine.connection;
        let Some(space) = rows::space_key(connection, &read.space)? else { return Ok(OutboxPage::default()) };
        let mut page = PageBuilder {
            write: self,
            remote,
            read,
            seen: HashSet::new(),
            above: HashSet::new(),
            items: Vec::new(),
            bytes: 0,
        };
        page.fill(space)?;
        let items = page.items;
        let now = self.now();
        let retry_at = self
            .engine
            .connection
            .prepare_cached(
                "SELECT min(not_before) FROM outbox WHERE remote = ? AND state = 'pending' \
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
        // A server that has lost its history has lost its refusals, too.
        self.engine.connection.execute(
            "UPDATE outbox SET state = 'pending', attempts = 0, not_before = 0 \
             WHERE remote = ? AND entity IN (SELECT key FROM entities WHERE space = ?)",
            [remote, space],
        )?;
        for key in keys {
            if let Some(row) = rows::entity_by_key(&self.engine.connection, key)? {
                self.reoffer_entity(remote, &row)?;
            }
        }
        Ok(())
    }

    /// Offers every change of an entity again; those that compaction has folded are unfolded first.
    pub(crate) fn reoffer_entity(&mut self, remote: RemoteKey, row: &EntityRow) -> Result<(), StoreError> {
        let folded =
            self.engine.connection.prepare_cached("SELECT 1 FROM snapshots WHERE entity = ?")?.exists([row.key])?;
        if folded {
            self.unfold(row)?;
        }
        self.engine.connection.execute(
            "INSERT OR IGNORE INTO outbox (remote, change, entity) SELECT ?, seq, entity FROM changes WHERE entity = ?",
            [remote, row.key],
        )?;
        self.dirty(row.key).recount = true;
        self.pending.pushable.insert(row.space);
        Ok(())
    }

    /// Puts folded changes back into the log, in causal order and before the ones that build on them.
    fn unfold(&mut self, row: &EntityRow) -> Result<(), StoreError> {
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
        connection.execute("UPDATE changes SET seq = ? WHERE seq = ?", [end, seq])?;
        connection.execute("UPDATE outbox SET change = ? WHERE change = ?", [end, seq])?;
        Ok(())
    }
}

/// Builds a page: in log order, but parents before children, within the size that was asked for.
struct PageBuilder<'a, 'w> {
    write: &'a mut Write<'w>,
    remote: RemoteKey,
    read: &'a OutboxRead,
    seen: HashSet<i64>,
    /// Parents whose pending changes have been added, or are being added: each is looked at once, and a cycle
    /// of parents ends.
    above: HashSet<EntityKey>,
    items: Vec<OutboxItem>,
    bytes: usize,
}

struct OutboxRow {
    seq: i64,
    entity: EntityKey,
    id: EntityId,
    collection: CollectionName,
    transaction: Option<Vec<u8>>,
    length: usize,
}

/// The bytes are read only of what goes into the page.
///
/// A wait beyond the longest backoff was begun before the clock was set back; it is over.
const SELECT_ROWS: &str = "SELECT o.change, o.entity, e.id, e.collection, c.txn, length(c.bytes) \
     FROM outbox o JOIN changes c ON c.seq = o.change JOIN entities e ON e.key = o.entity \
     WHERE o.remote = ?1 AND o.state = 'pending' \
       AND o.entity NOT IN (SELECT p.entity FROM outbox p WHERE p.remote = ?1 \
                            AND (p.state = 'parked' OR p.not_before > 0) \
                            AND (p.state = 'parked' OR p.not_before BETWEEN ?2 + 1 AND ?2 + 300000))";
const _: () = assert!(MAX_BACKOFF_MILLIS == 300_000, "the bound in the SQL above");

impl PageBuilder<'_, '_> {
    fn fill(&mut self, space: SpaceKey) -> Result<(), StoreError> {
        let sql = format!("{SELECT_ROWS} AND e.space = ?3 ORDER BY o.change LIMIT ?4");
        let limit = i64::from(self.read.changes);
        let rows = rows_of(&self.write.engine.connection, &sql, params![self.remote, self.write.now(), space, limit])?;
        for row in rows {
            if !self.add(space, row, 0)? {
                break;
            }
        }
        Ok(())
    }

    fn is_full(&self, next: usize) -> bool {
        let over = |limit: u32, value: usize| u32::try_from(value).map_or(true, |value| value > limit);
        !self.items.is_empty()
            && (over(self.read.changes, self.items.len() + 1) || over(self.read.bytes, self.bytes + next))
    }

    /// Adds a change after what its parent still has to push. `false` if the page is full.
    fn add(&mut self, space: SpaceKey, row: OutboxRow, depth: usize) -> Result<bool, StoreError> {
        if self.seen.contains(&row.seq) {
            return Ok(true);
        }
        let parent = self.parent_of(space, &row)?;
        if let Some(parent) = &parent
            && depth < MAX_PARENTS
            && self.above.insert(parent.key)
        {
            let sql = format!("{SELECT_ROWS} AND o.entity = ?3 ORDER BY o.change LIMIT ?4");
            let limit = i64::from(self.read.changes);
            let parameters = params![self.remote, self.write.now(), parent.key, limit];
            for above in rows_of(&self.write.engine.connection, &sql, parameters)? {
                if !self.add(space, above, depth + 1)? {
                    return Ok(false);
                }
            }
        }
        if self.is_full(row.length) {
            return Ok(false);
        }
        if !self.seen.insert(row.seq) {
            // A cycle of parents has added it meanwhile.
            return Ok(true);
        }
        self.bytes += row.length;
        let change = self
            .write
            .engine
            .connection
            .prepare_cached("SELECT bytes FROM changes WHERE seq = ?")?
            .query_row([row.seq], |found| found.get(0))?;
        let transaction = row.transaction.and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
        let envelope = Envelope {
            entity: row.id,
            collection: row.collection,
            parent: parent.map(|parent| parent.id),
            transaction: transaction.map(TransactionId::from_bytes),
            change,
        };
        self.items.push(OutboxItem { key: row.seq, envelope });
        Ok(true)
    }

    /// The parent that must be on the server first, if the entity has one that is here. In a cycle of parents,
    /// which concurrent writes can make, none comes first: they would wait for each other for ever.
    fn parent_of(&self, space: SpaceKey, row: &OutboxRow) -> Result<Option<EntityRow>, StoreError> {
        let parent = self.named_parent(space, row.entity, &row.collection)?;
        let mut above = parent.clone();
        for _ in 0..MAX_PARENTS {
            let Some(ancestor) = above else { break };
            if ancestor.key == row.entity {
                return Ok(None);
            }
            above = self.named_parent(space, ancestor.key, &ancestor.collection)?;
        }
        Ok(parent)
    }

    /// The entity that an entity's state names as its parent, if that is here.
    fn named_parent(
        &self,
        space: SpaceKey,
        entity: EntityKey,
        collection: &CollectionName,
    ) -> Result<Option<EntityRow>, StoreError> {
        let engine = &self.write.engine;
        let Some(field) = engine.schema.collection(collection.as_str()).and_then(|c| c.parent_field()) else {
            return Ok(None);
        };
        let mut statement = engine.connection.prepare_cached("SELECT state FROM entities WHERE key = ?")?;
        let state: String = statement.query_row([entity], |row| row.get(0))?;
        let state: Value = serde_json::from_str(&state).map_err(|_| StoreError::DamagedRow("a state is not JSON"))?;
        let parent = state.get(field.as_str()).and_then(Value::as_str).and_then(|id| id.parse().ok());
        let Some(parent) = parent else { return Ok(None) };
        let row = rows::find_entity(&engine.connection, space, parent)?;
        // One that is here in fragments only cannot be pushed, so nothing can wait for it.
        match row {
            Some(row) if is_born(&engine.connection, row.key)? => Ok(Some(row)),
            _ => Ok(None),
        }
    }
}

fn is_born(connection: &Connection, key: EntityKey) -> Result<bool, StoreError> {
    Ok(connection.prepare_cached("SELECT 1 FROM entities WHERE key = ? AND born = 1")?.exists([key])?)
}

fn rows_of(
    connection: &Connection,
    sql: &str,
    parameters: impl rusqlite::Params,
) -> Result<Vec<OutboxRow>, StoreError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut found = statement.query(parameters)?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        rows.push(OutboxRow {
            seq: row.get(0)?,
            entity: row.get(1)?,
            id: row.get::<_, String>(2)?.parse()?,
            collection: CollectionName::new(row.get::<_, String>(3)?)?,
            transaction: row.get(4)?,
            length: row.get(5)?,
        });
    }
    Ok(rows)
}
