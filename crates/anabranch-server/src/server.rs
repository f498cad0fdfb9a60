//! The listening server.

use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anabranch_core::SpaceName;
use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, broadcast, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::backend::{Backend, Commit};
use crate::connection::{BoundedStream, Connection, Doors, network};
use crate::error::ServerError;
use crate::http::{Shared, router};
use crate::options::{ACCEPT_PAUSE, HEADER_TIMEOUT, MAX_HEAD_BYTES, SHUTDOWN_GRACE, ServerOptions};
use crate::segments::{Segments, Wanted};
use crate::session::Sessions;
use crate::stop::{Stop, reached};

/// A server that listens, and answers once it [runs](Server::run) or is [spawned](Server::spawn).
///
/// ```
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
/// # runtime.block_on(async {
/// use std::sync::Arc;
/// use anabranch_server::{Server, ServerOptions, SqliteBackend, SystemEnvironment};
///
/// let backend = Arc::new(SqliteBackend::open_in_memory(Box::new(SystemEnvironment))?);
/// let server = Server::bind("127.0.0.1:0".parse()?, backend, ServerOptions::default()).await?;
/// let handle = server.spawn();
/// println!("listening on {}", handle.local_addr());
/// handle.shutdown().await?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).expect("a server");
/// ```
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Sender<Stop>,
    commits: broadcast::Receiver<Commit>,
    wanted: Wanted,
    doors: Doors<IpAddr>,
    max_connections: u32,
}

impl Server {
    /// Listens on an address; port 0 takes any free one.
    ///
    /// # Errors
    /// [`ServerError`]: the address is public and nothing says who may do what, an option is out of range, or
    /// the address cannot be listened on.
    pub async fn bind(
        address: SocketAddr,
        backend: Arc<dyn Backend>,
        options: ServerOptions,
    ) -> Result<Self, ServerError> {
        options.check(address)?;
        let failed = |source| ServerError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (stop, stopped) = watch::channel(Stop::Run);
        let commits = backend.commits();
        let (doors, max_connections) = (Doors::new(options.max_connections_per_address), options.max_connections);
        let (authorizer, allowed_origins) = (options.authorizer.clone(), options.allowed_origins.clone());
        let (segments, wanted) = Segments::new(Arc::clone(&backend), options.segments.clone());
        let segments = Arc::new(segments);
        let sessions = Sessions::new(backend, Arc::clone(&segments), options);
        let shared = Arc::new(Shared { sessions, segments, authorizer, allowed_origins, stop: stopped });
        Ok(Self { listener, address, shared, stop, commits, wanted, doors, max_connections })
    }

    /// The address that it listens on.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` resolves; then takes no more connections, finishes and answers the pushes that
    /// have arrived, and says goodbye to the sessions. Dropping the future ends everything at once.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        let Self { listener, address, shared, stop, commits, wanted, doors, max_connections } = self;
        tracing::info!(%address, "listening");
        let places = Arc::new(Semaphore::new(usize::try_from(max_connections).unwrap_or(Semaphore::MAX_PERMITS)));
        let building = shared.segments.run(commits.resubscribe(), wanted);
        let hints = shared.sessions.hub().listen(Arc::clone(shared.sessions.backend()), commits);
        let serving = async {
            tokio::select! {
                () = accept(&listener, &shared, &places, &doors) => {}
                () = shutdown => {}
            }
            tracing::info!("stopping");
            drop(listener);
            stop.send_replace(Stop::Drain);
            // Every connection and every session has a place: when all places are free, all have ended.
            if timeout(SHUTDOWN_GRACE, places.acquire_many(max_connections)).await.is_err() {
                tracing::warn!("some sessions did not end in time");
                stop.send_replace(Stop::Kill);
                drop(places.acquire_many(max_connections).await);
            }
        };
        // If the backend gives no hints, pushes and pulls work all the same.
        let background = async { tokio::join!(hints, building) };
        tokio::pin!(serving, background);
        tokio::select! {
            () = &mut serving => return,
            _ = &mut background => {}
        }
        serving.await;
    }

    /// Runs it as a task of the current Tokio runtime.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    #[must_use = "dropping the handle stops the server"]
    pub fn spawn(self) -> ServerHandle {
        let (stop, stopped) = oneshot::channel::<()>();
        let (address, shared) = (self.address, Arc::clone(&self.shared));
        let task = tokio::spawn(self.run(async {
            drop(stopped.await); // sent or dropped: both mean "stop"
        }));
        ServerHandle { address, stop, task, shared }
    }
}

/// A running server. Dropping it stops the server as [`shutdown`](Self::shutdown) does, without waiting.
pub struct ServerHandle {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    shared: Arc<Shared>,
}

impl fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerHandle").field("address", &self.address).finish_non_exhaustive()
    }
}

impl ServerHandle {
    /// The address that it listens on.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the segments of a space go up to this place of its log, or beyond. They are built in the
    /// background, and not after every change: for tests and tools.
    pub async fn segments_reach(&self, space: &SpaceName, seq: u64) {
        self.shared.segments.reach(space, seq).await;
    }

    /// Stops: finishes and answers the pushes that have arrived, ends the sessions, and returns when that is
    /// done, or after ten seconds.
    ///
    /// # Errors
    /// [`ServerError::Aborted`] if the server's task panicked.
    pub async fn shutdown(self) -> Result<(), ServerError> {
        drop((self.stop, self.shared));
        self.task.await.map_err(|_| ServerError::Aborted)
    }

    /// Stops at once, in the middle of whatever it is doing: as a crash would, for tests. What was
    /// acknowledged is durable all the same.
    pub async fn abort(self) {
        drop(self.shared);
        self.task.abort();
        // It was cancelled, so this is an error, and the one that was asked for.
        drop(self.task.await);
    }
}

async fn accept(listener: &TcpListener, shared: &Arc<Shared>, places: &Arc<Semaphore>, doors: &Doors<IpAddr>) {
    let router = router(Arc::clone(shared));
    loop {
        // First a place, then a connection: whoever is too many waits in the kernel's queue.
        let Ok(place) = Arc::clone(places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let Some(door) = doors.enter(network(peer)) else {
                    tracing::debug!(%peer, "too many connections from one address");
                    continue;
                };
                tracing::trace!(%peer, "connected");
                let meter = shared.sessions.memory().meter(network(peer));
                let connection = Arc::new(Connection::new(place, door, meter));
                let serving = serve(stream, router.clone(), Arc::clone(&connection), Arc::clone(shared));
                drop(tokio::spawn(async move {
                    serving.await;
                    // Last, so that the storage is closed once all places are free.
                    drop(connection);
                }));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, router: Router, place: Arc<Connection>, shared: Arc<Shared>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "the connection is gone");
        return;
    }
    let stream = BoundedStream::new(stream, Arc::clone(&place.meter));
    let service = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        // Whatever came before it has been answered.
        place.meter.settle();
        request.extensions_mut().insert(Arc::clone(&place));
        service.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = reached(shared.stop.clone(), Stop::Drain) => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                served = connection.as_mut() => served,
                () = reached(shared.stop.clone(), Stop::Kill) => Ok(()),
            }
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection failed");
    }
}
