//! How much one principal, and one space, may ask for in a time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anabranch_core::{SpaceName, UnixMillis};

use crate::options::SCAN_MESSAGES;

/// The most principals, or spaces, whose use is remembered at a time. Who has not asked for a while is forgotten first:
/// that changes nothing. If even this many are busy, whoever comes then is told to come later.
const MAX_REMEMBERED: usize = 65_536;

/// So much each second, and so much at once by whoever has not asked for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Each second, in the long run.
    pub per_second: u32,
    /// At once.
    pub burst: u32,
}

/// How much may be asked for in a time. Beyond it a request is answered 429 with `Retry-After`, and a session is refused
/// as `Unavailable` with the time to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Requests and messages of one principal. Where nobody is asked who they are, there is no such limit.
    pub messages: Rate,
    /// Bytes that one principal sends.
    pub bytes: Rate,
    /// Changes that are pushed to one space, by everyone together.
    pub changes: Rate,
}

impl Default for Rates {
    /// 500 messages a second (5,000 at once), 16 MiB a second (256 MiB), 20,000 changes a second (1,000,000).
    fn default() -> Self {
        Self {
            messages: Rate { per_second: 500, burst: 5_000 },
            bytes: Rate { per_second: 16 << 20, burst: 256 << 20 },
            changes: Rate { per_second: 20_000, burst: 1_000_000 },
        }
    }
}

/// What has been asked for of late.
#[derive(Debug)]
pub(crate) struct RateLimits {
    messages: Buckets<String>,
    bytes: Buckets<String>,
    changes: Buckets<SpaceName>,
}

impl RateLimits {
    pub(crate) fn new(rates: Rates) -> Self {
        let Rates { messages, bytes, changes } = rates;
        Self { messages: Buckets::new(messages), bytes: Buckets::new(bytes), changes: Buckets::new(changes) }
    }

    /// A message, or a request, of this many bytes; or how long to wait.
    pub(crate) fn message(&self, now: UnixMillis, principal: Option<&str>, bytes: usize) -> Result<(), Duration> {
        let Some(principal) = principal else { return Ok(()) };
        self.messages.take(now, &principal.to_owned(), 1)?;
        self.bytes.take(now, &principal.to_owned(), bytes)
    }

    /// A message that makes the server look through a space, beside that it is a message.
    pub(crate) fn scan(&self, now: UnixMillis, principal: Option<&str>) -> Result<(), Duration> {
        principal.map_or(Ok(()), |principal| self.messages.take(now, &principal.to_owned(), SCAN_MESSAGES - 1))
    }

    /// A push of this many changes, by somebody who may.
    pub(crate) fn push(&self, now: UnixMillis, space: &SpaceName, changes: usize) -> Result<(), Duration> {
        self.changes.take(now, space, changes)
    }
}

/// One leaky bucket for each key, as a single number: the moment at which it will be empty again.
#[derive(Debug)]
struct Buckets<K> {
    rate: Rate,
    state: Mutex<State<K>>,
}

/// Times are in nanoseconds.
#[derive(Debug)]
struct State<K> {
    latest: u128,
    empty_at: HashMap<K, u128>,
}

impl<K: Eq + Hash + Clone> Buckets<K> {
    fn new(rate: Rate) -> Self {
        Self { rate, state: Mutex::new(State { latest: 0, empty_at: HashMap::new() }) }
    }

    /// Takes so much. What is more than a burst is taken if nothing is in the bucket.
    fn take(&self, now: UnixMillis, key: &K, amount: usize) -> Result<(), Duration> {
        let now = u128::try_from(now).unwrap_or_default() * 1_000_000;
        let nanos = |amount: u128| amount * 1_000_000_000 / u128::from(self.rate.per_second.max(1));
        let burst = nanos(u128::from(self.rate.burst));
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { latest, empty_at: buckets } = &mut *state;
        if now < *latest {
            // A clock that was set back must not lock anybody out.
            buckets.clear();
        }
        *latest = now;
        if buckets.len() >= MAX_REMEMBERED && !buckets.contains_key(key) {
            buckets.retain(|_, empty_at| *empty_at > now);
            if buckets.len() >= MAX_REMEMBERED {
                return Err(Duration::from_secs(1));
            }
        }
        let empty_at = buckets.get(key).copied().unwrap_or_default().max(now);
        let after = empty_at + nanos(u128::try_from(amount).unwrap_or(u128::MAX >> 64));
        if empty_at > now && after > now + burst {
            let wait = (after - now - burst).min(empty_at - now);
            return Err(Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX)));
        }
        buckets.insert(key.clone(), after);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets() -> Buckets<&'static str> {
        Buckets::new(Rate { per_second: 10, burst: 20 })
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let buckets = buckets();
        for _ in 0..20 {
            buckets.take(1_000, &"ann", 1).unwrap();
        }
        assert_eq!(buckets.take(1_000, &"ann", 1), Err(Duration::from_millis(100)));
        assert_eq!(buckets.take(1_000, &"ann", 5), Err(Duration::from_millis(500)));
        buckets.take(1_000, &"bob", 20).unwrap();
        buckets.take(1_100, &"ann", 1).unwrap();
        assert!(buckets.take(1_100, &"ann", 1).is_err());
        buckets.take(60_000, &"ann", 20).unwrap();
    }

    #[test]
    fn more_than_a_burst_passes_alone_and_is_paid_for_later() {
        let buckets = buckets();
        buckets.take(1_000, &"ann", 100).unwrap();
        assert_eq!(buckets.take(1_000, &"ann", 1), Err(Duration::from_millis(8_100)));
        assert_eq!(buckets.take(1_000, &"ann", 100), Err(Duration::from_secs(10)), "until it is empty, not longer");
        buckets.take(11_000, &"ann", 100).unwrap();
    }

    #[test]
    fn a_clock_that_is_set_back_locks_nobody_out() {
        let buckets = buckets();
        buckets.take(1 << 50, &"ann", 1_000).unwrap();
        assert!(buckets.take(1 << 50, &"ann", 1).is_err());
        buckets.take(1_000, &"ann", 1).unwrap();
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let buckets = Buckets::new(Rate { per_second: 1, burst: 1 });
        for key in 0..MAX_REMEMBERED {
            buckets.take(1_000, &key, 1).unwrap();
        }
        assert!(buckets.take(1_000, &MAX_REMEMBERED, 1).is_err());
        buckets.take(3_000, &MAX_REMEMBERED, 1).unwrap();
        assert_eq!(buckets.state.lock().unwrap().empty_at.len(), 1);
    }
}
