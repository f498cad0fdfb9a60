//! Connections to the file.

use std::path::PathBuf;
use std::time::Duration;

use anabranch_core::Entropy;
use rusqlite::{Connection, OpenFlags};

/// How long a connection waits for another process's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Prepared statements that a connection keeps.
const STATEMENTS: usize = 32;

/// Where the data is.
#[derive(Clone, Debug)]
pub(super) enum Source {
    File(PathBuf),
    /// A database in memory that all connections of this process share, by its name.
    Memory(String),
}

impl Source {
    pub(super) fn memory(entropy: &mut dyn Entropy) -> Self {
        Self::Memory(format!("file:/anabranch-{:016x}{:016x}?vfs=memdb", entropy.next_u64(), entropy.next_u64()))
    }

    /// A connection for the writer: every commit is on the disk when it returns.
    pub(super) fn writer(&self) -> rusqlite::Result<Connection> {
        let connection = self.open(OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        if matches!(self, Self::File(_)) {
            let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
            if mode != "wal" {
                // A file system without shared memory, for instance. Slower, and as safe because of EXTRA below.
                tracing::warn!(mode, "the file does not take write-ahead logging");
            }
        }
        // As FULL with a write-ahead log; without one it also syncs the deletion of the journal, which is the commit.
        // What is sorted, or noted for a savepoint, need not go through the file system.
        connection
            .execute_batch("PRAGMA synchronous = EXTRA; PRAGMA foreign_keys = ON; PRAGMA temp_store = MEMORY;")?;
        Ok(connection)
    }

    /// A connection that cannot write.
    pub(super) fn reader(&self) -> rusqlite::Result<Connection> {
        // Read-only files cannot take part in write-ahead logging; `query_only` is the protection here.
        let connection = self.open(OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.execute_batch("PRAGMA query_only = ON")?;
        Ok(connection)
    }

    fn open(&self, mode: OpenFlags) -> rusqlite::Result<Connection> {
        let flags = mode | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = match self {
            Self::File(path) => Connection::open_with_flags(path, flags)?,
            Self::Memory(uri) => Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI)?,
        };
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        connection.execute_batch("PRAGMA trusted_schema = OFF")?;
        Ok(connection)
    }
}
