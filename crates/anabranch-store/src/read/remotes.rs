//! What is known of the servers, and how far syncing with them has come.

use anabranch_core::sync::{ErrorClass, SpaceProgress};
use anabranch_core::wire::{Cursor, Mark};
use anabranch_core::{Digest, Lineage, SpaceName, UnixMillis};

use super::Read;
use crate::attempts::{USED_LAST, class_from};
use crate::error::StoreError;
use crate::first_sync;
use crate::rows::{self, RemoteKey};
use crate::subset::{self, Subset};

/// How far first syncs have come. Segments that were here already count as done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FirstSyncTotals {
    /// Entities that are here.
    pub entities: u64,
    /// Entities that there are.
    pub entities_total: u64,
    /// Bytes of segments that are here.
    pub bytes: u64,
    /// Bytes of segments that there are.
    pub bytes_total: u64,
}

/// What is known about a remote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteState {
    /// Its key in this file.
    pub key: RemoteKey,
    /// Its address.
    pub url: Option<String>,
    /// The history it had when it was last seen.
    pub lineage: Option<Lineage>,
    /// How far each space has come with it.
    pub spaces: Vec<SpaceProgress>,
    /// When replica and server last agreed in everything.
    pub last_success_at: Option<UnixMillis>,
    /// Failed attempts in a row since.
    pub failures: u32,
    /// What the last of them said.
    pub last_error: Option<String>,
    /// What kind of failure that was.
    pub error_class: Option<ErrorClass>,
    /// When the next attempt is due.
    pub next_attempt_at: Option<UnixMillis>,
    /// The server asked to be left alone until then.
    pub server_asked_until: Option<UnixMillis>,
    /// How far the server's clock was ahead of this one, in milliseconds, if that is worth mentioning.
    pub clock_skew_millis: Option<i64>,
    /// Whether it is the one that was synced with last.
    pub used_last: bool,
}

impl Read<'_> {
    /// The remotes this file has synced with, or been told of.
    ///
    /// # Errors
    /// If the database fails.
    pub fn remotes(&self) -> Result<Vec<RemoteState>, StoreError> {
        let used_last: Option<RemoteKey> = rows::meta(self.connection, USED_LAST)?;
        let mut statement = self.connection.prepare_cached(
            "SELECT key, url, lineage, failures, last_error, error_class, next_attempt_at, server_asked_until, \
             clock_skew FROM remotes ORDER BY key",
        )?;
        let mut rows = statement.query([])?;
        let mut remotes = Vec::new();
        while let Some(row) = rows.next()? {
            let key = row.get(0)?;
            let lineage: Option<[u8; 16]> = row.get(2)?;
            let (spaces, last_success_at) = self.progress(key)?;
            remotes.push(RemoteState {
                key,
                url: row.get(1)?,
                lineage: lineage.map(Lineage::from_bytes),
                spaces,
                last_success_at,
                failures: row.get(3)?,
                last_error: row.get(4)?,
                error_class: class_from(row.get(5)?),
                next_attempt_at: row.get(6)?,
                server_asked_until: row.get(7)?,
                clock_skew_millis: row.get(8)?,
                used_last: used_last == Some(key),
            });
        }
        Ok(remotes)
    }

    /// How far each space has come with a remote; spaces that have never been synced are included.
    fn progress(&self, remote: RemoteKey) -> Result<(Vec<SpaceProgress>, Option<UnixMillis>), StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT s.name, p.cursor, p.ack_seq, p.ack_chain, p.last_success_at, s.key \
             FROM spaces s LEFT JOIN sync_state p ON p.space = s.key AND p.remote = ? ORDER BY s.name",
        )?;
        let mut rows = statement.query([remote])?;
        let (mut spaces, mut latest) = (Vec::new(), None);
        while let Some(row) = rows.next()? {
            let cursor: Option<Cursor> = row.get::<_, Option<Vec<u8>>>(1)?.map(Cursor);
            let ack_seq: Option<u64> = row.get(2)?;
            let ack_chain: Option<[u8; 32]> = row.get(3)?;
            let ack = ack_seq.zip(ack_chain).map(|(seq, chain)| Mark { seq, chain: Digest::from_bytes(chain) });
            let space = SpaceName::new(row.get::<_, String>(0)?)?;
            let key = row.get(5)?;
            let Subset { wanted, synced, revision } = subset::subset(self.connection, remote, key)?;
            let first_sync = first_sync::under_way(self.connection, remote, key)?;
            spaces.push(SpaceProgress {
                space,
                ack,
                // What is wanted and not synced begins at the beginning; and so does everything without a cursor.
                had: match &cursor {
                    None => Some(Vec::new()),
                    Some(_) if wanted == synced => None,
                    Some(_) => synced.map(Vec::from_iter),
                },
                subset_revision: revision,
                collections: wanted.map(Vec::from_iter),
                first_sync,
                owes_reconcile: cursor.as_ref().is_some_and(Cursor::is_empty),
                cursor: cursor.filter(|cursor| !cursor.is_empty()),
            });
            latest = latest.max(row.get(4)?);
        }
        Ok((spaces, latest))
    }

    /// How far the first syncs that are under way have come, all together; `None` if there are none.
    ///
    /// # Errors
    /// If the database fails.
    pub fn first_sync(&self) -> Result<Option<FirstSyncTotals>, StoreError> {
        let mut select = self.connection.prepare_cached(
            "SELECT count(*), coalesce(sum(entities * applied), 0), coalesce(sum(entities), 0), \
                    coalesce(sum(bytes * applied), 0), coalesce(sum(bytes), 0) FROM first_sync_pieces",
        )?;
        let (pieces, totals): (u64, _) = select.query_row([], |row| {
            let [entities, entities_total, bytes, bytes_total] = [row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?];
            Ok((row.get(0)?, FirstSyncTotals { entities, entities_total, bytes, bytes_total }))
        })?;
        Ok((pieces > 0).then_some(totals))
    }
}
