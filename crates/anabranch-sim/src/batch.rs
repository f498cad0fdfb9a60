//! Many seeds, on all processors.

use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::bug::Bug;
use crate::failure::Failure;
use crate::run::{Report, Run};

/// Lets the threads of this process get out of each other's way; nothing else may use SQLite meanwhile, so this is for
/// the beginning of `main`.
///
/// # Errors
/// [`Failure`] if something has used it before.
pub fn set_up_process() -> Result<(), Failure> {
    anabranch_vfs::keep_no_memory_statistics().map_err(|code| Failure::new(format!("setting up SQLite: {code:?}")))
}

/// Makes the runs of `count` seeds from `first` on, on all processors. `make` says what to run; `each` hears of every run
/// that has ended, one at a time and in no particular order, and says whether to go on.
pub fn run_all(first: u64, count: u64, make: impl Fn(u64) -> Run + Sync, each: impl FnMut(Report) -> bool + Send) {
    let next = AtomicU64::new(0);
    let ends = AtomicBool::new(false);
    let each = Mutex::new(each);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count || ends.load(Ordering::Relaxed) {
                        return;
                    }
                    let report = make(first.wrapping_add(number)).make();
                    let mut each = each.lock().unwrap_or_else(PoisonError::into_inner);
                    if !each(report) {
                        ends.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
}

/// Looks for a planted bug in the seeds from 0 to `seeds`: the first that fails with it, and passes without it, and
/// what it says.
#[must_use]
pub fn find(bug: Bug, seeds: u64) -> Option<(u64, String)> {
    (0..seeds).find_map(|seed| {
        let failure = (Run { bug: Some(bug), ..Run::of(seed) }).make().failure?;
        Run::of(seed).make().failure.is_none().then_some((seed, failure))
    })
}
