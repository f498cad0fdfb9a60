//! What the application is told: the status, and why a sync has ended.

use std::sync::PoisonError;

use anabranch_core::sync::{Halt, SyncEvent};
use anabranch_core::{ErrorKind, SpaceName};
use anabranch_store::StoreError;
use tracing::{debug, info, warn};

use super::{Driver, Mode};
use crate::status::{Online, Phase};
use crate::sync::SyncError;

impl Driver {
    pub(super) async fn tell(&mut self, event: SyncEvent) -> Result<(), StoreError> {
        match event {
            SyncEvent::Online { .. } => info!("online"),
            SyncEvent::CaughtUp => {
                self.waiting.drain(..).for_each(|promise| promise.resolve(Ok(())));
                if self.mode == Mode::Once {
                    self.outcome = Some(Ok(()));
                }
            }
            SyncEvent::Offline { reason, retry_at, failures } => {
                info!(%reason, failures, "offline");
                self.tell_status(|online| online.next_retry_at = Some(retry_at));
                let remote = self.remote;
                let noted = reason.clone();
                self.store.write(move |write| write.note_failure(remote, failures, &noted)).await?;
                if self.mode == Mode::Once {
                    self.outcome = Some(Err(SyncError::Offline(reason)));
                }
            }
            SyncEvent::ServerLostHistory(space) => {
                warn!(%space, "the server has lost history; offering everything again");
            }
            SyncEvent::Halted(halt) => {
                debug!(?halt, "halted");
                let error = SyncError::Halted(halt.clone());
                if halt != Halt::Stopped {
                    let (remote, failures, noted) = (self.remote, self.session.failures(), error.to_string());
                    self.store.write(move |write| write.note_failure(remote, failures, &noted)).await?;
                }
                self.outcome = Some(Err(error));
            }
        }
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

    /// Begins again from what the file says, after a pause.
    pub(super) fn publish(&self) {
        let phase = if self.outcome.is_some() {
            let stopped = matches!(self.outcome, Some(Ok(()) | Err(SyncError::Halted(Halt::Stopped))));
            if self.mode == Mode::Once || stopped { Phase::Idle } else { Phase::Halted }
        } else if self.session.is_caught_up() {
            Phase::Live
        } else if self.link.is_some() {
            Phase::Syncing
        } else if self.connecting.is_some() {
            Phase::Connecting
        } else {
            Phase::Waiting
        };
        self.tell_status(|online| {
            if phase != Phase::Waiting {
                online.next_retry_at = None;
            }
            online.phase = phase;
        });
    }

    /// Changes what the status says, unless a later sync of the same replica speaks now.
    pub(super) fn tell_status(&self, change: impl FnOnce(&mut Online)) {
        let mut online = self.online.lock().unwrap_or_else(PoisonError::into_inner);
        let before = online.clone();
        if online.owner == self.number {
            change(&mut online);
        }
        let changed = *online != before;
        drop(online);
        if changed {
            self.watchers.notify_status();
        }
    }
}
