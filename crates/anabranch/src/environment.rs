//! The real clock and the operating system's randomness: the one place that reads them.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anabranch_core::{Entropy, Environment, SplitMix64, UnixMillis};

/// The real clock, and randomness seeded by the operating system.
#[derive(Clone, Debug)]
pub struct SystemEnvironment {
    entropy: SplitMix64,
}

impl SystemEnvironment {
    /// A fresh environment with a seed of its own.
    #[must_use]
    pub fn new() -> Self {
        let mut seed = [0; 8];
        #[expect(clippy::disallowed_methods, reason = "this is where randomness comes from")]
        let filled = getrandom::fill(&mut seed).is_ok();
        // Without randomness from the system (which does not happen on the platforms we know) the clock and
        // the process still tell most replicas apart.
        let fallback = now().unsigned_abs() ^ (u64::from(std::process::id()) << 32);
        let seed = if filled { u64::from_le_bytes(seed) } else { fallback };
        Self { entropy: SplitMix64::new(seed) }
    }
}

impl Default for SystemEnvironment {
    fn default() -> Self {
        Self::new()
    }
}

impl Environment for SystemEnvironment {
    fn now(&self) -> UnixMillis {
        now()
    }

    fn entropy(&mut self) -> &mut dyn Entropy {
        &mut self.entropy
    }
}

#[expect(clippy::disallowed_methods, reason = "this is where the time comes from")]
fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// One environment for a file's writer and for its syncs. All clones are the same one.
#[derive(Clone)]
pub(crate) struct SharedEnvironment {
    inner: Arc<Mutex<Box<dyn Environment>>>,
}

impl SharedEnvironment {
    pub(crate) fn new(environment: Box<dyn Environment>) -> Self {
        Self { inner: Arc::new(Mutex::new(environment)) }
    }

    fn lock(&self) -> MutexGuard<'_, Box<dyn Environment>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until its clock shows this time.
    pub(crate) async fn wait_until(&self, at: UnixMillis) {
        let (reached, now) = {
            let environment = self.lock();
            (environment.reached(at), environment.now())
        };
        match reached {
            Some(reached) => reached.await,
            None => tokio::time::sleep(Duration::from_millis(at.saturating_sub(now).max(0).unsigned_abs())).await,
        }
    }
}

impl Environment for SharedEnvironment {
    fn now(&self) -> UnixMillis {
        self.lock().now()
    }

    fn entropy(&mut self) -> &mut dyn Entropy {
        self
    }

    fn reached(&self, at: UnixMillis) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
        self.lock().reached(at)
    }
}

impl Entropy for SharedEnvironment {
    fn next_u64(&mut self) -> u64 {
        self.lock().entropy().next_u64()
    }
}
