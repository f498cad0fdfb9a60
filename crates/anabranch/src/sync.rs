//! Sync with a server: configure, start, follow.

mod driver;
mod first_sync;
mod link;
mod websocket;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anabranch_core::sync::Halt;
use anabranch_core::wire::MAX_PULL_COLLECTIONS;
use anabranch_core::{CollectionName, ErrorKind, SpaceName};
use anabranch_store::{Commit as StoreCommit, StoreError};
use tokio::sync::mpsc;

use crate::Commit;
use crate::error::Error;
use crate::replica::Replica;

pub use link::{FarEnd, Link, LinkError, Transport};
pub use websocket::WebSocket;

use driver::{Command, Driver, Mode};

/// Why a sync ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SyncError {
    /// The server could not be reached, or the connection broke.
    #[error("offline: {0}")]
    Offline(String),
    /// The deadline came first.
    #[error("the deadline came before everything was synced")]
    Deadline,
    /// It will not get better by itself.
    #[error("{}", describe(.0))]
    Halted(Halt),
}

impl SyncError {
    pub(crate) const fn kind(&self) -> ErrorKind {
        match self {
            Self::Offline(_) | Self::Deadline => ErrorKind::Retry,
            Self::Halted(_) => ErrorKind::Refused,
        }
    }
}

fn describe(halt: &Halt) -> String {
    match halt {
        Halt::OtherLineage(lineage) => {
            format!("the server has another history ({lineage}) than the one synced with before; nothing was sent")
        }
        Halt::Forbidden(reason) => format!("the server refuses: {reason}"),
        Halt::Protocol(reason) => format!("server and replica do not understand each other: {reason}"),
        Halt::Stopped => "stopped".to_owned(),
    }
}

/// Collections by name; `None` for all.
type Wanted = Option<BTreeSet<CollectionName>>;

/// Sync with one server, not started yet. Made by [`Replica::sync`].
pub struct Sync {
    replica: Replica,
    url: String,
    spaces: Vec<SpaceName>,
    /// Which collections of these spaces are wanted, if that is to be changed.
    collections: Option<Wanted>,
    /// A WebSocket to the URL if there is none.
    transport: Option<Arc<dyn Transport>>,
}

impl fmt::Debug for Sync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sync").field("url", &self.url).field("spaces", &self.spaces).finish_non_exhaustive()
    }
}

/// What a bounded sync did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct SyncReport {
    /// Changes that the server took.
    pub pushed: u64,
    /// Changes that the server had already.
    pub duplicates: u64,
    /// Changes that the server refused or holds.
    pub refused: u64,
    /// Changes that came and were new.
    pub pulled: u64,
    /// Segments that came, of a first sync.
    pub segments: u64,
    /// Flights of messages that were sent and answered.
    pub round_trips: u64,
    /// Bytes sent, in frames.
    pub bytes_sent: u64,
    /// Bytes received, in frames.
    pub bytes_received: u64,
}

impl Sync {
    pub(crate) const fn new(replica: Replica, url: String) -> Self {
        Self { replica, url, spaces: Vec::new(), collections: None, transport: None }
    }

    /// Syncs this space even if nothing is in it yet. Spaces that are in the file are synced anyway.
    ///
    /// # Errors
    /// If the name breaks the rules of [`SpaceName`].
    pub fn space(mut self, name: &str) -> Result<Self, Error> {
        self.spaces.push(SpaceName::new(name)?);
        Ok(self)
    }

    /// Syncs these collections only, of the spaces that are named by [`space`](Self::space); what the library keeps
    /// in a space itself comes along.
    ///
    /// The file remembers this for each server and space, until it is changed: syncs that say nothing of
    /// collections keep to it. Collections that are added are fetched from the beginning. Those that are dropped
    /// leave this file, entity by entity, once the server has what was written to them here.
    ///
    /// # Errors
    /// If a name breaks the rules of [`CollectionName`], or there are more than 256.
    pub fn collections<S: AsRef<str>>(mut self, names: impl IntoIterator<Item = S>) -> Result<Self, Error> {
        let names = names.into_iter().map(CollectionName::new).collect::<Result<BTreeSet<_>, _>>()?;
        if names.len() > MAX_PULL_COLLECTIONS {
            return Err(Error::invalid(format!("more than {MAX_PULL_COLLECTIONS} collections by name")));
        }
        self.collections = Some(Some(names));
        Ok(self)
    }

    /// Syncs all collections again of the spaces that are named by [`space`](Self::space).
    #[must_use]
    pub fn all_collections(mut self) -> Self {
        self.collections = Some(None);
        self
    }

    /// Reaches the server through `transport` instead of a WebSocket to the URL.
    #[must_use]
    pub fn transport(mut self, transport: impl Transport) -> Self {
        self.transport = Some(Arc::new(transport));
        self
    }

    /// Starts to sync in the background: pushes what is pending, pulls what is new, follows changes as they
    /// come, and reconnects with backoff. It goes on until the handle is dropped.
    ///
    /// # Errors
    /// If the event loop cannot be started or the file cannot be written, or the URL needs the feature `tls` and this
    /// build lacks it. Being offline is no error.
    pub fn start(self) -> Result<SyncHandle, Error> {
        let (commands, receiver) = mpsc::unbounded_channel();
        let replica = self.replica.clone();
        let driver = self.driver(Mode::Forever, receiver)?;
        replica.runtime()?.spawn(async move {
            // A background sync ends only when it is told to, or for a reason that the status shows.
            drop(driver.run().await);
        });
        Ok(SyncHandle { commands, replica })
    }

    /// Syncs once: resolves when everything is on both sides, or to an error when the server cannot be reached
    /// or `deadline` has passed, or at once if the URL needs the feature `tls` and this build lacks it. What was done
    /// by then stays done.
    pub fn now(self, deadline: Duration) -> Commit<SyncReport> {
        let (promise, commit) = StoreCommit::pending();
        let replica = self.replica.clone();
        let (commands, receiver) = mpsc::unbounded_channel();
        let driver = self.driver(Mode::Once, receiver);
        match driver.and_then(|driver| Ok((driver, replica.runtime()?))) {
            Ok((driver, runtime)) => {
                runtime.spawn(async move {
                    let _open = commands;
                    let outcome = tokio::time::timeout(deadline, driver.run()).await;
                    promise.resolve(outcome.unwrap_or(Err(SyncError::Deadline)).map_err(Error::from));
                });
            }
            Err(error) => promise.resolve(Err(error)),
        }
        commit
    }

    fn driver(self, mode: Mode, commands: mpsc::UnboundedReceiver<Command>) -> Result<Driver, Error> {
        if self.collections.is_some() && self.spaces.is_empty() {
            return Err(Error::invalid("collections are chosen of a space: name it first, with `space`"));
        }
        let (url, spaces, collections) = (self.url.clone(), self.spaces.clone(), self.collections.clone());
        let transport = match self.transport {
            Some(transport) => transport,
            None => web_socket(&url)?,
        };
        // Held while the remote is found and marked, so that two syncs that start together do not share one.
        let mut in_use = self.replica.inner.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        let others: Vec<_> = in_use.iter().copied().collect();
        let remote: StoreCommit<_, StoreError> = self.replica.store().write(move |write| {
            spaces.iter().try_for_each(|space| write.ensure_space(space))?;
            let remote = write.ensure_remote(&url, &others)?;
            if let Some(wanted) = collections {
                spaces.iter().try_for_each(|space| write.want_collections(remote, space, wanted.clone()))?;
            }
            Ok(remote)
        });
        let remote = remote.wait()?;
        in_use.insert(remote);
        drop(in_use);
        Driver::new(&self.replica, remote, transport, mode, commands)
    }
}

/// The transport to a URL. One that can never work is found out before it is tried again and again.
fn web_socket(url: &str) -> Result<Arc<dyn Transport>, Error> {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    if !cfg!(feature = "tls") && matches!(scheme.as_deref(), Some("https" | "wss")) {
        return Err(Error::invalid(format!("{url} needs the feature `tls` of the `anabranch` crate")));
    }
    Ok(Arc::new(WebSocket::new(url)))
}

/// A sync in the background. It stops when the handle is dropped.
pub struct SyncHandle {
    commands: mpsc::UnboundedSender<Command>,
    replica: Replica,
}

impl fmt::Debug for SyncHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncHandle").field("replica", &self.replica).finish_non_exhaustive()
    }
}

impl SyncHandle {
    /// Tries again at once, without waiting for the backoff: the network is back, or a person asked.
    pub fn retry_now(&self) {
        // If the driver has ended, the status says why.
        drop(self.commands.send(Command::Retry));
    }

    /// Looks into the outbox: another process may have written to the file.
    pub fn look_again(&self) {
        drop(self.commands.send(Command::LookAgain));
    }

    /// Resolves when nothing is pending and nothing is left to pull, now or later.
    pub fn caught_up(&self) -> Commit<()> {
        let (promise, commit) = StoreCommit::pending();
        drop(self.commands.send(Command::CaughtUp(promise)));
        commit
    }
}

impl Drop for SyncHandle {
    fn drop(&mut self) {
        drop(self.commands.send(Command::Stop));
    }
}
