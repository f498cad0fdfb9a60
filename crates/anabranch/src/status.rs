//! Honest status.

use std::time::Duration;

use anabranch_core::UnixMillis;
use anabranch_core::sync::{CIRCUIT_FAILURES, Deferral, ErrorClass, Reason};
use anabranch_store::{FirstRefusal, FirstSyncTotals, RemoteState, Totals};
use serde::Serialize;

use crate::online::Online;

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
    /// Everything is on both sides, and changes are followed as they come. It does not count what the server has refused
    /// ([`Status::parked`]) or holds ([`Status::held`]), nor what was written just now and is still gathered
    /// ([`Schedule::debounce`](crate::Schedule::debounce)).
    Live,
    /// The last attempt failed; another one is due.
    Waiting,
    /// It waits for a better moment; [`Status::deferred`] says which and why.
    Deferred,
    /// It will not try again by itself.
    Halted,
    /// Another process syncs this file with this server; this one takes over when that ends.
    Elsewhere,
}

/// How far a first sync has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FirstSyncProgress {
    /// Entities that are here.
    pub entities: u64,
    /// Entities that there were when it began.
    pub entities_total: u64,
    /// Bytes that have been fetched.
    pub bytes: u64,
    /// Bytes that are to be fetched in all.
    pub bytes_total: u64,
    /// How long the rest will take at the pace so far, in milliseconds; `None` as long as there is none.
    pub remaining_millis: Option<u64>,
}

/// The pace of a first sync, since this process has taken part in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pace {
    began_at: Option<UnixMillis>,
    last_at: UnixMillis,
    /// Bytes that came after the first piece.
    bytes: u64,
}

impl Pace {
    /// Another piece has been applied.
    pub(crate) fn go_on(self, now: UnixMillis, bytes: u64) -> Self {
        match self.began_at {
            // The clock was set back, or this is another first sync, much later.
            Some(at) if now >= self.last_at && now - self.last_at < 60_000 => {
                Self { began_at: Some(at), last_at: now, bytes: self.bytes + bytes }
            }
            _ => Self { began_at: Some(now), last_at: now, bytes: 0 },
        }
    }

    fn remaining(self, left: u64) -> Option<u64> {
        let took = self.last_at.checked_sub(self.began_at?)?.unsigned_abs();
        took.checked_mul(left)?.checked_div(self.bytes)
    }
}

/// What is pending, parked and contested in a file, and how its sync stands. Everything but the phase, and what is
/// deferred, survives a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// Where the sync stands.
    pub phase: Phase,
    /// Whether a session with the server is open.
    pub online: bool,
    /// The server it syncs with.
    pub url: Option<String>,
    /// The version of the schema in use.
    pub schema_version: u32,
    /// Entities that are not deleted.
    pub entities: u64,
    /// Changes that are safe in this file and that no server has confirmed yet.
    pub pending: u64,
    /// Their size.
    pub pending_bytes: u64,
    /// When the oldest of them was written.
    pub oldest_pending_at: Option<UnixMillis>,
    /// How old that is now, in milliseconds.
    pub oldest_pending_age_millis: Option<i64>,
    /// Changes that a server refused.
    pub parked: u64,
    /// The first of them, with the server's words.
    pub first_refusal: Option<FirstRefusal>,
    /// Pending changes that a server holds back until something else has come.
    pub held: u64,
    /// Contested slots, those that a policy has settled included.
    pub conflicts: u64,
    /// What waits for a person: open conflicts, broken rules, references to what has been deleted.
    pub open_conflicts: u64,
    /// Foreign changes that this replica refused.
    pub quarantined: u64,
    /// Foreign changes that wait for others.
    pub orphaned: u64,
    /// Entities of this file that were found damaged: [`Replica::damaged`](crate::Replica::damaged) says which, and
    /// what of them is missing or lost.
    pub damaged: u64,
    /// How far the first sync has come, while there is one: segment by segment.
    pub first_sync: Option<FirstSyncProgress>,
    /// Changes that the server has and that have not come yet, as far as it has said: known while a session is open.
    pub behind: Option<u64>,
    /// When replica and server last agreed in everything. While the phase is [`Live`](Phase::Live) they do now.
    pub last_success_at: Option<UnixMillis>,
    /// Whether that is longer ago than [`OpenOptions::staleness`](crate::OpenOptions::staleness) allows.
    pub stale: bool,
    /// When the next attempt is due.
    pub next_retry_at: Option<UnixMillis>,
    /// Why a sync that was started does nothing at the moment.
    pub deferred: Option<Deferral>,
    /// Failed attempts in a row.
    pub failures: u32,
    /// Whether so many attempts in a row failed that there are only probes.
    pub circuit_open: bool,
    /// What the last of them said.
    pub last_error: Option<String>,
    /// What kind of failure that was.
    pub error_class: Option<ErrorClass>,
    /// How far the server's clock is ahead of this one, in milliseconds, when it is worth a mention; negative if it is
    /// behind.
    pub clock_skew_millis: Option<i64>,
}

/// What the file says.
pub(crate) struct Stored {
    pub(crate) totals: Totals,
    pub(crate) held: u64,
    pub(crate) first_refusal: Option<FirstRefusal>,
    pub(crate) first_sync: Option<FirstSyncTotals>,
    pub(crate) remotes: Vec<RemoteState>,
    pub(crate) schema_version: u32,
}

impl Status {
    /// `live` is whether a sync follows the changes of the remote that this tells of.
    pub(crate) fn new(
        stored: Stored,
        online: Online,
        live: bool,
        now: UnixMillis,
        staleness: Option<Duration>,
    ) -> Self {
        let Stored { totals, held, first_refusal, first_sync, remotes, schema_version } = stored;
        let first_sync = first_sync.map(|totals| {
            let FirstSyncTotals { entities, entities_total, bytes, bytes_total } = totals;
            let remaining_millis = online.pace.remaining(bytes_total.saturating_sub(bytes));
            FirstSyncProgress { entities, entities_total, bytes, bytes_total, remaining_millis }
        });
        // The one that is synced with, or was last; files of earlier versions do not say which that was.
        let remote = remotes.into_iter().max_by_key(|remote| {
            let shown = online.remote == Some(remote.key);
            (shown, remote.used_last, remote.last_success_at, remote.url.is_some())
        });
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
            damaged,
        } = totals;
        let last_success_at = remote.as_ref().and_then(|remote| remote.last_success_at).max(online.agreed_at);
        let stale = !live && staleness.is_some_and(|bound| is_stale(now, last_success_at, bound));
        let mut status = Self {
            phase: online.phase,
            online: online.online,
            url: None,
            schema_version,
            entities,
            pending,
            pending_bytes,
            oldest_pending_at,
            oldest_pending_age_millis: oldest_pending_at.map(|at| now.saturating_sub(at).max(0)),
            parked,
            first_refusal,
            held,
            conflicts,
            open_conflicts,
            quarantined,
            orphaned,
            damaged,
            first_sync,
            behind: online.behind,
            last_success_at,
            stale,
            next_retry_at: None,
            deferred: online.deferred,
            failures: 0,
            circuit_open: false,
            last_error: online.trouble,
            error_class: None,
            clock_skew_millis: None,
        };
        if let Some(remote) = remote {
            status.circuit_open = remote.failures >= CIRCUIT_FAILURES;
            status.failures = remote.failures;
            status.next_retry_at = remote.next_attempt_at.filter(|_| !status.online);
            status.url = remote.url;
            status.last_error = status.last_error.or(remote.last_error);
            status.error_class = remote.error_class;
            status.clock_skew_millis = remote.clock_skew_millis;
        }
        status
    }

    /// Why the sync does nothing at the moment, in words.
    #[must_use]
    pub fn waits_because(&self) -> Option<&'static str> {
        self.deferred.map(|deferral| deferral.because).map(Reason::text)
    }
}

/// Whether a view is older than it may be. One that was never synced is.
pub(crate) fn is_stale(now: UnixMillis, last_success_at: Option<UnixMillis>, bound: Duration) -> bool {
    last_success_at.is_none_or(|at| now > stale_at(at, bound))
}

/// When a view of this age becomes stale.
pub(crate) fn stale_at(last_success_at: UnixMillis, bound: Duration) -> UnixMillis {
    last_success_at.saturating_add(i64::try_from(bound.as_millis()).unwrap_or(i64::MAX))
}
