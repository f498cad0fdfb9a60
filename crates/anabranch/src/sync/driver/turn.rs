//! Taking turns: one process at a time syncs a file with a server.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use anabranch_core::sync::Halt;
use anabranch_store::{Commit, RemoteKey, Store, StoreError, SyncLock};
use tracing::{info, warn};

use super::{Command, Driver, Mode};
use crate::status::Phase;
use crate::sync::SyncError;

/// How often a sync that waits for its turn looks again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// As [`LOOK_AGAIN`], for a sync that runs once.
const LOOK_SOON: Duration = Duration::from_millis(50);
/// How often a sync that runs once looks: one that has just been stopped is still giving up its turn.
const LOOKS: u32 = 20;

/// The turns that the syncs of one replica have; two with one server share theirs.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<BTreeMap<RemoteKey, Weak<SyncLock>>>);

impl Turns {
    pub(in crate::sync) fn take(&self, store: &Store, remote: RemoteKey) -> Option<Arc<SyncLock>> {
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
    /// Waits until no other process syncs the file with this server. A sync that runs once waits for a second only.
    pub(super) async fn take_turn(&mut self) -> Result<Arc<SyncLock>, SyncError> {
        let (mut told, mut looks) = (false, 0);
        let once = matches!(self.mode, Mode::Once { .. });
        loop {
            looks += 1;
            match self.begin(looks > 1).await {
                Ok(Some(turn)) => return Ok(turn),
                Ok(None) if once && looks == LOOKS => return Err(SyncError::Elsewhere),
                Ok(None) if once => {}
                Ok(None) if !std::mem::replace(&mut told, true) => {
                    info!("another process syncs this file with this server; waiting for its end");
                    self.tell_status(|online| online.phase = Phase::Elsewhere);
                }
                Ok(None) => {}
                Err(error) if once || matches!(error, StoreError::Closed | StoreError::SignedOut) => {
                    return Err(SyncError::Offline(error.to_string()));
                }
                Err(error) => warn!(%error, "the sync cannot begin yet"),
            }
            tokio::select! {
                () = tokio::time::sleep(if once { LOOK_SOON } else { LOOK_AGAIN }) => {}
                command = self.commands.recv() => match command {
                    Some(Command::CaughtUp(promise)) => self.waiting.push(promise),
                    Some(Command::Stop) | None => return Err(SyncError::Halted(Halt::Stopped)),
                    // Nothing can be sent; what is to be known later on is noted.
                    other => drop(self.obey(other)),
                },
            }
        }
    }

    /// Takes the turn; `None` while another process has it. What is wanted is changed by nobody else.
    async fn begin(&mut self, waited: bool) -> Result<Option<Arc<SyncLock>>, StoreError> {
        let turn = loop {
            let Some(turn) = self.place.take_turn() else { return Ok(None) };
            if self.place.is_still_ours()? {
                break turn;
            }
            tokio::task::block_in_place(|| self.place.move_on())?;
            info!("another server has been given this one's place in the file; it gets a new one");
            self.remote = self.place.key();
            self.remember()?;
        };
        if let Some((spaces, wanted)) = self.wanted.clone() {
            let remote = self.remote;
            let stored: Commit<(), StoreError> = self.store.write(move |write| {
                spaces.iter().try_for_each(|space| write.want_collections(remote, space, wanted.clone()))
            });
            stored.await?;
        }
        if self.wanted.take().is_some() || waited {
            self.remember()?;
        }
        Ok(Some(turn))
    }
}
