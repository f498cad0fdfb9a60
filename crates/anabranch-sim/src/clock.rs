//! Virtual time, and each machine's own wrong idea of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use anabranch_core::{Entropy, Environment, SplitMix64, UnixMillis};

/// When every simulation begins.
const BEGIN: UnixMillis = 1_800_000_000_000;

/// The true time. All clones tell the same.
#[derive(Clone, Debug)]
pub(crate) struct VirtualTime(Arc<AtomicI64>);

impl VirtualTime {
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicI64::new(BEGIN)))
    }

    pub(crate) fn now(&self) -> UnixMillis {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn advance(&self, millis: i64) {
        self.0.fetch_add(millis, Ordering::Relaxed);
    }

    /// Moves forward to `at`; never back.
    pub(crate) fn reach(&self, at: UnixMillis) {
        self.0.fetch_max(at, Ordering::Relaxed);
    }
}

/// A machine's clock: the true time, off by some skew that grows.
#[derive(Clone, Debug)]
pub(crate) struct WallClock {
    time: VirtualTime,
    skew: Arc<AtomicI64>,
    /// Milliseconds that it gains in a thousand seconds.
    drift: Arc<AtomicI64>,
    /// Since when.
    set_at: Arc<AtomicI64>,
}

impl WallClock {
    pub(crate) fn new(time: &VirtualTime) -> Self {
        Self { time: time.clone(), skew: Arc::default(), drift: Arc::default(), set_at: Arc::default() }
    }

    pub(crate) fn now(&self) -> UnixMillis {
        let now = self.time.now();
        let elapsed = now - self.set_at.load(Ordering::Relaxed);
        let gained = elapsed.saturating_mul(self.drift.load(Ordering::Relaxed)) / 1_000_000;
        now.saturating_add(self.skew.load(Ordering::Relaxed)).saturating_add(gained)
    }

    /// From now on, it is off by this, and gains so many milliseconds in a thousand seconds.
    pub(crate) fn set(&self, skew: i64, drift: i64) {
        self.skew.store(skew, Ordering::Relaxed);
        self.drift.store(drift, Ordering::Relaxed);
        self.set_at.store(self.time.now(), Ordering::Relaxed);
    }
}

/// What a store is opened with: a wall clock and seeded randomness.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) clock: WallClock,
    pub(crate) entropy: SplitMix64,
}

impl Environment for Machine {
    fn now(&self) -> UnixMillis {
        self.clock.now()
    }

    fn entropy(&mut self) -> &mut dyn Entropy {
        &mut self.entropy
    }
}
