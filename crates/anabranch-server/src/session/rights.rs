//! When a session has to look at its rights again.

use std::time::Duration;

use anabranch_core::UnixMillis;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::options::RIGHTS_CHECK;

/// Tells when to look.
pub(super) struct Rights {
    changes: Option<watch::Receiver<()>>,
    looked_at: Instant,
}

impl Rights {
    pub(super) fn new(changes: Option<watch::Receiver<()>>) -> Self {
        Self { changes, looked_at: Instant::now() }
    }

    /// Resolves when rights have been changed, when these end, and every now and then: a clock may have been set. Nothing
    /// is lost if the future is dropped.
    pub(super) async fn looked_at(&mut self, ends_at: Option<UnixMillis>, now: UnixMillis) {
        let left = ends_at.map(|end| u64::try_from(end.saturating_sub(now)).unwrap_or_default());
        let end = left.map(|left| Instant::now() + Duration::from_millis(left).min(RIGHTS_CHECK));
        let check = self.looked_at + RIGHTS_CHECK;
        let due = end.map_or(check, |end| end.min(check));
        let changed = async {
            let changed = match &mut self.changes {
                Some(changes) => changes.changed().await.is_ok(),
                None => false,
            };
            if !changed {
                // Nothing will be changed any more.
                std::future::pending().await
            }
        };
        tokio::select! {
            () = changed => {}
            () = sleep_until(due) => {}
        }
        self.looked_at = Instant::now();
    }
}
