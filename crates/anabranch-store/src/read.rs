//! Reading: rows only, never a document.

use anabranch_core::sync::{ErrorClass, SpaceDigest, SpaceProgress};
use anabranch_core::wire::{Cursor, Mark};
use anabranch_core::{CollectionName, Digest, EntityId, Heads, Lineage, SpaceName, UnixMillis};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::attempts::{USED_LAST, class_from};
use crate::error::StoreError;
use crate::first_sync;
use crate::local_only::NOT_LOCAL;
use crate::rows::{self, HEADS, RemoteKey};
use crate::seal::{self, ENTITY, Seals};
use crate::subset::{self, Subset};

/// The most rows that a query returns.
const MAX_QUERY_ROWS: usize = 1_000_000;

/// A read connection. Each call sees the newest commit; [`Read::snapshot`] makes several see the same one.
#[derive(Debug)]
pub struct Read<'a> {
    connection: &'a Connection,
    /// Of a transaction under way: rows that it has written have no seal yet.
    seals: Option<&'a Seals>,
}

/// An entity as its row has it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EntityRecord {
    /// Its id.
    pub id: EntityId,
    /// Its collection.
    pub collection: CollectionName,
    /// Its fields, contested ones settled by policy. Fields never written are absent.
    pub state: Map<String, Value>,
    /// A digest of its heads: the ETag.
    pub version: Digest,
    /// Whether it is deleted.
    pub deleted: bool,
    /// Changes that no server has accepted yet.
    pub pending: u64,
    /// The fields that those changes touch.
    pub dirty_fields: Vec<String>,
    /// Contested slots, those that a policy has settled included.
    pub conflicts: u64,
    /// What waits for a person: open conflicts, broken rules, references to what has been deleted.
    pub open_conflicts: u64,
    /// Whether it is deleted and nothing of it is pending, so that its history can be purged.
    pub can_purge: bool,
    /// Whether all but a marker of it is gone for good.
    pub purged: bool,
    /// When it was created, by its creator's clock.
    pub created_at: UnixMillis,
    /// When it was last written, by the writer's clock.
    pub updated_at: UnixMillis,
    /// When a server last confirmed or brought something of it, by this replica's clock.
    pub last_sync_at: Option<UnixMillis>,
}

/// What a query found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueryRows {
    /// The names of the columns, in the query's order.
    pub columns: Vec<String>,
    /// The rows, each with a value per column.
    pub rows: Vec<Vec<Value>>,
}

/// A row of the change log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogEntry {
    /// Its place in this replica's log.
    pub seq: i64,
    /// The entity.
    pub id: EntityId,
    /// The entity's collection.
    pub collection: CollectionName,
    /// The change's hash, in hexadecimal.
    pub hash: String,
    /// `local`, `remote` or `peer`.
    pub origin: String,
    /// When it was written, by its writer's clock (RFC 3339).
    pub written_at: String,
    /// Its size.
    pub bytes: u64,
    /// Whether it waits in the outbox.
    pub pending: bool,
}

/// What is in a file, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Entities that are not deleted.
    pub entities: u64,
    /// Changes waiting in the outbox.
    pub pending: u64,
    /// Their size.
    pub pending_bytes: u64,
    /// When the oldest of them was written, by this replica's clock.
    pub oldest_pending_at: Option<UnixMillis>,
    /// Changes that a server refused, with their entity's later ones waiting behind them.
    pub parked: u64,
    /// Contested slots.
    pub conflicts: u64,
    /// What waits for a person.
    pub open_conflicts: u64,
    /// Foreign changes that were refused here.
    pub quarantined: u64,
    /// Foreign changes that wait for others.
    pub orphaned: u64,
    /// Entities that were found damaged: see [`Read::damaged`].
    pub damaged: u64,
}

/// How far first syncs have come. Segments that were here already count as done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FirstSyncTotals {
    /// Entities that are here.
    pub entities: u64,
    /// Entities that there are.
    pub entities_total: u64,
    /// Bytes of segments that are here.
    pub bytes: u64,
    /// Bytes of segments that there are.
    pub bytes_total: u64,
}

/// What is known about a remote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteState {
    /// Its key in this file.
    pub key: RemoteKey,
    /// Its address.
    pub url: Option<String>,
    /// The history it had when it was last seen.
    pub lineage: Option<Lineage>,
    /// How far each space has come with it.
    pub spaces: Vec<SpaceProgress>,
    /// When replica and server last agreed in everything.
    pub last_success_at: Option<UnixMillis>,
    /// Failed attempts in a row since.
    pub failures: u32,
    /// What the last of them said.
    pub last_error: Option<String>,
    /// What kind of failure that was.
    pub error_class: Option<ErrorClass>,
    /// When the next attempt is due.
    pub next_attempt_at: Option<UnixMillis>,
    /// The server asked to be left alone until then.
    pub server_asked_until: Option<UnixMillis>,
    /// How far the server's clock was ahead of this one, in milliseconds, if that is worth mentioning.
    pub clock_skew_millis: Option<i64>,
    /// Whether it is the one that was synced with last.
    pub used_last: bool,
}

impl<'a> Read<'a> {
    pub(crate) const fn new(connection: &'a Connection) -> Self {
        Self { connection, seals: None }
    }

    pub(crate) const fn within(connection: &'a Connection, seals: &'a Seals) -> Self {
        Self { connection, seals: Some(seals) }
    }

    pub(crate) const fn connection(&self) -> &Connection {
        self.connection
    }

    /// Runs several reads on one and the same commit.
    ///
    /// # Errors
    /// What `work` returns, or if the database fails.
    pub fn snapshot<T>(&self, work: impl FnOnce(&Self) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.connection.execute_batch("BEGIN")?;
        let result = work(self);
        self.connection.execute_batch("COMMIT")?;
        result
    }

    /// An entity by its id. A deleted one is found, too, and says so.
    ///
    /// # Errors
    /// If the database fails, or the entity is damaged.
    pub fn entity(&self, space: &SpaceName, id: EntityId) -> Result<Option<EntityRecord>, StoreError> {
        let text = id.to_string();
        for way in rows::WAYS {
            let mut statement = self.connection.prepare_cached(&format!(
                "SELECT {ENTITY}, e.seal FROM entities e INDEXED BY {way} JOIN spaces s ON s.key = e.space \
                 WHERE s.name = ? AND e.id = ?"
            ))?;
            let mut rows = statement.query(params![space.as_str(), text])?;
            let Some(row) = rows.next()? else { continue };
            let found = self.record(row, Some(id))?;
            if found.record.id == id {
                return Ok(found.born.then_some(found.record));
            }
        }
        Ok(None)
    }

    /// The entities of a collection that are not deleted, oldest id first, after `after`, at most `limit`.
    ///
    /// # Errors
    /// If the database fails, or one of them is damaged.
    pub fn list(
        &self,
        space: &SpaceName,
        collection: &CollectionName,
        after: Option<EntityId>,
        limit: u32,
    ) -> Result<Vec<EntityRecord>, StoreError> {
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT {ENTITY}, e.seal FROM entities e JOIN spaces s ON s.key = e.space \
             WHERE s.name = ? AND e.id > ? AND e.collection = ? AND e.deleted = 0 AND e.born = 1 AND e.damaged < 2 \
             ORDER BY e.id LIMIT ?"
        ))?;
        let after = after.map(|id| id.to_string()).unwrap_or_default();
        let mut rows = statement.query(params![space.as_str(), after, collection.as_str(), limit])?;
        let mut records = Vec::new();
        while let Some(row) = rows.next()? {
            records.push(self.record(row, None)?.record);
        }
        Ok(records)
    }

    /// The ids that begin with this text, at most `limit`.
    ///
    /// # Errors
    /// If the database fails.
    pub fn ids_starting_with(&self, space: &SpaceName, prefix: &str, limit: u32) -> Result<Vec<EntityId>, StoreError> {
        // Ids are lower-case hexadecimal and hyphens: everything with the prefix sorts before prefix + 'g'.
        let prefix = prefix.to_ascii_lowercase();
        let mut statement = self.connection.prepare_cached(
            "SELECT e.id FROM entities e JOIN spaces s ON s.key = e.space \
             WHERE s.name = ? AND e.id >= ? AND e.id < ? AND e.born = 1 ORDER BY e.id LIMIT ?",
        )?;
        let end = format!("{prefix}g");
        let rows = statement.query_map(params![space.as_str(), prefix, end, limit], |row| row.get::<_, String>(0))?;
        rows.map(|id| Ok(id?.parse()?)).collect()
    }

    /// Runs SQL that reads, over the collections' views, and returns each row as an object.
    ///
    /// # Errors
    /// [`StoreError::Query`] if the SQL is wrong, tries to write, or returns more than a million rows.
    pub fn query(&self, sql: &str, parameters: &[Value]) -> Result<Vec<Map<String, Value>>, StoreError> {
        let QueryRows { columns, rows } = self.query_rows(sql, parameters)?;
        Ok(rows.into_iter().map(|row| columns.iter().cloned().zip(row).collect()).collect())
    }

    /// As [`Read::query`], with the columns in the query's order, and known even if there are no rows.
    ///
    /// # Errors
    /// As [`Read::query`].
    pub fn query_rows(&self, sql: &str, parameters: &[Value]) -> Result<QueryRows, StoreError> {
        let failed = |error: rusqlite::Error| StoreError::Query(error.to_string());
        let mut statement = self.connection.prepare(sql).map_err(failed)?;
        if !statement.readonly() {
            return Err(StoreError::Query("a query only reads".to_owned()));
        }
        let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let parameters = parameters.iter().map(sql_value);
        let mut rows = statement.query(rusqlite::params_from_iter(parameters)).map_err(failed)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            if found.len() == MAX_QUERY_ROWS {
                return Err(StoreError::Query("more than a million rows".to_owned()));
            }
            let value = |place| Ok(json_value(row.get_ref(place)?));
            found.push((0..columns.len()).map(value).collect::<Result<_, StoreError>>()?);
        }
        Ok(QueryRows { columns, rows: found })
    }

    /// The change log, oldest first: of one entity, or of a whole space.
    ///
    /// What compaction has folded is not in it any more.
    ///
    /// # Errors
    /// If the database fails.
    pub fn log(&self, space: &SpaceName, id: Option<EntityId>) -> Result<Vec<LogEntry>, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT seq, id, collection, hash, origin, written_at, bytes, pending FROM \"$log\" \
             WHERE space = ?1 AND (?2 IS NULL OR id = ?2) ORDER BY seq",
        )?;
        let mut rows = statement.query(params![space.as_str(), id.map(|id| id.to_string())])?;
        let mut entries = Vec::new();
        while let Some(row) = rows.next()? {
            entries.push(LogEntry {
                seq: row.get(0)?,
                id: row.get::<_, String>(1)?.parse()?,
                collection: CollectionName::new(row.get::<_, String>(2)?)?,
                hash: row.get(3)?,
                origin: row.get(4)?,
                written_at: row.get(5)?,
                bytes: row.get(6)?,
                pending: row.get(7)?,
            });
        }
        Ok(entries)
    }

    /// What is in the file, in numbers.
    ///
    /// # Errors
    /// If the database fails.
    pub fn totals(&self) -> Result<Totals, StoreError> {
        let count =
            |sql: &str| -> Result<u64, StoreError> { Ok(self.connection.query_row(sql, [], |row| row.get(0))?) };
        let (pending, pending_bytes, oldest): (u64, u64, Option<i64>) = self.connection.query_row(
            "SELECT count(*), coalesce(sum(length(bytes)), 0), min(CASE WHEN stamp > 0 THEN stamp END) \
             FROM changes WHERE seq IN (SELECT change FROM outbox)",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?;
        Ok(Totals {
            entities: count(
                "SELECT count(*) FROM entities WHERE deleted = 0 AND born = 1 AND collection <> '$schema'",
            )?,
            pending,
            pending_bytes,
            oldest_pending_at: oldest.map(|stamp| stamp >> 16),
            parked: count("SELECT count(*) FROM outbox WHERE state = 'parked'")?,
            conflicts: count(
                "SELECT coalesce(sum(conflicts), 0) FROM entities WHERE deleted = 0 AND collection <> '$schema'",
            )?,
            open_conflicts: count("SELECT count(*) FROM conflicts WHERE open = 1")?,
            quarantined: count("SELECT count(*) FROM quarantine")?,
            orphaned: count("SELECT count(*) FROM orphans")?,
            damaged: count("SELECT count(*) FROM damage")?,
        })
    }

    /// The remotes this file has synced with, or been told of.
    ///
    /// # Errors
    /// If the database fails.
    pub fn remotes(&self) -> Result<Vec<RemoteState>, StoreError> {
        let used_last: Option<RemoteKey> = rows::meta(self.connection, USED_LAST)?;
        let mut statement = self.connection.prepare_cached(
            "SELECT key, url, lineage, failures, last_error, error_class, next_attempt_at, server_asked_until, \
             clock_skew FROM remotes ORDER BY key",
        )?;
        let mut rows = statement.query([])?;
        let mut remotes = Vec::new();
        while let Some(row) = rows.next()? {
            let key = row.get(0)?;
            let lineage: Option<[u8; 16]> = row.get(2)?;
            let (spaces, last_success_at) = self.progress(key)?;
            remotes.push(RemoteState {
                key,
                url: row.get(1)?,
                lineage: lineage.map(Lineage::from_bytes),
                spaces,
                last_success_at,
                failures: row.get(3)?,
                last_error: row.get(4)?,
                error_class: class_from(row.get(5)?),
                next_attempt_at: row.get(6)?,
                server_asked_until: row.get(7)?,
                clock_skew_millis: row.get(8)?,
                used_last: used_last == Some(key),
            });
        }
        Ok(remotes)
    }

    /// How far each space has come with a remote; spaces that have never been synced are included.
    fn progress(&self, remote: RemoteKey) -> Result<(Vec<SpaceProgress>, Option<UnixMillis>), StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT s.name, p.cursor, p.ack_seq, p.ack_chain, p.last_success_at, s.key \
             FROM spaces s LEFT JOIN sync_state p ON p.space = s.key AND p.remote = ? ORDER BY s.name",
        )?;
        let mut rows = statement.query([remote])?;
        let (mut spaces, mut latest) = (Vec::new(), None);
        while let Some(row) = rows.next()? {
            let cursor: Option<Vec<u8>> = row.get(1)?;
            let ack_seq: Option<u64> = row.get(2)?;
            let ack_chain: Option<[u8; 32]> = row.get(3)?;
            let ack = ack_seq.zip(ack_chain).map(|(seq, chain)| Mark { seq, chain: Digest::from_bytes(chain) });
            let space = SpaceName::new(row.get::<_, String>(0)?)?;
            let key = row.get(5)?;
            let Subset { wanted, synced, revision } = subset::subset(self.connection, remote, key)?;
            let first_sync = first_sync::under_way(self.connection, remote, key)?;
            spaces.push(SpaceProgress {
                space,
                ack,
                // What is wanted and not synced begins at the beginning; and so does everything without a cursor.
                had: match &cursor {
                    None => Some(Vec::new()),
                    Some(_) if wanted == synced => None,
                    Some(_) => synced.map(Vec::from_iter),
                },
                subset_revision: revision,
                collections: wanted.map(Vec::from_iter),
                first_sync,
                cursor: cursor.map(Cursor),
            });
            latest = latest.max(row.get(4)?);
        }
        Ok((spaces, latest))
    }

    /// How far the first syncs that are under way have come, all together; `None` if there are none.
    ///
    /// # Errors
    /// If the database fails.
    pub fn first_sync(&self) -> Result<Option<FirstSyncTotals>, StoreError> {
        let mut select = self.connection.prepare_cached(
            "SELECT count(*), coalesce(sum(entities * applied), 0), coalesce(sum(entities), 0), \
                    coalesce(sum(bytes * applied), 0), coalesce(sum(bytes), 0) FROM first_sync_pieces",
        )?;
        let (pieces, totals): (u64, _) = select.query_row([], |row| {
            let [entities, entities_total, bytes, bytes_total] = [row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?];
            Ok((row.get(0)?, FirstSyncTotals { entities, entities_total, bytes, bytes_total }))
        })?;
        Ok((pieces > 0).then_some(totals))
    }

    /// Every entity's heads, in order of id; without what is local-only, as everything that others compare with.
    ///
    /// # Errors
    /// If the database fails.
    pub fn heads(&self, space: &SpaceName) -> Result<Vec<(EntityId, Heads)>, StoreError> {
        let mut all = Vec::new();
        self.each_head(space, |id, heads| all.push((id, heads)))?;
        Ok(all)
    }

    /// The digest of a space's changes: equal to the server's once both hold the same.
    ///
    /// # Errors
    /// If the database fails.
    pub fn space_digest(&self, space: &SpaceName) -> Result<Digest, StoreError> {
        let mut digest = SpaceDigest::default();
        self.each_head(space, |id, heads| digest.add(&id, &heads))?;
        Ok(digest.finish())
    }

    /// The digest of a space's *states*: equal on replicas that hold the same changes and schema version.
    ///
    /// # Errors
    /// If the database fails.
    pub fn state_digest(&self, space: &SpaceName) -> Result<Digest, StoreError> {
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT e.id, e.digest FROM entities e JOIN spaces s ON s.key = e.space \
             WHERE s.name = ? AND e.born = 1 AND {NOT_LOCAL} ORDER BY e.id",
        ))?;
        let mut rows = statement.query([space.as_str()])?;
        let mut chain = Digest::of(b"");
        while let Some(row) = rows.next()? {
            let (id, digest): (String, [u8; 32]) = (row.get(0)?, row.get(1)?);
            chain = Digest::of(&[chain.as_bytes(), id.as_bytes(), &digest].concat());
        }
        Ok(chain)
    }

    fn each_head(&self, space: &SpaceName, mut each: impl FnMut(EntityId, Heads)) -> Result<(), StoreError> {
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT e.id, {HEADS} AS heads FROM entities e JOIN spaces s ON s.key = e.space \
             WHERE s.name = ? AND length({HEADS}) > 0 AND {NOT_LOCAL} ORDER BY e.id",
        ))?;
        let mut rows = statement.query([space.as_str()])?;
        while let Some(row) = rows.next()? {
            each(row.get::<_, String>(0)?.parse()?, rows::heads_of(row, "heads")?);
        }
        Ok(())
    }

    /// The spaces in this file.
    ///
    /// # Errors
    /// If the database fails.
    pub fn spaces(&self) -> Result<Vec<SpaceName>, StoreError> {
        let mut statement = self.connection.prepare_cached("SELECT name FROM spaces ORDER BY name")?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
        rows.map(|name| Ok(SpaceName::new(name?)?)).collect()
    }

    /// When another connection last wrote, as a number that changes with every commit.
    ///
    /// # Errors
    /// If the database fails.
    pub fn last_seq(&self) -> Result<i64, StoreError> {
        let mut statement = self.connection.prepare_cached("SELECT max(seq) FROM changes")?;
        Ok(statement.query_row([], |row| row.get::<_, Option<i64>>(0)).optional()?.flatten().unwrap_or(0))
    }
}

/// A row of `entities`, and whether there is an entity to it.
struct Found {
    record: EntityRecord,
    born: bool,
}

impl Read<'_> {
    /// A row whose columns are those of the seal, and the seal. It is verified before anything in it is believed.
    fn record(&self, row: &Row<'_>, wanted: Option<EntityId>) -> Result<Found, StoreError> {
        let id = row.get::<_, String>(2).map_err(StoreError::from).and_then(|id| Ok(id.parse::<EntityId>()?));
        let sealed = self.seals.is_some_and(|seals| row.get(0).is_ok_and(|key| seals.is_touched(key)))
            || seal::row_seal(row, seal::ENTITY_COLUMNS)? == row.get::<_, i64>(seal::ENTITY_COLUMNS)?;
        let damaged = |reason| match wanted.or(id.as_ref().ok().copied()) {
            Some(entity) => StoreError::DamagedEntity { entity, reason },
            None => StoreError::DamagedRow("the row of an entity is not what was written"),
        };
        if !sealed {
            return Err(damaged("its row is not what was written"));
        }
        if row.get::<_, i64>(18)? > 1 {
            return Err(damaged("its state is not known, and a part of its history is missing"));
        }
        let state: String = row.get(4)?;
        let state = serde_json::from_str(&state).map_err(|_| StoreError::DamagedRow("a state is not JSON"))?;
        let dirty: String = row.get(12)?;
        let dirty_fields =
            serde_json::from_str(&dirty).map_err(|_| StoreError::DamagedRow("dirty_fields is not JSON"))?;
        let (deleted, pending, purged): (bool, u64, bool) = (row.get(9)?, row.get(11)?, row.get(17)?);
        let record = EntityRecord {
            id: id?,
            collection: CollectionName::new(row.get::<_, String>(3)?)?,
            state,
            version: rows::heads_of(row, "heads")?.version(),
            deleted,
            pending,
            dirty_fields,
            conflicts: row.get(13)?,
            open_conflicts: row.get(16)?,
            can_purge: deleted && pending == 0 && !purged,
            purged,
            created_at: row.get(7)?,
            updated_at: row.get(8)?,
            last_sync_at: row.get(14)?,
        };
        Ok(Found { record, born: row.get(10)? })
    }
}

fn sql_value(value: &Value) -> rusqlite::types::Value {
    use rusqlite::types::Value as Sql;
    match value {
        Value::Null => Sql::Null,
        Value::Bool(flag) => Sql::Integer(i64::from(*flag)),
        Value::Number(number) => {
            number.as_i64().map_or_else(|| Sql::Real(number.as_f64().unwrap_or(f64::NAN)), Sql::Integer)
        }
        Value::String(text) => Sql::Text(text.clone()),
        Value::Array(_) | Value::Object(_) => Sql::Text(value.to_string()),
    }
}

fn json_value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(integer) => integer.into(),
        ValueRef::Real(real) => real.into(),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned().into(),
        ValueRef::Blob(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into(),
    }
}
