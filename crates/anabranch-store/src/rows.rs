//! Rows and what they hold: the SQL that several parts share.

use anabranch_core::document::Document;
use anabranch_core::{
    Actor, Change, ChangeHash, CollectionName, EntityId, ErrorKind, Heads, Schema, SpaceName, TransactionId,
};
use rusqlite::{Connection, OptionalExtension as _, Params, Row, params};

use crate::cache::EntityKey;
use crate::error::StoreError;
use crate::seal::ENTITY;

/// A row key in `spaces`.
pub(crate) type SpaceKey = i64;
/// A row key in `remotes`.
pub type RemoteKey = i64;

/// Where a change came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Written here.
    Local,
    /// Pulled from this remote.
    Remote(RemoteKey),
    /// Received from another replica.
    Peer,
}

impl Origin {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Remote(_) => "remote",
            Self::Peer => "peer",
        }
    }
}

/// The part of an entity's row that a write needs.
#[derive(Clone, Debug)]
pub(crate) struct EntityRow {
    pub(crate) key: EntityKey,
    pub(crate) space: SpaceKey,
    pub(crate) id: EntityId,
    pub(crate) collection: CollectionName,
    /// A part of its history is missing: nothing is written to it.
    pub(crate) damaged: bool,
}

pub(crate) fn space_key(connection: &Connection, space: &SpaceName) -> Result<Option<SpaceKey>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT key FROM spaces WHERE name = ?")?;
    Ok(statement.query_row([space.as_str()], |row| row.get(0)).optional()?)
}

pub(crate) fn ensure_space(connection: &Connection, space: &SpaceName) -> Result<SpaceKey, StoreError> {
    if let Some(key) = space_key(connection, space)? {
        return Ok(key);
    }
    connection.execute("INSERT INTO spaces (name) VALUES (?)", [space.as_str()])?;
    Ok(connection.last_insert_rowid())
}

pub(crate) fn space_name(connection: &Connection, key: SpaceKey) -> Result<SpaceName, StoreError> {
    let mut statement = connection.prepare_cached("SELECT name FROM spaces WHERE key = ?")?;
    let name: String = statement.query_row([key], |row| row.get(0))?;
    Ok(SpaceName::new(name)?)
}

/// The ways to an entity: when the first does not lead there, because it is not there or a page of that index is
/// damaged, the second is tried.
pub(crate) const WAYS: [&str; 2] = ["sqlite_autoindex_entities_1", "entities_by_id"];

/// An entity's row, verified. Of a write connection only.
pub(crate) fn find_entity(
    connection: &Connection,
    space: SpaceKey,
    id: EntityId,
) -> Result<Option<EntityRow>, StoreError> {
    let text = id.to_string();
    for way in WAYS {
        let mut statement = connection.prepare_cached(&format!(
            "SELECT e.key, e.space, e.id, e.collection, e.damaged, is_sound({ENTITY}, e.seal) \
             FROM entities e INDEXED BY {way} WHERE e.space = ? AND e.id = ?"
        ))?;
        let Some(row) = statement.query_row(params![space, text], Sighted::read).optional()? else { continue };
        let row = row.verified(Some(id))?;
        if row.space == space && row.id == id {
            return Ok(Some(row));
        }
    }
    Ok(None)
}

/// A row of `entities` as it was found.
struct Sighted {
    key: EntityKey,
    space: SpaceKey,
    id: String,
    collection: String,
    damaged: bool,
    sound: bool,
}

impl Sighted {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            key: row.get(0)?,
            space: row.get(1)?,
            id: row.get(2)?,
            collection: row.get(3)?,
            damaged: row.get::<_, i64>(4)? > 0,
            sound: row.get(5)?,
        })
    }

    fn verified(self, wanted: Option<EntityId>) -> Result<EntityRow, StoreError> {
        let Self { key, space, id, collection, damaged, sound } = self;
        if !sound {
            let entity = wanted.map_or_else(|| id.parse(), Ok)?;
            return Err(StoreError::DamagedEntity { entity, reason: "its row is not what was written" });
        }
        Ok(EntityRow { key, space, id: id.parse()?, collection: CollectionName::new(collection)?, damaged })
    }
}

/// The row of an entity that others may see.
pub(crate) fn find_shared_entity(
    connection: &Connection,
    space: SpaceKey,
    id: EntityId,
) -> Result<Option<EntityRow>, StoreError> {
    let Some(row) = find_entity(connection, space, id)? else { return Ok(None) };
    let mut local = connection.prepare_cached("SELECT 1 FROM local_collections WHERE name = ?")?;
    Ok((!local.exists([row.collection.as_str()])?).then_some(row))
}

/// The row, with another collection if nothing of the entity has been stored yet: a row that was made for
/// bytes which turned out to be bad, or for an orphan, must not decide what the entity is.
pub(crate) fn with_collection(
    connection: &Connection,
    mut row: EntityRow,
    collection: &CollectionName,
) -> Result<EntityRow, StoreError> {
    if row.collection != *collection {
        let mut update = connection.prepare_cached(
            "UPDATE entities SET collection = ?1 WHERE key = ?2 AND length(heads) = 0 \
             AND NOT EXISTS (SELECT 1 FROM changes WHERE entity = ?2)",
        )?;
        if update.execute(params![collection.as_str(), row.key])? > 0 {
            row.collection = collection.clone();
        }
    }
    Ok(row)
}

/// An entity's row by its key, verified. Of a write connection only.
pub(crate) fn entity_by_key(connection: &Connection, key: EntityKey) -> Result<Option<EntityRow>, StoreError> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT e.key, e.space, e.id, e.collection, e.damaged, is_sound({ENTITY}, e.seal) FROM entities e WHERE e.key = ?"
    ))?;
    statement.query_row([key], Sighted::read).optional()?.map(|row| row.verified(None)).transpose()
}

/// Has an entity looked at after the transaction; see [`crate::damage`]. Of a write connection only.
pub(crate) fn suspect(connection: &Connection, key: EntityKey) -> Result<(), StoreError> {
    Ok(connection.prepare_cached("SELECT suspect(?)")?.query_row([key], |_| Ok(()))?)
}

pub(crate) fn insert_entity(
    connection: &Connection,
    space: SpaceKey,
    id: EntityId,
    collection: &CollectionName,
) -> Result<EntityRow, StoreError> {
    let mut statement = connection.prepare_cached("INSERT INTO entities (space, id, collection) VALUES (?, ?, ?)")?;
    let key = statement.insert(params![space, id.to_string(), collection.as_str()])?;
    Ok(EntityRow { key, space, id, collection: collection.clone(), damaged: false })
}

pub(crate) fn actor_key(connection: &Connection, actor: &Actor) -> Result<i64, StoreError> {
    let mut find = connection.prepare_cached("SELECT key FROM actors WHERE actor = ?")?;
    if let Some(key) = find.query_row([actor.as_bytes()], |row| row.get(0)).optional()? {
        return Ok(key);
    }
    let mut insert = connection.prepare_cached("INSERT INTO actors (actor) VALUES (?)")?;
    Ok(insert.insert([actor.as_bytes()])?)
}

/// The row key of a change, if the log has it unfolded.
pub(crate) fn change_seq(
    connection: &Connection,
    entity: EntityKey,
    hash: &ChangeHash,
) -> Result<Option<i64>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT seq FROM changes WHERE entity = ? AND hash = ?")?;
    Ok(statement.query_row(params![entity, hash.as_bytes()], |row| row.get(0)).optional()?)
}

/// The change in a row of the log.
pub(crate) fn change_at(connection: &Connection, seq: i64) -> Result<Option<Change>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT bytes FROM changes WHERE seq = ?")?;
    let bytes: Option<Vec<u8>> = statement.query_row([seq], |row| row.get(0)).optional()?;
    let parse = |bytes| Change::parse(bytes).map_err(|_| StoreError::DamagedRow("a change cannot be read"));
    bytes.map(parse).transpose()
}

/// Whether a remote has not accepted an entity's creation, which is in the outbox at this place of the log or later.
/// Geneses do not count: they are nobody's.
pub(crate) fn birth_waits(
    connection: &Connection,
    remote: RemoteKey,
    entity: EntityKey,
    from: i64,
) -> Result<bool, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT 1 WHERE EXISTS (SELECT 1 FROM snapshots WHERE entity = ?1) \
         OR EXISTS (SELECT 1 FROM changes WHERE entity = ?1 AND stamp > 0 \
             AND (seq < ?2 OR seq NOT IN (SELECT change FROM outbox WHERE remote = ?3 AND entity = ?1)))",
    )?;
    Ok(!statement.exists(params![entity, from, remote])?)
}

/// A transaction's id as a row has it.
pub(crate) fn transaction_id(bytes: &[u8]) -> Option<TransactionId> {
    bytes.try_into().ok().map(TransactionId::from_bytes)
}

/// Appends a change to the log and returns its row key.
pub(crate) fn insert_change(
    connection: &Connection,
    entity: EntityKey,
    change: &Change,
    transaction: Option<&[u8]>,
    origin: Origin,
) -> Result<i64, StoreError> {
    let actor = actor_key(connection, change.actor())?;
    insert_change_of(connection, entity, change, actor, transaction, origin)
}

/// As [`insert_change`], with the key of the change's actor.
pub(crate) fn insert_change_of(
    connection: &Connection,
    entity: EntityKey,
    change: &Change,
    actor: i64,
    transaction: Option<&[u8]>,
    origin: Origin,
) -> Result<i64, StoreError> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO changes (entity, hash, actor, actor_seq, txn, stamp, origin, bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )?;
    Ok(statement.insert(params![
        entity,
        change.hash().as_bytes(),
        actor,
        i64::try_from(change.seq())?,
        transaction,
        change.stamp().raw(),
        origin.as_str(),
        change.bytes(),
    ])?)
}

/// Reads an entity's change rows back, verifying each against its hash.
pub(crate) fn logged_changes(connection: &Connection, entity: EntityKey) -> Result<Vec<Change>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT hash, bytes FROM changes WHERE entity = ? ORDER BY seq")?;
    let mut rows = statement.query([entity])?;
    let mut changes = Vec::new();
    while let Some(row) = rows.next()? {
        let hash: [u8; 32] = row.get(0)?;
        let change = Change::parse(row.get(1)?).map_err(|_| StoreError::DamagedRow("a change cannot be read"))?;
        if *change.hash().as_bytes() != hash {
            return Err(StoreError::DamagedRow("a change does not have its hash"));
        }
        changes.push(change);
    }
    Ok(changes)
}

/// One of an entity's change rows, verified against its hash.
pub(crate) fn logged_change(
    connection: &Connection,
    entity: EntityKey,
    hash: &ChangeHash,
) -> Result<Option<Change>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT bytes FROM changes WHERE entity = ? AND hash = ?")?;
    let bytes: Option<Vec<u8>> = statement.query_row(params![entity, hash.as_bytes()], |row| row.get(0)).optional()?;
    let Some(bytes) = bytes else { return Ok(None) };
    let change = Change::parse(bytes).map_err(|_| StoreError::DamagedRow("a change cannot be read"))?;
    if change.hash() != *hash {
        return Err(StoreError::DamagedRow("a change does not have its hash"));
    }
    Ok(Some(change))
}

/// The heads of what is here of an entity: of a damaged one less than its row was derived from.
pub(crate) const HEADS: &str = "coalesce((SELECT d.heads FROM damage d WHERE d.entity = e.key), e.heads)";

/// An entity's heads, without its document.
pub(crate) fn entity_heads(connection: &Connection, entity: EntityKey) -> Result<Heads, StoreError> {
    let mut statement = connection.prepare_cached(&format!("SELECT {HEADS} FROM entities e WHERE e.key = ?"))?;
    let heads: Vec<u8> = statement.query_row([entity], |row| row.get(0))?;
    Ok(Heads::from_bytes(&heads)?)
}

/// Loads an entity's document: the snapshot, then what the log has beside it. Of a write connection only.
pub(crate) fn load_document(connection: &Connection, row: &EntityRow, actor: &Actor) -> Result<Document, StoreError> {
    let loaded = read_document(connection, row, actor);
    if loaded.as_ref().is_err_and(|error| error.kind() == ErrorKind::Damaged) {
        suspect(connection, row.key)?;
    }
    loaded.map_err(|error| match error {
        StoreError::DamagedRow(reason) => StoreError::DamagedEntity { entity: row.id, reason },
        other => other,
    })
}

/// As [`load_document`], of any connection.
pub(crate) fn read_document(connection: &Connection, row: &EntityRow, actor: &Actor) -> Result<Document, StoreError> {
    let mut statement = connection.prepare_cached("SELECT document FROM snapshots WHERE entity = ?")?;
    let folded: Option<Vec<u8>> = statement.query_row([row.key], |row| row.get(0)).optional()?;
    let mut changes = logged_changes(connection, row.key)?;
    if folded.is_some() || changes.iter().any(|change| change.purge_of().is_none()) {
        // A purge that no server has agreed to yet.
        changes.retain(|change| change.purge_of().is_none());
    }
    Document::load(actor, folded.as_deref(), changes).map_err(|source| StoreError::Damaged { entity: row.id, source })
}

pub(crate) fn heads_of(row: &Row<'_>, column: &str) -> Result<Heads, StoreError> {
    let bytes: Vec<u8> = row.get(column)?;
    Ok(Heads::from_bytes(&bytes)?)
}

/// Has the spaces of which the condition is true reconciled with the servers when they are synced next, as far as
/// anything of them has come from there.
pub(crate) fn compare_again(connection: &Connection, condition: &str, of: impl Params) -> Result<(), StoreError> {
    let begun = "(cursor IS NOT NULL OR (remote, space) IN (SELECT remote, space FROM first_syncs))";
    connection.execute(&format!("UPDATE sync_state SET cursor = x'' WHERE {begun} AND {condition}"), of)?;
    Ok(())
}

/// Has one space reconciled with one server, whatever has come from there. A first sync that is under way goes on.
pub(crate) fn owe_reconcile(connection: &Connection, remote: RemoteKey, space: SpaceKey) -> Result<(), StoreError> {
    let sql = "UPDATE sync_state SET cursor = x'' WHERE remote = ? AND space = ?";
    connection.prepare_cached(sql)?.execute([remote, space])?;
    Ok(())
}

/// Whether a space is to be reconciled, or is being reconciled, with some server.
pub(crate) fn is_compared(connection: &Connection, space: SpaceKey) -> Result<bool, StoreError> {
    let mut owing = connection.prepare_cached("SELECT 1 FROM sync_state WHERE space = ? AND cursor = x''")?;
    Ok(owing.exists([space])?)
}

pub(crate) fn remotes(connection: &Connection) -> Result<Vec<RemoteKey>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT key FROM remotes ORDER BY key")?;
    let rows = statement.query_map([], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(crate) fn meta<T: rusqlite::types::FromSql>(connection: &Connection, key: &str) -> Result<Option<T>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT value FROM meta WHERE key = ?")?;
    Ok(statement.query_row([key], |row| row.get(0)).optional()?)
}

/// The schema in the file.
pub(crate) fn stored_schema(connection: &Connection) -> Result<Schema, StoreError> {
    let json: Option<String> = meta(connection, "schema")?;
    let unreadable = StoreError::DamagedRow("the schema cannot be read");
    json.and_then(|json| serde_json::from_str(&json).ok()).ok_or(unreadable)
}

pub(crate) fn set_meta(
    connection: &Connection,
    key: &str,
    value: impl rusqlite::types::ToSql,
) -> Result<(), StoreError> {
    let upsert = "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = ?2";
    let mut statement = connection.prepare_cached(upsert)?;
    statement.execute(params![key, value])?;
    Ok(())
}
