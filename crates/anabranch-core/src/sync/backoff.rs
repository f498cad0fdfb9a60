//! Exponential backoff with full jitter.
//!
//! After *Exponential Backoff and Jitter* (AWS Architecture Blog, 2015): the wait is uniform between nothing
//! and a ceiling that doubles, so a fleet that lost its server does not come back in step.

use crate::environment::Entropy;

const FIRST_CEILING_MILLIS: i64 = 1_000;
/// The longest wait between two attempts, in milliseconds, unless the other side asks for more.
pub const MAX_BACKOFF_MILLIS: i64 = 5 * 60 * 1_000;
/// After this many failures in a row the circuit breaker is open: an attempt is a probe, and they stay far apart.
pub const CIRCUIT_FAILURES: u32 = 10;

/// How long to wait after how many failures in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Continues after this many failures in a row.
    #[must_use]
    pub const fn after(failures: u32) -> Self {
        Self { failures }
    }

    /// Failures in a row so far.
    #[must_use]
    pub const fn failures(self) -> u32 {
        self.failures
    }

    /// Whether so many attempts in a row failed that only probes are made.
    #[must_use]
    pub const fn is_open(self) -> bool {
        self.failures >= CIRCUIT_FAILURES
    }

    /// Notes a failure and returns the wait before the next attempt, in milliseconds: at least
    /// `retry_after_millis` if the other side named one.
    pub fn fail(&mut self, retry_after_millis: Option<u32>, entropy: &mut dyn Entropy) -> i64 {
        let doublings = self.failures.min(16);
        self.failures = self.failures.saturating_add(1);
        let ceiling = (FIRST_CEILING_MILLIS << doublings).min(MAX_BACKOFF_MILLIS);
        // Full jitter may come out near nothing; a probe keeps its distance.
        let floor = if self.is_open() { ceiling / 2 } else { 0 };
        let jitter = i64::try_from(entropy.next_u64() % ((ceiling - floor).unsigned_abs() + 1)).unwrap_or(ceiling);
        floor.saturating_add(jitter).max(retry_after_millis.map_or(0, i64::from))
    }

    /// Notes a success.
    pub const fn succeed(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::environment::SplitMix64;

    proptest! {
        #[test]
        fn waits_stay_under_their_ceiling_and_respect_retry_after(seed: u64, failures in 0u32..100, retry in prop::option::of(0u32..1_000_000)) {
            let mut backoff = Backoff::after(failures);
            let wait = backoff.fail(retry, &mut SplitMix64::new(seed));
            let ceiling = (1_000i64 << failures.min(16)).min(300_000);
            prop_assert!((0..=ceiling.max(retry.map_or(0, i64::from))).contains(&wait));
            prop_assert!(wait >= retry.map_or(0, i64::from));
            prop_assert_eq!(backoff.failures(), failures + 1);
            prop_assert!(!backoff.is_open() || wait >= ceiling / 2, "a probe after {} ms", wait);
        }
    }

    #[test]
    fn jitter_spreads_a_fleet() {
        let mut entropy = SplitMix64::new(1);
        let waits: std::collections::BTreeSet<_> =
            (0..100).map(|_| Backoff::after(8).fail(None, &mut entropy) / 25_601).collect();
        assert_eq!(waits.len(), 10, "a hundred waits should fall into every tenth of the range");
    }
}
