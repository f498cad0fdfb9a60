//! Containment: a panic inside Automerge becomes an error, and prints nothing.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Automerge panicked; whatever it was working on must not be used again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panicked;

/// Runs `work`, turning a panic into an error.
///
/// The unwind-safety assertion holds because the callers mark the document as poisoned and their callers
/// throw it away.
pub(crate) fn contained<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    silence();
    let outer = CONTAINED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    CONTAINED.set(outer);
    result.map_err(|_| Panicked)
}

/// Makes the process's panic hook pass over contained panics, whose messages may hold values. All others go to
/// the hook that was there before. An application that sets a hook later replaces this one, and sees them all.
fn silence() {
    static ONCE: Once = Once::new();
    // A thread that is panicking must not touch the hook: that would abort the process.
    if !ONCE.is_completed() && !std::thread::panicking() {
        ONCE.call_once(|| {
            let before = take_hook();
            set_hook(Box::new(move |panic| {
                // A thread that ends has no such variable any more.
                if !CONTAINED.try_with(Cell::get).unwrap_or(false) {
                    before(panic);
                }
            }));
        });
    }
}
