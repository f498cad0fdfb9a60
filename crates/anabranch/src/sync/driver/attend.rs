//! What is attended to between two events: whether it is time to sync, whether something is stuck or stale.

use anabranch_core::sync::{ClientEvent, Decision, Deferral, MAX_BACKOFF_MILLIS, Reason, Trigger, Work};
use anabranch_core::{Environment as _, UnixMillis};
use anabranch_store::StoreError;
use tracing::{info, warn};

use super::{Driver, Mode};
use crate::events::Event;
use crate::status::{Phase, is_stale, stale_at};
use crate::sync::SyncError;

impl Driver {
    /// Attends to everything that does not come as an event, and notes when to do so next.
    pub(super) async fn attend(&mut self) {
        self.wake_at = None;
        let now = self.environment.now();
        if let Some(reason) = self.auth_refused.take() {
            self.wait_for_token(reason).await;
        }
        if let Some(end_at) = self.end_at {
            if now >= end_at && self.outcome.is_none() {
                // What was done stays done, and the report says what is left.
                self.outcome = Some(Ok(()));
            }
            self.wake(end_at);
        }
        if self.outcome.is_none() && self.is_ready(now) {
            if self.link.is_some() {
                self.attend_link(now).await;
            } else {
                self.watchdog.sleep();
            }
            if self.link.is_none() && self.connecting.is_none() && self.outcome.is_none() {
                self.attend_schedule(now).await;
            }
        }
        self.publish();
        self.store_agreement().await;
        self.attend_staleness(now);
    }

    /// Whether the session can be relied on. After a failure of the file it is made anew, once the file can be read.
    fn is_ready(&mut self, now: UnixMillis) -> bool {
        // A clock that is set back does not put it off.
        let Some(at) = self.begin_again_at.map(|at| at.min(now.saturating_add(MAX_BACKOFF_MILLIS))) else {
            return true;
        };
        self.begin_again_at = Some(at);
        if now >= at {
            match self.remember() {
                Ok(()) => self.begun_again(now),
                Err(error) => self.start_over(&error),
            }
        }
        self.begin_again_at.into_iter().for_each(|at| self.wake(at));
        self.begin_again_at.is_none()
    }

    fn begun_again(&mut self, now: UnixMillis) {
        self.begin_again_at = None;
        self.tell_status(|online| online.trouble = None);
        // The file has already been waited for.
        self.scheduler.ask(now, Trigger::Retry);
    }

    /// Whether it is time to connect.
    async fn attend_schedule(&mut self, now: UnixMillis) {
        let work = self.work();
        match self.scheduler.decide(now, work) {
            Decision::Run { .. } => {
                self.defer(None);
                for event in self.take_written() {
                    self.handle(event).await;
                }
                self.handle(ClientEvent::Start).await;
            }
            Decision::Defer(deferral) => {
                if matches!(self.mode, Mode::Once { .. }) {
                    self.outcome = Some(Err(SyncError::Offline(deferral.because.text().to_owned())));
                    return;
                }
                self.defer(Some(deferral));
                deferral.until.into_iter().for_each(|at| self.wake(at));
            }
        }
    }

    /// A link is open: timers, gathered writes, conditions that have changed, and the watchdog.
    async fn attend_link(&mut self, now: UnixMillis) {
        self.scheduler.budget_ends(now).into_iter().for_each(|at| self.wake(at));
        self.scheduler.satisfied();
        if self.mode == Mode::Forever && self.gives_way(now) {
            self.scheduler.ask(now, Trigger::Interval);
            return self.handle(ClientEvent::Suspend).await;
        }
        match self.scheduler.may_push(now) {
            Decision::Run { .. } => {
                for event in self.take_written() {
                    self.handle(event).await;
                }
            }
            Decision::Defer(deferral) => deferral.until.into_iter().for_each(|at| self.wake(at)),
        }
        if self.deadline.is_some_and(|at| at <= now) {
            self.handle(ClientEvent::Timer).await;
        }
        self.deadline.into_iter().for_each(|at| self.wake(at));
        self.attend_watchdog(now);
    }

    fn attend_watchdog(&mut self, now: UnixMillis) {
        let at = self.watchdog.watch(now);
        if now < at {
            return self.wake(at);
        }
        let could_move = match self.could_move(now) {
            Ok(could_move) => could_move,
            Err(error) => return self.start_over(&error),
        };
        if self.watchdog.barks(now, could_move) {
            warn!("the outbox does not move; beginning a fresh session");
            self.events.tell(Event::Stuck);
            if let Err(error) = self.remember() {
                return self.start_over(&error);
            }
            self.scheduler.ask(now, Trigger::Retry);
        }
        let next = self.watchdog.watch(now);
        self.wake(next);
    }

    /// Whether something waits that could be pushed, or the server has not said anything yet.
    fn could_move(&self, now: UnixMillis) -> Result<bool, StoreError> {
        Ok(!self.session.is_open() || self.store.read(|read| read.could_push(self.remote, now))?)
    }

    /// Whether the connection is to be given up, because the device has changed or everything is done.
    fn gives_way(&mut self, now: UnixMillis) -> bool {
        // How much there is to do is looked up only when the device has changed.
        let work = if std::mem::take(&mut self.device_changed) { self.work_left() } else { Work::default() };
        if let Some(deferral) = self.scheduler.must_stop(now, work) {
            info!(because = deferral.because.text(), "the connection is given up");
            return true;
        }
        let done = self.session.is_caught_up() && !self.scheduler.keeps_open();
        if done {
            self.scheduler.rest(now, self.environment.entropy());
        }
        done
    }

    fn attend_staleness(&mut self, now: UnixMillis) {
        let Some(bound) = self.staleness else { return };
        if self.phase() == Phase::Live {
            self.told_stale = false;
            return;
        }
        if self.told_stale {
            return;
        }
        if is_stale(now, self.agreed.at(), bound) {
            self.told_stale = true;
            self.events.tell(Event::Stale { last_success_at: self.agreed.at() });
            self.watchers.notify_status();
        } else if let Some(at) = self.agreed.at() {
            self.wake(stale_at(at, bound).saturating_add(1));
        }
    }

    /// What there is to transfer; looked up only if it matters.
    fn work(&self) -> Work {
        if !self.scheduler.conditions().are_restricted() {
            return Work::default();
        }
        let remote = self.remote;
        let read = self.store.read(|read| {
            let remotes = read.remotes()?;
            let state = remotes.into_iter().find(|state| state.key == remote);
            let first_sync = state
                .is_none_or(|state| state.spaces.iter().any(|space| space.cursor.is_none() && !space.owes_reconcile));
            Ok(Work { pending_bytes: read.pending_bytes(remote)?, first_sync })
        });
        read.unwrap_or_else(|error| {
            warn!(%error, "the file could not be read");
            Work::default()
        })
    }

    /// As [`work`](Self::work), for a session that is open: one that has nothing left to do has no work.
    fn work_left(&self) -> Work {
        if self.session.is_caught_up() { Work::default() } else { self.work() }
    }

    fn wake(&mut self, at: UnixMillis) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Notes why nothing is done, and tells it if that is news.
    fn defer(&mut self, deferral: Option<Deferral>) {
        if let Some(deferral) = deferral
            && self.deferral.is_none_or(|before| before.because != deferral.because)
            && !matches!(deferral.because, Reason::Resting | Reason::Backoff | Reason::CircuitOpen)
        {
            self.events.tell(Event::Deferred(deferral));
        }
        self.deferral = deferral;
    }
}
