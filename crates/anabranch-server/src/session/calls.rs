//! What a session asks for, done: in its turn, and within the shared memory.

use anabranch_core::SpaceName;
use anabranch_core::segment::MAX_SEGMENT_BYTES;
use anabranch_core::sync::reconcile::{HEADS_BYTES, MAX_SKETCH_BYTES};
use anabranch_core::sync::{Call, CallResult, LogPage};
use anabranch_core::wire::{Ask, Envelope, Mark, Reply};
use tokio::sync::SemaphorePermit;
use tokio::time::timeout;

use super::Sessions;
use crate::access::SharedAccess;
use crate::backend::{Author, PageBudget};
use crate::memory::{Held, Share};
use crate::options::{CHANGE_BYTES, SCAN_TIMEOUT};

/// What an entry of a manifest takes in memory, with the copies that are made of it on its way.
pub(crate) const PIECE_BYTES: usize = 512;
/// A page, the message, the frame, and what waits in the socket.
const COPIES: usize = 4;

/// The server has more to do than it can hold, or get done, in time.
#[derive(Debug)]
pub(crate) struct Busy;

impl Sessions {
    /// Does what is asked for. The answer comes with its part of the memory, for as long as it is on its way.
    pub(super) async fn answer(
        &self,
        access: &SharedAccess,
        share: &Share,
        call: Call,
    ) -> Result<(CallResult, Held), Busy> {
        let _turn = if is_scan(&call) { Some(self.scan().await?) } else { None };
        let held = share.hold(self.cost(&call)).await.ok_or(Busy)?;
        let result = self.call(access, call).await;
        let held = share.grow(held, weight(&result)).await.ok_or(Busy)?;
        Ok((result, held))
    }

    /// Waits for the turn to look through all of a space. One at a time, so that pulls go on beside it.
    pub(crate) async fn scan(&self) -> Result<SemaphorePermit<'_>, Busy> {
        timeout(SCAN_TIMEOUT, self.scans.acquire()).await.map_err(|_| Busy)?.map_err(|_| Busy)
    }

    async fn call(&self, access: &SharedAccess, call: Call) -> CallResult {
        let backend = &self.backend;
        match call {
            Call::Append { id, space, replica, batch } => {
                let principal = access.principal().map(str::to_owned);
                let author = Author { replica, principal, relay: self.relays.of(&space), quota: self.quota };
                let outcome = backend.append_by(space.clone(), author, batch).await;
                let outcome = outcome.inspect_err(|error| tracing::error!(%space, %error, "a push failed")).ok();
                CallResult::Appended { id, space, outcome }
            }
            Call::Reconcile { space, ask } => {
                let outcome = backend.reconcile(space.clone(), ask, self.page).await;
                let outcome = outcome.inspect_err(|error| tracing::error!(%space, %error, "a reconcile failed")).ok();
                CallResult::Reconciled { space, outcome }
            }
            Call::Read { space, after, check } => {
                let outcome = backend.read(space.clone(), after, check, self.page).await;
                let outcome = outcome.inspect_err(|error| tracing::error!(%space, %error, "a pull failed")).ok();
                CallResult::Read { space, outcome }
            }
            Call::Manifest { space, check } => {
                let known = self.knows(&space, check).await;
                let outcome = if known { self.segments.manifest(&space).await } else { None };
                CallResult::Manifest { space, known, outcome }
            }
            Call::Segment { space, digest } => {
                let outcome = self.segments.segment(&space, &digest).await;
                CallResult::Segment { space, digest, outcome }
            }
            Call::Head { space } => {
                let outcome = backend.head(space.clone()).await;
                let outcome = outcome.inspect_err(|error| tracing::error!(%space, %error, "no head")).ok();
                CallResult::Head { space, outcome }
            }
        }
    }

    /// Whether a space's log has these places. What cannot be read is not held against it: it is looked at again when
    /// the log is read.
    async fn knows(&self, space: &SpaceName, check: Vec<Mark>) -> bool {
        let Some(last) = check.iter().copied().max_by_key(|mark| mark.seq) else { return true };
        let least = PageBudget { bytes: 1, changes: 1 };
        !matches!(self.backend.read(space.clone(), last, check, least).await, Ok(LogPage::Unknown))
    }

    /// What a call takes in memory, as far as is known before it is done.
    fn cost(&self, call: &Call) -> usize {
        match call {
            Call::Append { batch, .. } => {
                let bytes: usize = batch.iter().flatten().map(|offered| offered.change.bytes().len()).sum();
                bytes + batch.len() * CHANGE_BYTES
            }
            Call::Reconcile { ask: Ask::Sketch(_) | Ask::SketchOf { .. }, .. } => COPIES * MAX_SKETCH_BYTES,
            Call::Reconcile { ask: Ask::Heads(_), .. } => COPIES * HEADS_BYTES,
            Call::Read { .. } | Call::Reconcile { ask: Ask::Changes { .. }, .. } => COPIES * self.page.bytes,
            Call::Segment { .. } => 2 * MAX_SEGMENT_BYTES,
            Call::Manifest { space, .. } => self.segments.count(space) * PIECE_BYTES,
            Call::Head { .. } => 0,
        }
    }
}

/// What an answer takes until it has been sent: a single change, or a transaction, may go over a page's budget.
fn weight(result: &CallResult) -> usize {
    let copies = |changes: &mut dyn Iterator<Item = &Envelope>| -> usize {
        COPIES * changes.map(|envelope| envelope.change.len()).sum::<usize>()
    };
    match result {
        CallResult::Read { outcome: Some(LogPage::Rows { rows, .. }), .. } => {
            copies(&mut rows.iter().map(|(_, envelope)| envelope))
        }
        CallResult::Reconciled { outcome: Some((_, Ok(reply))), .. } => match reply {
            Reply::Changes { changes, .. } => copies(&mut changes.iter()),
            Reply::Heads(heads) => COPIES * 32 * heads.iter().map(Vec::len).sum::<usize>(),
            Reply::Sketch(_) | Reply::TooMany => 0,
        },
        CallResult::Manifest { outcome: Some((_, pieces)), .. } => pieces.len() * PIECE_BYTES,
        _ => 0,
    }
}

/// Whether the call looks through all of a space, or of an entity.
const fn is_scan(call: &Call) -> bool {
    matches!(call, Call::Reconcile { ask: Ask::Sketch(_) | Ask::Changes { .. }, .. })
}
