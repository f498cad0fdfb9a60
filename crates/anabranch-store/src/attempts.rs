//! What is remembered of attempts to reach a server, so that a restart neither forgets a wait nor repeats an error.

use anabranch_core::sync::ErrorClass;
use anabranch_core::{CollectionName, EntityId, SpaceName, UnixMillis};
use rusqlite::{OptionalExtension as _, params};
use serde::Serialize;

use crate::engine::Write;
use crate::error::StoreError;
use crate::read::Read;
use crate::rows::{self, RemoteKey};
use crate::sign_out::unsent_by_collection;

/// The key in `meta` of the remote that was synced with last.
pub(crate) const USED_LAST: &str = "remote";

/// A failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Failed attempts in a row, this one included.
    pub failures: u32,
    /// Why it failed, for a person.
    pub reason: String,
    /// What kind of failure it was.
    pub class: ErrorClass,
    /// When the next one is due; `None` if something else has to happen first.
    pub next_attempt_at: Option<UnixMillis>,
    /// The server asked to be left alone until then.
    pub server_asked_until: Option<UnixMillis>,
}

/// A change that a server refused, in its words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FirstRefusal {
    /// The space.
    pub space: SpaceName,
    /// The entity's collection.
    pub collection: CollectionName,
    /// The entity.
    pub entity: EntityId,
    /// What the server said.
    pub error: String,
}

/// What is in a file and on no server yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Unsent {
    /// Changes.
    pub changes: u64,
    /// Their size.
    pub bytes: u64,
    /// How many entities they belong to.
    pub entities: u64,
    /// How many of the changes a server has refused; no sync will send them.
    pub refused: u64,
    /// When the oldest was written.
    pub oldest_at: Option<UnixMillis>,
    /// How many entities of which collection, the most first.
    pub collections: Vec<(CollectionName, u64)>,
    /// The newest change that was looked at: what is written later is not among the above.
    #[serde(skip)]
    pub(crate) newest: i64,
}

impl Unsent {
    /// Whether nothing would be lost.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.changes == 0
    }
}

impl Write<'_> {
    /// Notes a failed attempt to reach a remote.
    ///
    /// # Errors
    /// If the database fails.
    pub fn note_attempt(&mut self, remote: RemoteKey, attempt: &Attempt) -> Result<(), StoreError> {
        self.pending.sync_state = true;
        let Attempt { failures, reason, class, next_attempt_at, server_asked_until } = attempt;
        let mut update = self.engine.connection.prepare_cached(
            "UPDATE remotes SET failures = ?, last_error = ?, error_class = ?, next_attempt_at = ?, \
             server_asked_until = ? WHERE key = ?",
        )?;
        update.execute(params![failures, reason, class_name(*class), next_attempt_at, server_asked_until, remote])?;
        Ok(())
    }

    /// Notes that replica and server were still agreed at this time, if that is news.
    ///
    /// # Errors
    /// If the database fails.
    pub fn note_agreement(&mut self, remote: RemoteKey, at: UnixMillis) -> Result<(), StoreError> {
        self.pending.sync_state = true;
        let mut update = self.engine.connection.prepare_cached(
            "UPDATE sync_state SET last_success_at = max(coalesce(last_success_at, ?1), ?1) WHERE remote = ?2",
        )?;
        update.execute(params![at, remote])?;
        Ok(())
    }

    /// Notes that this is the remote that was synced with last.
    ///
    /// # Errors
    /// If the database fails.
    pub fn note_used(&mut self, remote: RemoteKey) -> Result<(), StoreError> {
        let connection = &self.engine.connection;
        if rows::meta::<RemoteKey>(connection, USED_LAST)? != Some(remote) {
            rows::set_meta(connection, USED_LAST, remote)?;
            self.pending.sync_state = true;
        }
        Ok(())
    }

    /// Notes how far the server's clock is ahead of this one, in milliseconds.
    ///
    /// # Errors
    /// If the database fails.
    pub fn note_clock_skew(&mut self, remote: RemoteKey, ahead_millis: Option<i64>) -> Result<(), StoreError> {
        self.pending.sync_state = true;
        let mut update = self.engine.connection.prepare_cached("UPDATE remotes SET clock_skew = ? WHERE key = ?")?;
        update.execute(params![ahead_millis, remote])?;
        Ok(())
    }

    /// The outbox of a remote is in order again: nothing fails.
    pub(crate) fn forget_attempts(&self, remote: RemoteKey) -> Result<(), StoreError> {
        let mut update = self.engine.connection.prepare_cached(
            "UPDATE remotes SET failures = 0, last_error = NULL, error_class = NULL, next_attempt_at = NULL, \
             server_asked_until = NULL WHERE key = ?",
        )?;
        update.execute([remote])?;
        Ok(())
    }
}

impl Read<'_> {
    /// What is here and on no server yet. What is local-only is meant to be here and is not counted.
    ///
    /// # Errors
    /// If the database fails.
    pub fn unsent(&self) -> Result<Unsent, StoreError> {
        let (changes, bytes, entities, oldest, newest): (u64, u64, u64, Option<i64>, i64) =
            self.connection().query_row(
                "SELECT count(*), coalesce(sum(length(bytes)), 0), count(DISTINCT entity), \
                    min(CASE WHEN stamp > 0 THEN stamp END), coalesce(max(seq), 0) \
             FROM changes WHERE seq IN (SELECT change FROM outbox)",
                [],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)),
            )?;
        let refused = self.connection().query_row(
            "SELECT count(DISTINCT change) FROM outbox WHERE state = 'parked'",
            [],
            |row| row.get(0),
        )?;
        let collections = unsent_by_collection(self.connection())?;
        Ok(Unsent {
            changes,
            bytes,
            entities,
            refused,
            oldest_at: oldest.map(|stamp| stamp >> 16),
            collections,
            newest,
        })
    }

    /// The first change that a server refused, if there is one.
    ///
    /// # Errors
    /// If the database fails.
    pub fn first_refusal(&self) -> Result<Option<FirstRefusal>, StoreError> {
        let mut statement = self.connection().prepare_cached(
            "SELECT s.name, e.collection, e.id, o.last_error FROM outbox o \
             JOIN entities e ON e.key = o.entity JOIN spaces s ON s.key = e.space \
             WHERE o.state = 'parked' ORDER BY o.change LIMIT 1",
        )?;
        let mut rows = statement.query([])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        Ok(Some(FirstRefusal {
            space: SpaceName::new(row.get::<_, String>(0)?)?,
            collection: CollectionName::new(row.get::<_, String>(1)?)?,
            entity: row.get::<_, String>(2)?.parse()?,
            error: row.get::<_, Option<String>>(3)?.unwrap_or_default(),
        }))
    }

    /// The size of what waits for a remote, in bytes.
    ///
    /// # Errors
    /// If the database fails.
    pub fn pending_bytes(&self, remote: RemoteKey) -> Result<u64, StoreError> {
        let mut statement = self.connection().prepare_cached(
            "SELECT coalesce(sum(length(bytes)), 0) FROM changes \
             WHERE seq IN (SELECT change FROM outbox WHERE remote = ? AND state = 'pending')",
        )?;
        Ok(statement.query_row([remote], |row| row.get(0)).optional()?.unwrap_or(0))
    }
}

pub(crate) const fn class_name(class: ErrorClass) -> &'static str {
    match class {
        ErrorClass::Rejected => "rejected",
        ErrorClass::Auth => "auth",
        ErrorClass::TooLarge => "too_large",
        ErrorClass::Clock => "clock",
        _ => "transient",
    }
}

pub(crate) fn class_from(name: Option<String>) -> Option<ErrorClass> {
    Some(match name?.as_str() {
        "rejected" => ErrorClass::Rejected,
        "auth" => ErrorClass::Auth,
        "too_large" => ErrorClass::TooLarge,
        "clock" => ErrorClass::Clock,
        _ => ErrorClass::Transient,
    })
}
