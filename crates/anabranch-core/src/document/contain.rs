//! Containment: a panic inside Automerge becomes an error.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Automerge panicked; whatever it was working on must not be used again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Panicked;

/// Runs `work`, turning a panic into an error.
///
/// The unwind-safety assertion holds because the callers mark the document as poisoned and their callers
/// throw it away.
pub(super) fn contained<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| Panicked)
}
