//! Work inside an engine's transactions.

use std::sync::{Arc, Mutex, PoisonError};

use anabranch_store::{Committed, Engine, Job, StoreError, Undo, Write};

type Slot<T> = Arc<Mutex<Done<T>>>;

/// What has become of a piece of work.
struct Done<T> {
    /// What it returned.
    result: Option<Result<T, StoreError>>,
    /// Why the commit failed.
    failed: Option<StoreError>,
}

impl<T> Default for Done<T> {
    fn default() -> Self {
        Self { result: None, failed: None }
    }
}

/// A piece of work that remembers its result.
pub(crate) struct Work<T, F> {
    work: Option<F>,
    slot: Slot<T>,
    /// Does the work, and then has it undone.
    undo: bool,
}

/// Where the result of a [`Work`] will be.
pub(crate) struct Outcome<T>(Slot<T>);

impl<T> Outcome<T> {
    /// The result, if it was committed.
    pub(crate) fn take(&self) -> Result<T, StoreError> {
        let Done { result, failed } = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        failed.map_or_else(|| result.unwrap_or(Err(StoreError::Panicked)), Err)
    }

    /// The result of what was not committed, and why it was not.
    pub(crate) fn take_failed(&self) -> (Option<T>, Option<StoreError>) {
        let Done { result, failed } = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        (result.and_then(Result::ok), failed)
    }

    /// The result, whatever became of the commit: nobody can know whether one that fails has been done.
    pub(crate) fn take_anyway(&self) -> Result<T, StoreError> {
        let done = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        done.result.unwrap_or(Err(StoreError::Panicked))
    }
}

pub(crate) fn job<T, F>(undo: bool, work: F) -> (Box<dyn Job>, Outcome<T>)
where
    T: Send + 'static,
    F: FnOnce(&mut Write<'_>) -> Result<T, StoreError> + Send + 'static,
{
    let slot: Slot<T> = Arc::default();
    (Box::new(Work { work: Some(work), slot: Arc::clone(&slot), undo }), Outcome(slot))
}

/// Runs one piece of work in a transaction of its own.
pub(crate) fn within<T, F>(engine: &mut Engine, work: F) -> Result<(T, Committed), StoreError>
where
    T: Send + 'static,
    F: FnOnce(&mut Write<'_>) -> Result<T, StoreError> + Send + 'static,
{
    let (job, outcome) = job(false, work);
    let committed = engine.commit(vec![job]);
    let value = outcome.take()?;
    committed.map(|committed| (value, committed)).ok_or(StoreError::Panicked)
}

impl<T, F> Job for Work<T, F>
where
    T: Send + 'static,
    F: FnOnce(&mut Write<'_>) -> Result<T, StoreError> + Send + 'static,
{
    fn run(&mut self, write: &mut Write<'_>) -> Result<(), Undo> {
        let Some(work) = self.work.take() else { return Err(Undo) };
        let result = work(write);
        let keep = result.is_ok() && !self.undo;
        self.slot.lock().unwrap_or_else(PoisonError::into_inner).result = Some(result);
        if keep { Ok(()) } else { Err(Undo) }
    }

    fn finish(self: Box<Self>, outcome: Result<(), StoreError>) {
        if let Err(error) = outcome {
            self.slot.lock().unwrap_or_else(PoisonError::into_inner).failed = Some(error);
        }
    }
}
