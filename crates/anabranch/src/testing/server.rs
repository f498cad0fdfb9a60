//! A server in memory: core's session over a log that is kept in vectors.

mod log;
mod presence;
mod session;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anabranch_core::wire::Answer;
use anabranch_core::{CollectionName, Digest, EntityId, Environment as _, Lineage, SpaceName, SplitMix64};
use tokio::sync::watch;

use super::{Clock, Link};
use crate::sync::{LinkError, Token};
use log::Log;
use presence::Shown;

/// A sync server without network or files, for tests. Cheap to clone; all clones are one server.
///
/// It speaks the real protocol, by the same state machine as the real server, and can be told to misbehave. Replicas
/// reach it by a [`Link`].
///
/// ```
/// # use anabranch::testing::{Clock, Refusal, Server};
/// let server = Server::new(&Clock::at(1_750_000_000_000));
/// server.refuse(|collection, _| (collection == "invoices").then(|| Refusal::reject("the year is closed")));
/// ```
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Clock,
    state: Mutex<State>,
    /// Counts whatever sessions may have to look at.
    changed: watch::Sender<u64>,
}

struct State {
    lineage: Lineage,
    entropy: SplitMix64,
    spaces: BTreeMap<SpaceName, Log>,
    rule: Option<Rule>,
    token: Option<Token>,
    /// The answer to the next connections, and to how many of them.
    answers: Option<(LinkError, u32)>,
    silent: bool,
    /// How often the tokens of all open sessions have expired.
    expirations: u64,
    shown: Shown,
    /// The number of the session that came last.
    sessions: u64,
    /// Raised when the log is exchanged: what sessions know is no longer true.
    generation: u64,
}

type Rule = Box<dyn Fn(&str, EntityId) -> Option<Refusal> + Send>;

/// What a server held at some time, to be put back later.
#[derive(Clone)]
pub struct Snapshot {
    lineage: Lineage,
    spaces: BTreeMap<SpaceName, Log>,
}

/// What a server answers to a change that it does not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    answer: Answer,
}

impl Refusal {
    /// It will never take it, and says why.
    #[must_use]
    pub fn reject(message: &str) -> Self {
        Self { answer: log::rejected(message, false) }
    }

    /// It does not take it now, but may later.
    #[must_use]
    pub fn not_now(message: &str) -> Self {
        Self { answer: log::rejected(message, true) }
    }

    /// It holds it back until this entity is there.
    #[must_use]
    pub const fn hold_for(parent: EntityId) -> Self {
        Self { answer: Answer::Held { missing: anabranch_core::wire::Missing::Parent(parent) } }
    }
}

impl Server {
    /// An empty server with a history of its own, whose time is `clock`'s.
    #[must_use]
    pub fn new(clock: &Clock) -> Self {
        let mut environment = clock.environment();
        let mut entropy = SplitMix64::new(environment.entropy().next_u64());
        let state = State {
            lineage: Lineage::mint(clock.now(), &mut entropy),
            entropy,
            spaces: BTreeMap::new(),
            rule: None,
            token: None,
            answers: None,
            silent: false,
            expirations: 0,
            shown: Shown::default(),
            sessions: 0,
            generation: 0,
        };
        let shared = Shared { clock: clock.clone(), state: Mutex::new(state), changed: watch::Sender::new(0) };
        Self { shared: Arc::new(shared) }
    }

    /// A way to reach it, for [`Sync::transport`](crate::Sync::transport). Each has its own faults.
    #[must_use]
    pub fn link(&self) -> Link {
        Link::to(self.clone())
    }

    /// How many changes it holds of a space, the schema that every space carries among them.
    #[must_use]
    pub fn changes(&self, space: &str) -> u64 {
        self.with_log(space, |log| u64::try_from(log.len()).unwrap_or(u64::MAX)).unwrap_or(0)
    }

    /// The ids of a space's entities in the order in which they first came.
    #[must_use]
    pub fn entities(&self, space: &str) -> Vec<EntityId> {
        self.with_log(space, Log::entities).unwrap_or_default()
    }

    /// The digest of a space: equal to [`Replica::space_digest`](crate::Replica::space_digest) if both hold the same.
    #[must_use]
    pub fn digest(&self, space: &str) -> Option<Digest> {
        self.with_log(space, Log::digest)
    }

    /// Answers changes for which the rule gives a refusal with that; the rule sees collection and entity. It takes the
    /// place of an earlier rule.
    pub fn refuse(&self, rule: impl Fn(&str, EntityId) -> Option<Refusal> + Send + 'static) {
        self.lock().rule = Some(Box::new(rule));
    }

    /// Takes everything again.
    pub fn accept_all(&self) {
        self.lock().rule = None;
    }

    /// Answers the next `times` connections with an HTTP status, such as 429 or 503, instead of a session.
    pub fn answer_connections(&self, status: u16, retry_after: Option<Duration>, times: u32) {
        self.lock().answers = Some((LinkError::http(status, retry_after), times));
    }

    /// Accepts only connections with this token: others are answered with 401.
    pub fn require_token(&self, token: impl Into<Token>) {
        self.lock().token = Some(token.into());
    }

    /// Open sessions end as they do when their tokens have expired: the server refuses to go on.
    pub fn expire_tokens(&self) {
        self.lock().expirations += 1;
        self.tell_sessions();
    }

    /// From now on it reads what it is sent and says nothing; or speaks again, in new sessions.
    pub fn set_silent(&self, silent: bool) {
        self.lock().silent = silent;
    }

    /// What it holds now, for [`restore`](Self::restore).
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let state = self.lock();
        Snapshot { lineage: state.lineage, spaces: state.spaces.clone() }
    }

    /// Puts a snapshot back, as somebody does with a backup. Open sessions end.
    pub fn restore(&self, snapshot: &Snapshot) {
        let Snapshot { lineage, spaces } = snapshot.clone();
        self.exchange_log(|_| lineage, spaces);
    }

    /// Throws everything away: an empty server with another history. Open sessions end.
    pub fn wipe(&self) {
        let now = self.shared.clock.now();
        self.exchange_log(|state| Lineage::mint(now, &mut state.entropy), BTreeMap::new());
    }

    fn exchange_log(&self, lineage: impl FnOnce(&mut State) -> Lineage, spaces: BTreeMap<SpaceName, Log>) {
        let mut state = self.lock();
        state.lineage = lineage(&mut state);
        state.spaces = spaces;
        state.generation += 1;
        drop(state);
        self.tell_sessions();
    }

    fn tell_sessions(&self) {
        self.shared.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn with_log<T>(&self, space: &str, look: impl FnOnce(&Log) -> T) -> Option<T> {
        let space = SpaceName::new(space).ok()?;
        self.lock().spaces.get(&space).map(look)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether a connection with this token gets a session.
    fn admit(&mut self, token: Option<&Token>) -> Result<(), LinkError> {
        if let Some((error, times)) = self.answers.take() {
            if times > 1 {
                self.answers = Some((error.clone(), times - 1));
            }
            return Err(error);
        }
        match &self.token {
            Some(required) if Some(required) != token => Err(LinkError::http(401, None)),
            _ => Ok(()),
        }
    }

    fn refusal(&self, collection: &CollectionName, entity: EntityId) -> Option<Answer> {
        self.rule.as_ref()?(collection.as_str(), entity).map(|refusal| refusal.answer)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").finish_non_exhaustive()
    }
}
