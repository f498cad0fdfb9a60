//! Checking a file: everything in it that is not what was written, by name. Nothing is changed.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::Path;

use anabranch_core::document::{Document, canonical_json};
use anabranch_core::{Actor, Change, EntityId, ErrorKind, Functions, Heads, Schema};
use rusqlite::{Connection, OpenFlags, Row};
use serde::Serialize;
use serde_json::Value;

use crate::cache::EntityKey;
use crate::damage::KNOWN_PLACE;
use crate::error::StoreError;
use crate::rows::{self, EntityRow};
use crate::seal::{self, ENTITY};
use crate::{file, wal};

/// The most findings that are told; a file with more is not looked at any further.
const MAX_FINDINGS: usize = 10_000;

/// Something in a file that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// The entity that it is about, if it is one.
    pub entity: Option<EntityId>,
    /// Where it is: a table, an index, the header.
    pub place: String,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.entity {
            Some(entity) => write!(f, "{}: entity {entity}: {}", self.place, self.what),
            None => write!(f, "{}: {}", self.place, self.what),
        }
    }
}

/// Looks at everything in a file, without changing it: pages and indexes, seals, the hash of every change, and whether
/// each row follows from its document. `functions` are those that the schema names; what needs one that is not there
/// is not derived. No process may have the file open.
///
/// # Errors
/// If the file cannot be read for another reason than damage, or is another application's.
pub fn check(path: &Path, functions: &Functions) -> Result<Vec<Finding>, StoreError> {
    let mut findings = Findings::default();
    findings.0.extend(wal::damage(path)?.map(|what| finding("write-ahead log", what)));
    let connection = match open_unchanged(path) {
        Ok(connection) => connection,
        Err(error) => {
            findings.note("file", error)?;
            return Ok(findings.0);
        }
    };
    check_connection(&connection, functions, &mut findings)?;
    Ok(findings.0)
}

/// A connection that leaves the file as it is, even its shared memory.
fn open_unchanged(path: &Path) -> Result<Connection, StoreError> {
    std::fs::metadata(path).map_err(|_| StoreError::NotInitialised(path.display().to_string()))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let wal = std::fs::metadata(wal::path(path)).is_ok_and(|wal| wal.len() > 0);
    let connection = match path.to_str() {
        Some(name) if !wal => {
            let name = name.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
            Connection::open_with_flags(format!("file:{name}?immutable=1"), flags | OpenFlags::SQLITE_OPEN_URI)?
        }
        _ => Connection::open_with_flags(path, flags)?,
    };
    Ok(connection)
}

#[derive(Default)]
pub(crate) struct Findings(pub(crate) Vec<Finding>);

fn finding(place: &str, what: String) -> Finding {
    Finding { entity: None, place: place.to_owned(), what }
}

impl Findings {
    pub(crate) fn add(&mut self, place: &str, entity: Option<EntityId>, what: impl Into<String>) {
        if self.0.len() < MAX_FINDINGS {
            self.0.push(Finding { entity, place: place.to_owned(), what: what.into() });
        }
    }

    /// What is damage is noted, what will go away is returned.
    fn note(&mut self, place: &str, error: StoreError) -> Result<(), StoreError> {
        let not_ours = matches!(error, StoreError::NotInitialised(_) | StoreError::NotAReplica(_));
        if not_ours || error.kind() == ErrorKind::Retry {
            return Err(error);
        }
        self.add(place, None, error.to_string());
        Ok(())
    }

    fn try_step(
        &mut self,
        place: &str,
        step: impl FnOnce(&mut Self) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        match step(self) {
            Ok(()) => Ok(()),
            Err(error) => self.note(place, error),
        }
    }
}

pub(crate) fn check_connection(
    connection: &Connection,
    functions: &Functions,
    findings: &mut Findings,
) -> Result<(), StoreError> {
    findings.try_step("header", |_| file::check_file(connection))?;
    findings.try_step("pages", |findings| {
        let mut check = connection.prepare("PRAGMA integrity_check(1000)")?;
        for message in check.query_map([], |row| row.get::<_, String>(0))? {
            let message = message?;
            if message != "ok" {
                findings.add("pages", None, message);
            }
        }
        Ok(())
    })?;
    for table in seal::SUMMED {
        findings.try_step(table.name, |findings| {
            if seal::is_broken(connection, table)? {
                findings.add(table.name, None, "the table is not what was written");
            }
            Ok(())
        })?;
    }
    let mut schema = None;
    findings.try_step("schema", |findings| {
        let mut stored = rows::stored_schema(connection)?;
        check_definitions(connection, &stored, findings)?;
        // Without its functions a schema derives something else.
        schema = stored.bind(functions).is_ok().then_some(stored);
        Ok(())
    })?;
    findings.try_step("changes", |findings| check_changes(connection, findings))?;
    findings.try_step("outbox", |findings| check_outbox(connection, findings))?;
    findings.try_step("entities", |findings| check_entities(connection, schema.as_ref(), findings))
}

fn check_definitions(connection: &Connection, schema: &Schema, findings: &mut Findings) -> Result<(), StoreError> {
    let (expected, found) = (file::expected(schema)?, file::definitions(connection)?);
    for (name, definition) in &expected {
        if found.get(name) != Some(definition) {
            findings.add("schema", None, format!("the definition of {name} is not what was written"));
        }
    }
    Ok(())
}

/// Every change against its hash, and what stands beside it against the change.
fn check_changes(connection: &Connection, findings: &mut Findings) -> Result<(), StoreError> {
    let mut select = connection.prepare(
        "SELECT c.seq, c.hash, c.bytes, c.stamp, c.actor_seq, c.origin, \
                (SELECT actor FROM actors WHERE key = c.actor), (SELECT id FROM entities WHERE key = c.entity) \
         FROM changes c NOT INDEXED",
    )?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let what = match change_is_sound(row) {
            Ok(None) => continue,
            Ok(Some(what)) => what.to_owned(),
            Err(error) => error.to_string(),
        };
        let entity = row.get::<_, String>(7).ok().and_then(|id| id.parse().ok());
        findings.add("changes", entity, format!("change {}: {what}", row.get::<_, i64>(0)?));
    }
    Ok(())
}

fn change_is_sound(row: &Row<'_>) -> Result<Option<&'static str>, StoreError> {
    let (hash, bytes): (Vec<u8>, Vec<u8>) = (row.get(1)?, row.get(2)?);
    let Ok(change) = Change::parse(bytes) else { return Ok(Some("it cannot be read")) };
    if *change.hash().as_bytes() != *hash {
        return Ok(Some("it does not have its hash"));
    }
    let (stamp, actor_seq, origin): (i64, i64, String) = (row.get(3)?, row.get(4)?, row.get(5)?);
    let actor: Option<Vec<u8>> = row.get(6)?;
    let same = stamp == change.stamp().raw()
        && u64::try_from(actor_seq) == Ok(change.seq())
        && actor.as_deref() == Some(change.actor().as_bytes())
        && matches!(origin.as_str(), "local" | "remote" | "peer")
        && row.get::<_, Option<String>>(7)?.is_some();
    Ok((!same).then_some("its row does not say what it says"))
}

fn check_outbox(connection: &Connection, findings: &mut Findings) -> Result<(), StoreError> {
    let odd = format!(
        "SELECT count(*) FROM outbox o LEFT JOIN changes c ON c.seq = o.change \
         WHERE c.seq IS NULL OR c.entity <> o.entity OR NOT ({KNOWN_PLACE})"
    );
    let odd: i64 = connection.query_row(&odd, [], |row| row.get(0))?;
    if odd > 0 {
        findings.add("outbox", None, format!("{odd} of its rows name no change of theirs"));
    }
    Ok(())
}

/// Every entity's row against its seal, its document and the outbox.
fn check_entities(connection: &Connection, schema: Option<&Schema>, findings: &mut Findings) -> Result<(), StoreError> {
    let actor = Actor::from_bytes(&[1; 16]).ok_or(StoreError::OutOfRange)?;
    let pending = pending_counts(connection)?;
    let unchecked = keys(connection, "SELECT entity FROM unchecked")?;
    let mut select = connection.prepare(&format!("SELECT {ENTITY}, e.seal FROM entities e NOT INDEXED"))?;
    let mut rows = select.query([])?;
    while let Some(found) = rows.next()? {
        let key: EntityKey = found.get(0)?;
        let id: Option<EntityId> = found.get::<_, String>(2).ok().and_then(|id| id.parse().ok());
        if seal::row_seal(found, seal::ENTITY_COLUMNS)? != found.get::<_, i64>(seal::ENTITY_COLUMNS)? {
            findings.add("entities", id, "its row is not what was written");
            continue;
        }
        let Some(id) = id else { continue };
        if found.get::<_, i64>(18)? > 0 {
            findings.add("entities", Some(id), "a part of its history is missing");
            continue;
        }
        if found.get::<_, i64>(11)? != pending.get(&key).copied().unwrap_or(0) {
            findings.add("outbox", Some(id), "it does not hold what is pending");
        }
        if unchecked.contains(&key) {
            continue;
        }
        let row = EntityRow {
            key,
            space: found.get(1)?,
            id,
            collection: anabranch_core::CollectionName::new(found.get::<_, String>(3)?)?,
            damaged: false,
        };
        match rows::read_document(connection, &row, &actor) {
            Ok(document) => check_document(found, &row, &document, schema, findings)?,
            Err(error) => findings.add("documents", Some(id), error.to_string()),
        }
    }
    Ok(())
}

fn check_document(
    found: &Row<'_>,
    row: &EntityRow,
    document: &Document,
    schema: Option<&Schema>,
    findings: &mut Findings,
) -> Result<(), StoreError> {
    if document.heads() != Heads::from_bytes(&found.get::<_, Vec<u8>>(6)?)? {
        findings.add("documents", Some(row.id), "its row is not of its history");
        return Ok(());
    }
    let Some(schema) = schema else { return Ok(()) };
    match document.state(schema.collection(row.collection.as_str())) {
        Ok(mut state) => {
            state.deleted |= document.is_purged();
            let digest = state.digest();
            let json = canonical_json(&Value::Object(state.fields));
            if found.get::<_, Vec<u8>>(5)? != digest.as_bytes() || found.get::<_, String>(4)? != json {
                findings.add("documents", Some(row.id), "its row does not follow from its history");
            }
        }
        Err(error) => findings.add("documents", Some(row.id), error.to_string()),
    }
    Ok(())
}

fn pending_counts(connection: &Connection) -> Result<HashMap<EntityKey, i64>, StoreError> {
    let mut select = connection.prepare("SELECT entity, count(DISTINCT change) FROM outbox GROUP BY entity")?;
    let counts = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(counts.collect::<Result<_, _>>()?)
}

pub(crate) fn keys(connection: &Connection, sql: &str) -> Result<BTreeSet<i64>, StoreError> {
    let mut select = connection.prepare(sql)?;
    Ok(select.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
}
