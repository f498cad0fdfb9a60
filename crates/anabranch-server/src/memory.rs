//! What sessions hold at a time, all together.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use crate::options::{FREE_BYTES, MEMORY_TIMEOUT, MESSAGE_TIMEOUT};

/// A permit is worth so many bytes.
const UNIT: usize = 1 << 10;

/// One principal, or one address, has at most this part of a pool: whoever fills theirs keeps nobody else waiting.
const PARTS: usize = 4;

/// The memory that sessions share: one half for what they receive, the other for what they store and send. So those who
/// begin large messages and never end them keep nobody from being answered.
#[derive(Debug)]
pub(crate) struct Memory {
    receiving: Pool,
    working: Pool,
}

impl Memory {
    pub(crate) fn new(bytes: usize) -> Self {
        Self { receiving: Pool::new(bytes / 2), working: Pool::new(bytes / 2) }
    }

    /// What sessions of one principal, or of nobody in particular from one address, have to work with.
    pub(crate) fn share(&self, whose: Whose) -> Share {
        self.working.share(whose)
    }

    /// A meter for what one connection receives.
    pub(crate) fn meter(&self, address: IpAddr) -> Meter {
        Meter { share: self.receiving.share(Whose::Address(address)), received: Mutex::default() }
    }
}

/// Whose part of the memory it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Whose {
    Principal(String),
    /// Of those who are nobody in particular.
    Address(IpAddr),
}

#[derive(Debug)]
struct Pool {
    all: Arc<Semaphore>,
    /// The size of a share.
    most: usize,
    shares: Mutex<HashMap<Whose, Weak<Semaphore>>>,
}

impl Pool {
    fn new(bytes: usize) -> Self {
        let units = (bytes / UNIT).min(Semaphore::MAX_PERMITS);
        Self { all: Arc::new(Semaphore::new(units)), most: units / PARTS * UNIT, shares: Mutex::default() }
    }

    fn share(&self, whose: Whose) -> Share {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let known = shares.get(&whose).and_then(Weak::upgrade);
        let own = known.unwrap_or_else(|| {
            if shares.len().is_power_of_two() {
                // Seldom enough, and often enough, to keep no more than twice as many as there are.
                shares.retain(|_, share| share.strong_count() > 0);
            }
            let own = Arc::new(Semaphore::new(self.most / UNIT));
            shares.insert(whose, Arc::downgrade(&own));
            own
        });
        Share { all: Arc::clone(&self.all), own, most: self.most }
    }
}

/// What one principal, or one address, may use of a pool.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    all: Arc<Semaphore>,
    own: Arc<Semaphore>,
    most: usize,
}

/// A part of it; it is given back when dropped.
#[derive(Debug)]
pub(crate) struct Held {
    all: OwnedSemaphorePermit,
    own: OwnedSemaphorePermit,
}

impl Share {
    /// Waits for so much, or for the whole share; `None` if it takes too long.
    pub(crate) async fn hold(&self, bytes: usize) -> Option<Held> {
        let units = units(bytes.min(self.most));
        let both = async {
            // First one's own: nobody waits for it who keeps others waiting.
            let own = Arc::clone(&self.own).acquire_many_owned(units).await.ok()?;
            let all = Arc::clone(&self.all).acquire_many_owned(units).await.ok()?;
            Some(Held { all, own })
        };
        timeout(MEMORY_TIMEOUT, both).await.ok()?
    }

    /// Waits until a part is this large; `None` if it takes too long.
    pub(crate) async fn grow(&self, mut held: Held, bytes: usize) -> Option<Held> {
        let more = (bytes.min(self.most) / UNIT).saturating_sub(held.own.num_permits());
        if more > 0 {
            held.merge(self.hold(more * UNIT).await?);
        }
        Some(held)
    }

    /// So much, if it is there.
    fn take(&self, units: u32) -> Option<Held> {
        let own = Arc::clone(&self.own).try_acquire_many_owned(units).ok()?;
        let all = Arc::clone(&self.all).try_acquire_many_owned(units).ok()?;
        Some(Held { all, own })
    }
}

impl Held {
    fn merge(&mut self, other: Self) {
        self.all.merge(other.all);
        self.own.merge(other.own);
    }
}

/// Bytes on their way out. Their part of the memory is given back once they have been written, or given up.
pub(crate) fn kept(bytes: Vec<u8>, held: Option<Arc<Held>>) -> Bytes {
    struct Kept(Vec<u8>, #[expect(dead_code, reason = "dropped with the bytes")] Option<Arc<Held>>);
    impl AsRef<[u8]> for Kept {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    Bytes::from_owner(Kept(bytes, held))
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

/// Counts what a connection has received and not yet made use of. A little is free; the rest comes out of the shared
/// memory, so that many who send slowly cannot fill it beyond its bound.
#[derive(Debug)]
pub(crate) struct Meter {
    share: Share,
    received: Mutex<Received>,
}

#[derive(Debug, Default)]
struct Received {
    bytes: usize,
    units: u32,
    held: Option<Held>,
    /// When it first took something that is not free.
    since: Option<Instant>,
}

impl Meter {
    /// More has been received.
    ///
    /// # Errors
    /// If the shared memory is used up; the connection has to end.
    pub(crate) fn add(&self, bytes: usize) -> io::Result<()> {
        let mut received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        received.bytes = received.bytes.saturating_add(bytes);
        let wanted = units(received.bytes.saturating_sub(FREE_BYTES));
        let more = wanted.saturating_sub(received.units);
        if more > 0 {
            let full = || io::Error::new(io::ErrorKind::OutOfMemory, "the memory for what is received is used up");
            let taken = self.share.take(more).ok_or_else(full)?;
            match &mut received.held {
                Some(held) => held.merge(taken),
                None => received.held = Some(taken),
            }
            received.units = wanted;
            received.since.get_or_insert_with(Instant::now);
        }
        Ok(())
    }

    /// What was received has been made use of.
    pub(crate) fn settle(&self) {
        *self.received.lock().unwrap_or_else(PoisonError::into_inner) = Received::default();
    }

    /// Whether a large message has been on its way for too long.
    pub(crate) fn is_overdue(&self) -> bool {
        let since = self.received.lock().unwrap_or_else(PoisonError::into_inner).since;
        since.is_some_and(|since| since.elapsed() > MESSAGE_TIMEOUT)
    }
}

/// How long to wait before coming back when memory is short.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn share(memory: &Memory, name: &str) -> Share {
        memory.share(Whose::Principal(name.to_owned()))
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_is_bounded_and_given_back() {
        // Two pools of 100, and shares of 25.
        let memory = Memory::new(200 * UNIT);
        let ann = share(&memory, "ann");
        let most = ann.hold(25 * UNIT).await.unwrap();
        assert!(share(&memory, "ann").hold(1).await.is_none(), "the same share, whoever asks for it");
        let others = ["bob", "eve", "joe"].map(|name| share(&memory, name));
        let mut held = Vec::new();
        for other in &others {
            // More than a share is a whole one.
            held.push(other.hold(99 * UNIT).await.unwrap());
        }
        // There is nothing left of the whole.
        assert!(share(&memory, "kim").hold(1).await.is_none());
        drop(most);
        assert!(share(&memory, "kim").hold(25 * UNIT).await.is_some());
        // Whatever is being received is another matter.
        memory.meter(HOME).add(FREE_BYTES + 25 * UNIT).unwrap();
        let part = ann.grow(ann.hold(10 * UNIT).await.unwrap(), 20 * UNIT).await.unwrap();
        assert_eq!(ann.own.available_permits(), 5);
        // Bytes keep their part for as long as any of them are there.
        let mut bytes = kept(vec![0; 100], Some(Arc::new(part)));
        let rest = bytes.split_off(50);
        drop(bytes);
        assert_eq!(ann.own.available_permits(), 5);
        drop(rest);
        assert_eq!(ann.own.available_permits(), 25);
    }

    #[test]
    fn shares_of_those_who_have_gone_are_forgotten() {
        let memory = Memory::new(200 * UNIT);
        let _kept = share(&memory, "ann");
        for n in 0..1_000 {
            drop(share(&memory, &n.to_string()));
        }
        assert!(memory.working.shares.lock().unwrap().len() <= 4);
    }

    #[test]
    fn a_little_is_free_and_the_rest_is_shared() {
        let memory = Memory::new(800 * UNIT);
        let (one, other) = (memory.meter(HOME), memory.meter(HOME));
        let left = || memory.receiving.all.available_permits();
        one.add(FREE_BYTES).unwrap();
        assert_eq!(left(), 400);
        one.add(1).unwrap();
        one.add(80 * UNIT - 1).unwrap();
        assert_eq!(left(), 320);
        assert!(other.add(FREE_BYTES + 21 * UNIT).is_err());
        // Another address has a share of its own.
        memory.meter(IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)).add(FREE_BYTES + 100 * UNIT).unwrap();
        one.settle();
        assert_eq!(left(), 400);
        other.settle();
        other.add(FREE_BYTES + 21 * UNIT).unwrap();
        assert_eq!(left(), 379);
    }
}
