//! What is written here while a sync goes on.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anabranch_core::sync::{ClientEvent, SpaceProgress, Trigger};
use anabranch_core::{Environment as _, SpaceName};
use anabranch_store::{Store, StoreError};
use tokio::sync::Notify;

use super::Driver;

/// Spaces that have been written to since the driver last looked. A set, so it cannot grow without bound.
#[derive(Default)]
pub(super) struct Written {
    pub(super) spaces: Mutex<BTreeSet<SpaceName>>,
    signed_out: AtomicBool,
    pub(super) notify: Notify,
}

/// Notes which spaces are written to, as long as the result lives.
pub(super) fn listen(store: &Store) -> Arc<Written> {
    let written = Arc::new(Written::default());
    let listener = Arc::downgrade(&written);
    store.on_commit(move |committed| {
        let Some(written) = listener.upgrade() else { return false };
        if committed.signed_out {
            written.signed_out.store(true, Ordering::Relaxed);
            written.notify.notify_one();
        }
        if !committed.pushable.is_empty() {
            let mut spaces = written.spaces.lock().unwrap_or_else(PoisonError::into_inner);
            spaces.extend(committed.pushable.iter().cloned());
            drop(spaces);
            written.notify.notify_one();
        }
        true
    });
    written
}

impl Driver {
    /// What was written here is pushed at once over a link that is open, unless writes are gathered.
    pub(super) fn written_spaces(&mut self) -> Vec<ClientEvent> {
        if self.written.signed_out.load(Ordering::Relaxed) {
            self.start_over(&StoreError::SignedOut);
            return Vec::new();
        }
        let is_empty = self.written.spaces.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        if is_empty {
            return Vec::new();
        }
        if self.link.is_some() && !self.scheduler.gathers_writes() {
            return self.take_written();
        }
        self.scheduler.ask(self.environment.now(), Trigger::LocalWrite);
        Vec::new()
    }

    pub(super) fn take_written(&mut self) -> Vec<ClientEvent> {
        let spaces = std::mem::take(&mut *self.written.spaces.lock().unwrap_or_else(PoisonError::into_inner));
        let mut events = Vec::new();
        for space in spaces {
            if self.followed.insert(space.clone()) {
                let progress = SpaceProgress::begin(space);
                events.push(ClientEvent::Follow(progress));
            } else {
                events.push(ClientEvent::LocalWrite { space });
            }
        }
        events
    }
}
