//! Reading rows past damaged pages.

use std::fs::{self, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use anabranch_core::{Change, ReplicaId, Schema, SpaceName};
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use crate::error::StoreError;
use crate::seal::{self, SUMMED};
use crate::{file, rows};

/// The most rows that are looked for one by one in the gap that a damaged page leaves.
const MAX_GAP: i64 = 5_000_000;
/// The size of a page, SQLite's default.
const PAGE: u64 = 4_096;

/// A copy to work on, with what its header must say put right.
pub(super) fn copy(path: &Path, copy: &Path) -> Result<(), StoreError> {
    fs::copy(path, copy).map_err(super::io)?;
    let wal = crate::wal::path(path);
    if wal.exists() {
        fs::copy(wal, crate::wal::path(copy)).map_err(super::io)?;
    }
    if readable(copy) {
        return Ok(());
    }
    mend_header(copy).map_err(super::io)
}

fn readable(path: &Path) -> bool {
    let tables = |path| Connection::open(path)?.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0));
    tables(path).is_ok_and(|tables: i64| tables > 0)
}

/// Nearly all of the first hundred bytes is the same in every replica's file.
fn mend_header(path: &Path) -> std::io::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let pages = u32::try_from(file.metadata()?.len() / PAGE).unwrap_or(u32::MAX);
    let mut header = [0; 100];
    file.read_exact(&mut header)?;
    header[..24].copy_from_slice(b"SQLite format 3\0\x10\0\x02\x02\0\x40\x20\x20");
    header[28..32].copy_from_slice(&pages.to_be_bytes());
    // No free pages: that costs room in a file that is only read.
    header[32..40].fill(0);
    header[44..48].copy_from_slice(&4u32.to_be_bytes());
    header[52..56].fill(0);
    header[56..60].copy_from_slice(&1u32.to_be_bytes());
    header[64..68].fill(0);
    header.copy_within(24..28, 92);
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&header)?;
    file.sync_all()
}

/// Puts every row that can be read into a new file of the same tables.
pub(super) fn salvage(source: &Path, target: &Path, unsaved: &mut Vec<String>) -> Result<Connection, StoreError> {
    let source = Connection::open(source)?;
    let mut target = file::new_tables(target)?;
    target.pragma_update(None, "foreign_keys", false)?;
    let names: Vec<String> = {
        let mut select = target.prepare(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND (name NOT LIKE 'sqlite_%' OR name = 'sqlite_sequence')",
        )?;
        select.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?
    };
    let transaction = target.transaction()?;
    for name in &names {
        transaction.execute(&format!("DELETE FROM \"{name}\""), [])?;
        let mut table = Table::new(&source, &transaction, name)?;
        match table.copy() {
            Ok(0) => {}
            Ok(skipped) => unsaved.push(format!("{name}: {skipped} rows could not be read, or not be kept")),
            Err(error) if super::is_damage(&error) => unsaved.push(format!("{name}: {error}")),
            Err(error) => return Err(error),
        }
    }
    entities_by_index(&source, &transaction)?;
    transaction.commit()?;
    Ok(target)
}

struct Table<'c> {
    source: &'c Connection,
    target: &'c Connection,
    name: &'c str,
    columns: Vec<String>,
    keys: Vec<String>,
    has_rowid: bool,
    skipped: u64,
}

/// How far a walk came before a page could not be read.
enum Walk {
    Over,
    Until(Option<i64>),
}

impl<'c> Table<'c> {
    fn new(source: &'c Connection, target: &'c Connection, name: &'c str) -> Result<Self, StoreError> {
        let mut info = target.prepare("SELECT name, pk FROM pragma_table_info(?)")?;
        let columns: Vec<(String, i64)> =
            info.query_map([name], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
        let keys = columns.iter().filter(|(_, key)| *key > 0).map(|(name, _)| name.clone()).collect();
        let columns = columns.into_iter().map(|(name, _)| name).collect();
        let has_rowid = target.prepare(&format!("SELECT rowid FROM \"{name}\"")).is_ok();
        Ok(Self { source, target, name, columns, keys, has_rowid, skipped: 0 })
    }

    /// Copies what can be read, and returns how many rows could not.
    fn copy(&mut self) -> Result<u64, StoreError> {
        let forwards = self.walk("")?;
        let Walk::Until(first) = forwards else { return Ok(self.skipped) };
        self.skipped += 1;
        if let Walk::Until(last) = self.walk("DESC")?
            && self.has_rowid
        {
            self.fill_gap(first, last)?;
        }
        Ok(self.skipped)
    }

    fn walk(&mut self, order: &str) -> Result<Walk, StoreError> {
        let keys: Vec<String> = match self.has_rowid {
            true => vec!["rowid".to_owned()],
            false => self.keys.clone(),
        };
        let order_by: Vec<String> = keys.iter().map(|key| format!("{key} {order}")).collect();
        let sql = format!("{} NOT INDEXED ORDER BY {}", self.select(), order_by.join(", "));
        let mut select = self.source.prepare(&sql)?;
        let mut rows = select.query([])?;
        let mut last = None;
        loop {
            match rows.next() {
                Ok(Some(row)) => {
                    if self.has_rowid {
                        last = row.get(0).ok();
                    }
                    if !insert(self.target, self.name, &self.columns, row)? {
                        self.skipped += 1;
                    }
                }
                Ok(None) => return Ok(Walk::Over),
                Err(error) if StoreError::is_corruption(&error) => return Ok(Walk::Until(last)),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// One by one: a page whose neighbour is damaged can be reached by the number of its rows.
    fn fill_gap(&mut self, first: Option<i64>, last: Option<i64>) -> Result<(), StoreError> {
        let mut select = self.source.prepare(&format!("{} NOT INDEXED WHERE rowid = ?", self.select()))?;
        let from = first.map_or(1, |first| first.saturating_add(1));
        let to = last.unwrap_or_else(|| from.saturating_add(MAX_GAP / 50));
        for rowid in from..to.min(from.saturating_add(MAX_GAP)) {
            let mut rows = select.query([rowid])?;
            match rows.next() {
                Ok(Some(row)) => drop(insert(self.target, self.name, &self.columns, row)?),
                Ok(None) => {}
                Err(error) if StoreError::is_corruption(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn select(&self) -> String {
        let columns: Vec<String> = self.columns.iter().map(|column| format!("\"{column}\"")).collect();
        let rowid = if self.has_rowid { "rowid, " } else { "NULL, " };
        format!("SELECT {rowid}{} FROM \"{}\"", columns.join(", "), self.name)
    }
}

/// `false` if the row cannot be read, or breaks a rule of its table.
fn insert(target: &Connection, name: &str, columns: &[String], row: &rusqlite::Row<'_>) -> Result<bool, StoreError> {
    let values: Result<Vec<Value>, _> = (1..=columns.len()).map(|place| row.get(place)).collect();
    let Ok(values) = values else { return Ok(false) };
    let places = vec!["?"; columns.len()].join(", ");
    let columns: Vec<String> = columns.iter().map(|column| format!("\"{column}\"")).collect();
    let sql = format!("INSERT OR IGNORE INTO \"{name}\" ({}) VALUES ({places})", columns.join(", "));
    match target.prepare_cached(&sql)?.execute(params_from_iter(values)) {
        Ok(_) => Ok(true),
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// An entity whose row cannot be read is still named by the indexes; the rest follows from its log.
fn entities_by_index(source: &Connection, target: &Connection) -> Result<(), StoreError> {
    for way in rows::WAYS {
        let sql = format!("SELECT key, space, id FROM entities INDEXED BY {way} WHERE space > -1 AND id > ''");
        let Ok(mut select) = source.prepare(&sql) else { continue };
        let mut rows = select.query([])?;
        while let Ok(Some(row)) = rows.next() {
            let named: Result<(i64, i64, String), _> =
                (|| Ok::<_, rusqlite::Error>((row.get(0)?, row.get(1)?, row.get(2)?)))();
            let Ok((key, space, id)) = named else { continue };
            if id.parse::<anabranch_core::EntityId>().is_ok() {
                let insert = "INSERT OR IGNORE INTO entities (key, space, id, collection) VALUES (?, ?, ?, 'unknown')";
                target.prepare_cached(insert)?.execute((key, space, id))?;
            }
        }
    }
    Ok(())
}

/// Makes the tables beside the entities hold together, as far as they can.
pub(super) fn settle(target: &Connection, schema: &Schema, unsaved: &mut Vec<String>) -> Result<(), StoreError> {
    seal::register(target)?;
    for table in SUMMED {
        if seal::is_broken(target, table)? {
            settle_table(target, table.name, unsaved)?;
        }
    }
    let json = serde_json::to_string(schema).map_err(|_| StoreError::OutOfRange)?;
    rows::set_meta(target, "schema", json)?;
    if rows::meta::<String>(target, "replica").ok().flatten().is_none_or(|id| id.parse::<ReplicaId>().is_err()) {
        target.execute("DELETE FROM meta WHERE key = 'replica'", [])?;
        unsaved.push("meta: the replica's id; it gets a new one".to_owned());
    }
    target.execute_batch(
        "DELETE FROM meta WHERE key IN ('farewell', 'format'); \
         UPDATE sync_state SET cursor = x'' WHERE cursor IS NOT NULL; DELETE FROM first_syncs; \
         DELETE FROM first_sync_pieces; INSERT OR IGNORE INTO remotes (key) VALUES (1); \
         DELETE FROM conflicts WHERE entity NOT IN (SELECT key FROM entities); \
         DELETE FROM links WHERE entity NOT IN (SELECT key FROM entities)",
    )?;
    file::note_version(target)?;
    name_spaces(target, unsaved)?;
    name_actors(target, unsaved)?;
    drop_strays(target, unsaved)?;
    crate::views::rebuild(target, schema)?;
    seal::seal_tables(target)
}

fn settle_table(target: &Connection, name: &str, unsaved: &mut Vec<String>) -> Result<(), StoreError> {
    match name {
        // Derived again, or begun again.
        "conflicts" | "links" | "first_syncs" | "first_sync_pieces" | "local_collections" => {}
        "sync_state" => {
            target.execute("DELETE FROM sync_state", [])?;
        }
        // A wrong one would have entities dropped.
        "subsets" => {
            target.execute("DELETE FROM subsets", [])?;
            unsaved.push("subsets: the choice of collections; spaces are synced whole".to_owned());
        }
        _ => unsaved.push(format!("{name}: a row was not what was written; it is kept as it is")),
    }
    Ok(())
}

/// A space without a name, or with one that is none, gets one.
fn name_spaces(target: &Connection, unsaved: &mut Vec<String>) -> Result<(), StoreError> {
    target.execute_batch(
        "INSERT OR IGNORE INTO spaces (key, name) SELECT DISTINCT space, 'salvaged-' || space FROM entities \
         WHERE space NOT IN (SELECT key FROM spaces)",
    )?;
    let mut select = target.prepare("SELECT key, name FROM spaces")?;
    let spaces: Vec<(i64, String)> =
        select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    for (key, name) in spaces {
        if SpaceName::new(&name).is_err() {
            target.execute("UPDATE spaces SET name = 'salvaged-' || key WHERE key = ?", [key])?;
            unsaved.push("spaces: a name; the space has got another".to_owned());
        }
    }
    Ok(())
}

/// Actors are named by their changes.
fn name_actors(target: &Connection, unsaved: &mut Vec<String>) -> Result<(), StoreError> {
    let wrong: Vec<(i64, Vec<u8>, Option<Vec<u8>>)> = {
        let mut select =
            target.prepare("SELECT c.seq, c.bytes, a.actor FROM changes c LEFT JOIN actors a ON a.key = c.actor")?;
        let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let is_wrong = |row: &(i64, Vec<u8>, Option<Vec<u8>>)| {
            Change::parse(row.1.clone()).is_ok_and(|change| row.2.as_deref() != Some(change.actor().as_bytes()))
        };
        rows.filter(|row| row.as_ref().map_or(true, is_wrong)).collect::<Result<_, _>>()?
    };
    for (seq, bytes, _) in wrong {
        let Ok(change) = Change::parse(bytes) else { continue };
        let actor = rows::actor_key(target, change.actor())?;
        if target.execute("UPDATE OR IGNORE changes SET actor = ? WHERE seq = ?", [actor, seq])? == 0 {
            unsaved.push(format!("changes: {seq} stands twice"));
        }
    }
    let mut select = target.prepare("SELECT seq, bytes, origin FROM changes")?;
    let rows =
        select.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?, row.get::<_, String>(2)?)))?;
    let all: Vec<_> = rows.collect::<Result<_, _>>()?;
    drop(select);
    for (seq, bytes, origin) in all {
        let Ok(change) = Change::parse(bytes) else { continue };
        let origin = if matches!(origin.as_str(), "local" | "remote" | "peer") { origin } else { "peer".to_owned() };
        target
            .prepare_cached("UPDATE OR IGNORE changes SET stamp = ?, actor_seq = ?, origin = ? WHERE seq = ?")?
            .execute((change.stamp().raw(), i64::try_from(change.seq())?, origin, seq))?;
    }
    Ok(())
}

/// Rows about an entity that nobody knows any more.
fn drop_strays(target: &Connection, unsaved: &mut Vec<String>) -> Result<(), StoreError> {
    target.execute(
        "DELETE FROM outbox WHERE remote NOT IN (SELECT key FROM remotes) OR state NOT IN ('pending', 'parked')",
        [],
    )?;
    // The outbox goes by the log.
    target
        .execute("UPDATE outbox SET entity = coalesce((SELECT entity FROM changes WHERE seq = change), entity)", [])?;
    for table in ["changes", "outbox", "snapshots", "orphans", "quarantine", "refused", "unchecked", "damage"] {
        let sql = format!("DELETE FROM {table} WHERE entity NOT IN (SELECT key FROM entities)");
        let strays = target.execute(&sql, [])?;
        if strays > 0 && table != "unchecked" {
            unsaved.push(format!("{table}: {strays} rows of entities that nobody knows any more"));
        }
    }
    target.execute_batch(
        "DELETE FROM sync_state WHERE remote NOT IN (SELECT key FROM remotes) OR space NOT IN (SELECT key FROM spaces); \
         DELETE FROM subsets WHERE remote NOT IN (SELECT key FROM remotes) OR space NOT IN (SELECT key FROM spaces)",
    )?;
    Ok(())
}
