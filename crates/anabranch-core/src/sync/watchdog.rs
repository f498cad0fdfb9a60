//! The watchdog: notices an outbox that should move and does not.

use crate::environment::UnixMillis;

/// How long nothing may be accepted while something could be pushed, in milliseconds.
pub const WATCHDOG_MILLIS: i64 = 2 * 60 * 1_000;
/// The longest that the watchdog waits after having barked in vain.
const LONGEST_MILLIS: i64 = 60 * 60 * 1_000;

/// Watches one session. It is fed with progress, and asked from time to time.
///
/// There is no known way for an outbox to get stuck; this is for the unknown ones, and for a server that takes a push
/// and never answers.
#[derive(Clone, Copy, Debug)]
pub struct Watchdog {
    since: Option<UnixMillis>,
    patience: i64,
}

impl Default for Watchdog {
    fn default() -> Self {
        Self { since: None, patience: WATCHDOG_MILLIS }
    }
}

impl Watchdog {
    /// Something was accepted, or there is nothing that could be.
    pub const fn calm(&mut self) {
        *self = Self { since: None, patience: WATCHDOG_MILLIS };
    }

    /// The session is closed: nobody expects anything to move.
    pub const fn sleep(&mut self) {
        self.since = None;
    }

    /// A session is open. Watches from now on, unless it does already; returns when to ask [`barks`](Self::barks).
    pub fn watch(&mut self, now: UnixMillis) -> UnixMillis {
        // A clock that is set back must not put the next look off.
        let since = self.since.map_or(now, |since| since.min(now));
        self.since = Some(since);
        since.saturating_add(self.patience)
    }

    /// Whether it is time for a fresh session, given whether something could be pushed. It waits longer each time.
    pub fn barks(&mut self, now: UnixMillis, something_could_move: bool) -> bool {
        if !something_could_move {
            self.calm();
            return false;
        }
        let over = self.since.is_some_and(|since| now.saturating_sub(since) >= self.patience);
        if over {
            self.since = None;
            self.patience = self.patience.saturating_mul(2).min(LONGEST_MILLIS);
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_barks_when_nothing_moves_and_waits_longer_each_time() {
        let mut dog = Watchdog::default();
        assert_eq!(dog.watch(0), WATCHDOG_MILLIS);
        assert!(!dog.barks(WATCHDOG_MILLIS - 1, true));
        assert!(dog.barks(WATCHDOG_MILLIS, true));
        assert_eq!(dog.watch(1_000_000), 1_000_000 + 2 * WATCHDOG_MILLIS);
        assert!(!dog.barks(1_000_000 + WATCHDOG_MILLIS, true));
        assert!(dog.barks(1_000_000 + 2 * WATCHDOG_MILLIS, true));
        dog.calm();
        assert_eq!(dog.watch(5), 5 + WATCHDOG_MILLIS);
    }

    #[test]
    fn it_is_calm_when_nothing_could_move() {
        let mut dog = Watchdog::default();
        let at = dog.watch(0);
        assert!(!dog.barks(at, false));
        assert_eq!(dog.watch(at), at + WATCHDOG_MILLIS, "it begins again");
        dog.sleep();
        assert!(!dog.barks(i64::MAX, true), "no session is open");
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_put_it_off() {
        let mut dog = Watchdog::default();
        dog.watch(1_000_000_000);
        assert_eq!(dog.watch(5), 5 + WATCHDOG_MILLIS);
    }
}
