//! Giving way: to a device that has better things to do, and to limits that nobody announced.

use super::{ClientSession, ClientStep, Link, LinkCommand, Outbox, SpaceSync, WriteBatch};
use crate::environment::{Entropy, UnixMillis};
use crate::name::SpaceName;
use crate::wire::{Answer, RejectCode};

impl SpaceSync {
    /// A page has come. What this replica has pushed itself is not sent back, so the count may end early.
    pub(super) fn count_down(&mut self, changes: usize) {
        let changes = u64::try_from(changes).unwrap_or(u64::MAX);
        self.behind = self.behind.map(|behind| behind.saturating_sub(changes)).filter(|_| !self.pulled);
    }
}

impl ClientSession {
    /// Until when the server asked to be left alone, if it was the last failure that said so.
    #[must_use]
    pub const fn server_asked_until(&self) -> Option<UnixMillis> {
        self.asked_until
    }

    /// Whether so many attempts in a row failed that only probes are made.
    #[must_use]
    pub const fn is_circuit_open(&self) -> bool {
        self.backoff.is_open()
    }

    /// Whether the session has been opened and not ended.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self.link, Link::Open { .. })
    }

    /// How many changes the server has that have not come yet, as far as it has said so; `None` while that is not
    /// known.
    #[must_use]
    pub fn behind(&self) -> Option<u64> {
        let behind = |space: &SpaceSync| if space.pulled { Some(0) } else { space.behind };
        let known = self.spaces.values().filter(|_| self.is_open());
        known.map(behind).try_fold(0u64, |sum, behind| Some(sum.saturating_add(behind?))).filter(|_| self.is_open())
    }

    pub(super) fn on_behind(&mut self, name: &SpaceName, changes: u64) {
        if let Some(space) = self.spaces.get_mut(name) {
            space.behind = Some(changes);
        }
    }

    pub(super) fn suspend(&mut self, step: &mut ClientStep) {
        if self.link != Link::Halted {
            self.link = Link::Idle;
            step.link = Some(LinkCommand::Close);
        }
    }

    /// Sends less at a time from now on. What cannot be divided any further is set aside, as if the server had
    /// refused it, so that it does not keep everything else waiting for ever. Both help, so it is tried again at once
    /// and is no failure: each time there is less to send, or less to send at a time.
    pub(super) fn on_too_large(
        &mut self,
        now: UnixMillis,
        entropy: &mut dyn Entropy,
        reason: String,
        step: &mut ClientStep,
    ) {
        // Of several pushes under way, the largest is larger than the limit if any is.
        let pushes = self.spaces.iter_mut().filter_map(|(name, space)| match &mut space.outbox {
            Outbox::Pushing { keys, bytes, .. } => Some((name.clone(), keys, *bytes)),
            _ => None,
        });
        let largest = pushes.max_by_key(|(_, _, bytes)| *bytes);
        let largest = largest.map(|(name, keys, bytes)| (name, std::mem::take(keys), bytes));
        let (Some((space, keys, bytes)), Some(lineage), Link::Open { limits }) = (largest, self.lineage, self.link)
        else {
            step.link = Some(LinkCommand::Close);
            return self.on_disconnected(now, entropy, reason, None, step);
        };
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        // What is over the limit is a change, or a transaction, that travels alone.
        if keys.len() <= 1 || bytes > limits.push_bytes || bytes < 2 {
            let answer = Answer::Rejected { code: RejectCode::TooLarge, message: reason, retryable: false };
            let mut batch = WriteBatch::empty(space, lineage);
            batch.answered = keys.into_iter().map(|key| (key, answer.clone())).collect();
            step.batch = Some(batch);
        } else {
            self.push_bytes = bytes / 2;
        }
        self.open(step);
    }
}
