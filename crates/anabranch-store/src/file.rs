//! The file: opening connections, and the tables.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::error::StoreError;

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
];

/// Opens the connection that writes, creating file and tables if they are not there.
pub(crate) fn open_writer(path: &Path) -> Result<Connection, StoreError> {
    if rusqlite::version_number() < OLDEST_SQLITE {
        return Err(StoreError::NotAReplica("the SQLite library is older than 3.51.3 and can corrupt files"));
    }
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    check_identity(&connection)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    // A commit is not reported before it has been fsynced. With a write-ahead log this is FULL; but where SQLite
    // cannot have one it says so to nobody, and FULL does not fsync the deletion of a rollback journal: EXTRA does.
    connection.pragma_update(None, "synchronous", "extra")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // A savepoint notes the pages that it changes; that need not go through the file system.
    connection.pragma_update(None, "temp_store", "memory")?;
    connection.set_prepared_statement_cache_capacity(128);
    migrate(&mut connection)?;
    Ok(connection)
}

/// Opens a connection that can only read.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "query_only", true)?;
    connection.set_limit(rusqlite::limits::Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    Ok(connection)
}

fn check_identity(connection: &Connection) -> Result<(), StoreError> {
    let id: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match (id, tables) {
        (APPLICATION_ID, _) | (0, 0) => Ok(()),
        _ => Err(StoreError::NotAReplica("it is another application's database")),
    }
}

fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let version = usize::try_from(version)?;
    let Some(pending) = MIGRATIONS.get(version..) else {
        return Err(StoreError::NotAReplica("it was written by a newer release"));
    };
    for migration in pending.iter().copied().flatten() {
        transaction.execute_batch(migration)?;
    }
    if !pending.is_empty() {
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", i64::try_from(MIGRATIONS.len())?)?;
    }
    transaction.commit()?;
    Ok(())
}
