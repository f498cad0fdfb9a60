//! The witness: a small file beside the replica's, which knows what that was when it was last seen.
//!
//! It answers two questions on opening. May the actor of the last open write on? Only if that open was closed, nobody
//! has taken the actor since, and this is still the same file, untouched: the same device and inode, changed last when
//! it was closed. And has a file been lost that was here? A file that is gone, cut, replaced, or older than it was when
//! last seen is told apart from a new one, with what was waiting in it then.
//!
//! It is a hint. Without it the actor is a new one, and a loss goes unnoticed; nothing else depends on it.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use anabranch_core::{Actor, ReplicaId, UnixMillis};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use tracing::debug;

use crate::engine::Write;
use crate::error::StoreError;
use crate::rows;

/// The end of the witness's name.
const SUFFIX: &str = "-witness";
/// A witness is never larger.
const MAX_BYTES: u64 = 4 << 10;
/// How old a sight may become while the file is in use.
const SIGHT_MILLIS: i64 = 10_000;

/// A file that was here and is not, or not as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LostFile {
    /// The file.
    pub path: PathBuf,
    /// What happened to it.
    pub loss: Loss,
    /// The replica that it held.
    pub replica: ReplicaId,
    /// When it was last seen, by this device's clock.
    pub seen_at: UnixMillis,
    /// Changes that no server had at that time: if no peer has them either, they are lost.
    pub pending: u64,
}

/// What happened to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Loss {
    /// It is gone, or empty.
    Vanished,
    /// Its end is missing.
    Truncated,
    /// Another replica is in its place.
    Replaced,
    /// It is as it was at an earlier time, as after a restore from a backup.
    Restored,
}

impl fmt::Display for LostFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.loss {
            Loss::Vanished => "is gone",
            Loss::Truncated => "has lost its end",
            Loss::Replaced => "has been replaced by another replica",
            Loss::Restored => "has been set back to an earlier state",
        };
        let pending = match self.pending {
            0 => "nothing was waiting to be sent".to_owned(),
            1 => "1 change was waiting to be sent".to_owned(),
            pending => format!("{pending} changes were waiting to be sent"),
        };
        write!(f, "{} {what}; when it was last seen, {pending}", self.path.display())
    }
}

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Sight {
    replica: ReplicaId,
    /// How often the file had been opened to be written, and closed after that, all together.
    sequence: i64,
    seen_at: UnixMillis,
    pending: u64,
    /// The last writer's farewell, if it has closed the file.
    closed: Option<Closed>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Closed {
    actor: Actor,
    file: Identity,
}

/// What a file is, beyond its name. A copy has another inode; what is written over has another time of change, which
/// no program can set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    device: u64,
    inode: u64,
    changed_at: (i64, i64),
    length: u64,
}

/// The row of `meta` that belongs to the witness: who may write on.
#[derive(Debug, Serialize, Deserialize)]
struct Farewell {
    actor: Actor,
    sequence: i64,
}

/// What a witness has been told when a file was left.
pub(crate) struct Left(Actor);

/// The witness of one file, while that is open.
#[derive(Debug)]
pub(crate) struct Witness {
    file: PathBuf,
    path: PathBuf,
    /// What was seen last.
    sight: Option<Sight>,
    /// What the file was before it was opened.
    found: Option<Identity>,
    lost: Option<LostFile>,
    /// How often the file has been opened to be written, and closed after that, as of the last look.
    sequence: i64,
    /// The last writer's farewell, which this open may take up.
    farewell: Option<i64>,
    /// This open has written.
    claimed: bool,
}

impl Witness {
    /// Looks at a file before it is opened; `must_exist` says that it is not to be made.
    pub(crate) fn of(file: &Path, must_exist: bool) -> Result<Self, StoreError> {
        let mut name = file.file_name().unwrap_or_default().to_owned();
        name.push(SUFFIX);
        let path = file.with_file_name(name);
        let sight = read(&path);
        let length = fs::metadata(file).map_or(0, |metadata| metadata.len());
        let loss = match length {
            0 => Some(Loss::Vanished),
            _ if is_truncated(file, length) => Some(Loss::Truncated),
            _ => None,
        };
        let mut witness = Self {
            file: file.to_owned(),
            path,
            sight,
            found: identity(file),
            lost: None,
            sequence: 0,
            farewell: None,
            claimed: false,
        };
        witness.lost = loss.and_then(|loss| witness.loss(loss));
        match &witness.lost {
            // Half a file is not written to, and one that was there is not taken for one that never was.
            Some(lost) if must_exist || lost.loss == Loss::Truncated => Err(StoreError::Lost(Box::new(lost.clone()))),
            _ => Ok(witness),
        }
    }

    fn loss(&self, loss: Loss) -> Option<LostFile> {
        let Sight { replica, seen_at, pending, .. } = *self.sight.as_ref()?;
        Some(LostFile { path: self.file.clone(), loss, replica, seen_at, pending })
    }

    /// On opening: the actor that may write on, if there is one. Nothing is written; it is taken with the first write.
    pub(crate) fn take_over(
        &mut self,
        connection: &Connection,
        replica: &ReplicaId,
    ) -> Result<Option<Actor>, StoreError> {
        self.sequence = rows::meta(connection, "opens")?.unwrap_or(0);
        if let (None, Some(sight)) = (&self.lost, &self.sight) {
            if sight.replica != *replica {
                self.lost = self.loss(Loss::Replaced);
            } else if self.sequence < sight.sequence {
                self.lost = self.loss(Loss::Restored);
            }
        }
        if let Some(lost) = &self.lost {
            let json = serde_json::to_string(lost).map_err(|_| StoreError::OutOfRange)?;
            rows::set_meta(connection, "lost", json)?;
        }
        let (Some(farewell), Some(sight), Some(found)) = (farewell(connection)?, &self.sight, &self.found) else {
            return Ok(None);
        };
        let closed = Closed { actor: farewell.actor.clone(), file: *found };
        let fits = sight.replica == *replica
            && (sight.sequence, farewell.sequence) == (self.sequence, self.sequence)
            && sight.closed.as_ref() == Some(&closed)
            && farewell.actor.is_of(replica);
        self.farewell = fits.then_some(farewell.sequence);
        Ok(fits.then_some(farewell.actor))
    }

    /// At the beginning of a transaction: whether the actor that was taken over has become somebody else's, who was
    /// quicker to write.
    pub(crate) fn is_forestalled(&mut self, connection: &Connection) -> Result<bool, StoreError> {
        let Some(expected) = self.farewell.filter(|_| !self.claimed) else { return Ok(false) };
        let there = farewell(connection)?.map(|farewell| farewell.sequence);
        let forestalled = there != Some(expected);
        if forestalled {
            self.farewell = None;
        }
        Ok(forestalled)
    }

    /// With the first write, in its transaction: the actor is nobody else's from now on.
    pub(crate) fn claim(&mut self, connection: &Connection) -> Result<(), StoreError> {
        if !std::mem::replace(&mut self.claimed, true) {
            connection.execute("DELETE FROM meta WHERE key = 'farewell'", [])?;
            self.sequence = rows::meta::<i64>(connection, "opens")?.unwrap_or(0) + 1;
            rows::set_meta(connection, "opens", self.sequence)?;
        }
        Ok(())
    }

    /// The transaction that claimed was rolled back.
    pub(crate) const fn unclaim(&mut self) {
        self.claimed = false;
    }

    /// Notes what waits in the file, if that was long ago or what was noted says that nothing does.
    pub(crate) fn look(&mut self, connection: &Connection, replica: ReplicaId, now: UnixMillis, at_once: bool) {
        let is_old = self.sight.as_ref().is_none_or(|sight| {
            let age = now.saturating_sub(sight.seen_at);
            sight.pending == 0 || !(0..SIGHT_MILLIS).contains(&age)
        });
        // As long as nothing has been written here, what the last writer noted holds.
        let holds = !self.claimed && self.lost.is_none() && self.sight.is_some();
        if holds || (!at_once && !is_old) {
            return;
        }
        let pending = connection.query_row("SELECT count(DISTINCT change) FROM outbox", [], |row| row.get(0));
        let Ok(pending) = pending else { return };
        let known = self.sight.as_ref().map(|sight| sight.pending);
        if !at_once && known == Some(0) && pending == 0 {
            return;
        }
        self.note(Sight { replica, sequence: self.sequence, seen_at: now, pending, closed: None });
    }

    /// The last write before the file is closed: whoever opens it next may write on as this actor.
    pub(crate) fn leave(&mut self, connection: &mut Connection, actor: &Actor) -> Option<Left> {
        if !self.claimed {
            return None;
        }
        let written = self.write_farewell(connection, actor);
        if let Err(failure) = &written {
            debug!(%failure, "the file is left without a farewell");
        }
        written.ok()
    }

    fn write_farewell(&mut self, connection: &mut Connection, actor: &Actor) -> Result<Left, StoreError> {
        let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let sequence = rows::meta::<i64>(&transaction, "opens")?.unwrap_or(0) + 1;
        let farewell = Farewell { actor: actor.clone(), sequence };
        let json = serde_json::to_string(&farewell).map_err(|_| StoreError::OutOfRange)?;
        rows::set_meta(&transaction, "opens", sequence)?;
        rows::set_meta(&transaction, "farewell", json)?;
        transaction.commit()?;
        self.sequence = sequence;
        Ok(Left(actor.clone()))
    }

    /// The file has been closed.
    pub(crate) fn close(&mut self, Left(actor): Left) {
        let (Some(mut sight), Some(file)) = (self.sight.clone(), identity(&self.file)) else { return };
        sight.closed = Some(Closed { actor, file });
        self.note(sight);
    }

    /// On opening a file whose replica has signed out: what was seen of that says nothing about the next one.
    pub(crate) fn begin_anew(&mut self) {
        (self.sight, self.lost) = (None, None);
    }

    /// The replica has signed out: nobody misses what was in the file.
    pub(crate) fn discard(self) {
        match fs::remove_file(&self.path) {
            Err(failure) if failure.kind() != io::ErrorKind::NotFound => {
                debug!(%failure, "the witness could not be removed");
            }
            _ => {}
        }
    }

    fn note(&mut self, sight: Sight) {
        if let Err(failure) = write(&self.path, &sight) {
            debug!(%failure, "the witness could not be written");
        }
        self.sight = Some(sight);
    }
}

/// What was lost before this file, until somebody has been told.
pub(crate) fn lost(connection: &Connection) -> Result<Option<LostFile>, StoreError> {
    let json: Option<String> = rows::meta(connection, "lost")?;
    Ok(json.and_then(|json| serde_json::from_str(&json).ok()))
}

impl Write<'_> {
    /// Somebody has been told of what was lost.
    ///
    /// # Errors
    /// If the database fails.
    pub fn forget_lost(&mut self) -> Result<(), StoreError> {
        self.engine.connection.execute("DELETE FROM meta WHERE key = 'lost'", [])?;
        Ok(())
    }
}

fn farewell(connection: &Connection) -> Result<Option<Farewell>, StoreError> {
    let json: Option<String> = rows::meta(connection, "farewell")?;
    Ok(json.and_then(|json| serde_json::from_str(&json).ok()))
}

fn read(path: &Path) -> Option<Sight> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Writes it whole or not at all.
fn write(path: &Path, sight: &Sight) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let draft = path.with_file_name(name);
    fs::write(&draft, serde_json::to_vec(sight)?)?;
    fs::rename(&draft, path)
}

#[cfg(unix)]
fn identity(path: &Path) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = fs::metadata(path).ok()?;
    let changed_at = (metadata.ctime(), metadata.ctime_nsec());
    Some(Identity { device: metadata.dev(), inode: metadata.ino(), changed_at, length: metadata.len() })
}

/// Elsewhere nothing tells a file from its copy, so no actor lasts.
#[cfg(not(unix))]
const fn identity(_: &Path) -> Option<Identity> {
    None
}

/// Whether a database is shorter than its header says, and no write-ahead log holds the rest.
fn is_truncated(path: &Path, length: u64) -> bool {
    let mut wal = path.file_name().unwrap_or_default().to_owned();
    wal.push("-wal");
    if fs::metadata(path.with_file_name(wal)).is_ok_and(|wal| wal.len() > 0) {
        return false;
    }
    let mut header = [0; 100];
    if length < 100 {
        return true;
    }
    let opened = File::open(path).and_then(|mut file| file.read_exact(&mut header));
    let (Ok(()), b"SQLite format 3\0") = (opened, &header[..16]) else { return false };
    let number = |at: usize| header[at..at + 4].iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    let page = match u64::from(header[16]) << 8 | u64::from(header[17]) {
        1 => 65_536,
        size => size,
    };
    // The count of pages is to be relied on if it was written with the last change.
    number(24) == number(92) && length < page.saturating_mul(number(28))
}
