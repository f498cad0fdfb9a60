//! News of a replica, as they happen.

use std::fmt;
use std::pin::Pin;

use anabranch_core::sync::Deferral;
use anabranch_core::{SpaceName, UnixMillis};
use futures_util::{Stream, stream};
use serde::Serialize;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use crate::replica::Replica;

/// Events that wait for a reader. The oldest are lost to whoever falls further behind.
const QUEUE: usize = 256;

/// Something that an application may want to tell its user, or to write down. What is so now stands in the
/// [`Status`](crate::Status); an event says that it has become so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// This reader was too slow, and has lost the oldest events.
    Missed {
        /// How many.
        count: u64,
    },
    /// A session with the server is open.
    Online,
    /// The session is gone, or could not be opened.
    Offline {
        /// Why.
        reason: String,
        /// Failed attempts in a row.
        failures: u32,
        /// When the next one is due.
        retry_at: UnixMillis,
    },
    /// Replica and server agree in everything but what the server has refused or holds.
    CaughtUp,
    /// A sync waits for a better moment.
    Deferred(Deferral),
    /// The view is older than the bound that [`OpenOptions::staleness`](crate::OpenOptions::staleness) sets.
    Stale {
        /// When replica and server last agreed; `None` if they never did.
        last_success_at: Option<UnixMillis>,
    },
    /// Many attempts in a row failed: from now on there are only probes.
    CircuitOpened {
        /// How many failed.
        failures: u32,
    },
    /// A probe succeeded.
    CircuitClosed,
    /// The outbox did not move although it could have; a fresh session is begun.
    Stuck,
    /// The clocks of server and replica are more than five minutes apart, or a change came with a stamp that far ahead.
    ClockSkew {
        /// How far the other clock is ahead of this one, in milliseconds; negative if it is behind.
        ahead_millis: i64,
    },
    /// The server was restored from a backup, or replaced: what it lost is offered again.
    ServerLostHistory {
        /// In this space.
        space: SpaceName,
    },
    /// The server refused changes: they are parked.
    Rejected {
        /// How many.
        changes: u64,
        /// The server's words about the first.
        message: String,
    },
    /// The server holds changes back until something else has come; they are offered again by themselves.
    Held {
        /// How many.
        changes: u64,
    },
    /// The server does not accept the token. It goes on when another one is set, or a person asks.
    AuthNeeded {
        /// What the server said.
        reason: String,
    },
    /// The sync has ended for a reason that does not pass by itself.
    Halted {
        /// Why.
        reason: String,
    },
}

/// Where events come from.
#[derive(Debug)]
pub(crate) struct EventSource(broadcast::Sender<Event>);

impl Default for EventSource {
    fn default() -> Self {
        Self(broadcast::Sender::new(QUEUE))
    }
}

impl EventSource {
    pub(crate) fn tell(&self, event: Event) {
        // Nobody has to listen.
        drop(self.0.send(event));
    }
}

/// The events of a replica from the moment it was asked for; see [`Replica::events`].
pub struct Events {
    receiver: broadcast::Receiver<Event>,
}

impl Events {
    /// The next event; waits for it. `None` once the replica is closed. Needs no particular runtime.
    pub async fn next(&mut self) -> Option<Event> {
        match self.receiver.recv().await {
            Ok(event) => Some(event),
            Err(RecvError::Lagged(count)) => Some(Event::Missed { count }),
            Err(RecvError::Closed) => None,
        }
    }

    /// The next event, if it is there already.
    pub fn try_next(&mut self) -> Option<Event> {
        match self.receiver.try_recv() {
            Ok(event) => Some(event),
            Err(TryRecvError::Lagged(count)) => Some(Event::Missed { count }),
            Err(TryRecvError::Empty | TryRecvError::Closed) => None,
        }
    }

    /// The next event; blocks for it. `None` once the replica is closed. Not to be called from async code.
    pub fn wait(&mut self) -> Option<Event> {
        match self.receiver.blocking_recv() {
            Ok(event) => Some(event),
            Err(RecvError::Lagged(count)) => Some(Event::Missed { count }),
            Err(RecvError::Closed) => None,
        }
    }

    /// The events as a stream, which ends once the replica is closed.
    #[must_use]
    pub fn into_stream(self) -> Pin<Box<dyn Stream<Item = Event> + Send>> {
        Box::pin(stream::unfold(self, |mut events| async move { events.next().await.map(|event| (event, events)) }))
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Replica {
    /// News of this replica from now on: going offline, changes that a server refused, a view that has become stale.
    ///
    /// Whoever does not read them loses the oldest and is told how many ([`Event::Missed`]); nothing waits for a
    /// reader, and memory is bounded. It does not keep the file open.
    ///
    /// ```
    /// # use anabranch::{Event, Replica};
    /// # fn log(replica: &Replica) {
    /// let mut events = replica.events();
    /// std::thread::spawn(move || {
    ///     while let Some(event) = events.wait() {
    ///         if let Event::Rejected { changes, message } = event {
    ///             eprintln!("{changes} changes were refused: {message}");
    ///         }
    ///     }
    /// });
    /// # }
    /// ```
    #[must_use]
    pub fn events(&self) -> Events {
        Events { receiver: self.inner.events.0.subscribe() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_reader_loses_the_oldest_and_is_told_how_many() {
        let source = EventSource::default();
        let mut events = Events { receiver: source.0.subscribe() };
        for failures in 0..300 {
            source.tell(Event::CircuitOpened { failures });
        }
        assert_eq!(events.try_next(), Some(Event::Missed { count: 44 }));
        assert_eq!(events.try_next(), Some(Event::CircuitOpened { failures: 44 }));
        drop(source);
        let rest = std::iter::from_fn(|| events.try_next()).count();
        assert_eq!(rest, 255);
        assert_eq!(events.wait(), None);
    }
}
