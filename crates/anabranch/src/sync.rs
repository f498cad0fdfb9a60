//! Sync with a server: configure, start, follow.

mod driver;
mod first_sync;
mod handle;
mod link;
mod look;
mod place;
mod token;
mod verify;
mod websocket;

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::sync::{Adopt, Conditions, Halt, Schedule};
use anabranch_core::wire::MAX_PULL_COLLECTIONS;
use anabranch_core::{CollectionName, ErrorKind, Lineage, SpaceName};
use anabranch_store::Commit as StoreCommit;
use tokio::sync::mpsc;

use crate::Commit;
use crate::error::Error;
use crate::replica::Replica;

pub(crate) use driver::Turns;
pub use handle::SyncHandle;
pub use link::{FarEnd, Link, LinkError, Transport};
pub(crate) use place::InUse;
pub use token::{Token, TokenError, TokenRequest};
pub use verify::{DifferingEntity, VerifyReport};
pub use websocket::WebSocket;

use driver::{Command, Driver, Mode};
use place::Place;
use token::TokenSource;

/// Why a sync ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SyncError {
    /// The server could not be reached, or the connection broke.
    #[error("offline: {0}")]
    Offline(String),
    /// This file is damaged.
    #[error("{0}")]
    Damaged(String),
    /// Somebody else syncs this file with this server.
    #[error("another process syncs this file with this server; what is pending goes with that")]
    Elsewhere,
    /// The deadline came first.
    #[error("the deadline came before everything was synced")]
    Deadline,
    /// The server does not accept who asks.
    #[error("the server refuses: {0}")]
    Auth(String),
    /// It will not get better by itself.
    #[error("{}", describe(.0))]
    Halted(Halt),
}

impl SyncError {
    pub(crate) const fn kind(&self) -> ErrorKind {
        match self {
            Self::Offline(_) | Self::Deadline | Self::Elsewhere => ErrorKind::Retry,
            Self::Damaged(_) => ErrorKind::Damaged,
            Self::Auth(_) | Self::Halted(_) => ErrorKind::Refused,
        }
    }
}

fn describe(halt: &Halt) -> String {
    match halt {
        Halt::OtherLineage(lineage) => {
            format!(
                "the server has another history ({lineage}) than the one synced with before; nothing was sent. If it is \
                 the right server, adopt its history"
            )
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
    collections: Option<Wanted>,
    /// A WebSocket to the URL if there is none.
    transport: Option<Arc<dyn Transport>>,
    plan: Plan,
}

/// How a sync is to go about it.
pub(crate) struct Plan {
    token: Option<TokenSource>,
    schedule: Schedule,
    conditions: Conditions,
    adopt: Adopt,
    /// Which collections of these spaces are wanted, if that is to be changed.
    wanted: Option<(Vec<SpaceName>, Wanted)>,
}

impl fmt::Debug for Sync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sync").field("url", &self.url).field("spaces", &self.spaces).finish_non_exhaustive()
    }
}

/// What a bounded sync did, and what it left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct SyncReport {
    /// Whether everything is on both sides that can be: not what is [`parked`](Self::parked) or [`held`](Self::held). If
    /// not, the deadline came first: the rest waits for the next time.
    pub finished: bool,
    /// Changes that are still pending.
    pub pending: u64,
    /// Their size.
    pub pending_bytes: u64,
    /// Changes that the server took.
    pub pushed: u64,
    /// Changes that the server had already.
    pub duplicates: u64,
    /// Changes that the server refused or holds, of those that were sent this time.
    pub refused: u64,
    /// Changes that a server has refused, now or earlier: they wait for a person.
    pub parked: u64,
    /// Changes that wait for something that must be on the server first.
    pub held: u64,
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
    pub(crate) fn new(replica: Replica, url: String) -> Self {
        let (schedule, conditions) = (Schedule::default(), Conditions::default());
        let plan = Plan { token: None, schedule, conditions, adopt: Adopt::Nothing, wanted: None };
        Self { replica, url, spaces: Vec::new(), collections: None, transport: None, plan }
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

    /// Goes on with the server even if its history is not the one that this file was synced with before: what each side
    /// lacks of the other is found out and exchanged. Without this, such a sync ends with an error that names the
    /// server's history ([`Error::other_lineage`]), and nothing is uploaded.
    ///
    /// Ask a person first: whatever is in this file goes to that server, and the other way round. It holds for the
    /// history that is found there now, not for a later one.
    #[must_use]
    pub const fn adopt(mut self) -> Self {
        self.plan.adopt = Adopt::Any;
        self
    }

    /// As [`Sync::adopt`], if the server's history is just this one.
    #[must_use]
    pub const fn adopt_lineage(mut self, lineage: Lineage) -> Self {
        self.plan.adopt = Adopt::Only(lineage);
        self
    }

    /// Connects with this token, in the header `Authorization: Bearer …`. If the server refuses it, the sync waits
    /// until [`SyncHandle::set_token`] brings another.
    #[must_use]
    pub fn token(mut self, token: impl Into<Token>) -> Self {
        self.plan.token = Some(TokenSource::Static(token.into()));
        self
    }

    /// Asks `provide` for a token before each connection, and once more, for a [`Fresh`](TokenRequest::Fresh) one, if
    /// the server refuses it. The call may block: it has a thread of its own. Together with the connection it has a
    /// minute; then it is given up, and is a failed attempt.
    ///
    /// ```no_run
    /// use anabranch::{Replica, TokenError, TokenRequest};
    ///
    /// # fn keychain() -> Option<String> { None }
    /// # fn sign_in_again() -> Option<String> { None }
    /// # fn follow(replica: &Replica) -> Result<(), anabranch::Error> {
    /// let sync = replica.sync("https://notes.example").token_from(|request| {
    ///     let token = match request {
    ///         TokenRequest::Any => keychain(),
    ///         TokenRequest::Fresh => sign_in_again(),
    ///     };
    ///     token.map(Into::into).ok_or_else(|| TokenError::SignedOut("nobody is signed in".to_owned()))
    /// });
    /// let handle = sync.start()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn token_from(
        mut self,
        provide: impl Fn(TokenRequest) -> Result<Token, TokenError> + Send + std::marker::Sync + 'static,
    ) -> Self {
        self.plan.token = Some(TokenSource::blocking(provide));
        self
    }

    /// As [`token_from`](Self::token_from), for a provider that is async. It runs on the library's event loop.
    #[must_use]
    pub fn token_from_async<R>(
        mut self,
        provide: impl Fn(TokenRequest) -> R + Send + std::marker::Sync + 'static,
    ) -> Self
    where
        R: Future<Output = Result<Token, TokenError>> + Send + 'static,
    {
        self.plan.token = Some(TokenSource::future(provide));
        self
    }

    /// How eager it is; [`Schedule::live`] unless told otherwise.
    #[must_use]
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.plan.schedule = schedule;
        self
    }

    /// What the device is like now; [`SyncHandle::set_conditions`] tells of changes.
    #[must_use]
    pub const fn conditions(mut self, conditions: Conditions) -> Self {
        self.plan.conditions = conditions;
        self
    }

    /// Starts to sync in the background: pushes what is pending, pulls what is new, follows changes as they
    /// come, and reconnects with backoff. It goes on until the handle is dropped. When it does what is up to
    /// [`schedule`](Self::schedule) and [`conditions`](Self::conditions); by default it begins at once, unless the
    /// wait after failures before a restart is not over. While another
    /// process syncs this file with the server, it waits ([`Phase::Elsewhere`](crate::Phase::Elsewhere)), and takes over
    /// when that ends.
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
        Ok(SyncHandle::new(commands, replica))
    }

    /// Syncs once, now: resolves when everything is on both sides but for what the server refuses or holds, or when
    /// `deadline` has passed: then the report says what was done and what is left. For the bounded time that a system
    /// grants in the background.
    ///
    /// It overrides every guardrail of the schedule, but not a server that asked to be left alone (`Retry-After`).
    /// It resolves to an error when the server cannot be reached or refuses, or
    /// another process syncs this file with it and does not end within a second, or at once if the URL needs the feature
    /// `tls` and this build lacks it. What was done by then stays done.
    pub fn now(self, deadline: Duration) -> Commit<SyncReport> {
        let (promise, commit) = StoreCommit::pending();
        let replica = self.replica.clone();
        let (commands, receiver) = mpsc::unbounded_channel();
        let driver = self.driver(Mode::Once { deadline }, receiver);
        match driver.and_then(|driver| Ok((driver, replica.runtime()?))) {
            Ok((driver, runtime)) => {
                runtime.spawn(async move {
                    let _open = commands;
                    promise.resolve(driver.run().await.map_err(Error::from));
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
        let Self { replica, url, spaces, collections, transport, mut plan } = self;
        let transport = match transport {
            Some(transport) => transport,
            None => web_socket(&url)?,
        };
        plan.wanted = collections.map(|wanted| (spaces.clone(), wanted));
        let place = Place::find(&replica, url, spaces)?;
        Driver::new(&replica, place, transport, plan, mode, commands)
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
