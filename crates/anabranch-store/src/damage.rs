//! Damaged entities: what can be derived again is, the rest is set aside by name until it has been fetched again.
//!
//! Whoever reads a row or a change that is not what was written gets an error that names the entity, and the entity
//! is looked at after the transaction ([`Engine::mend`]): its log is read past the damage, and if all of that is there
//! its row is derived from it. If not, what is missing is waited for: its row is shown as it was, unless that is what
//! is damaged, and nothing is written to it.

mod log;
mod mend;

use std::collections::BTreeSet;

use anabranch_core::document::Document;
use anabranch_core::{ChangeHash, CollectionName, EntityId, SpaceName, UnixMillis};
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::{Deserialize, Serialize};
use tracing::{error, info};

use crate::cache::EntityKey;
use crate::engine::{Committed, Engine, Job, Undo, Write};
use crate::error::StoreError;
use crate::read::Read;
use crate::rows::{self, EntityRow};

/// In SQL: a place `o` of the outbox that says what one says. Any other would wait for good.
pub(crate) const KNOWN_PLACE: &str = "o.state IN ('pending', 'parked') AND o.remote IN (SELECT key FROM remotes)";

/// An entity that was found damaged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DamagedEntity {
    /// Its space.
    pub space: SpaceName,
    /// Its collection, as far as that is known.
    pub collection: CollectionName,
    /// Its id.
    pub id: EntityId,
    /// What was found.
    pub reason: String,
    /// When, by this device's clock.
    pub found_at: UnixMillis,
    /// Whether its state is shown: as it was when it was last written.
    pub shown: bool,
    /// Changes that it waits for: they are fetched with the next sync, from a server or a peer that has them. Until
    /// then nothing can be written to it, and its history is not shown.
    pub missing: u64,
    /// Changes that no server had.
    pub lost: Vec<LostChange>,
}

/// A change that was written here, had not been accepted by a server, and cannot be read any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LostChange {
    /// Its hash, in hexadecimal; empty if not even that is known.
    pub hash: String,
    /// When it was written.
    pub written_at: UnixMillis,
    /// Its bytes are whole, but it builds on one that is lost. It is kept, should a peer have that.
    pub kept: bool,
}

impl Read<'_> {
    /// The entities that were found damaged, and are not whole again.
    ///
    /// # Errors
    /// If the database fails.
    pub fn damaged(&self) -> Result<Vec<DamagedEntity>, StoreError> {
        let mut select = self.connection().prepare_cached(
            "SELECT s.name, e.collection, e.id, d.reason, d.found_at, length(d.missing) / 32, d.lost, e.damaged < 2 \
             FROM damage d JOIN entities e ON e.key = d.entity JOIN spaces s ON s.key = e.space ORDER BY s.name, e.id",
        )?;
        let mut rows = select.query([])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let lost: String = row.get(6)?;
            found.push(DamagedEntity {
                space: SpaceName::new(row.get::<_, String>(0)?)?,
                collection: CollectionName::new(row.get::<_, String>(1)?)?,
                id: row.get::<_, String>(2)?.parse()?,
                reason: row.get(3)?,
                found_at: row.get(4)?,
                shown: row.get(7)?,
                missing: row.get(5)?,
                lost: serde_json::from_str(&lost).map_err(|_| StoreError::DamagedRow("a loss is not JSON"))?,
            });
        }
        Ok(found)
    }
}

impl Engine {
    /// Looks at the entities that were found damaged since the last call, and mends them or sets them aside. `None`
    /// if there were none, or none could be.
    pub fn mend(&mut self) -> Option<Committed> {
        let suspects = self.seals.take_suspects();
        if suspects.is_empty() {
            return None;
        }
        self.commit(suspects.into_iter().map(|key| Box::new(Mend { key }) as Box<dyn Job>).collect())
    }
}

struct Mend {
    key: EntityKey,
}

impl Job for Mend {
    fn run(&mut self, write: &mut Write<'_>) -> Result<(), Undo> {
        write.mend_entity(self.key).map_err(|failure| {
            error!(kind = ?failure.kind(), "a damaged entity cannot be mended; the file must be repaired");
            Undo
        })
    }

    fn reads_rows(&self) -> bool {
        true
    }

    fn finish(self: Box<Self>, _outcome: Result<(), StoreError>) {}
}

impl Write<'_> {
    /// Has an entity looked at after this transaction: somebody has read something of it that is not what was
    /// written.
    ///
    /// # Errors
    /// If the database fails.
    pub fn suspect(&mut self, id: EntityId) -> Result<(), StoreError> {
        for way in rows::WAYS {
            // The space is not known; there are few.
            let sql = format!(
                "SELECT e.key FROM spaces s CROSS JOIN entities e INDEXED BY {way} WHERE e.space = s.key AND e.id = ?"
            );
            let mut select = self.engine.connection.prepare(&sql)?;
            for key in select.query_map([id.to_string()], |row| row.get(0))? {
                self.engine.seals.suspect(key?);
            }
        }
        Ok(())
    }

    /// Stops waiting for what is missing of an entity, and acknowledges what is lost: its state is derived from what
    /// is left, and it can be written to again. `false` if nothing is missing or lost.
    ///
    /// # Errors
    /// If the entity is not there, or the database fails.
    pub fn accept_damage(&mut self, space: &SpaceName, id: EntityId) -> Result<bool, StoreError> {
        let connection = &self.engine.connection;
        let Some(space) = rows::space_key(connection, space)? else { return Err(StoreError::NoEntity(id)) };
        let row = rows::find_entity(connection, space, id)?.ok_or(StoreError::NoEntity(id))?;
        let deleted = connection.execute("DELETE FROM damage WHERE entity = ?", [row.key])?;
        connection.execute("UPDATE entities SET damaged = 0 WHERE key = ?", [row.key])?;
        if deleted > 0 {
            self.dirty(row.key).document = true;
        }
        Ok(deleted > 0)
    }

    /// Nothing is left to be pushed: then nothing may be pending by the rows of the entities either. A page of the
    /// outbox that is damaged would otherwise keep changes here for good, in silence.
    pub(crate) fn check_pending(&mut self) -> Result<(), StoreError> {
        let connection = &self.engine.connection;
        let agree = format!(
            "SELECT (SELECT coalesce(sum(pending), 0) FROM entities WHERE pending > 0) = \
             (SELECT count(DISTINCT o.change) FROM outbox o CROSS JOIN changes c ON c.seq = o.change WHERE {KNOWN_PLACE})"
        );
        if connection.prepare_cached(&agree)?.query_row([], |row| row.get(0))? {
            return Ok(());
        }
        let mut select = connection.prepare(&format!(
            "SELECT key FROM entities e WHERE pending <> (SELECT count(DISTINCT o.change) FROM outbox o \
             CROSS JOIN changes c ON c.seq = o.change WHERE o.entity = e.key AND {KNOWN_PLACE})"
        ))?;
        let keys: BTreeSet<EntityKey> = select.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        drop(select);
        keys.into_iter().for_each(|key| self.engine.seals.suspect(key));
        Err(StoreError::DamagedRow("the outbox does not hold what is pending"))
    }
}

impl Engine {
    /// Whether nothing is missing or lost of a damaged entity any more: then its row follows from its document again.
    pub(crate) fn is_whole_again(&self, row: &EntityRow, document: &Document) -> Result<bool, StoreError> {
        let known = Known::of(&self.connection, row.key)?;
        if !known.lost.is_empty() || !known.missing.iter().all(|hash| document.has(hash)) {
            let update = "UPDATE damage SET heads = ? WHERE entity = ?";
            self.connection.prepare_cached(update)?.execute(params![document.heads().to_bytes(), row.key])?;
            return Ok(false);
        }
        info!(entity = %row.id, "what was missing of a damaged entity has come back");
        self.connection.execute("UPDATE entities SET damaged = 0 WHERE key = ?", [row.key])?;
        self.connection.execute("DELETE FROM damage WHERE entity = ?", [row.key])?;
        Ok(true)
    }
}

/// What has been noted about a damaged entity.
#[derive(Default)]
struct Known {
    missing: Vec<ChangeHash>,
    lost: Vec<LostChange>,
}

impl Known {
    fn of(connection: &Connection, entity: EntityKey) -> Result<Self, StoreError> {
        let mut select = connection.prepare_cached("SELECT missing, lost FROM damage WHERE entity = ?")?;
        let found = select.query_row([entity], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let Some((missing, lost)): Option<(Vec<u8>, String)> = found else { return Ok(Self::default()) };
        let lost = serde_json::from_str(&lost).map_err(|_| StoreError::DamagedRow("a loss is not JSON"))?;
        Ok(Self { missing: hashes(&missing)?, lost })
    }
}

fn hashes(bytes: &[u8]) -> Result<Vec<ChangeHash>, StoreError> {
    let (hashes, rest) = bytes.as_chunks::<32>();
    if !rest.is_empty() {
        return Err(StoreError::DamagedRow("what is missing of an entity cannot be read"));
    }
    Ok(hashes.iter().map(|hash| ChangeHash::from_bytes(*hash)).collect())
}
