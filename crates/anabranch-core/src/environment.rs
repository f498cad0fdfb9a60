//! Time and randomness as arguments.
//!
//! Nothing in this crate reads a clock or the operating system's randomness; whoever drives it passes
//! them in, so that a simulator can replay a whole fleet from one seed.

use std::future::Future;
use std::pin::Pin;

/// Milliseconds since the Unix epoch, as the caller's clock gives them.
pub type UnixMillis = i64;

/// A source of random bits, for ids and for jitter. Not used for secrets.
pub trait Entropy {
    /// The next 64 random bits.
    fn next_u64(&mut self) -> u64;

    /// Fills `bytes` with random bits.
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// Where a replica or a server takes time and randomness from.
pub trait Environment: Send {
    /// The current time.
    fn now(&self) -> UnixMillis;
    /// The source of randomness.
    fn entropy(&mut self) -> &mut dyn Entropy;
    /// Resolves when [`now`](Self::now) has reached this time. `None`, the default, for a clock that goes as fast as
    /// the system's: its timers will do. A clock that somebody sets has to say when it has been set.
    fn reached(&self, at: UnixMillis) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
        let _ = at;
        None
    }
}

/// A small deterministic generator (`SplitMix64`, Steele, Lea and Flood 2014): for tests, simulations,
/// and for stretching one random seed into many ids.
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// A generator whose whole sequence follows from `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }
}

impl Entropy for SplitMix64 {
    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
