//! Taking turns: one process at a time syncs a file with a server.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use anabranch_core::sync::Halt;
use anabranch_store::{RemoteKey, Store, SyncLock};
use tracing::info;

use super::{Command, Driver, Mode};
use crate::status::Phase;
use crate::sync::SyncError;

/// How often a sync that waits for its turn looks again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The turns that the syncs of one replica have; two with one server share theirs.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<BTreeMap<RemoteKey, Weak<SyncLock>>>);

impl Turns {
    fn take(&self, store: &Store, remote: RemoteKey) -> Option<Arc<SyncLock>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = turns.get(&remote).and_then(Weak::upgrade) {
            return Some(shared);
        }
        let lock = Arc::new(store.lock_sync(remote)?);
        turns.insert(remote, Arc::downgrade(&lock));
        Some(lock)
    }
}

impl Driver {
    /// Waits until no other process syncs the file with this server. A sync that runs once does not wait.
    pub(super) async fn take_turn(&mut self) -> Result<Arc<SyncLock>, SyncError> {
        let mut told = false;
        loop {
            if let Some(turn) = self.turns.take(&self.store, self.remote) {
                if told {
                    info!("the other sync has ended; taking over");
                    if let Err(error) = self.remember() {
                        self.start_over(&error);
                    }
                }
                return Ok(turn);
            }
            if matches!(self.mode, Mode::Once { .. }) {
                return Err(SyncError::Elsewhere);
            }
            if !std::mem::replace(&mut told, true) {
                info!("another process syncs this file with this server; waiting for its end");
                self.tell_status(|online| online.phase = Phase::Elsewhere);
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_AGAIN) => {}
                command = self.commands.recv() => match command {
                    Some(Command::CaughtUp(promise)) => self.waiting.push(promise),
                    Some(Command::Stop) | None => return Err(SyncError::Halted(Halt::Stopped)),
                    // Nothing can be sent; what is to be known later on is noted.
                    other => drop(self.obey(other)),
                },
            }
        }
    }
}
