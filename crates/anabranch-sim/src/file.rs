//! A client's file, read from outside with plain SQL.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anabranch_core::wire::Envelope;
use anabranch_core::{CollectionName, Digest, EntityId, Heads, SpaceName};
use rusqlite::{Connection, OpenFlags, Row};

use crate::failure::{Failure, broken};
use crate::history::written_from;
use crate::model::{Item, hash_of};

/// Prepared statements that a reader keeps: more than there are.
const STATEMENTS: usize = 64;

/// Opens a second connection that only reads.
pub(crate) fn reader(path: &Path) -> Result<Connection, Failure> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(broken("opening a reader"))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

/// What one entity's row says, all that replicas must agree on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entity {
    pub(crate) space: SpaceName,
    pub(crate) id: EntityId,
    pub(crate) collection: CollectionName,
    pub(crate) state: String,
    pub(crate) deleted: bool,
    pub(crate) purged: bool,
    pub(crate) conflicts: i64,
    /// What waits for a person.
    pub(crate) open: i64,
    pub(crate) heads: Vec<u8>,
    pub(crate) digest: Vec<u8>,
    pub(crate) times: (i64, i64),
}

pub(crate) fn rows<T>(
    connection: &Connection,
    sql: &str,
    parameters: impl rusqlite::Params,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, Failure> {
    let mut statement = connection.prepare_cached(sql).map_err(broken("reading a client's file"))?;
    let rows = statement.query_map(parameters, read).map_err(broken("reading a client's file"))?;
    rows.collect::<Result<_, _>>().map_err(broken("reading a client's file"))
}

/// All entities of which the file knows at least the creation.
pub(crate) fn entities(connection: &Connection) -> Result<Vec<Entity>, Failure> {
    let sql = "SELECT s.name, e.id, e.collection, e.state, e.deleted, e.conflicts, e.heads, e.digest, e.created_at, \
               e.updated_at, e.purged, e.items FROM entities e JOIN spaces s ON s.key = e.space \
               WHERE e.born = 1 ORDER BY s.name, e.id";
    rows(connection, sql, [], |row| {
        Ok(Entity {
            space: space(row, 0)?,
            id: id(row, 1)?,
            collection: CollectionName::new(row.get::<_, String>(2)?).map_err(unreadable)?,
            state: row.get(3)?,
            deleted: row.get(4)?,
            purged: row.get(10)?,
            conflicts: row.get(5)?,
            open: row.get(11)?,
            heads: row.get(6)?,
            digest: row.get(7)?,
            times: (row.get(8)?, row.get(9)?),
        })
    })
}

/// A row of the conflicts that replicas must agree on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Conflict {
    pub(crate) space: SpaceName,
    pub(crate) id: EntityId,
    pub(crate) kind: String,
    pub(crate) field: String,
    pub(crate) open: bool,
    /// Its name, its reason, and all of its values as JSON.
    pub(crate) rest: (Vec<u8>, String, String),
}

/// All conflicts, those that a policy has settled included.
pub(crate) fn conflicts(connection: &Connection) -> Result<Vec<Conflict>, Failure> {
    let sql = "SELECT s.name, e.id, c.kind, c.field, c.open, c.id, c.reason, c.detail FROM conflicts c \
               JOIN entities e ON e.key = c.entity JOIN spaces s ON s.key = e.space ORDER BY s.name, e.id, c.id";
    rows(connection, sql, [], |row| {
        Ok(Conflict {
            space: space(row, 0)?,
            id: id(row, 1)?,
            kind: row.get(2)?,
            field: row.get(3)?,
            open: row.get(4)?,
            rest: (row.get(5)?, row.get(6)?, row.get(7)?),
        })
    })
}

/// The names of all conflicts: enough to choose one.
pub(crate) fn conflict_names(connection: &Connection) -> Result<Vec<(SpaceName, EntityId, Digest)>, Failure> {
    let sql = "SELECT s.name, e.id, c.id FROM conflicts c JOIN entities e ON e.key = c.entity \
               JOIN spaces s ON s.key = e.space ORDER BY s.name, e.id, c.id";
    rows(connection, sql, [], |row| Ok((space(row, 0)?, id(row, 1)?, Digest::from_bytes(row.get(2)?))))
}

/// Whether a change is a purge marker, as far as its bytes tell.
pub(crate) fn is_marker(change: &[u8]) -> bool {
    change.windows(7).any(|part| part == b"$purge ")
}

/// The purge markers in the file.
pub(crate) fn markers(connection: &Connection) -> Result<BTreeSet<Item>, Failure> {
    let sql = "SELECT s.name, e.id, c.bytes FROM changes c JOIN entities e ON e.key = c.entity \
               JOIN spaces s ON s.key = e.space WHERE c.stamp = 0 AND instr(c.bytes, CAST('$purge ' AS BLOB)) > 0";
    let found = rows(connection, sql, [], |row| {
        Ok((space(row, 0)?, id(row, 1)?, hash_of(row.get_ref(2)?.as_blob().map_err(unreadable)?)))
    })?;
    Ok(found.into_iter().collect())
}

/// The entities of which nothing but markers is left.
pub(crate) fn purged(connection: &Connection) -> Result<BTreeSet<(SpaceName, EntityId)>, Failure> {
    let sql = "SELECT s.name, e.id FROM entities e JOIN spaces s ON s.key = e.space WHERE e.purged = 1";
    Ok(rows(connection, sql, [], |row| Ok((space(row, 0)?, id(row, 1)?)))?.into_iter().collect())
}

/// The deleted drafts of which nothing is pending.
pub(crate) fn purgeable(connection: &Connection) -> Result<Vec<(SpaceName, EntityId)>, Failure> {
    let sql = "SELECT s.name, e.id FROM entities e JOIN spaces s ON s.key = e.space \
               WHERE e.collection = 'drafts' AND e.deleted = 1 AND e.pending = 0 AND e.purged = 0 ORDER BY s.name, e.id";
    rows(connection, sql, [], |row| Ok((space(row, 0)?, id(row, 1)?)))
}

/// Every change in the file but markers: those in the log, and those folded into snapshots.
pub(crate) fn changes(connection: &Connection) -> Result<BTreeSet<Item>, Failure> {
    let sql = "SELECT s.name, e.id, c.bytes FROM changes c JOIN entities e ON e.key = c.entity \
               JOIN spaces s ON s.key = e.space \
               WHERE NOT (c.stamp = 0 AND instr(c.bytes, CAST('$purge ' AS BLOB)) > 0)";
    let logged = rows(connection, sql, [], |row| {
        Ok((space(row, 0)?, id(row, 1)?, hash_of(row.get_ref(2)?.as_blob().map_err(unreadable)?)))
    })?;
    let folded = snapshots(connection)?;
    let mut all: BTreeSet<Item> = logged.into_iter().collect();
    for (space, id, document) in folded {
        let document = automerge::AutoCommit::load(&document).map_err(broken("loading a folded document"))?;
        let mut document = document;
        all.extend(document.get_changes(&[]).iter().map(|change| (space.clone(), id, change.hash().0)));
    }
    Ok(all)
}

/// A change of the log.
pub(crate) struct Logged {
    pub(crate) item: Item,
    pub(crate) bytes: Vec<u8>,
    pub(crate) genesis: bool,
}

/// The changes but markers that came into the log after `seq`, in order.
pub(crate) fn changes_after(connection: &Connection, seq: i64) -> Result<Vec<Logged>, Failure> {
    let sql = "SELECT s.name, e.id, c.bytes, c.stamp = 0 FROM changes c JOIN entities e ON e.key = c.entity \
               JOIN spaces s ON s.key = e.space \
               WHERE c.seq > ? AND NOT (c.stamp = 0 AND instr(c.bytes, CAST('$purge ' AS BLOB)) > 0) ORDER BY c.seq";
    rows(connection, sql, [seq], |row| {
        let bytes: Vec<u8> = row.get(2)?;
        Ok(Logged { item: (space(row, 0)?, id(row, 1)?, hash_of(&bytes)), bytes, genesis: row.get(3)? })
    })
}

/// What has been written in the place of other changes, in the log or folded.
pub(crate) fn forms(connection: &Connection) -> Result<Vec<(Item, Vec<u8>)>, Failure> {
    let sql = "SELECT s.name, e.id, c.bytes FROM changes c JOIN entities e ON e.key = c.entity \
               JOIN spaces s ON s.key = e.space WHERE instr(c.bytes, CAST('$rewrite ' AS BLOB)) > 0";
    let mut all = rows(connection, sql, [], |row| {
        let bytes: Vec<u8> = row.get(2)?;
        Ok(((space(row, 0)?, id(row, 1)?, hash_of(&bytes)), bytes))
    })?;
    for (space, id, document) in snapshots(connection)? {
        let document = automerge::AutoCommit::load(&document).map_err(broken("loading a folded document"))?;
        let mut document = document;
        let forms = document.get_changes(&[]).into_iter().map(|change| change.raw_bytes().to_vec());
        let forms = forms.filter(|bytes| written_from(bytes).is_some());
        all.extend(forms.map(|bytes| ((space.clone(), id, hash_of(&bytes)), bytes)));
    }
    Ok(all)
}

fn snapshots(connection: &Connection) -> Result<Vec<(SpaceName, EntityId, Vec<u8>)>, Failure> {
    let sql = "SELECT s.name, e.id, p.document FROM snapshots p JOIN entities e ON e.key = p.entity \
               JOIN spaces s ON s.key = e.space";
    rows(connection, sql, [], |row| Ok((space(row, 0)?, id(row, 1)?, row.get(2)?)))
}

/// A refused change, and its transaction.
pub(crate) type Parked = (Item, Option<Vec<u8>>);

/// What was refused, in order.
pub(crate) fn parked(connection: &Connection) -> Result<Vec<Parked>, Failure> {
    let sql = "SELECT s.name, e.id, c.bytes, c.txn FROM outbox o JOIN changes c ON c.seq = o.change \
               JOIN entities e ON e.key = c.entity JOIN spaces s ON s.key = e.space \
               WHERE o.state = 'parked' ORDER BY c.seq";
    rows(connection, sql, [], |row| {
        let hash = hash_of(row.get_ref(2)?.as_blob().map_err(unreadable)?);
        Ok(((space(row, 0)?, id(row, 1)?, hash), row.get(3)?))
    })
}

/// The entities of which something was refused because they have been purged.
pub(crate) fn refused_as_purged(connection: &Connection) -> Result<BTreeSet<(SpaceName, EntityId)>, Failure> {
    let sql = "SELECT s.name, e.id FROM outbox o JOIN entities e ON e.key = o.entity JOIN spaces s ON s.key = e.space \
               WHERE o.state = 'parked' AND o.code = 'Purged'";
    Ok(rows(connection, sql, [], |row| Ok((space(row, 0)?, id(row, 1)?)))?.into_iter().collect())
}

/// The collections of what the server has refused because it has another form of it.
pub(crate) fn superseded(connection: &Connection) -> Result<Vec<(SpaceName, CollectionName)>, Failure> {
    let sql = "SELECT DISTINCT s.name, e.collection FROM outbox o JOIN entities e ON e.key = o.entity \
               JOIN spaces s ON s.key = e.space WHERE o.last_error = 'the same is here already, in another form'";
    rows(connection, sql, [], |row| {
        Ok((space(row, 0)?, CollectionName::new(row.get::<_, String>(1)?).map_err(unreadable)?))
    })
}

/// What waits in the outbox of these transactions.
pub(crate) fn joined(connection: &Connection, transactions: &BTreeSet<Vec<u8>>) -> Result<Vec<Item>, Failure> {
    let sql = "SELECT s.name, e.id, c.bytes, c.txn FROM outbox o JOIN changes c ON c.seq = o.change \
               JOIN entities e ON e.key = c.entity JOIN spaces s ON s.key = e.space WHERE c.txn IS NOT NULL";
    let all = rows(connection, sql, [], |row| {
        let hash = hash_of(row.get_ref(2)?.as_blob().map_err(unreadable)?);
        Ok(((space(row, 0)?, id(row, 1)?, hash), row.get::<_, Vec<u8>>(3)?))
    })?;
    Ok(all.into_iter().filter(|(_, transaction)| transactions.contains(transaction)).map(|(item, _)| item).collect())
}

/// The changes that wait for others.
pub(crate) fn orphans(connection: &Connection) -> Result<BTreeSet<Item>, Failure> {
    let sql = "SELECT s.name, e.id, o.bytes FROM orphans o JOIN entities e ON e.key = o.entity \
               JOIN spaces s ON s.key = e.space";
    let found = rows(connection, sql, [], |row| {
        Ok((space(row, 0)?, id(row, 1)?, hash_of(row.get_ref(2)?.as_blob().map_err(unreadable)?)))
    })?;
    Ok(found.into_iter().collect())
}

/// What was refused: by its own hash, whatever else is wrong with it. Of purged entities it does not matter.
pub(crate) fn quarantined(connection: &Connection) -> Result<BTreeSet<Item>, Failure> {
    let sql = "SELECT s.name, e.id, q.bytes FROM quarantine q JOIN entities e ON e.key = q.entity \
               JOIN spaces s ON s.key = e.space WHERE e.purged = 0";
    let found = rows(connection, sql, [], |row| {
        Ok((space(row, 0)?, id(row, 1)?, hash_of(row.get_ref(2)?.as_blob().map_err(unreadable)?)))
    })?;
    Ok(found.into_iter().collect())
}

/// The changes that wait in the outbox, as they would be pushed.
pub(crate) fn unsent(connection: &Connection) -> Result<Vec<(SpaceName, Envelope)>, Failure> {
    let sql = "SELECT s.name, e.id, e.collection, c.bytes FROM outbox o JOIN changes c ON c.seq = o.change \
               JOIN entities e ON e.key = o.entity JOIN spaces s ON s.key = e.space ORDER BY c.seq";
    rows(connection, sql, [], |row| {
        let envelope = Envelope {
            entity: id(row, 1)?,
            collection: CollectionName::new(row.get::<_, String>(2)?).map_err(unreadable)?,
            parent: None,
            transaction: None,
            change: row.get(3)?,
        };
        Ok((space(row, 0)?, envelope))
    })
}

pub(crate) fn number(connection: &Connection, sql: &str) -> Result<i64, Failure> {
    let mut statement = connection.prepare_cached(sql).map_err(broken("reading a client's file"))?;
    statement.query_row([], |row| row.get(0)).map_err(broken("reading a client's file"))
}

/// Every entity's heads in a space, those of fragments included; of some collections only.
pub(crate) fn heads(
    connection: &Connection,
    of: &SpaceName,
    collections: Option<&[CollectionName]>,
) -> Result<Vec<(EntityId, Heads)>, Failure> {
    let sql = "SELECT e.id, e.heads, e.collection FROM entities e JOIN spaces s ON s.key = e.space \
               WHERE s.name = ? ORDER BY e.id";
    let all = rows(connection, sql, [of.as_str()], |row| {
        let heads = Heads::from_bytes(&row.get::<_, Vec<u8>>(1)?).map_err(unreadable)?;
        Ok((id(row, 0)?, heads, CollectionName::new(row.get::<_, String>(2)?).map_err(unreadable)?))
    })?;
    let wanted = all.into_iter().filter(|(.., its)| collections.is_none_or(|names| names.contains(its)));
    Ok(wanted.map(|(id, heads, _)| (id, heads)).collect())
}

/// The collections that are wanted of each space, where not all are.
pub(crate) fn wanted(connection: &Connection) -> Result<BTreeMap<SpaceName, BTreeSet<CollectionName>>, Failure> {
    let sql = "SELECT s.name, b.wanted FROM subsets b JOIN spaces s ON s.key = b.space WHERE b.wanted IS NOT NULL";
    let found = rows(connection, sql, [], |row| {
        let names: Vec<String> = serde_json::from_str(&row.get::<_, String>(1)?).map_err(unreadable)?;
        let names = names.into_iter().map(|name| CollectionName::new(name).map_err(unreadable));
        Ok((space(row, 0)?, names.collect::<Result<_, _>>()?))
    })?;
    Ok(found.into_iter().collect())
}

/// Each entity's collection, fragments included.
pub(crate) fn collections(connection: &Connection) -> Result<Vec<(SpaceName, EntityId, CollectionName)>, Failure> {
    let sql = "SELECT s.name, e.id, e.collection FROM entities e JOIN spaces s ON s.key = e.space";
    rows(connection, sql, [], |row| {
        Ok((space(row, 0)?, id(row, 1)?, CollectionName::new(row.get::<_, String>(2)?).map_err(unreadable)?))
    })
}

fn space(row: &Row<'_>, column: usize) -> rusqlite::Result<SpaceName> {
    SpaceName::new(row.get::<_, String>(column)?).map_err(unreadable)
}

fn id(row: &Row<'_>, column: usize) -> rusqlite::Result<EntityId> {
    row.get::<_, String>(column)?.parse().map_err(unreadable)
}

pub(crate) fn unreadable(error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, Box::new(error))
}

/// The names of all entities: enough to choose one.
pub(crate) fn names(connection: &Connection) -> Result<Vec<(SpaceName, EntityId, CollectionName)>, Failure> {
    let sql = "SELECT s.name, e.id, e.collection FROM entities e JOIN spaces s ON s.key = e.space \
               WHERE e.born = 1 ORDER BY s.name, e.id";
    rows(connection, sql, [], |row| {
        Ok((space(row, 0)?, id(row, 1)?, CollectionName::new(row.get::<_, String>(2)?).map_err(unreadable)?))
    })
}
