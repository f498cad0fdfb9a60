//! One process at a time syncs a file with a server.
//!
//! Two would do no harm, but each would push and pull everything. The lock is the operating system's, on a file of its
//! own; it ends with the process, however that ends.

use std::fs::{File, OpenOptions, TryLockError};

use tracing::warn;

use crate::rows::RemoteKey;
use crate::store::Store;

/// The right to sync a file with one remote, until it is dropped.
#[derive(Debug)]
pub struct SyncLock {
    /// Locked. None where files cannot be locked.
    _file: Option<File>,
}

impl Store {
    /// Takes the right to sync with a remote; `None` while somebody else has it: another process, or another open of
    /// the same file.
    ///
    /// Where files cannot be locked everybody gets it.
    #[must_use]
    pub fn lock_sync(&self, remote: RemoteKey) -> Option<SyncLock> {
        let mut name = self.path().file_name().unwrap_or_default().to_owned();
        name.push(format!("-sync-{remote}"));
        // It is never removed: whoever waits for it may have it open.
        let opened = OpenOptions::new().create(true).truncate(false).write(true).open(self.path().with_file_name(name));
        let locked = opened.map_err(TryLockError::Error).and_then(|file| file.try_lock().map(|()| file));
        match locked {
            Ok(file) => Some(SyncLock { _file: Some(file) }),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Error(failure)) => {
                warn!(%failure, "the file's sync cannot be locked");
                Some(SyncLock { _file: None })
            }
        }
    }
}
