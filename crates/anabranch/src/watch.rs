//! Watching: the latest value first, then coalesced changes.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use anabranch_core::{EntityId, SpaceName};
use anabranch_store::Committed;
use tokio::sync::watch;

use crate::error::Error;

type Evaluate<T> = Box<dyn Fn() -> Result<T, Error> + Send + std::marker::Sync>;

/// A value that follows the replica. Changes that come faster than they are read coalesce; nothing queues up.
///
/// ```no_run
/// # async fn follow(notes: anabranch::Collection, id: anabranch::EntityId) -> Result<(), anabranch::Error> {
/// let mut watch = notes.watch(id);
/// println!("now: {:?}", watch.latest()?);
/// while let Some(note) = watch.changed().await? {
///     println!("then: {note:?}");
/// }
/// # Ok(())
/// # }
/// ```
pub struct Watch<T> {
    signal: watch::Receiver<u64>,
    evaluate: Evaluate<T>,
}

impl<T> fmt::Debug for Watch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl<T> Watch<T> {
    pub(crate) fn new(
        watchers: &Watchers,
        scope: Scope,
        evaluate: impl Fn() -> Result<T, Error> + Send + std::marker::Sync + 'static,
    ) -> Self {
        Self { signal: watchers.add(scope), evaluate: Box::new(evaluate) }
    }

    /// The value now. What has changed up to here counts as seen.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn latest(&mut self) -> Result<T, Error> {
        self.signal.mark_unchanged();
        (self.evaluate)()
    }

    /// Whether something has changed since the value was last read.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        self.signal.has_changed().unwrap_or(false)
    }

    /// Waits for the next change, and returns the value after it. Needs no particular runtime.
    ///
    /// # Errors
    /// If the file cannot be read, or the replica has been closed.
    pub async fn changed(&mut self) -> Result<T, Error> {
        if self.signal.changed().await.is_err() {
            return Err(anabranch_store::StoreError::Closed.into());
        }
        self.latest()
    }
}

/// What a watch is about.
#[derive(Debug)]
pub(crate) enum Scope {
    Everything,
    Status,
    Entity(SpaceName, EntityId),
}

impl Scope {
    fn concerns(&self, committed: &Committed) -> bool {
        match self {
            Self::Everything => !committed.entities.is_empty(),
            Self::Status => committed.sync_state || !committed.entities.is_empty(),
            Self::Entity(space, id) => committed.entities.iter().any(|e| e.id == *id && e.space == *space),
        }
    }
}

/// Everyone who watches a replica.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    watchers: Mutex<Vec<(Scope, watch::Sender<u64>)>>,
}

impl Watchers {
    fn add(&self, scope: Scope) -> watch::Receiver<u64> {
        let (sender, receiver) = watch::channel(0);
        self.lock().push((scope, sender));
        receiver
    }

    pub(crate) fn notify(&self, committed: &Committed) {
        self.signal(|scope| scope.concerns(committed));
    }

    /// The state of the sync has changed, without a commit.
    pub(crate) fn notify_status(&self) {
        self.signal(|scope| matches!(scope, Scope::Status));
    }

    fn signal(&self, concerned: impl Fn(&Scope) -> bool) {
        // Watches that are gone are forgotten on the way.
        self.lock().retain(|(scope, sender)| {
            if concerned(scope) {
                sender.send_modify(|count| *count = count.wrapping_add(1));
            }
            !sender.is_closed()
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Scope, watch::Sender<u64>)>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watchers {
    fn drop(&mut self) {
        // Dropping the senders ends every `changed`.
        self.lock().clear();
    }
}
