//! What a file may show after a crash: what it showed after one of its commits.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use rusqlite::Connection;
use rusqlite::types::ValueRef;
use sha2::{Digest as _, Sha256};

use super::{FILE, PowerReport, Subject};
use crate::crash::{Effort, Replay};
use crate::dice::Dice;
use crate::disk::{Disk, Event, Files};
use crate::failure::{Failure, broken, ensure};
use crate::file;

/// All that a file says, by any table.
type Shown = [u8; 32];

/// One in so many states is not just read, but opened by the product and gone on with.
const CONTINUED: usize = 16;

/// What the file showed as its commits came, and when.
struct Timeline {
    shown: Vec<Shown>,
    /// By place in the log: how far it may have come, and how far it must have.
    bounds: Vec<(usize, usize)>,
    /// Where the log of what the workload did begins.
    start: usize,
}

/// Checks every state in which a power loss may leave the disk.
pub(super) fn check(
    log: &[Event],
    effort: Effort,
    subject: &dyn Subject,
    report: &mut PowerReport,
) -> Result<(), Failure> {
    let timeline = Timeline::of(log)?;
    report.commits = timeline.shown.len();
    let (mut replay, mut dice) = (Replay::default(), Dice::new(7));
    let mut known: HashMap<u64, Shown> = HashMap::new();
    let mut continued: HashSet<Shown> = HashSet::new();
    for (place, event) in log.iter().enumerate() {
        replay.take(event);
        let something_ends = log
            .get(place + 1)
            .is_none_or(|next| matches!(next, Event::Sync { .. } | Event::SyncFailed { .. } | Event::Delete { .. }));
        if place < timeline.start || !(something_ends || place.is_multiple_of(effort.stride)) {
            continue;
        }
        for files in replay.states(effort, &mut dice) {
            let at =
                |failure| Failure::new(format!("power lost after {} of {} accesses: {failure}", place + 1, log.len()));
            let name = name_of(&files);
            let shown = match known.get(&name) {
                Some(shown) => *shown,
                None => {
                    let shown = read(&files).map_err(at)?;
                    report.images += 1;
                    if continued.insert(shown) || report.images.is_multiple_of(CONTINUED) {
                        subject.check(&Disk::holding(&files, false)?).map_err(at)?;
                        report.continued += 1;
                    }
                    known.insert(name, shown);
                    shown
                }
            };
            timeline.judge(place, &shown).map_err(at)?;
        }
    }
    Ok(())
}

impl Timeline {
    fn of(log: &[Event]) -> Result<Self, Failure> {
        let mut replay = Replay::default();
        let mut shown: Vec<Shown> = Vec::new();
        let mut bounds = vec![(0, 0); log.len()];
        let (mut before, mut promised, mut open_since) = (None, 0, 0);
        for (place, event) in log.iter().enumerate() {
            replay.take(event);
            bounds[place].1 = promised;
            let ends_something = matches!(
                event,
                Event::Sync { .. } | Event::Promise { .. } | Event::Delete { .. } | Event::Truncate { .. }
            );
            // A commit whose sync will fail: nobody is told that it was done, and it may be there all the same.
            let fails_next = matches!(log.get(place + 1), Some(Event::SyncFailed { .. }));
            if !(ends_something || fails_next) && place + 1 < log.len() {
                continue;
            }
            let files = replay.everything();
            let name = name_of(&files);
            if before != Some(name) {
                let now = read(&files)?;
                if shown.last() != Some(&now) {
                    shown.push(now);
                }
                before = Some(name);
            }
            if let Event::Promise { shown: Some(seen) } = event
                && !shown.contains(seen)
            {
                shown.push(*seen);
            }
            let last = shown.len().saturating_sub(1);
            if let Event::Promise { shown: seen } = event {
                // What has failed to reach the disk may be what was promised; or it is there, and nobody has seen it.
                promised = seen.and_then(|seen| shown.iter().rposition(|known| *known == seen)).unwrap_or(last);
                bounds[place].1 = promised;
            }
            for bound in &mut bounds[open_since..=place] {
                bound.0 = last;
            }
            open_since = place + 1;
        }
        let start = log.iter().position(|event| matches!(event, Event::Promise { .. })).unwrap_or(0);
        Ok(Self { shown, bounds, start })
    }

    fn judge(&self, place: usize, shown: &Shown) -> Result<(), Failure> {
        let (latest, promised) = self.bounds[place];
        if self.shown[promised..=latest].contains(shown) {
            return Ok(());
        }
        Err(Failure::new(match self.shown.iter().position(|known| known == shown) {
            Some(at) if at < promised => {
                format!("the file is as it was after commit {at}, and commit {promised} had been reported as done")
            }
            Some(at) => format!("the file is as it will be after commit {at}, and there were {latest}"),
            None => "the file shows what it has never shown: a part of a commit".to_owned(),
        }))
    }
}

/// A short name for what is on a disk.
fn name_of(files: &Files) -> u64 {
    let mut hasher = DefaultHasher::new();
    files.hash(&mut hasher);
    hasher.finish()
}

/// Opens the file with plain SQLite, which recovers it, and reads all of it.
fn read(files: &Files) -> Result<Shown, Failure> {
    let disk = Disk::holding(files, false)?;
    let connection = disk.connect(FILE)?;
    let damage: String =
        connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(broken("checking the file"))?;
    ensure(damage == "ok", || format!("the file is damaged: {damage}"))?;
    shown(&connection)
}

/// The digest of all that a database holds.
pub(super) fn shown(connection: &Connection) -> Result<[u8; 32], Failure> {
    let mut hasher = Sha256::new();
    for pragma in ["PRAGMA user_version", "PRAGMA application_id"] {
        hasher.update(file::number(connection, pragma)?.to_be_bytes());
    }
    let sql = "SELECT name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_stat%' ORDER BY type, name";
    for (name, sql) in file::rows(connection, sql, [], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))? {
        let sql: Option<String> = sql;
        hasher.update(sql.as_deref().unwrap_or_default());
        if !sql.is_some_and(|sql| sql.starts_with("CREATE TABLE")) {
            continue;
        }
        hasher.update(&name);
        let mut statement =
            connection.prepare(&format!("SELECT * FROM {name:?}")).map_err(broken("reading a table"))?;
        let columns = statement.column_count();
        let mut rows = statement.query([]).map_err(broken("reading a table"))?;
        while let Some(row) = rows.next().map_err(broken("reading a table"))? {
            for column in 0..columns {
                absorb(&mut hasher, row.get_ref(column).map_err(broken("reading a table"))?);
            }
        }
    }
    Ok(hasher.finalize().into())
}

fn absorb(hasher: &mut Sha256, value: ValueRef<'_>) {
    let (kind, bytes) = match value {
        ValueRef::Null => (0, Vec::new()),
        ValueRef::Integer(number) => (1, number.to_be_bytes().to_vec()),
        ValueRef::Real(number) => (2, number.to_be_bytes().to_vec()),
        ValueRef::Text(text) => (3, text.to_vec()),
        ValueRef::Blob(bytes) => (4, bytes.to_vec()),
    };
    hasher.update([kind]);
    hasher.update(bytes.len().to_be_bytes());
    hasher.update(bytes);
}
