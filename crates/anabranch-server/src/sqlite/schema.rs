//! The tables of a server's file, and how an older file becomes a current one.

use anabranch_core::{Environment, Lineage};
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior};

use super::{OpenError, corrupt};

/// "AnSv" in the file's header: a server's file, not a replica's and not someone else's.
pub(super) const APPLICATION_ID: i32 = 0x416e_5376;

/// The migrations; the file's `user_version` counts those that have been applied. Only ever add to the end.
const MIGRATIONS: &[&str] = &[
    r"
    CREATE TABLE server (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        lineage BLOB NOT NULL CHECK (length(lineage) = 16)
    ) STRICT;

    -- The end of each space's log: the counter from which the next place is taken.
    CREATE TABLE spaces (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        seq INTEGER NOT NULL CHECK (seq > 0),
        chain BLOB NOT NULL CHECK (length(chain) = 32)
    ) STRICT;

    -- The logs. A row is never changed.
    CREATE TABLE changes (
        space INTEGER NOT NULL REFERENCES spaces (id),
        seq INTEGER NOT NULL,
        chain BLOB NOT NULL CHECK (length(chain) = 32),
        entity BLOB NOT NULL CHECK (length(entity) = 16),
        hash BLOB NOT NULL CHECK (length(hash) = 32),
        collection TEXT NOT NULL,
        actor BLOB NOT NULL,
        actor_seq INTEGER NOT NULL,
        parent BLOB CHECK (length(parent) = 16),
        txn BLOB CHECK (length(txn) = 16),
        -- 1 if it was accepted as a whole with the row before it: no page ends between the two.
        joined INTEGER NOT NULL CHECK (joined IN (0, 1)),
        replica BLOB NOT NULL CHECK (length(replica) = 16),
        received_at INTEGER NOT NULL,
        bytes BLOB NOT NULL,
        PRIMARY KEY (space, seq),
        UNIQUE (space, entity, hash),
        UNIQUE (space, entity, actor, actor_seq)
    ) STRICT;

    -- What follows from the log, so that nobody has to read it all.
    CREATE TABLE entities (
        space INTEGER NOT NULL REFERENCES spaces (id),
        entity BLOB NOT NULL CHECK (length(entity) = 16),
        collection TEXT NOT NULL,
        heads BLOB NOT NULL,
        PRIMARY KEY (space, entity)
    ) STRICT, WITHOUT ROWID;
",
    r"
    -- 1 if its log has a purge marker; its heads are then the markers alone.
    ALTER TABLE entities ADD COLUMN purged INTEGER NOT NULL DEFAULT 0 CHECK (purged IN (0, 1));
",
    r"
    -- The changes from which others have been written that the log has: those are not taken any more.
    CREATE TABLE rewrites (
        space INTEGER NOT NULL REFERENCES spaces (id),
        entity BLOB NOT NULL CHECK (length(entity) = 16),
        original BLOB NOT NULL CHECK (length(original) = 32),
        -- Of an original that came in several.
        part INTEGER NOT NULL,
        PRIMARY KEY (space, entity, original, part)
    ) STRICT, WITHOUT ROWID;
",
    include_str!("accounts.sql"),
];

/// Makes the file current, and returns its lineage.
pub(super) fn migrate(connection: &mut Connection, environment: &mut dyn Environment) -> Result<Lineage, OpenError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let application: i32 = transaction.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let version: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let objects: i64 = transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let fresh = application == 0 && version == 0 && objects == 0;
    if application != APPLICATION_ID && !fresh {
        return Err(OpenError::NotAServerFile);
    }
    let applied = usize::try_from(version).map_err(|_| OpenError::NotAServerFile)?;
    let Some(missing) = MIGRATIONS.get(applied..) else {
        return Err(OpenError::Newer { version });
    };
    for migration in missing {
        transaction.execute_batch(migration)?;
    }
    if !missing.is_empty() {
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX))?;
    }
    let stored: Option<Vec<u8>> =
        transaction.query_row("SELECT lineage FROM server", [], |row| row.get(0)).optional()?;
    let lineage = match stored {
        Some(bytes) => Lineage::from_bytes(bytes.try_into().map_err(|_| corrupt("the lineage"))?),
        None => {
            let lineage = Lineage::mint(environment.now(), environment.entropy());
            transaction.execute("INSERT INTO server (id, lineage) VALUES (1, ?1)", [lineage.as_bytes().as_slice()])?;
            lineage
        }
    };
    transaction.commit()?;
    Ok(lineage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SystemEnvironment;

    fn memory() -> Connection {
        Connection::open_in_memory().unwrap()
    }

    #[test]
    fn the_lineage_is_minted_once() {
        let mut connection = memory();
        let first = migrate(&mut connection, &mut SystemEnvironment).unwrap();
        assert_eq!(migrate(&mut connection, &mut SystemEnvironment).unwrap(), first);
        assert_ne!(migrate(&mut memory(), &mut SystemEnvironment).unwrap(), first);
    }

    #[test]
    fn a_file_of_the_first_version_is_brought_up_to_date() {
        let mut connection = memory();
        connection.execute_batch(MIGRATIONS[0]).unwrap();
        connection.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
        connection.pragma_update(None, "user_version", 1).unwrap();
        let rows = "INSERT INTO server VALUES (1, zeroblob(16));
             INSERT INTO spaces VALUES (1, 'home', 1, zeroblob(32));
             INSERT INTO entities VALUES (1, zeroblob(16), 'notes', zeroblob(32));";
        connection.execute_batch(rows).unwrap();
        let lineage = migrate(&mut connection, &mut SystemEnvironment).unwrap();
        assert_eq!(lineage, Lineage::from_bytes([0; 16]));
        let purged: i64 = connection.query_row("SELECT purged FROM entities", [], |row| row.get(0)).unwrap();
        assert_eq!(purged, 0);
    }

    #[test]
    fn what_an_older_file_holds_is_counted() {
        let mut connection = memory();
        connection.execute_batch(MIGRATIONS[0]).unwrap();
        connection.execute_batch(MIGRATIONS[1]).unwrap();
        connection.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
        connection.pragma_update(None, "user_version", 2).unwrap();
        let rows = "INSERT INTO server VALUES (1, zeroblob(16));
             INSERT INTO spaces VALUES (1, 'home', 2, zeroblob(32)), (2, 'work', 1, zeroblob(32));
             INSERT INTO entities (space, entity, collection, heads) VALUES (1, zeroblob(16), 'notes', zeroblob(32));
             INSERT INTO changes (space, seq, chain, entity, hash, collection, actor, actor_seq, joined, replica,
                 received_at, bytes)
             SELECT 1, n, zeroblob(32), zeroblob(16), randomblob(32), 'notes', x'01', n, 0, zeroblob(16), 0, zeroblob(n)
             FROM (SELECT 1 AS n UNION SELECT 2);";
        connection.execute_batch(rows).unwrap();
        migrate(&mut connection, &mut SystemEnvironment).unwrap();
        let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, u64>(0)).unwrap();
        let expected = 1 + 2 + 2 * anabranch_core::sync::ROW_BYTES;
        assert_eq!(count("SELECT bytes FROM entities"), expected);
        assert_eq!(count("SELECT bytes FROM spaces WHERE name = 'home'"), expected);
        assert_eq!(count("SELECT bytes FROM spaces WHERE name = 'work'"), 0);
    }

    #[test]
    fn a_newer_file_is_left_alone() {
        let mut connection = memory();
        migrate(&mut connection, &mut SystemEnvironment).unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        let error = migrate(&mut connection, &mut SystemEnvironment).unwrap_err();
        assert!(matches!(error, OpenError::Newer { version: 99 }));
    }

    #[test]
    fn someone_elses_file_is_left_alone() {
        let mut connection = memory();
        connection.execute_batch("CREATE TABLE theirs (a)").unwrap();
        let error = migrate(&mut connection, &mut SystemEnvironment).unwrap_err();
        assert!(matches!(error, OpenError::NotAServerFile));
    }
}
