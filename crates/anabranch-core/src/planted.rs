//! A bug that can be planted where no driver reaches, for tests of the simulator.

use std::cell::Cell;

thread_local! {
    static ADMITS_ANY_NAME: Cell<bool> = const { Cell::new(false) };
}

/// From now on, documents of this thread do not look whether a change names only ops that it has seen.
pub fn admit_any_name(planted: bool) {
    ADMITS_ANY_NAME.set(planted);
}

pub(crate) fn admits_any_name() -> bool {
    ADMITS_ANY_NAME.get()
}
