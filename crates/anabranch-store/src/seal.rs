//! Seals: digests that tell what was written from what a failing disk made of it.
//!
//! SQLite reads a flipped bit inside a record without complaint. So every row of `entities` carries a digest of all
//! its columns, written with the transaction that wrote the row and verified by whoever reads it; and of the small
//! tables, which are read whole, the digests of all rows are added up. A change has its hash and a folded document
//! its checksum already. This finds accidents; whoever alters a file on purpose can make seals, too.
//!
//! A row whose seal is broken is never written to before it has been mended, or the next seal would hide the damage.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anabranch_core::Digest;
use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::hooks::Action;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _, Row};

use crate::cache::EntityKey;
use crate::error::StoreError;

/// The columns of `entities` that its seal covers, in its order: all of them.
pub(crate) const ENTITY: &str = "e.key, e.space, e.id, e.collection, e.state, e.digest, e.heads, e.created_at, \
     e.updated_at, e.deleted, e.born, e.pending, e.dirty_fields, e.conflicts, e.last_sync_at, e.log_bytes, e.items, \
     e.purged, e.damaged";
/// How many that are; in a query that begins with them, the seal comes next.
pub(crate) const ENTITY_COLUMNS: usize = 19;

/// A table whose rows are added up.
pub(crate) struct Summed {
    pub(crate) name: &'static str,
    columns: &'static [&'static str],
    /// It is small and verified whenever the file is opened; the others when the file is checked.
    pub(crate) at_open: bool,
}

/// The tables whose rows are added up. `changes` needs no seal: a change has its hash, and what stands beside it is in
/// the change or in an index.
pub(crate) const SUMMED: &[Summed] = &[
    Summed { name: "meta", columns: &["key", "value"], at_open: true },
    Summed { name: "spaces", columns: &["key", "name"], at_open: true },
    Summed {
        name: "remotes",
        columns: &[
            "key",
            "url",
            "lineage",
            "failures",
            "last_error",
            "next_attempt_at",
            "server_asked_until",
            "error_class",
            "clock_skew",
        ],
        at_open: true,
    },
    Summed { name: "local_collections", columns: &["name"], at_open: true },
    Summed {
        name: "sync_state",
        columns: &["remote", "space", "cursor", "ack_seq", "ack_chain", "last_success_at"],
        at_open: true,
    },
    Summed { name: "subsets", columns: &["remote", "space", "wanted", "synced"], at_open: true },
    Summed { name: "first_syncs", columns: &["remote", "space", "seq", "chain", "cursor"], at_open: true },
    Summed {
        name: "first_sync_pieces",
        columns: &["remote", "space", "place", "digest", "collection", "entities", "bytes", "applied"],
        at_open: true,
    },
    Summed { name: "damage", columns: &["entity", "reason", "found_at", "heads", "missing", "lost"], at_open: true },
    Summed { name: "refused", columns: &["entity", "hash", "kind", "refused_at"], at_open: false },
    Summed {
        name: "conflicts",
        columns: &["entity", "id", "kind", "open", "field", "reason", "detail"],
        at_open: false,
    },
    Summed { name: "links", columns: &["entity", "field", "target"], at_open: false },
];

/// What a write connection knows of seals: the rows that its transaction has written and not sealed yet, and those
/// that it found broken.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seals(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    touched: BTreeSet<EntityKey>,
    suspects: BTreeSet<EntityKey>,
}

impl Seals {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows what is written through a connection. The file must have its tables.
    pub(crate) fn attach(&self, connection: &mut Connection) -> Result<(), StoreError> {
        register(connection)?;
        self.verify(connection)?;
        let seals = self.clone();
        connection.update_hook(Some(move |action, _: &str, table: &str, key| {
            if table == "entities" && matches!(action, Action::SQLITE_INSERT | Action::SQLITE_UPDATE) {
                seals.known().touched.insert(key);
            }
        }))?;
        // Of this connection, not of the file: any SQLite tool can still read that.
        for table in SUMMED {
            connection.execute_batch(&table.triggers())?;
        }
        Ok(())
    }

    /// Makes the functions known that verify rows.
    pub(crate) fn verify(&self, connection: &Connection) -> Result<(), StoreError> {
        let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS;
        let seals = self.clone();
        connection.create_scalar_function("is_sound", -1, flags, move |row: &Context<'_>| seals.is_sound(row))?;
        let seals = self.clone();
        connection.create_scalar_function("suspect", 1, flags, move |row| {
            seals.suspect(row.get(0)?);
            Ok(true)
        })?;
        Ok(())
    }

    /// `is_sound(columns…, seal)`: whether a row of `entities` may be believed. One that is not is remembered.
    fn is_sound(&self, row: &Context<'_>) -> rusqlite::Result<bool> {
        let Some(last) = row.len().checked_sub(1) else { return Ok(false) };
        let key: EntityKey = row.get(0)?;
        let sound = row.get::<i64>(last)? == seal((0..last).map(|place| row.get_raw(place)));
        let mut known = self.known();
        if sound || known.touched.contains(&key) {
            return Ok(true);
        }
        known.suspects.insert(key);
        Ok(false)
    }

    /// Whether this transaction has written the row: it has no seal yet.
    pub(crate) fn is_touched(&self, key: EntityKey) -> bool {
        self.known().touched.contains(&key)
    }

    /// Remembers an entity that has to be looked at.
    pub(crate) fn suspect(&self, key: EntityKey) {
        self.known().suspects.insert(key);
    }

    /// The entity has been looked at.
    pub(crate) fn clear(&self, key: EntityKey) {
        self.known().suspects.remove(&key);
    }

    /// Those that have to be looked at.
    pub(crate) fn take_suspects(&self) -> BTreeSet<EntityKey> {
        std::mem::take(&mut self.known().suspects)
    }

    /// Seals the rows that the transaction has written.
    pub(crate) fn seal_touched(&self, connection: &Connection) -> Result<(), StoreError> {
        let touched = self.known().touched.clone();
        if touched.is_empty() {
            return Ok(());
        }
        let mut update =
            connection.prepare_cached(&format!("UPDATE entities AS e SET seal = seal_of({ENTITY}) WHERE key = ?"))?;
        for key in touched {
            update.execute([key])?;
        }
        self.forget_touched();
        Ok(())
    }

    /// The transaction is over.
    pub(crate) fn forget_touched(&self) {
        self.known().touched.clear();
    }
}

/// Makes the functions known that compute seals.
pub(crate) fn register(connection: &Connection) -> Result<(), StoreError> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    connection
        .create_scalar_function("seal_of", -1, flags, |row| Ok(seal((0..row.len()).map(|at| row.get_raw(at)))))?;
    connection.create_scalar_function("seal_sum", 2, flags, |sums| Ok(sums.get::<i64>(0)? ^ sums.get::<i64>(1)?))?;
    Ok(())
}

/// Seals everything as it is now: a file that was written before there were seals, or one that has been mended.
pub(crate) fn seal_all(connection: &Connection) -> Result<(), StoreError> {
    connection.execute(&format!("UPDATE entities AS e SET seal = seal_of({ENTITY})"), [])?;
    seal_tables(connection)
}

/// Adds up the tables that are added up, as they are now.
pub(crate) fn seal_tables(connection: &Connection) -> Result<(), StoreError> {
    for table in SUMMED {
        let sum = table.sum(connection)?;
        let upsert = "INSERT INTO seals (name, sum) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET sum = ?2";
        connection.execute(upsert, rusqlite::params![table.name, sum])?;
    }
    Ok(())
}

/// A small table that is not what was written, if there is one.
pub(crate) fn broken_table(connection: &Connection) -> Result<Option<&'static str>, StoreError> {
    for table in SUMMED.iter().filter(|table| table.at_open) {
        if is_broken(connection, table)? {
            return Ok(Some(table.name));
        }
    }
    Ok(None)
}

/// Whether a table is not what was written.
pub(crate) fn is_broken(connection: &Connection, table: &Summed) -> Result<bool, StoreError> {
    let select = "SELECT sum FROM seals WHERE name = ?";
    let stored: Option<i64> = connection.query_row(select, [table.name], |row| row.get(0)).optional()?;
    Ok(stored != Some(table.sum(connection)?))
}

impl Summed {
    fn of(&self, prefix: &str) -> String {
        let columns: Vec<String> = self.columns.iter().map(|column| format!("{prefix}{column}")).collect();
        format!("seal_of({})", columns.join(", "))
    }

    fn sum(&self, connection: &Connection) -> Result<i64, StoreError> {
        let mut select = connection.prepare(&format!("SELECT {} FROM \"{}\"", self.columns.join(", "), self.name))?;
        let mut rows = select.query([])?;
        let mut sum = 0;
        while let Some(row) = rows.next()? {
            sum ^= row_seal(row, self.columns.len())?;
        }
        Ok(sum)
    }

    fn triggers(&self) -> String {
        let (name, old, new) = (self.name, self.of("OLD."), self.of("NEW."));
        let add = |what: &str| format!("UPDATE seals SET sum = seal_sum(sum, {what}) WHERE name = '{name}'");
        let (insert, delete) = (add(&new), add(&old));
        let update = add(&format!("seal_sum({old}, {new})"));
        format!(
            "CREATE TEMP TRIGGER \"seal:{name}:insert\" AFTER INSERT ON main.{name} BEGIN {insert}; END;\n\
             CREATE TEMP TRIGGER \"seal:{name}:update\" AFTER UPDATE ON main.{name} BEGIN {update}; END;\n\
             CREATE TEMP TRIGGER \"seal:{name}:delete\" AFTER DELETE ON main.{name} BEGIN {delete}; END;"
        )
    }
}

/// The seal of a row's first columns.
pub(crate) fn row_seal(row: &Row<'_>, columns: usize) -> Result<i64, StoreError> {
    let values: Vec<ValueRef<'_>> = (0..columns).map(|place| row.get_ref(place)).collect::<Result<_, _>>()?;
    Ok(seal(values.into_iter()))
}

/// 64 bits of a digest of some values.
fn seal<'v>(values: impl Iterator<Item = ValueRef<'v>>) -> i64 {
    let mut bytes = Vec::with_capacity(256);
    for value in values {
        let mut add = |kind: u8, value: &[u8]| {
            bytes.push(kind);
            bytes.extend_from_slice(&u64::try_from(value.len()).unwrap_or(u64::MAX).to_le_bytes());
            bytes.extend_from_slice(value);
        };
        match value {
            ValueRef::Null => add(0, &[]),
            ValueRef::Integer(number) => add(1, &number.to_le_bytes()),
            ValueRef::Real(number) => add(2, &number.to_bits().to_le_bytes()),
            ValueRef::Text(text) => add(3, text),
            ValueRef::Blob(blob) => add(4, blob),
        }
    }
    let digest = Digest::of(&bytes);
    let [a, b, c, d, e, f, g, h, ..] = *digest.as_bytes();
    i64::from_le_bytes([a, b, c, d, e, f, g, h])
}
