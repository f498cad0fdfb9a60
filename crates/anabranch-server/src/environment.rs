//! The real clock and the real randomness.

use std::time::{SystemTime, UNIX_EPOCH};

use anabranch_core::{Entropy, Environment, UnixMillis};

/// The machine's clock and the operating system's randomness: what a server in production runs with.
///
/// ```
/// use anabranch_core::Environment as _;
/// use anabranch_server::SystemEnvironment;
/// assert!(SystemEnvironment.now() > 1_500_000_000_000);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEnvironment;

impl Environment for SystemEnvironment {
    #[expect(clippy::disallowed_methods, reason = "the one place of the server that reads the clock")]
    fn now(&self) -> UnixMillis {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixMillis::try_from(since.as_millis()).unwrap_or(UnixMillis::MAX)
    }

    fn entropy(&mut self) -> &mut dyn Entropy {
        self
    }
}

impl Entropy for SystemEnvironment {
    /// # Panics
    /// If the operating system has no randomness to give, as `std`'s own hash maps do.
    #[expect(clippy::disallowed_methods, reason = "the one place of the server that takes randomness")]
    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
        u64::from_le_bytes(bytes)
    }
}
