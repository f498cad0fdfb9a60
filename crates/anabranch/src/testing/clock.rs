//! A clock to set.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anabranch_core::{Entropy, Environment, SplitMix64, UnixMillis};
use tokio::sync::watch;

/// A clock that stands still until it is set: whatever is written at one time has stamps of that time, and the same
/// test gives the same ids and stamps again. Cheap to clone; all clones are one clock.
///
/// The timers of a sync run on it, too: a wait of five minutes is over when the clock has been moved by five minutes,
/// and a deadline never comes while it stands still.
///
/// ```
/// use std::time::Duration;
///
/// use anabranch::testing::Clock;
/// use anabranch::{Replica, Schema};
///
/// # fn main() -> Result<(), anabranch::Error> {
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// # let schema = Schema::from_toml("version = 1\n[collections.notes.fields]\ntitle = { kind = \"register\" }")?;
/// let clock = Clock::at(1_750_000_000_000);
/// let phone = Replica::at(folder.path().join("phone.db")).environment(clock.environment()).open_or_create(schema)?;
/// let notes = phone.space("home")?.untyped("notes")?;
/// let id = notes.create(serde_json::json!({ "title": "Lunch" })).wait()?;
/// clock.advance(Duration::from_secs(60));
/// notes.edit(id, |note| note.set("title", "Dinner")).wait()?;
/// let note = notes.get(id)?.expect("the note");
/// assert_eq!(note.updated_at - note.created_at, 60_000);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Clock {
    millis: Arc<watch::Sender<UnixMillis>>,
    environments: Arc<AtomicU64>,
}

impl Clock {
    /// A clock that shows this time.
    #[must_use]
    pub fn at(millis: UnixMillis) -> Self {
        Self { millis: Arc::new(watch::Sender::new(millis)), environments: Arc::default() }
    }

    /// The time it shows.
    #[must_use]
    pub fn now(&self) -> UnixMillis {
        *self.millis.borrow()
    }

    /// Sets it, back if need be.
    pub fn set(&self, millis: UnixMillis) {
        self.millis.send_replace(millis);
    }

    /// Moves it forward.
    pub fn advance(&self, by: Duration) {
        let by = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.millis.send_modify(|millis| *millis = millis.saturating_add(by));
    }

    /// This time, with randomness that follows from how many environments the clock has made before: for
    /// [`OpenOptions::environment`](crate::OpenOptions::environment), one for each replica.
    #[must_use]
    pub fn environment(&self) -> impl Environment + use<> {
        let seed = self.environments.fetch_add(1, Ordering::SeqCst);
        ClockEnvironment { clock: self.clone(), entropy: SplitMix64::new(seed) }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("now", &self.now()).finish_non_exhaustive()
    }
}

struct ClockEnvironment {
    clock: Clock,
    entropy: SplitMix64,
}

impl Environment for ClockEnvironment {
    fn now(&self) -> UnixMillis {
        self.clock.now()
    }

    fn entropy(&mut self) -> &mut dyn Entropy {
        &mut self.entropy
    }

    fn reached(&self, at: UnixMillis) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
        let mut millis = self.clock.millis.subscribe();
        Some(Box::pin(async move {
            if millis.wait_for(|now| *now >= at).await.is_err() {
                // Nobody can set it any more.
                std::future::pending().await
            }
        }))
    }
}
