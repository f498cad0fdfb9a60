//! A write under way: [`Commit`].

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::error::StoreError;

/// A write that has been started. It resolves once it is on disk (fsynced), or has failed.
///
/// Dropping it does not cancel the write. Several writes that are started before the first is awaited share
/// one fsync.
#[must_use = "the write is durable only once this resolves; its error would be lost"]
#[derive(Debug)]
pub struct Commit<T, E = StoreError> {
    shared: Arc<Shared<T, E>>,
}

#[derive(Debug)]
struct Shared<T, E> {
    state: Mutex<State<T, E>>,
    resolved: Condvar,
}

#[derive(Debug)]
struct State<T, E> {
    result: Option<Result<T, E>>,
    waker: Option<Waker>,
}

impl<T, E> Shared<T, E> {
    fn lock(&self) -> MutexGuard<'_, State<T, E>> {
        // Nothing in here panics while it holds the lock, so a poisoned one is as good as any.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T, E: From<StoreError>> Commit<T, E> {
    /// Blocks until the write is durable.
    ///
    /// # Errors
    /// If the write was refused or failed; unless the error is [`StoreError::CommitUnknown`], nothing of it was
    /// stored.
    pub fn wait(self) -> Result<T, E> {
        let mut state = self.shared.lock();
        loop {
            if let Some(result) = state.result.take() {
                return result;
            }
            state = self.shared.resolved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A write under way and the promise that resolves it.
    pub fn pending() -> (Promise<T, E>, Self) {
        let state = Mutex::new(State { result: None, waker: None });
        let shared = Arc::new(Shared { state, resolved: Condvar::new() });
        (Promise { shared: Some(Arc::clone(&shared)) }, Self { shared })
    }
}

impl<T, E> Future for Commit<T, E> {
    type Output = Result<T, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.shared.lock();
        if let Some(result) = state.result.take() {
            return Poll::Ready(result);
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

/// The other end of a [`Commit`]. Dropped unresolved, it resolves to [`StoreError::Closed`].
#[derive(Debug)]
pub struct Promise<T, E: From<StoreError> = StoreError> {
    shared: Option<Arc<Shared<T, E>>>,
}

impl<T, E: From<StoreError>> Promise<T, E> {
    /// Resolves the write.
    pub fn resolve(mut self, result: Result<T, E>) {
        self.settle(result);
    }

    fn settle(&mut self, result: Result<T, E>) {
        let Some(shared) = self.shared.take() else { return };
        let waker = {
            let mut state = shared.lock();
            state.result = Some(result);
            state.waker.take()
        };
        shared.resolved.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T, E: From<StoreError>> Drop for Promise<T, E> {
    fn drop(&mut self) {
        self.settle(Err(StoreError::Closed.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_promise_resolves_to_closed() {
        let (promise, commit) = Commit::<()>::pending();
        drop(promise);
        assert!(matches!(commit.wait(), Err(StoreError::Closed)));
    }

    #[test]
    fn waiting_on_another_thread_sees_the_result() {
        let (promise, commit) = Commit::<u8>::pending();
        let waiter = std::thread::spawn(move || commit.wait());
        promise.resolve(Ok(7));
        assert!(matches!(waiter.join().unwrap(), Ok(7)));
    }
}
