//! What cannot be applied: it waits for what it depends on, or is set aside with the reason.

use anabranch_core::{Change, ChangeHash, Digest};
use rusqlite::params;
use tracing::warn;

use super::{Arrival, Received};
use crate::engine::Write;
use crate::error::{QuarantineReason, StoreError};
use crate::rows::{EntityRow, Origin};

/// Orphans that one entity may have; what comes beyond is quarantined.
const MAX_ORPHANS: i64 = 1_000;

impl Write<'_> {
    pub(super) fn orphan(
        &mut self,
        row: &EntityRow,
        arrival: &Arrival,
        origin: Origin,
        received: &mut Received,
    ) -> Result<(), StoreError> {
        let connection = &self.engine.connection;
        let mut count = connection.prepare_cached("SELECT count(*) FROM orphans WHERE entity = ?")?;
        let count: i64 = count.query_row([row.key], |row| row.get(0))?;
        let hash = arrival.change.hash();
        if count >= MAX_ORPHANS {
            let reason = QuarantineReason::Refused("too many changes wait for others".to_owned());
            return self.quarantine(row, Some(hash), arrival.change.bytes(), &reason, received);
        }
        let mut insert = connection.prepare_cached(
            "INSERT OR IGNORE INTO orphans (entity, hash, origin, received_at, txn, bytes) VALUES (?, ?, ?, ?, ?, ?)",
        )?;
        let (bytes, transaction) = (arrival.change.bytes(), &arrival.transaction);
        insert.execute(params![row.key, hash.as_bytes(), origin.as_str(), self.now(), transaction, bytes])?;
        received.orphaned += 1;
        Ok(())
    }

    /// Takes the entity's orphans out, to be tried again with what has just come.
    pub(super) fn take_orphans(&self, row: &EntityRow) -> Result<Vec<Arrival>, StoreError> {
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
            connection.prepare_cached("DELETE FROM orphans WHERE entity = ?")?.execute([row.key])?;
        }
        Ok(orphans)
    }

    pub(crate) fn quarantine(
        &self,
        row: &EntityRow,
        hash: Option<ChangeHash>,
        bytes: &[u8],
        reason: &QuarantineReason,
        received: &mut Received,
    ) -> Result<(), StoreError> {
        // Bytes that are no change have no hash of their own.
        let hash = hash.map_or_else(|| *Digest::of(bytes).as_bytes(), |hash| *hash.as_bytes());
        warn!(entity = %row.id, %reason, "a foreign change was quarantined");
        let mut insert = self.engine.connection.prepare_cached(
            "INSERT OR IGNORE INTO quarantine (entity, hash, reason, received_at, bytes) VALUES (?, ?, ?, ?, ?)",
        )?;
        insert.execute(params![row.key, hash, reason.to_string(), self.now(), bytes])?;
        received.quarantined += 1;
        Ok(())
    }
}
