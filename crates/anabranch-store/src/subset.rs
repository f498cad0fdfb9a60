//! Subsets: only some collections of a space are wanted of a server.

use std::collections::BTreeSet;

use anabranch_core::{CollectionName, SpaceName};
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::cache::EntityKey;
use crate::engine::Write;
use crate::error::StoreError;
use crate::first_sync;
use crate::read::Read;
use crate::rows::{self, RemoteKey, SpaceKey};

/// Entities that are dropped in one commit.
const MAX_DROPPED: usize = 1_000;

/// Collections by name; `None` for all.
type Names = Option<BTreeSet<CollectionName>>;

/// What is wanted of a space, and what has been synced.
#[derive(Debug, Default)]
pub(crate) struct Subset {
    pub(crate) wanted: Names,
    pub(crate) synced: Names,
    /// How often what is wanted has been changed.
    pub(crate) revision: u64,
}

impl Write<'_> {
    /// Says which collections of a space are wanted of a remote; `None` for all of them.
    ///
    /// What is wanted in addition is synced from the beginning with the next session. What is not wanted any more
    /// is dropped from this file, entity by entity, once nothing of it is pending (and no other remote wants it).
    ///
    /// # Errors
    /// If the database fails.
    pub fn want_collections(
        &mut self,
        remote: RemoteKey,
        space: &SpaceName,
        wanted: Option<BTreeSet<CollectionName>>,
    ) -> Result<(), StoreError> {
        let connection = &self.engine.connection;
        let space = rows::ensure_space(connection, space)?;
        let before = subset(connection, remote, space)?;
        if before.wanted == wanted {
            return Ok(());
        }
        // Collections that are dropped must be synced afresh when they are wanted again.
        let synced = both(&wanted, &before.synced);
        connection.execute(
            "INSERT INTO subsets (remote, space, wanted, synced, revision) VALUES (?1, ?2, ?3, ?4, ?5) \
             ON CONFLICT DO UPDATE SET wanted = ?3, synced = ?4, revision = ?5",
            params![remote, space, to_json(&wanted)?, to_json(&synced)?, before.revision + 1],
        )?;
        // What is under way was planned for other collections.
        first_sync::forget(connection, remote, space)?;
        self.pending.sync_state = true;
        self.drop_unwanted(remote)
    }

    /// Drops some entities of collections that are not wanted (any more), unless something of them is pending. The
    /// others follow when there is nothing else to do.
    pub(crate) fn drop_unwanted(&mut self, remote: RemoteKey) -> Result<(), StoreError> {
        let mut select = self
            .engine
            .connection
            .prepare_cached("SELECT space FROM subsets WHERE remote = ? AND wanted IS NOT NULL")?;
        let spaces: Vec<SpaceKey> = select.query_map([remote], |row| row.get(0))?.collect::<Result<_, _>>()?;
        drop(select);
        for space in spaces {
            if self.drop_unwanted_of(space)? {
                self.engine.unwanted = Some(remote);
            }
        }
        Ok(())
    }

    /// `true` if there are more.
    fn drop_unwanted_of(&mut self, space: SpaceKey) -> Result<bool, StoreError> {
        let connection = &self.engine.connection;
        // Every remote that the space is synced with has a say; one without a subset wants all.
        let mut select = connection.prepare_cached(
            "SELECT b.wanted FROM sync_state p LEFT JOIN subsets b ON b.remote = p.remote AND b.space = p.space \
             WHERE p.space = ?1 UNION SELECT wanted FROM subsets WHERE space = ?1",
        )?;
        let wanted: Vec<Option<String>> = select.query_map([space], |row| row.get(0))?.collect::<Result<_, _>>()?;
        drop(select);
        let mut kept = BTreeSet::from([CollectionName::schema()]);
        for names in wanted {
            match from_json(names)? {
                Some(names) => kept.extend(names),
                None => return Ok(false),
            }
        }
        let mut keys: Vec<EntityKey> = Vec::new();
        let mut select = connection.prepare_cached(
            "SELECT key FROM entities WHERE collection = ? AND space = ? AND pending = 0 \
             AND NOT EXISTS (SELECT 1 FROM outbox WHERE outbox.entity = entities.key) LIMIT ?",
        )?;
        let is_dropped = |name: &&String| {
            !kept.iter().any(|kept| kept.as_str() == *name) && !self.engine.local_only.contains(name.as_str())
        };
        for collection in collections(connection)?.iter().filter(is_dropped) {
            let room = i64::try_from(MAX_DROPPED - keys.len())?;
            for key in select.query_map(params![collection, space, room], |row| row.get(0))? {
                keys.push(key?);
            }
        }
        drop(select);
        if !keys.is_empty() {
            // An entity of a well-known id may be made here again, and must not be a fork of this history.
            self.engine.retire_actor();
        }
        let more = keys.len() >= MAX_DROPPED;
        keys.into_iter().try_for_each(|key| self.drop_entity(key))?;
        Ok(more)
    }

    /// Takes an entity out of the file, as if it had never been here.
    fn drop_entity(&mut self, key: EntityKey) -> Result<(), StoreError> {
        let connection = &self.engine.connection;
        let Some(row) = rows::entity_by_key(connection, key)? else { return Ok(()) };
        if self.pending.dirty.contains_key(&key) {
            return Ok(()); // this very job writes it
        }
        if self.engine.is_local(&row.collection) {
            return Ok(()); // nobody else has it
        }
        for sql in [
            "DELETE FROM conflicts WHERE entity = ?",
            "DELETE FROM links WHERE entity = ?",
            "DELETE FROM orphans WHERE entity = ?",
            "DELETE FROM quarantine WHERE entity = ?",
            "DELETE FROM snapshots WHERE entity = ?",
            "DELETE FROM unchecked WHERE entity = ?",
            "DELETE FROM refused WHERE entity = ?",
            "DELETE FROM changes WHERE entity = ?",
            "DELETE FROM entities WHERE key = ?",
        ] {
            connection.prepare_cached(sql)?.execute([key])?;
        }
        drop(self.engine.cache.take(key));
        // Whether it was deleted is not known here any more.
        self.engine.flush_referring(&row, self.pending)?;
        let space = rows::space_name(&self.engine.connection, row.space)?;
        self.pending.touch(space, &row);
        Ok(())
    }
}

impl Read<'_> {
    /// The collections of a space that are wanted of a remote; `None` for all of them.
    ///
    /// # Errors
    /// If the database fails.
    pub fn wanted_collections(
        &self,
        remote: RemoteKey,
        space: &SpaceName,
    ) -> Result<Option<Vec<CollectionName>>, StoreError> {
        let Some(space) = rows::space_key(self.connection(), space)? else { return Ok(None) };
        Ok(subset(self.connection(), remote, space)?.wanted.map(|names| names.into_iter().collect()))
    }
}

/// The space has a cursor: it stands for what is wanted now.
pub(crate) fn reached(connection: &Connection, remote: RemoteKey, space: SpaceKey) -> Result<(), StoreError> {
    let mut update = connection
        .prepare_cached("UPDATE subsets SET synced = wanted WHERE remote = ? AND space = ? AND synced IS NOT wanted")?;
    update.execute([remote, space])?;
    Ok(())
}

/// Whether a session that began with this revision syncs what is wanted now. Another session may have changed it since:
/// then neither the cursors nor the plans of this one stand for what is wanted.
pub(crate) fn is_current(
    connection: &Connection,
    remote: RemoteKey,
    space: SpaceKey,
    revision: u64,
) -> Result<bool, StoreError> {
    let mut select = connection.prepare_cached("SELECT revision FROM subsets WHERE remote = ? AND space = ?")?;
    let now: Option<u64> = select.query_row([remote, space], |row| row.get(0)).optional()?;
    Ok(now.unwrap_or(0) == revision)
}

pub(crate) fn subset(connection: &Connection, remote: RemoteKey, space: SpaceKey) -> Result<Subset, StoreError> {
    let mut select =
        connection.prepare_cached("SELECT wanted, synced, revision FROM subsets WHERE remote = ? AND space = ?")?;
    let found = select.query_row([remote, space], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
    let Some((wanted, synced, revision)) = found else {
        // Wanted whole; and synced whole, if at all.
        let mut reached = connection
            .prepare_cached("SELECT 1 FROM sync_state WHERE remote = ? AND space = ? AND cursor IS NOT NULL")?;
        let synced = if reached.exists([remote, space])? { None } else { Some(BTreeSet::new()) };
        return Ok(Subset { wanted: None, synced, revision: 0 });
    };
    Ok(Subset { wanted: from_json(wanted)?, synced: from_json(synced)?, revision })
}

/// The collections of all entities. Looks into the index once for each.
fn collections(connection: &Connection) -> Result<Vec<String>, StoreError> {
    let mut select = connection.prepare_cached(
        "WITH RECURSIVE found (name) AS (SELECT min(collection) FROM entities UNION ALL \
         SELECT (SELECT min(collection) FROM entities WHERE collection > name) FROM found WHERE name IS NOT NULL) \
         SELECT name FROM found WHERE name IS NOT NULL",
    )?;
    let names = select.query_map([], |row| row.get(0))?;
    Ok(names.collect::<Result<_, _>>()?)
}

fn both(a: &Names, b: &Names) -> Names {
    match (a, b) {
        (None, other) | (other, None) => other.clone(),
        (Some(a), Some(b)) => Some(a.intersection(b).cloned().collect()),
    }
}

fn to_json(names: &Names) -> Result<Option<String>, StoreError> {
    names.as_ref().map(serde_json::to_string).transpose().map_err(|_| StoreError::OutOfRange)
}

fn from_json(json: Option<String>) -> Result<Names, StoreError> {
    let read = |json: String| serde_json::from_str(&json);
    json.map(read).transpose().map_err(|_| StoreError::DamagedRow("a list of collections cannot be read"))
}
