//! What a read returns of entities.

use anabranch_core::{CollectionName, Digest, EntityId, UnixMillis};
use rusqlite::Row;
use serde::Serialize;
use serde_json::{Map, Value};

use super::Read;
use crate::error::StoreError;
use crate::rows;
use crate::seal;

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

/// A row of `entities`, and whether there is an entity to it.
pub(super) struct Found {
    pub(super) record: EntityRecord,
    pub(super) born: bool,
}

impl Read<'_> {
    /// A row whose columns are those of the seal, and the seal. It is verified before anything in it is believed.
    pub(super) fn record(&self, row: &Row<'_>, wanted: Option<EntityId>) -> Result<Found, StoreError> {
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
