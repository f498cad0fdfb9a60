//! What the application is told: the status, and why a sync has ended.

use std::sync::PoisonError;

use anabranch_core::sync::{ErrorClass, Halt, Reason, SyncEvent};
use anabranch_core::{Environment as _, ErrorKind, MAX_DRIFT_MILLIS, SpaceName, UnixMillis};
use anabranch_store::{Attempt, StoreError};
use tracing::{debug, info, warn};

use super::{Driver, Mode};
use crate::events::Event;
use crate::online::Online;
use crate::status::Phase;
use crate::sync::SyncError;

impl Driver {
    pub(super) async fn tell(&mut self, event: SyncEvent) -> Result<(), StoreError> {
        match event {
            SyncEvent::Online { server_now } => {
                info!("online");
                self.credentials.opened(self.environment.now());
                self.scheduler.succeeded();
                self.events.tell(Event::Online);
                self.compare_clocks(server_now).await?;
            }
            SyncEvent::CaughtUp => {
                self.credentials.caught_up();
                self.watchdog.calm();
                self.agreed.know(Some(self.environment.now()));
                // Whoever waits for this may look at the status next.
                self.publish();
                self.events.tell(Event::CaughtUp);
                self.waiting.drain(..).for_each(|promise| promise.resolve(Ok(())));
                if matches!(self.mode, Mode::Once { .. }) {
                    self.report.finished = true;
                    self.outcome = Some(Ok(()));
                }
            }
            SyncEvent::Offline { reason, retry_at, failures } => self.on_offline(reason, retry_at, failures).await?,
            SyncEvent::ServerLostHistory(space) => {
                warn!(%space, "the server has lost history; finding out what");
                self.events.tell(Event::ServerLostHistory { space });
            }
            SyncEvent::SegmentRefused { space, reason } => {
                warn!(%space, %reason, "a segment cannot be used");
            }
            SyncEvent::Shown(showing) => self.hear(showing),
            SyncEvent::Halted(Halt::Forbidden(reason)) => {
                self.on_forbidden(Halt::Forbidden(reason.clone()), reason)?;
            }
            SyncEvent::Halted(halt) => {
                debug!(?halt, "halted");
                let error = SyncError::Halted(halt.clone());
                if halt != Halt::Stopped {
                    let (remote, failures, noted) = (self.remote, self.session.failures(), error.to_string());
                    self.store.write(move |write| write.note_failure(remote, failures, &noted)).await?;
                    self.events.tell(Event::Halted { reason: error.to_string() });
                }
                self.outcome = Some(Err(error));
            }
        }
        Ok(())
    }

    async fn on_offline(&mut self, reason: String, retry_at: UnixMillis, failures: u32) -> Result<(), StoreError> {
        info!(%reason, failures, "offline");
        let (remote, now) = (self.remote, self.environment.now());
        let server_asked_until = self.session.server_asked_until();
        self.scheduler.failed(now, retry_at, server_asked_until, self.session.is_circuit_open());
        let attempt = Attempt {
            failures,
            reason: reason.clone(),
            class: ErrorClass::Transient,
            next_attempt_at: Some(retry_at),
            server_asked_until,
        };
        self.store.write(move |write| write.note_attempt(remote, &attempt)).await?;
        // Whoever is told may look at the status next.
        self.show_status();
        if matches!(self.mode, Mode::Once { .. }) {
            self.outcome = Some(Err(SyncError::Offline(reason.clone())));
        }
        self.events.tell(Event::Offline { reason, failures, retry_at });
        Ok(())
    }

    /// Says so if the server's clock and this one are far apart, and when they no longer are.
    async fn compare_clocks(&mut self, server_now: UnixMillis) -> Result<(), StoreError> {
        let ahead_millis = server_now.saturating_sub(self.environment.now());
        let far = ahead_millis.saturating_abs() > MAX_DRIFT_MILLIS;
        if far {
            warn!(ahead_millis, "the server's clock and this one are far apart");
            self.events.tell(Event::ClockSkew { ahead_millis });
        }
        let skew = far.then_some(ahead_millis);
        if skew.is_some() || self.clock_is_off {
            let remote = self.remote;
            self.store.write(move |write| write.note_clock_skew(remote, skew)).await?;
        }
        self.clock_is_off = far;
        Ok(())
    }

    /// Lets the spaces that were pushed to carry this replica's schema, so that others can be made from them.
    /// Returns the spaces in which it had to be written.
    pub(super) async fn publish_schema(&mut self) -> Result<Vec<SpaceName>, StoreError> {
        let spaces: Vec<_> = self.pushed_to.difference(&self.carrying).cloned().collect();
        let mut written = Vec::new();
        for space in spaces {
            let of = space.clone();
            // Once per sync, whatever comes of it: nothing else may wait for this.
            self.carrying.insert(space.clone());
            match self.store.write(move |write| write.publish_schema(&of)).await {
                Ok(true) => written.push(space),
                Ok(false) => {}
                Err(error) if error.kind() == ErrorKind::Retry => return Err(error),
                Err(error) => warn!(%error, "the schema could not be left in the space"),
            }
        }
        Ok(written)
    }

    /// Brings the status up to date, and says so if there are only probes now.
    pub(super) fn publish(&mut self) {
        let open = self.session.is_circuit_open();
        if std::mem::replace(&mut self.circuit_open, open) != open {
            let failures = self.session.failures();
            self.events.tell(if open { Event::CircuitOpened { failures } } else { Event::CircuitClosed });
        }
        self.show_status();
    }

    fn show_status(&mut self) {
        let phase = self.phase();
        self.agreed.follow(self.environment.now(), phase == Phase::Live);
        let online = self.session.is_open() && self.link.is_some();
        if !online {
            self.lose_sight();
        }
        let behind = self.session.behind().filter(|_| online);
        let idle = self.link.is_none() && self.connecting.is_none();
        let deferred = self.deferral.filter(|_| idle && self.outcome.is_none());
        let agreed_at = self.agreed.at();
        self.tell_status(|status| {
            (status.phase, status.online, status.behind, status.deferred) = (phase, online, behind, deferred);
            status.agreed_at = agreed_at;
        });
    }

    pub(super) fn phase(&self) -> Phase {
        if self.outcome.is_some() {
            let stopped = matches!(self.outcome, Some(Ok(()) | Err(SyncError::Halted(Halt::Stopped))));
            let once = matches!(self.mode, Mode::Once { .. });
            return if once || stopped { Phase::Idle } else { Phase::Halted };
        }
        match self.deferral.map(|deferral| deferral.because) {
            _ if self.begin_again_at.is_some() => Phase::Waiting,
            _ if self.session.is_caught_up() => Phase::Live,
            _ if self.link.is_some() => Phase::Syncing,
            _ if self.connecting.is_some() => Phase::Connecting,
            Some(Reason::AuthNeeded) => Phase::Halted,
            None | Some(Reason::Backoff | Reason::CircuitOpen | Reason::ServerAsked) => Phase::Waiting,
            Some(_) => Phase::Deferred,
        }
    }

    /// The sync has ended: the status tells of another one, or of none.
    pub(super) fn rest_status(&self) {
        self.online.lock().unwrap_or_else(PoisonError::into_inner).end(self.number);
        self.watchers.notify_status();
    }

    /// Changes what the status says of this sync.
    pub(super) fn tell_status(&self, change: impl FnOnce(&mut Online)) {
        let changed = self.online.lock().unwrap_or_else(PoisonError::into_inner).change(self.number, change);
        if changed {
            self.watchers.notify_status();
        }
    }
}
