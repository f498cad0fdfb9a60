//! What comes from others and is not merged: changes that are refused (the *quarantine*), and changes that wait for what
//! they build on (*orphans*). Whoever sends them decides how many there are, so both have bounds.

use anabranch_core::wire::Envelope;
use anabranch_core::{Change, ChangeHash, Digest};
use rusqlite::{Connection, params};
use tracing::warn;

use crate::cache::EntityKey;
use crate::engine::{Engine, Pending, Write};
use crate::error::{QuarantineReason, StoreError};
use crate::receive::{Arrival, Received};
use crate::rows::{self, EntityRow, Origin};

/// Refused changes that a file knows of: of more, the oldest are forgotten.
pub const MAX_QUARANTINED: u32 = 10_000;
/// Bytes of refused changes that a file keeps: of more, those of the oldest are dropped. Their hashes and reasons stay.
pub const MAX_QUARANTINED_BYTES: u32 = 16 << 20;
/// Changes of one entity that wait for others: more are refused.
pub const MAX_ORPHANS: u32 = 1_000;
/// Changes in a file that wait for others: of more, the newest are refused.
pub const MAX_ALL_ORPHANS: u32 = 10_000;
/// Bytes of changes in a file that wait for others: of more, the newest are refused.
pub const MAX_ORPHAN_BYTES: u32 = 16 << 20;
/// How long a change waits for others, in milliseconds: 30 days. Whoever has both sends it again, after them.
pub const MAX_ORPHAN_MILLIS: i64 = 30 * 24 * 60 * 60 * 1_000;

/// In SQL: a refused change that nobody else need have, since it was written here or taken in before.
const IS_OURS: &str = "reason IN (?1, ?2)";
/// In SQL: an orphan that only waits for others. What was saved of a damaged entity stays until that is whole.
const ONLY_WAITS: &str = "entity NOT IN (SELECT entity FROM damage)";

fn our_reasons() -> [String; 2] {
    [QuarantineReason::Purged.to_string(), QuarantineReason::NotRewritable.to_string()]
}

/// Notes a refused change with its bytes. Of one that is known already, nothing changes.
fn insert(
    connection: &Connection,
    entity: EntityKey,
    hash: &[u8; 32],
    (reason, now): (&QuarantineReason, i64),
    bytes: &[u8],
) -> Result<(), StoreError> {
    let mut insert = connection.prepare_cached(
        "INSERT OR IGNORE INTO quarantine (entity, hash, reason, received_at, bytes) VALUES (?, ?, ?, ?, ?)",
    )?;
    insert.execute(params![entity, hash, reason.to_string(), now, bytes])?;
    Ok(())
}

impl Write<'_> {
    pub(crate) fn quarantine(
        &mut self,
        row: &EntityRow,
        hash: Option<ChangeHash>,
        bytes: &[u8],
        reason: &QuarantineReason,
        received: &mut Received,
    ) -> Result<(), StoreError> {
        // Bytes that are no change have no hash of their own.
        let hash = hash.map_or_else(|| *Digest::of(bytes).as_bytes(), |hash| *hash.as_bytes());
        warn!(entity = %row.id, %reason, "a foreign change was quarantined");
        self.engine.aside_grew = true;
        insert(&self.engine.connection, row.key, &hash, (reason, self.now()), bytes)?;
        received.quarantined += 1;
        Ok(())
    }

    /// Puts a change that is no part of the entity any more into the quarantine.
    pub(crate) fn set_aside(
        &self,
        row: &EntityRow,
        change: &Change,
        reason: &QuarantineReason,
    ) -> Result<(), StoreError> {
        insert(&self.engine.connection, row.key, change.hash().as_bytes(), (reason, self.now()), change.bytes())
    }

    /// What was refused once, for what was here then, may be taken later.
    pub(crate) fn forget_quarantined(&self, row: &EntityRow, hash: &ChangeHash) -> Result<(), StoreError> {
        let mut delete =
            self.engine.connection.prepare_cached("DELETE FROM quarantine WHERE entity = ? AND hash = ?")?;
        delete.execute(params![row.key, hash.as_bytes()])?;
        Ok(())
    }

    pub(crate) fn orphan(
        &mut self,
        row: &EntityRow,
        arrival: &Arrival,
        origin: Origin,
        received: &mut Received,
    ) -> Result<(), StoreError> {
        let hash = arrival.change.hash();
        if self.orphans_of(row)? >= MAX_ORPHANS {
            let reason = &QuarantineReason::TooManyWait;
            return self.quarantine(row, Some(hash), arrival.change.bytes(), reason, received);
        }
        let connection = &self.engine.connection;
        let mut insert = connection.prepare_cached(
            "INSERT OR IGNORE INTO orphans (entity, hash, origin, received_at, txn, bytes) VALUES (?, ?, ?, ?, ?, ?)",
        )?;
        let (bytes, transaction) = (arrival.change.bytes(), &arrival.transaction);
        insert.execute(params![row.key, hash.as_bytes(), origin.as_str(), self.now(), transaction, bytes])?;
        drop(insert);
        self.engine.aside_grew = true;
        received.orphaned += 1;
        Ok(())
    }

    fn orphans_of(&self, row: &EntityRow) -> Result<u32, StoreError> {
        let mut count = self.engine.connection.prepare_cached("SELECT count(*) FROM orphans WHERE entity = ?")?;
        Ok(count.query_row([row.key], |row| row.get(0))?)
    }

    /// Takes the entity's orphans out, to be tried again with what has just come.
    pub(crate) fn take_orphans(&self, row: &EntityRow) -> Result<Vec<Arrival>, StoreError> {
        let connection = &self.engine.connection;
        let mut select = connection.prepare_cached("SELECT bytes, txn FROM orphans WHERE entity = ?")?;
        let mut found = select.query([row.key])?;
        let mut orphans = Vec::new();
        while let Some(orphan) = found.next()? {
            let change =
                Change::parse(orphan.get(0)?).map_err(|_| StoreError::DamagedRow("an orphan cannot be read"))?;
            orphans.push(Arrival { change, transaction: orphan.get(1)?, orphaned: true });
        }
        if !orphans.is_empty() {
            connection.execute("DELETE FROM orphans WHERE entity = ?", [row.key])?;
        }
        Ok(orphans)
    }
}

impl Write<'_> {
    /// Takes in, as if they came now, the changes of an entity that were set aside for this reason. Those of which the
    /// bytes were not kept are only forgotten.
    pub(crate) fn try_again(&mut self, key: EntityKey, reason: &str) -> Result<(), StoreError> {
        let connection = &self.engine.connection;
        let Some(row) = rows::entity_by_key(connection, key)? else { return Ok(()) };
        let mut aside =
            connection.prepare_cached("DELETE FROM quarantine WHERE entity = ? AND reason = ? RETURNING bytes")?;
        let mut changes =
            aside.query_map(params![key, reason], |found| found.get(0))?.collect::<Result<Vec<Vec<u8>>, _>>()?;
        changes.retain(|bytes| !bytes.is_empty());
        drop(aside);
        let envelope = |change| Envelope {
            entity: row.id,
            collection: row.collection.clone(),
            parent: None,
            transaction: None,
            change,
        };
        let envelopes = changes.into_iter().map(envelope).collect();
        // Who brought it is forgotten, so every server is offered it.
        self.receive_entity(row.space, row.id, envelopes, Origin::Peer, &mut Received::default())
    }
}

impl Engine {
    /// Judges again what an earlier release has refused. Spaces in which not all of that was kept are compared with the
    /// server's, entity by entity.
    pub(crate) fn judge_again(&mut self) -> Result<(), StoreError> {
        // These say nothing of the change itself: it was in the wrong place, or had to make way.
        let [purged, lost] = our_reasons();
        let stay =
            [purged, lost, QuarantineReason::WrongCollection.to_string(), QuarantineReason::LocalOnly.to_string()];
        let lacks_some = "space IN (SELECT e.space FROM quarantine q JOIN entities e ON e.key = q.entity \
                          WHERE q.bytes = x'' AND q.reason NOT IN (?, ?, ?, ?))";
        rows::compare_again(&self.connection, lacks_some, stay.each_ref())?;
        let select = "SELECT DISTINCT entity, reason FROM quarantine WHERE reason NOT IN (?, ?, ?, ?) ORDER BY entity";
        let mut select = self.connection.prepare(select)?;
        let refused: Vec<(EntityKey, String)> =
            select.query_map(stay.each_ref(), |found| Ok((found.get(0)?, found.get(1)?)))?.collect::<Result<_, _>>()?;
        drop(select);
        let mut pending = Pending::default();
        for (key, reason) in refused {
            let Some(row) = rows::entity_by_key(&self.connection, key)? else { continue };
            match self.take_document(&row) {
                Ok(document) => self.cache.put(key, document),
                Err(error @ StoreError::Sqlite(_)) => return Err(error),
                // A damaged entity must not keep the file from being opened; its changes stay where they are.
                Err(_) => continue,
            }
            Write::of(self, &mut pending).try_again(key, &reason)?;
        }
        self.flush(&mut pending)
    }

    /// Refuses a change that is in the log already.
    pub(crate) fn quarantine_logged(
        &mut self,
        row: &EntityRow,
        change: &Change,
        reason: &QuarantineReason,
    ) -> Result<(), StoreError> {
        self.aside_grew = true;
        let now = self.environment.now();
        insert(&self.connection, row.key, change.hash().as_bytes(), (reason, now), change.bytes())
    }

    /// Keeps what has been set aside within its bounds. To be called before the commit of whatever has added to it.
    pub(crate) fn bound_aside(&mut self) -> Result<(), StoreError> {
        self.aside_grew = false;
        let connection = &self.connection;
        let now = self.environment.now();
        let expire = format!("DELETE FROM orphans WHERE received_at < ? AND {ONLY_WAITS}");
        connection.prepare_cached(&expire)?.execute([now.saturating_sub(MAX_ORPHAN_MILLIS)])?;
        if exceeds(connection, "orphans", "TRUE", [], MAX_ALL_ORPHANS, MAX_ORPHAN_BYTES)? {
            refuse_newest_orphans(connection, now)?;
        }
        let [purged, lost] = our_reasons();
        let theirs = format!("NOT ({IS_OURS})");
        let ours = [&purged, &lost];
        if exceeds(connection, "quarantine", &theirs, ours, MAX_QUARANTINED, MAX_QUARANTINED_BYTES)? {
            warn!("more has been refused than is kept; the oldest is dropped");
            let forget = format!(
                "DELETE FROM quarantine WHERE rowid IN (SELECT rowid FROM quarantine WHERE {theirs} \
                 ORDER BY received_at DESC, rowid DESC LIMIT -1 OFFSET ?3)"
            );
            connection.execute(&forget, params![purged, lost, MAX_QUARANTINED])?;
            let drop_bytes = format!(
                "UPDATE quarantine SET bytes = x'' WHERE rowid IN (SELECT rowid FROM (SELECT rowid, \
                 sum(length(bytes)) OVER (ORDER BY received_at DESC, rowid DESC) AS newer \
                 FROM quarantine WHERE {theirs}) WHERE newer > ?3)"
            );
            connection.execute(&drop_bytes, params![purged, lost, MAX_QUARANTINED_BYTES])?;
        }
        Ok(())
    }
}

/// Whether a table has more rows than `most`, or more in them than `bytes`, of those that the condition is about.
fn exceeds<const N: usize>(
    connection: &Connection,
    table: &str,
    condition: &str,
    parameters: [&String; N],
    most: u32,
    bytes: u32,
) -> Result<bool, StoreError> {
    let sql = format!("SELECT count(*), coalesce(sum(length(bytes)), 0) FROM {table} WHERE {condition}");
    let mut select = connection.prepare_cached(&sql)?;
    let (rows, size): (i64, i64) =
        select.query_row(rusqlite::params_from_iter(parameters), |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows > i64::from(most) || size > i64::from(bytes))
}

fn refuse_newest_orphans(connection: &Connection, now: i64) -> Result<(), StoreError> {
    let beyond = format!(
        "SELECT rowid FROM (SELECT rowid, row_number() OVER oldest AS place, sum(length(bytes)) OVER oldest AS bytes \
         FROM orphans WHERE {ONLY_WAITS} WINDOW oldest AS (ORDER BY received_at, rowid)) \
         WHERE place > ?1 OR bytes > ?2"
    );
    let refuse = format!(
        "INSERT OR IGNORE INTO quarantine (entity, hash, reason, received_at, bytes) \
         SELECT entity, hash, ?3, ?4, bytes FROM orphans WHERE rowid IN ({beyond})"
    );
    let reason = QuarantineReason::TooManyWait.to_string();
    connection.execute(&refuse, params![MAX_ALL_ORPHANS, MAX_ORPHAN_BYTES, reason, now])?;
    let delete = format!("DELETE FROM orphans WHERE rowid IN ({beyond})");
    connection.execute(&delete, params![MAX_ALL_ORPHANS, MAX_ORPHAN_BYTES])?;
    Ok(())
}
