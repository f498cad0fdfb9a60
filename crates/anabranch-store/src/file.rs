//! The file: opening connections, and the tables.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anabranch_core::{ErrorKind, Schema};
use rusqlite::{Connection, OpenFlags};

use crate::error::StoreError;
use crate::seal::{self, Seals};
use crate::{rows, views};

/// Marks the file as an Anabranch replica (SQLite's `application_id`).
const APPLICATION_ID: i32 = 0x416e_6162;
/// How long a writer waits for another process's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Older SQLite libraries can corrupt a WAL file when it is reset.
const OLDEST_SQLITE: i32 = 3_051_003;

/// Each entry brings a file from the version that is its index to the next. Entries are never edited.
const MIGRATIONS: &[&[&str]] = &[
    &[include_str!("tables.sql")],
    &[include_str!("tables-2.sql")],
    &[
        include_str!("tables-3-schedule.sql"),
        include_str!("tables-3-identity.sql"),
        include_str!("tables-3-segments.sql"),
    ],
    &[include_str!("tables-4-damage.sql")],
];
/// Since this version a file has seals, and says its version a second time, in `meta`.
const FIRST_SEALED: usize = 4;
/// The row of `meta` with the version.
const FORMAT: &str = "format";

/// Opens the connection that writes, creating file and tables if they are not there.
pub(crate) fn open_writer(path: &Path, seals: &Seals) -> Result<Connection, StoreError> {
    if rusqlite::version_number() < OLDEST_SQLITE {
        return Err(StoreError::NotAReplica("the SQLite library is older than 3.51.3 and can corrupt files"));
    }
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    check_identity(&connection).map_err(of_header)?;
    check_header(&connection).map_err(of_header)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    // A commit is not reported before it has been fsynced. With a write-ahead log this is FULL; but where SQLite
    // cannot have one it says so to nobody, and FULL does not fsync the deletion of a rollback journal: EXTRA does.
    connection.pragma_update(None, "synchronous", "extra")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // A savepoint notes the pages that it changes; that need not go through the file system.
    connection.pragma_update(None, "temp_store", "memory")?;
    connection.set_prepared_statement_cache_capacity(128);
    migrate(&mut connection)?;
    seals.attach(&mut connection).map_err(of_header)?;
    Ok(connection)
}

/// What SQLite calls an error of its own is one of the file while that has not even been opened: a table, say, that
/// does not have the columns that it was made with.
pub(crate) fn of_header(error: StoreError) -> StoreError {
    match error.kind() {
        ErrorKind::Internal => StoreError::DamagedFile(error.to_string()),
        _ => error,
    }
}

/// Opens a connection that can only read.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "query_only", true)?;
    connection.set_limit(rusqlite::limits::Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    // Whoever reads something damaged gets an error that names the entity: the writer is told by that.
    Seals::default().verify(&connection)?;
    Ok(connection)
}

/// What a file says of itself before any table is read.
pub(crate) fn check_file(connection: &Connection) -> Result<(), StoreError> {
    check_identity(connection)?;
    check_header(connection)
}

/// A new file with empty tables.
pub(crate) fn new_tables(path: &Path) -> Result<Connection, StoreError> {
    let mut connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    migrate(&mut connection)?;
    Ok(connection)
}

/// Says the version of the tables a second time.
pub(crate) fn note_version(connection: &Connection) -> Result<(), StoreError> {
    rows::set_meta(connection, FORMAT, i64::try_from(MIGRATIONS.len())?)
}

fn check_identity(connection: &Connection) -> Result<(), StoreError> {
    let id: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let count = |sql| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let tables = count("SELECT count(*) FROM sqlite_schema")?;
    let ours = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN ('meta', 'entities', 'changes')";
    match (id, tables) {
        (APPLICATION_ID, 1..) | (0, 0) => Ok(()),
        (APPLICATION_ID, _) => Err(StoreError::DamagedRow("its tables are gone")),
        _ if count(ours)? > 1 => Err(StoreError::DamagedRow("its header is not what was written")),
        _ => Err(StoreError::NotAReplica("it is another application's database")),
    }
}

/// What the header says beside that: SQLite believes it, and would write by it.
fn check_header(connection: &Connection) -> Result<(), StoreError> {
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let encoding: String = connection.pragma_query_value(None, "encoding", |row| row.get(0))?;
    let version = number("user_version")?;
    let has_meta = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'seals'";
    let format = match connection.prepare(has_meta)?.exists([])? {
        true => rows::meta::<i64>(connection, FORMAT)?,
        false => None,
    };
    let versions_agree = match format {
        Some(format) => format == version,
        None => usize::try_from(version).is_ok_and(|version| version < FIRST_SEALED || version > MIGRATIONS.len()),
    };
    match encoding == "UTF-8" && number("auto_vacuum")? == 0 && versions_agree {
        true => Ok(()),
        false => Err(StoreError::DamagedRow("its header is not what was written")),
    }
}

fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let version = usize::try_from(version)?;
    let Some(pending) = MIGRATIONS.get(version..) else {
        return Err(StoreError::NotAReplica("it was written by a newer release"));
    };
    if !pending.is_empty() {
        for migration in pending.iter().copied().flatten() {
            transaction.execute_batch(migration)?;
        }
        let version = i64::try_from(MIGRATIONS.len())?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", version)?;
        note_version(&transaction)?;
        seal::register(&transaction)?;
        seal::seal_all(&transaction)?;
    }
    transaction.commit()?;
    Ok(())
}

/// What the tables and indexes of a replica look like, and the views of its schema.
pub(crate) fn expected(schema: &Schema) -> Result<BTreeMap<String, String>, StoreError> {
    let connection = Connection::open_in_memory()?;
    for migration in MIGRATIONS.iter().copied().flatten() {
        connection.execute_batch(migration)?;
    }
    views::rebuild(&connection, schema)?;
    definitions(&connection)
}

/// The tables, indexes and views of a file, by name.
pub(crate) fn definitions(connection: &Connection) -> Result<BTreeMap<String, String>, StoreError> {
    let mut select =
        connection.prepare("SELECT name, type || ' ' || tbl_name || ' ' || coalesce(sql, '') FROM sqlite_schema")?;
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// How SQLite goes about a statement in a new file, step by step.
#[cfg(test)]
pub(crate) fn plan(sql: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let connection = open_writer(&folder.path().join("a.db"), &Seals::default()).unwrap();
    let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let parameters = vec![rusqlite::types::Null; statement.parameter_count()];
    let steps = statement.query_map(rusqlite::params_from_iter(parameters), |row| row.get(3)).unwrap();
    steps.map(Result::unwrap).collect()
}
