//! Honest status.

use anabranch_core::UnixMillis;
use anabranch_store::{RemoteState, Totals};
use serde::Serialize;

/// Where the sync of a replica stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Phase {
    /// No sync has been started since the file was opened.
    #[default]
    Idle,
    /// Reaching for the server.
    Connecting,
    /// Pushing or pulling.
    Syncing,
    /// Everything is on both sides, and changes are followed as they come.
    Live,
    /// The last attempt failed; another one is due.
    Waiting,
    /// It will not try again by itself.
    Halted,
    /// Another process syncs this file with this server; this one takes over when that ends.
    Elsewhere,
}

/// What is pending, parked and contested in a file, and how its sync stands. The counts survive a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// Where the sync stands.
    pub phase: Phase,
    /// The server it syncs with.
    pub url: Option<String>,
    /// Entities that are not deleted.
    pub entities: u64,
    /// Changes that are safe in this file and that no server has confirmed yet.
    pub pending: u64,
    /// Their size.
    pub pending_bytes: u64,
    /// When the oldest of them was written.
    pub oldest_pending_at: Option<UnixMillis>,
    /// Changes that a server refused.
    pub parked: u64,
    /// Contested slots, those that a policy has settled included.
    pub conflicts: u64,
    /// What waits for a person: open conflicts, broken rules, references to what has been deleted.
    pub open_conflicts: u64,
    /// Foreign changes that this replica refused.
    pub quarantined: u64,
    /// Foreign changes that wait for others.
    pub orphaned: u64,
    /// When replica and server last agreed in everything.
    pub last_success_at: Option<UnixMillis>,
    /// When the next attempt is due.
    pub next_retry_at: Option<UnixMillis>,
    /// Failed attempts in a row.
    pub failures: u32,
    /// What the last of them said.
    pub last_error: Option<String>,
}

/// The part of the status that lives in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Online {
    /// Which sync it tells of: the one that was started last.
    pub(crate) owner: u64,
    pub(crate) phase: Phase,
    pub(crate) next_retry_at: Option<UnixMillis>,
}

impl Status {
    pub(crate) fn new(totals: Totals, remotes: Vec<RemoteState>, online: Online) -> Self {
        let remote = remotes.into_iter().max_by_key(|remote| (remote.last_success_at, remote.url.is_some()));
        let Totals {
            entities,
            pending,
            pending_bytes,
            oldest_pending_at,
            parked,
            conflicts,
            open_conflicts,
            quarantined,
            orphaned,
        } = totals;
        let (url, last_success_at, failures, last_error) = remote
            .map(|remote| (remote.url, remote.last_success_at, remote.failures, remote.last_error))
            .unwrap_or_default();
        Self {
            phase: online.phase,
            url,
            entities,
            pending,
            pending_bytes,
            oldest_pending_at,
            parked,
            conflicts,
            open_conflicts,
            quarantined,
            orphaned,
            last_success_at,
            next_retry_at: online.next_retry_at,
            failures,
            last_error,
        }
    }
}
