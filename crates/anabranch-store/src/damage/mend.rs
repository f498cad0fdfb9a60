//! Mending an entity.

use std::collections::HashSet;

use anabranch_core::document::Document;
use anabranch_core::{ChangeHash, CollectionName, EntityId, Heads};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, params};
use tracing::warn;

use super::log::Log;
use super::{KNOWN_PLACE, Known, LostChange};
use crate::cache::EntityKey;
use crate::engine::{Engine, Write};
use crate::error::StoreError;
use crate::receive::{Arrival, in_causal_order};
use crate::rows::{self, EntityRow, SpaceKey};
use crate::seal::ENTITY;
use crate::views;

/// The collection of an entity of which not even that is known.
const UNKNOWN: &str = "unknown";

/// What is left of an entity's history, and what is not.
struct Remains {
    /// Changes that others must bring.
    missing: HashSet<ChangeHash>,
    lost: Vec<LostChange>,
}

impl Write<'_> {
    /// Brings an entity back to what its log holds.
    pub(super) fn mend_entity(&mut self, key: EntityKey) -> Result<(), StoreError> {
        drop(self.engine.cache.take(key));
        self.used.push(key);
        let Some(heads) = self.engine.mend_row(key)? else { return Ok(()) };
        let known = Known::of(&self.engine.connection, key)?;
        let remains = self.engine.mend_log(key, heads.as_ref(), known)?;
        let Some(row) = rows::entity_by_key(&self.engine.connection, key)? else { return Ok(()) };
        let document = rows::load_document(&self.engine.connection, &row, &self.engine.actor)?;
        let row = self.engine.name_collection(row, &document)?;
        let is_whole = self.note_damage(&row, &document, heads.as_ref(), remains)?;
        let bytes = "UPDATE entities SET log_bytes = (SELECT coalesce(sum(length(bytes)), 0) FROM changes WHERE \
                     entity = ?1) WHERE key = ?1";
        self.engine.connection.execute(bytes, [key])?;
        self.engine.connection.execute("DELETE FROM unchecked WHERE entity = ?", [key])?;
        self.offer_what_is_pending(&row)?;
        self.engine.cache.put(key, document);
        let dirty = self.dirty(key);
        (dirty.document, dirty.recount) = (is_whole, true);
        Ok(())
    }

    /// The row says that something is pending which is not in the outbox: all of it is offered again. A server knows
    /// what it has.
    fn offer_what_is_pending(&mut self, row: &EntityRow) -> Result<(), StoreError> {
        let connection = &self.engine.connection;
        let unknown = format!("FROM outbox AS o WHERE o.entity = ? AND NOT ({KNOWN_PLACE})");
        if connection.prepare(&format!("SELECT 1 {unknown}"))?.exists([row.key])? {
            // An index may not know what the row says.
            connection.execute_batch("REINDEX outbox")?;
            connection.execute(&format!("DELETE {unknown}"), [row.key])?;
        }
        let fewer = "SELECT pending > (SELECT count(DISTINCT change) FROM outbox WHERE entity = ?1) FROM entities \
                     WHERE key = ?1";
        if self.engine.connection.query_row(fewer, [row.key], |row| row.get(0))? {
            for remote in rows::remotes(&self.engine.connection)? {
                self.reoffer_entity(remote, row)?;
            }
        }
        Ok(())
    }

    /// Notes what is missing and what is lost. `true` if nothing is.
    fn note_damage(
        &mut self,
        row: &EntityRow,
        document: &Document,
        heads: Option<&Heads>,
        mut remains: Remains,
    ) -> Result<bool, StoreError> {
        let connection = &self.engine.connection;
        let heads = heads.map(Heads::hashes).unwrap_or_default();
        remains.name_heads(connection, row.key, heads.iter().filter(|head| !document.has(head)).copied())?;
        let lost: HashSet<String> = remains.lost.iter().map(|lost| lost.hash.clone()).collect();
        remains.missing.retain(|hash| !document.has(hash) && !lost.contains(&hash.to_string()));
        let Remains { missing, lost } = remains;
        if missing.is_empty() && lost.is_empty() {
            warn!(entity = %row.id, "a damaged entity has been mended");
            connection.execute("UPDATE entities SET damaged = 0 WHERE key = ?", [row.key])?;
            connection.execute("DELETE FROM damage WHERE entity = ?", [row.key])?;
            return Ok(true);
        }
        warn!(entity = %row.id, missing = missing.len(), lost = lost.len(), "a part of an entity's history is damaged");
        let damaged = "UPDATE entities SET damaged = max(damaged, 1) WHERE key = ?";
        connection.execute(damaged, [row.key])?;
        let reason = match lost.is_empty() {
            true => "a part of its history cannot be read",
            false => "a part of its history cannot be read, and no server has it",
        };
        let mut hashes: Vec<[u8; 32]> = missing.iter().map(|hash| *hash.as_bytes()).collect();
        hashes.sort_unstable();
        let lost = serde_json::to_string(&lost).map_err(|_| StoreError::OutOfRange)?;
        let (now, left) = (self.engine.environment.now(), document.heads().to_bytes());
        connection.execute(
            "INSERT INTO damage (entity, reason, found_at, heads, missing, lost) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
             ON CONFLICT DO UPDATE SET reason = ?2, found_at = ?3, heads = ?4, missing = ?5, lost = ?6",
            params![row.key, reason, now, left, hashes.concat(), lost],
        )?;
        if !missing.is_empty() {
            rows::compare_again(connection, "space = ?", [row.space])?;
            self.engine.outdated.insert(row.space);
            self.pending.sync_state = true;
        }
        Ok(false)
    }
}

impl Write<'_> {
    /// For whoever begins to sync when nobody else does in this process: it reads what the file says, so that it knows
    /// what has to be fetched again.
    pub fn begin_alone(&mut self) {
        self.engine.outdated.clear();
    }
}

impl Remains {
    /// Heads that are gone. A place in the outbox without a change was one of them, or nobody knows its name.
    fn name_heads(
        &mut self,
        connection: &Connection,
        key: EntityKey,
        gone: impl Iterator<Item = ChangeHash>,
    ) -> Result<(), StoreError> {
        let mut delete = connection.prepare(
            "DELETE FROM outbox WHERE entity = ? AND change NOT IN (SELECT seq FROM changes) RETURNING change",
        )?;
        let nameless: HashSet<i64> = delete.query_map([key], |row| row.get(0))?.collect::<Result<_, _>>()?;
        let named: HashSet<String> = self.lost.iter().map(|lost| lost.hash.clone()).collect();
        let mut unnamed = gone.filter(|head| !named.contains(&head.to_string()));
        for _ in nameless {
            let hash = unnamed.next().map(|hash| hash.to_string()).unwrap_or_default();
            self.lost.push(LostChange { hash, written_at: 0, kept: false });
        }
        self.missing.extend(unnamed);
        Ok(())
    }
}

impl Engine {
    /// Makes an entity's row writable again. The heads that it was derived from, if they may be believed; `None` if
    /// there is no such row.
    fn mend_row(&self, key: EntityKey) -> Result<Option<Option<Heads>>, StoreError> {
        let select = format!("SELECT is_sound({ENTITY}, e.seal), e.heads FROM entities e WHERE e.key = ?");
        let found: Option<(bool, Value)> =
            self.connection.query_row(&select, [key], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let Some((sound, heads)) = found else { return Ok(None) };
        // Looked at, not suspected.
        self.seals.clear(key);
        if let (true, Value::Blob(heads)) = (sound, heads) {
            return Ok(Some(Some(Heads::from_bytes(&heads)?)));
        }
        let (space, id) = self.identity(key)?;
        let named = self
            .connection
            .query_row("SELECT collection FROM entities WHERE key = ?", [key], |row| row.get::<_, String>(0));
        // If it is wrong and still a name, the document knows better.
        let collection = named.ok().filter(|name| CollectionName::new(name).is_ok());
        // What is indexed of the row may be what is damaged: SQLite takes out of an index what it finds in the row.
        views::drop_indexes(&self.connection)?;
        let reset = "UPDATE entities SET space = ?2, id = ?3, state = '{}', digest = x'', heads = x'', created_at = 0, \
                     updated_at = 0, deleted = 0, born = 0, pending = 0, dirty_fields = '[]', conflicts = 0, \
                     last_sync_at = NULL, log_bytes = 0, items = 0, purged = 0, damaged = 2, \
                     collection = ?4 WHERE key = ?1";
        self.connection.execute_batch("REINDEX entities")?;
        self.connection
            .execute(reset, params![key, space, id.to_string(), collection.as_deref().unwrap_or(UNKNOWN)])?;
        views::rebuild(&self.connection, &self.schema)?;
        Ok(Some(None))
    }

    /// Who an entity is whose row is not to be believed: each of two indexes says so, too, and one of the three may be
    /// wrong.
    fn identity(&self, key: EntityKey) -> Result<(SpaceKey, EntityId), StoreError> {
        let mut said: Vec<(Value, Value)> = Vec::new();
        let ways = [
            format!("INDEXED BY {} WHERE space > -9223372036854775808 AND +key = ?", rows::WAYS[0]),
            format!("INDEXED BY {} WHERE id > '' AND +key = ?", rows::WAYS[1]),
            "NOT INDEXED WHERE key = ?".to_owned(),
        ];
        for way in ways {
            let sql = format!("SELECT space, id FROM entities {way}");
            // What cannot even be read says nothing.
            said.extend(self.connection.query_row(&sql, [key], |row| Ok((row.get(0)?, row.get(1)?))).ok());
        }
        let agreed = said.iter().find(|one| said.iter().filter(|other| other == one).count() > 1);
        match agreed {
            Some((Value::Integer(space), Value::Text(id))) => Ok((*space, id.parse()?)),
            _ => Err(StoreError::DamagedRow("nobody knows which entity a row is of")),
        }
    }

    /// Leaves in an entity's log what can be applied. What waits for something that cannot be read becomes an orphan.
    fn mend_log(&self, key: EntityKey, heads: Option<&Heads>, known: Known) -> Result<Remains, StoreError> {
        let connection = &self.connection;
        let mut log = Log::read(connection, key)?;
        log.judge(heads.map(Heads::hashes).unwrap_or_default(), connection)?;
        if log.torn || !log.bad.is_empty() {
            connection.execute_batch("REINDEX changes; REINDEX outbox")?;
        }
        let mut remains = Remains { missing: known.missing.into_iter().collect(), lost: known.lost };
        let base = self.mend_fold(key, &mut remains)?;
        connection.execute_batch("PRAGMA defer_foreign_keys = on")?;
        for (seq, bad) in &log.bad {
            let pending = connection.execute("DELETE FROM outbox WHERE change = ?", [seq])? > 0;
            connection.execute("DELETE FROM changes WHERE seq = ?", [seq])?;
            if pending {
                let hash = bad.hash.map(|hash| hash.to_string()).unwrap_or_default();
                remains.lost.push(LostChange { hash, written_at: bad.written_at, kept: false });
            } else {
                remains.missing.extend(bad.hash);
            }
        }
        for (seq, good) in log.good.iter().filter(|(_, good)| good.misnamed) {
            let rename = "UPDATE changes SET hash = ?, entity = ? WHERE seq = ?";
            connection.execute(rename, params![good.change.hash().as_bytes(), key, seq])?;
        }
        let places: Vec<(i64, ChangeHash)> = log.good.iter().map(|(seq, good)| (*seq, good.change.hash())).collect();
        let arrivals = log.good.into_values().filter(|good| good.change.purge_of().is_none());
        let arrivals =
            arrivals.map(|good| Arrival { change: good.change, transaction: good.transaction, orphaned: true });
        let (_, waiting) = in_causal_order(&base, arrivals.collect());
        self.orphan_waiting(key, &base, &places, waiting, &mut remains)?;
        Ok(remains)
    }

    /// The folded document, if it is one.
    fn mend_fold(&self, key: EntityKey, remains: &mut Remains) -> Result<Document, StoreError> {
        let select = "SELECT heads, document FROM snapshots WHERE entity = ?";
        let fold: Option<(Value, Value)> =
            self.connection.query_row(select, [key], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let Some((heads, document)) = fold else { return Ok(Document::new(&self.actor)) };
        let heads = if let Value::Blob(heads) = heads {
            Heads::from_bytes(&heads).unwrap_or_default()
        } else {
            Heads::default()
        };
        if let Value::Blob(bytes) = document
            && let Ok(loaded) = Document::load(&self.actor, Some(&bytes), Vec::new())
        {
            if loaded.heads() != heads {
                let update = "UPDATE snapshots SET heads = ? WHERE entity = ?";
                self.connection.execute(update, params![loaded.heads().to_bytes(), key])?;
            }
            return Ok(loaded);
        }
        self.connection.execute("DELETE FROM snapshots WHERE entity = ?", [key])?;
        remains.missing.extend(heads.hashes());
        Ok(Document::new(&self.actor))
    }

    fn orphan_waiting(
        &self,
        key: EntityKey,
        base: &Document,
        places: &[(i64, ChangeHash)],
        waiting: Vec<Arrival>,
        remains: &mut Remains,
    ) -> Result<(), StoreError> {
        let connection = &self.connection;
        let here: HashSet<ChangeHash> = places.iter().map(|(_, hash)| *hash).collect();
        let is_lost = !remains.lost.is_empty();
        for Arrival { change, transaction, .. } in waiting {
            let hash = change.hash();
            let absent = |hash: &&ChangeHash| !here.contains(hash) && !base.has(hash);
            remains.missing.extend(change.dependencies().iter().filter(absent).copied());
            let Some((seq, _)) = places.iter().find(|(_, other)| *other == hash) else { continue };
            let pending = connection.execute("DELETE FROM outbox WHERE change = ?", [seq])? > 0;
            connection.execute("DELETE FROM changes WHERE seq = ?", [seq])?;
            connection.execute(
                "INSERT OR IGNORE INTO orphans (entity, hash, origin, received_at, txn, bytes) VALUES (?, ?, 'peer', ?, ?, ?)",
                params![key, hash.as_bytes(), self.environment.now(), transaction, change.bytes()],
            )?;
            if pending && is_lost {
                let written_at = change.stamp().millis();
                remains.lost.push(LostChange { hash: hash.to_string(), written_at, kept: true });
            } else if !pending {
                // If no server has it, what it waits for does not come either.
                remains.missing.insert(hash);
            }
        }
        Ok(())
    }

    /// The collection is in the document, too.
    fn name_collection(&self, mut row: EntityRow, document: &Document) -> Result<EntityRow, StoreError> {
        let named = document.state(None).ok().and_then(|state| state.collection);
        if let Some(collection) = named.filter(|named| *named != row.collection) {
            set_collection(&self.connection, &row, &collection)?;
            row.collection = collection;
        }
        Ok(row)
    }
}

fn set_collection(connection: &Connection, row: &EntityRow, collection: &CollectionName) -> Result<(), StoreError> {
    connection.execute("UPDATE entities SET collection = ? WHERE key = ?", params![collection.as_str(), row.key])?;
    Ok(())
}
