//! Watching: the latest value first, then coalesced changes.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use anabranch_core::{CollectionName, EntityId, SpaceName};
use anabranch_store::{Committed, StoreError};
use futures_util::{Stream, stream};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tracing::error;

use crate::error::Error;
use crate::replica::Replica;

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
///
/// It keeps the replica's file open.
pub struct Watch<T> {
    signal: watch::Receiver<u64>,
    evaluate: Evaluate<T>,
    replica: Replica,
}

impl<T> fmt::Debug for Watch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl<T> Watch<T> {
    pub(crate) fn new(
        replica: &Replica,
        scope: Scope,
        evaluate: impl Fn() -> Result<T, Error> + Send + std::marker::Sync + 'static,
    ) -> Self {
        let signal = replica.inner.watchers.add(scope);
        Self { signal, evaluate: Box::new(evaluate), replica: replica.clone() }
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
    ///
    /// Watches are told right after a commit, on the writer's thread: when a write's `Commit` has just resolved, this
    /// may still be `false` for a moment. [`latest`](Self::latest) shows the write by then.
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
            return Err(StoreError::Closed.into());
        }
        self.latest()
    }
}

impl<T: Send + 'static> Watch<T> {
    /// The value now, then the value after each change, as a stream. It never ends by itself.
    ///
    /// What changes while nobody polls the stream coalesces into one item.
    #[must_use]
    pub fn into_stream(self) -> WatchStream<T> {
        let items = stream::unfold((self, true), |(mut watch, first)| async move {
            let item = if first { watch.latest() } else { watch.changed().await };
            Some((item, (watch, false)))
        });
        WatchStream { items: Box::pin(items) }
    }

    /// Calls `callback` with the value now, and again after each change, on a thread of the library's, until the
    /// returned guard is dropped. A callback that takes its time misses what happens meanwhile, but never the
    /// latest; nothing queues up. One that panics is called again with the next change; the panic is logged, by
    /// `tracing`.
    ///
    /// # Errors
    /// If the library's event loop cannot be started.
    pub fn subscribe(mut self, callback: impl FnMut(Result<T, Error>) + Send + 'static) -> Result<Subscription, Error> {
        let replica = self.replica.clone();
        let mut callback = callback;
        let task = replica.runtime()?.spawn(async move {
            let mut value = self.latest();
            loop {
                // In place: a slow callback must not keep the sync waiting.
                let call = AssertUnwindSafe(|| tokio::task::block_in_place(|| callback(value)));
                if catch_unwind(call).is_err() {
                    error!("a callback of a subscription has panicked");
                }
                value = self.changed().await;
            }
        });
        Ok(Subscription { task: task.abort_handle() })
    }
}

/// The values of a [`Watch`], as a stream.
pub struct WatchStream<T> {
    items: Pin<Box<dyn Stream<Item = Result<T, Error>> + Send>>,
}

impl<T> fmt::Debug for WatchStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchStream").finish_non_exhaustive()
    }
}

impl<T> Stream for WatchStream<T> {
    type Item = Result<T, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.items.as_mut().poll_next(context)
    }
}

/// Keeps a [`Watch::subscribe`] alive. Once it is dropped no call begins any more; one under way may end later.
#[derive(Debug)]
#[must_use = "dropping it ends the subscription"]
pub struct Subscription {
    task: AbortHandle,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a watch is about.
#[derive(Debug)]
pub(crate) enum Scope {
    Everything,
    Status,
    Presence(SpaceName),
    Collection(SpaceName, CollectionName),
    Entity(SpaceName, EntityId),
}

impl Scope {
    fn concerns(&self, committed: &Committed) -> bool {
        let mut entities = committed.entities.iter();
        match self {
            Self::Everything => !committed.entities.is_empty(),
            Self::Status => committed.sync_state || !committed.entities.is_empty(),
            Self::Presence(_) => false,
            Self::Collection(space, name) => entities.any(|e| e.collection == *name && e.space == *space),
            Self::Entity(space, id) => entities.any(|e| e.id == *id && e.space == *space),
        }
    }
}

/// Everyone who watches a replica.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    watchers: Mutex<Vec<(Scope, watch::Sender<u64>)>>,
}

impl Watchers {
    pub(crate) fn add(&self, scope: Scope) -> watch::Receiver<u64> {
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

    /// Somebody has come, moved or left in a space.
    pub(crate) fn notify_presence(&self, space: &SpaceName) {
        self.signal(|scope| matches!(scope, Scope::Presence(of) if of == space));
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
