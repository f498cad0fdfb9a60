//! Reading: rows only, never a document.

mod query;
mod records;
mod remotes;

use anabranch_core::sync::SpaceDigest;
use anabranch_core::{CollectionName, Digest, EntityId, Heads, SpaceName, UnixMillis};
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::Serialize;

use crate::error::StoreError;
use crate::local_only::NOT_LOCAL;
use crate::rows::{self, HEADS};
use crate::seal::{ENTITY, Seals};

pub use query::QueryRows;
pub use records::{EntityRecord, LogEntry};
pub use remotes::{FirstSyncTotals, RemoteState};

/// A read connection. Each call sees the newest commit; [`Read::snapshot`] makes several see the same one.
#[derive(Debug)]
pub struct Read<'a> {
    connection: &'a Connection,
    /// Of a transaction under way: rows that it has written have no seal yet.
    seals: Option<&'a Seals>,
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

impl<'a> Read<'a> {
    /// Reads over a connection of one's own to a replica's file.
    #[must_use]
    pub const fn new(connection: &'a Connection) -> Self {
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
