//! Repair: what can be read of a damaged file is put into a new one, and every entity is derived again from its log.

mod salvage;

use std::fs;
use std::path::{Path, PathBuf};

use anabranch_core::{Environment, ErrorKind, Functions, Schema};
use rusqlite::Connection;
use serde::Serialize;

use crate::check::{self, Finding, Findings};
use crate::damage::DamagedEntity;
use crate::engine::Engine;
use crate::error::StoreError;
use crate::read::Read;
use crate::{rows, wal};

/// What a repair has found and done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Repaired {
    /// What was not what had been written. None: the file is sound, and has not been touched.
    pub findings: Vec<Finding>,
    /// What could not be read, or had to be left out.
    pub unsaved: Vec<String>,
    /// Entities of which something is missing or lost, by name.
    pub damaged: Vec<DamagedEntity>,
    /// Entities in the new file.
    pub entities: u64,
    /// Changes in the new file's log.
    pub changes: u64,
    /// Where the damaged file is now.
    pub original: Option<PathBuf>,
}

/// Checks a file and, if it is damaged, puts a new one in its place; the damaged one is kept beside it. `schema` is
/// taken if the file's own cannot be read. No process may have the file open.
///
/// # Errors
/// If there is nothing to be saved, if the schema cannot be read and is not given, or if the disk fails.
pub fn repair(
    path: &Path,
    schema: Option<Schema>,
    functions: &Functions,
    environment: Box<dyn Environment>,
) -> Result<Repaired, StoreError> {
    let findings = check::check(path, functions)?;
    if findings.is_empty() {
        return Ok(Repaired::default());
    }
    let (copy, new) = (beside(path, "-salvage"), beside(path, "-repaired"));
    for left in [&copy, &new] {
        remove(left)?;
    }
    let mut report = Repaired { findings, ..Repaired::default() };
    let rebuilt = rebuild(path, &copy, &new, schema, functions, environment, &mut report);
    remove(&copy)?;
    if rebuilt.is_err() {
        remove(&new)?;
    }
    rebuilt?;
    report.original = Some(swap(path, &new)?);
    Ok(report)
}

fn rebuild(
    path: &Path,
    copy: &Path,
    new: &Path,
    schema: Option<Schema>,
    functions: &Functions,
    environment: Box<dyn Environment>,
    report: &mut Repaired,
) -> Result<(), StoreError> {
    salvage::copy(path, copy)?;
    let target = salvage::salvage(copy, new, &mut report.unsaved)?;
    let stored = rows::stored_schema(&target).ok().filter(|schema| schema.check().is_ok());
    let schema = match (stored, schema) {
        (Some(stored), None) => stored,
        (Some(stored), Some(given)) if given.version <= stored.version => stored,
        (_, Some(given)) => given,
        (None, None) => return Err(StoreError::DamagedFile("its schema cannot be read: give it to repair".to_owned())),
    };
    salvage::settle(&target, &schema, &mut report.unsaved)?;
    drop(target);
    let mut engine = Engine::open_with(new, Some(schema), functions, environment)?;
    engine.mend_all()?;
    report.damaged = engine.read(|read| read.damaged())?;
    let count = |sql: &str| engine.read(|read| Ok(read.connection().query_row(sql, [], |row| row.get(0))?));
    report.entities = count("SELECT count(*) FROM entities WHERE born = 1 AND collection <> '$schema'")?;
    report.changes = count("SELECT count(*) FROM changes")?;
    engine.close();
    let mut left = Findings::default();
    let connection = Connection::open(new)?;
    check::check_connection(&connection, functions, &mut left)?;
    let waiting = |finding: &Finding| report.damaged.iter().any(|damaged| Some(damaged.id) == finding.entity);
    match left.0.iter().find(|finding| !waiting(finding)) {
        Some(finding) => Err(StoreError::DamagedFile(format!("what was saved is not sound: {finding}"))),
        None => Ok(()),
    }
}

impl Engine {
    /// Derives every entity again.
    fn mend_all(&mut self) -> Result<(), StoreError> {
        let keys = check::keys(&self.connection, "SELECT key FROM entities")?;
        keys.iter().for_each(|key| self.seals.suspect(*key));
        if self.mend().is_none() && !keys.is_empty() {
            return Err(StoreError::DamagedFile("what was saved cannot be read".to_owned()));
        }
        Ok(())
    }

    fn read<T>(&self, work: impl FnOnce(&Read<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        work(&Read::new(&self.connection))
    }
}

/// Puts the new file in the old one's place.
fn swap(path: &Path, new: &Path) -> Result<PathBuf, StoreError> {
    let kept = (1..).map(|n| beside(path, &if n == 1 { "-damaged".to_owned() } else { format!("-damaged-{n}") }));
    let kept = kept.take(1_000).find(|kept| !kept.exists()).ok_or(StoreError::OutOfRange)?;
    fs::rename(path, &kept).map_err(io)?;
    if wal::path(path).exists() {
        fs::rename(wal::path(path), wal::path(&kept)).map_err(io)?;
    }
    remove(&beside(path, "-shm"))?;
    fs::rename(new, path).map_err(io)?;
    Ok(kept)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

fn remove(path: &Path) -> Result<(), StoreError> {
    for path in [path.to_owned(), wal::path(path), beside(path, "-shm")] {
        match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
    }
    Ok(())
}

fn io(error: std::io::Error) -> StoreError {
    StoreError::Aborted(format!("a file cannot be written: {}", error.kind()))
}

/// Whether this error is one of the file, which a repair reads past.
fn is_damage(error: &StoreError) -> bool {
    error.kind() != ErrorKind::Retry
}
