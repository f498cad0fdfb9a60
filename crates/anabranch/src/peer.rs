//! Replicas that sync straight with each other.

mod answer;
mod channel;
mod lead;
mod session;
#[cfg(test)]
mod tests;
mod written;

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::sync::{PeerRole, PeerToken};
use anabranch_core::{ErrorKind, ReplicaId, SpaceName};
use anabranch_store::StoreError;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::timeout;
use tracing::{debug, info};

use crate::Commit;
use crate::error::Error;
use crate::replica::Replica;

use channel::Channel;
use session::{Allowed, Bounds, Session};

/// Sessions that a listener holds at the same time; whoever comes later waits.
const MAX_SESSIONS: usize = 16;
/// Connections whose other side has not proved yet that it knows the token. When there are more, the oldest is given up:
/// whoever knows it has proved it in two round trips.
const MAX_HANDSHAKES: usize = 64;
/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long to wait when no connection can be accepted (no more file descriptors, for instance).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// What waits to be read inside a process, in bytes.
const PIPE_BYTES: usize = 256 << 10;

/// Why a session with a peer ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    #[error("the peer cannot be reached: {0}")]
    Unreachable(String),
    #[error("the connection to the peer broke: {0}")]
    Broken(String),
    #[error("the peer does not know the token")]
    Token,
    #[error("the peer does not keep to the protocol: {0}")]
    Protocol(String),
    #[error("the deadline came before everything was exchanged")]
    Deadline,
    #[error("there are too many entities in the space {0} to reconcile")]
    TooMany(SpaceName),
    #[error("there are more than {most} spaces: name those that are to be exchanged")]
    TooManySpaces { most: usize },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PeerError {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Unreachable(_) | Self::Broken(_) | Self::Deadline => ErrorKind::Retry,
            Self::Token | Self::Protocol(_) | Self::TooMany(_) | Self::TooManySpaces { .. } => ErrorKind::Refused,
            Self::Store(error) => error.kind(),
        }
    }
}

/// What a session with a peer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct PeerReport {
    /// The other replica.
    pub peer: ReplicaId,
    /// Changes that the peer took.
    pub sent: u64,
    /// Changes that this replica took.
    pub received: u64,
    /// Changes that this replica refused: they are in quarantine, with the reason.
    pub refused: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Bytes received.
    pub bytes_received: u64,
}

type OnSession = Arc<dyn Fn(Result<PeerReport, Error>) + Send + Sync>;

/// Sync with other replicas, without a server: this one dials, or listens. Made by [`Replica::peer`].
///
/// Both sides prove that they know the same token, which never leaves the machine, and trust each other from then on
/// as members of every space that they exchange. What they say is sealed against being altered, but not hidden: use a
/// network that you trust, or a tunnel.
///
/// ```
/// use std::time::Duration;
///
/// use anabranch::{PeerToken, Replica, Schema};
/// # fn main() -> Result<(), anabranch::Error> {
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// # let schema = Schema::from_toml("version = 1\n[collections.notes.fields]\ntitle = { kind = \"register\" }")?;
/// let phone = Replica::open(folder.path().join("phone.db"), schema.clone())?;
/// let laptop = Replica::open(folder.path().join("laptop.db"), schema)?;
/// phone.space("home")?.untyped("notes")?.create(serde_json::json!({ "title": "Milk" })).wait()?;
///
/// let token = PeerToken::new("a long random text")?;
/// let listener = laptop.peer(token.clone()).listen("127.0.0.1:0".parse().expect("an address"))?;
/// let address = listener.local_addr().to_string();
/// let report = phone.peer(token).dial(&address, Duration::from_secs(60)).wait()?;
/// assert_eq!((report.sent, report.received), (1, 0));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Peer {
    replica: Replica,
    token: PeerToken,
    spaces: Vec<SpaceName>,
    on_session: Option<OnSession>,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("spaces", &self.spaces).finish_non_exhaustive()
    }
}

impl Replica {
    /// Sync with other replicas that know this token, without a server.
    #[must_use]
    pub fn peer(&self, token: PeerToken) -> Peer {
        Peer { replica: self.clone(), token, spaces: Vec::new(), on_session: None }
    }
}

impl Peer {
    /// Exchanges this space, and others only if they are named as well. Without it, all spaces of both files are
    /// exchanged.
    ///
    /// # Errors
    /// If the name breaks the rules of [`SpaceName`].
    pub fn space(mut self, name: &str) -> Result<Self, Error> {
        self.spaces.push(SpaceName::new(name)?);
        Ok(self)
    }

    /// Calls this after every session, on the library's thread. It may block, and may itself sync or dial.
    #[must_use]
    pub fn on_session(mut self, told: impl Fn(Result<PeerReport, Error>) + Send + Sync + 'static) -> Self {
        self.on_session = Some(Arc::new(told));
        self
    }

    /// Exchanges changes with the replica that listens at `address` (`host:port`), once and both ways: resolves when
    /// both hold the same, unless something was written meanwhile. What was done until an error stays done.
    pub fn dial(self, address: &str, deadline: Duration) -> Commit<PeerReport> {
        let (promise, commit) = anabranch_store::Commit::pending();
        let address = address.to_owned();
        match self.replica.runtime() {
            Ok(runtime) => {
                let peer = self.clone();
                drop(runtime.spawn(async move {
                    let outcome = timeout(deadline, peer.lead_once(&address)).await;
                    let outcome = outcome.unwrap_or(Err(PeerError::Deadline));
                    promise.resolve(outcome.map_err(Error::from));
                }));
            }
            Err(error) => promise.resolve(Err(error)),
        }
        commit
    }

    /// Dials `address`, and goes on until the handle is dropped or the connection breaks: what is written on either
    /// side reaches the other at once; what another process writes to either file, within a second.
    /// [`Peer::on_session`] is told the end.
    ///
    /// # Errors
    /// If the event loop cannot be started.
    pub fn follow(self, address: &str) -> Result<PeerHandle, Error> {
        let address = address.to_owned();
        let peer = self.clone();
        let task = self.replica.runtime()?.spawn(async move {
            let outcome = peer.lead_live(&address).await;
            peer.tell(outcome);
        });
        Ok(PeerHandle { task, _replica: self.replica })
    }

    /// Listens at `address` for replicas that dial, and answers them until the listener is dropped. Port 0 takes any
    /// free one.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub fn listen(self, address: SocketAddr) -> Result<PeerListener, Error> {
        let listening = std::net::TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok((listener.local_addr()?, listener))
        });
        let refused = |error: std::io::Error| Error::invalid(format!("cannot listen on {address}: {}", error.kind()));
        let (local, listener) = listening.map_err(refused)?;
        let replica = self.replica.clone();
        let runtime = replica.runtime()?;
        let entered = runtime.enter();
        let listener = TcpListener::from_std(listener).map_err(refused)?;
        drop(entered);
        let task = runtime.spawn(self.accept(listener));
        Ok(PeerListener { local, handle: PeerHandle { task, _replica: replica } })
    }

    async fn accept(self, listener: TcpListener) {
        let mut sessions = JoinSet::new();
        let mut handshakes = JoinSet::new();
        // In the order in which they came.
        let mut unproved: VecDeque<AbortHandle> = VecDeque::new();
        loop {
            unproved.retain(|handshake| !handshake.is_finished());
            // Those that have proved it keep their place until there is one for their session.
            let proved = handshakes.len() - unproved.len().min(handshakes.len());
            tokio::select! {
                biased;
                Some(_) = sessions.join_next() => {}
                Some(greeted) = handshakes.join_next(), if sessions.len() < MAX_SESSIONS => {
                    if let Ok(Some(session)) = greeted {
                        let peer = self.clone();
                        sessions.spawn(async move { peer.tell(answer(session).await) });
                    }
                }
                accepted = listener.accept(), if proved < MAX_HANDSHAKES => {
                    let Ok((stream, _)) = accepted else {
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    };
                    if handshakes.len() >= MAX_HANDSHAKES
                        && let Some(oldest) = unproved.pop_front()
                    {
                        oldest.abort();
                    }
                    let peer = self.clone();
                    unproved.push_back(handshakes.spawn(async move { peer.greet(stream).await }));
                }
            }
        }
    }

    /// The session with whoever has dialled, if it knows the token.
    async fn greet(&self, stream: TcpStream) -> Option<Session> {
        // No Nagle: each message waits for its answer.
        let ready = stream.set_nodelay(true).map_err(|error| PeerError::Broken(error.kind().to_string()));
        let greeted = match ready {
            Ok(()) => self.session(stream, PeerRole::Listener).await,
            Err(error) => Err(error),
        };
        greeted.map_err(|error| self.tell(Err(error))).ok()
    }

    async fn lead_once(&self, address: &str) -> Result<PeerReport, PeerError> {
        let mut session = self.session(connect(address).await?, PeerRole::Dialler).await?;
        session.lead_all().await?;
        Ok(session.report())
    }

    async fn lead_live(&self, address: &str) -> Result<PeerReport, PeerError> {
        let mut session = self.session(connect(address).await?, PeerRole::Dialler).await?;
        session.lead_live().await?;
        Ok(session.report())
    }

    async fn session<S>(&self, stream: S, role: PeerRole) -> Result<Session, PeerError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (channel, peer) = Channel::open(stream, role, &self.token, self.replica.id()).await?;
        info!(%peer, ?role, "a peer");
        let allowed = Allowed::new(self.spaces.clone());
        Ok(Session::new(self.replica.store().clone(), channel, peer, allowed))
    }

    fn tell(&self, outcome: Result<PeerReport, PeerError>) {
        if let Err(error) = &outcome {
            debug!(%error, "a session with a peer has ended");
        }
        if let Some(told) = &self.on_session {
            tokio::task::block_in_place(|| told(outcome.map_err(Error::from)));
        }
    }
}

async fn answer(mut session: Session) -> Result<PeerReport, PeerError> {
    session.answer().await?;
    Ok(session.report())
}

async fn connect(address: &str) -> Result<TcpStream, PeerError> {
    let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
    let stream = connected.map_err(|_| PeerError::Unreachable("no answer".to_owned()))?;
    let stream = stream.map_err(|error| PeerError::Unreachable(error.kind().to_string()))?;
    stream.set_nodelay(true).map_err(|error| PeerError::Broken(error.kind().to_string()))?;
    Ok(stream)
}

/// Two replicas in one process exchange what they have, as peers do, but need not prove anything.
pub(crate) async fn exchange(one: &Replica, other: &Replica) -> Result<PeerReport, PeerError> {
    exchange_within(one, other, Bounds::STREAM).await
}

async fn exchange_within(one: &Replica, other: &Replica, bounds: Bounds) -> Result<PeerReport, PeerError> {
    let (here, there) = tokio::io::duplex(PIPE_BYTES);
    let all = || Allowed::new(Vec::new());
    let session =
        |replica: &Replica, pipe, peer| Session::new(replica.store().clone(), Channel::trusted(pipe), peer, all());
    let (mut leading, mut answering) = (session(one, here, other.id()), session(other, there, one.id()));
    (leading.bounds, answering.bounds) = (bounds, bounds);
    let answers = tokio::spawn(async move { answering.answer().await });
    let led = leading.lead_all().await;
    let report = leading.report();
    // Hangs up.
    drop(leading);
    let answered = answers.await.map_err(|_| PeerError::Broken("the other side panicked".to_owned()))?;
    // Of the two ends of a failure, the cause is the one that is not about the connection.
    match (led, answered) {
        (Ok(()), Ok(())) => Ok(report),
        (Err(PeerError::Broken(_)) | Ok(()), Err(error)) | (Err(error), _) => Err(error),
    }
}

/// A session in the background. It ends when the handle is dropped.
#[derive(Debug)]
pub struct PeerHandle {
    task: JoinHandle<()>,
    /// The task runs on its runtime.
    _replica: Replica,
}

impl Drop for PeerHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A replica that listens for peers. It stops when this is dropped.
#[derive(Debug)]
pub struct PeerListener {
    local: SocketAddr,
    handle: PeerHandle,
}

impl PeerListener {
    /// The address that it listens on.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Whether it still listens.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        !self.handle.task.is_finished()
    }
}
