//! What sessions hold at a time, all together.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use crate::options::{FREE_BYTES, MEMORY_TIMEOUT, MESSAGE_TIMEOUT};

/// A permit is worth so many bytes.
const UNIT: usize = 1 << 10;

/// The memory that sessions share: one half for what they receive, the other for what they store and send. So those who
/// begin large messages and never end them keep nobody from being answered.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    receiving: Arc<Semaphore>,
    working: Arc<Semaphore>,
}

/// A part of it; it is given back when dropped.
#[derive(Debug)]
pub(crate) struct Held {
    _permit: OwnedSemaphorePermit,
}

impl Memory {
    pub(crate) fn new(bytes: usize) -> Self {
        let half = || Arc::new(Semaphore::new((bytes / 2 / UNIT).min(Semaphore::MAX_PERMITS)));
        Self { receiving: half(), working: half() }
    }

    /// Waits for a part to work with; `None` if it takes too long.
    pub(crate) async fn hold(&self, bytes: usize) -> Option<Held> {
        let permit = Arc::clone(&self.working).acquire_many_owned(units(bytes));
        let permit = timeout(MEMORY_TIMEOUT, permit).await.ok()?.ok()?;
        Some(Held { _permit: permit })
    }

    /// A meter for what one connection receives.
    pub(crate) fn meter(&self) -> Meter {
        Meter { memory: Arc::clone(&self.receiving), received: Mutex::default() }
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

/// Counts what a connection has received and not yet made use of. A little is free; the rest comes out of the shared
/// memory, so that many who send slowly cannot fill it beyond its bound.
#[derive(Debug)]
pub(crate) struct Meter {
    memory: Arc<Semaphore>,
    received: Mutex<Received>,
}

#[derive(Debug, Default)]
struct Received {
    bytes: usize,
    units: u32,
    permit: Option<OwnedSemaphorePermit>,
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
            let permit = Arc::clone(&self.memory).try_acquire_many_owned(more).map_err(|_| full())?;
            match &mut received.permit {
                Some(held) => held.merge(permit),
                None => received.permit = Some(permit),
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

    #[tokio::test(start_paused = true)]
    async fn what_is_held_is_bounded_and_given_back() {
        let memory = Memory::new(200 * UNIT);
        let most = memory.hold(100 * UNIT).await.unwrap();
        assert!(memory.hold(1).await.is_none());
        drop(most);
        assert!(memory.hold(60 * UNIT).await.is_some());
        // Whatever is being received is another matter.
        memory.meter().add(FREE_BYTES + 100 * UNIT).unwrap();
        assert!(memory.hold(100 * UNIT).await.is_some());
    }

    #[test]
    fn a_little_is_free_and_the_rest_is_shared() {
        let memory = Memory::new(200 * UNIT);
        let (one, other) = (memory.meter(), memory.meter());
        one.add(FREE_BYTES).unwrap();
        assert_eq!(memory.receiving.available_permits(), 100);
        one.add(1).unwrap();
        one.add(80 * UNIT - 1).unwrap();
        assert_eq!(memory.receiving.available_permits(), 20);
        assert!(other.add(FREE_BYTES + 21 * UNIT).is_err());
        one.settle();
        assert_eq!(memory.receiving.available_permits(), 100);
        other.settle();
        other.add(FREE_BYTES + 21 * UNIT).unwrap();
        assert_eq!(memory.receiving.available_permits(), 79);
    }
}
