//! The file: opening connections, and the tables.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use anabranch_core::{ErrorKind, Schema};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::error::StoreError;
use crate::rows;
use crate::seal::{self, Seals};
use crate::views::{self, Definition};

/// Marks the file as an Anabranch replica (SQLite's `application_id`).
const APPLICATION_ID: i32 = 0x416e_6162;
/// How long a writer waits for another process's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Prepared statements that the connection that writes keeps: more than this crate has of them.
const STATEMENTS: usize = 256;
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
/// The one row that they write.
const FIRST_REMOTE: &str = "INSERT INTO remotes (key) VALUES (1)";
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
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // Without this, a statement is planned anew whenever a value is bound that some plan might depend on. None does:
    // wherever an index is partial, its condition is spelt out.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
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
        match version {
            0 => Tables::get()?.statements.iter().try_for_each(|statement| transaction.execute_batch(statement))?,
            _ => pending.iter().copied().flatten().try_for_each(|migration| transaction.execute_batch(migration))?,
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
    let mut all = Tables::get()?.definitions.clone();
    for Definition { name, of, sql } in views::definitions(schema) {
        let definition = match of {
            Some(table) => format!("index {table} {sql}"),
            None => format!("view {name} {sql}"),
        };
        all.insert(name, definition);
    }
    Ok(all)
}

/// What the migrations come to.
struct Tables {
    definitions: BTreeMap<String, String>,
    /// What makes them in an empty file, in one go.
    statements: Vec<String>,
}

impl Tables {
    /// Found out once.
    fn get() -> Result<&'static Self, StoreError> {
        static TABLES: OnceLock<Tables> = OnceLock::new();
        if let Some(known) = TABLES.get() {
            return Ok(known);
        }
        let connection = Connection::open_in_memory()?;
        for migration in MIGRATIONS.iter().copied().flatten() {
            connection.execute_batch(migration)?;
        }
        // SQLite makes its own tables and indexes by itself.
        let sql = "SELECT sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite#_%' ESCAPE '#' ORDER BY rowid";
        let mut select = connection.prepare(sql)?;
        let made = select.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
        let statements = made.into_iter().chain([FIRST_REMOTE.to_owned()]).collect();
        let found = Self { definitions: definitions(&connection)?, statements };
        Ok(TABLES.get_or_init(|| found))
    }
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

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;

    /// All rows of all tables, in their order in the file.
    fn rows(connection: &Connection) -> Vec<(String, Vec<rusqlite::types::Value>)> {
        let tables = definitions(connection).unwrap();
        let tables = tables.iter().filter(|(_, definition)| definition.starts_with("table ")).map(|(name, _)| name);
        let mut all = Vec::new();
        for name in tables {
            let mut select = connection.prepare(&format!("SELECT * FROM \"{name}\"")).unwrap();
            let columns = select.column_count();
            let found = select.query_map([], |row| (0..columns).map(|column| row.get(column)).collect()).unwrap();
            all.extend(found.map(|row| (name.clone(), row.unwrap())));
        }
        all
    }

    /// A new file has its tables made in one go, and looks no different for it.
    #[test]
    fn a_new_file_is_what_the_migrations_make_of_an_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let anew = new_tables(&folder.path().join("new.db")).unwrap();
        let mut old = Connection::open(folder.path().join("old.db")).unwrap();
        MIGRATIONS[0].iter().for_each(|migration| old.execute_batch(migration).unwrap());
        old.pragma_update(None, "user_version", 1).unwrap();
        migrate(&mut old).unwrap();
        assert_eq!(definitions(&anew).unwrap(), definitions(&old).unwrap());
        assert_eq!(rows(&anew), rows(&old));
        assert!(rows(&anew).iter().any(|(table, _)| table == "remotes"), "there is the first remote");
    }

    /// What is expected of the views is not read from a file that SQLite wrote: it must be what SQLite writes.
    #[test]
    fn a_file_has_the_definitions_that_are_expected() {
        let schema = "version = 1\n[collections.notes.fields]\n\
                      title = { kind = \"register\", indexed = true }\nsteps = { kind = \"list\" }\n";
        let schema = Schema::from_toml(schema).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let connection = new_tables(&folder.path().join("a.db")).unwrap();
        views::rebuild(&connection, &schema).unwrap();
        assert_eq!(definitions(&connection).unwrap(), expected(&schema).unwrap());
    }

    /// SQLite plans a statement anew for every value that a partial index might have to do with, unless told not to.
    #[test]
    fn statements_are_planned_once() {
        let folder = tempfile::tempdir().unwrap();
        let connection = open_writer(&folder.path().join("a.db"), &Seals::default()).unwrap();
        let mut statement = connection.prepare("SELECT bytes FROM changes WHERE seq = ?").unwrap();
        for seq in 0..10 {
            assert!(!statement.exists([seq]).unwrap());
        }
        assert_eq!(statement.get_status(StatementStatus::RePrepare), 0);
    }
}
