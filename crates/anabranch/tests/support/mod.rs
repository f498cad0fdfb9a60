//! What the library's tests share: files in a folder, and a server that can be stopped and started.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anabranch::{Collection, Digest, Replica, Schema, SpaceName, Sync, SystemEnvironment};
use anabranch_server::{Backend as _, SegmentOptions, Server, ServerHandle, ServerOptions, SqliteBackend};
use tokio::runtime::Runtime;

/// A hang guard, not a measurement.
pub(crate) const GUARD: Duration = Duration::from_secs(120);

pub(crate) fn schema() -> Schema {
    let text = r#"
        version = 1
        [collections.notes.fields]
        title = { kind = "register" }
        body = { kind = "text" }
        stars = { kind = "counter" }
        tags = { kind = "set" }
        items = { kind = "list" }
    "#;
    Schema::from_toml(text).expect("the tests' schema")
}

pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    pub(crate) fn replica(&self, file: &str) -> Replica {
        Replica::open(self.path(file), schema()).expect("a replica")
    }
}

pub(crate) fn notes(replica: &Replica) -> Collection {
    replica.space("main").and_then(|space| space.untyped("notes")).expect("the notes")
}

pub(crate) fn main_space() -> SpaceName {
    SpaceName::new("main").expect("a space name")
}

/// A server in the background, on a port of its own, with its log in a file.
pub(crate) struct TestServer {
    runtime: Runtime,
    handle: Option<ServerHandle>,
    /// Kept, so that it can be seen when nobody else has it any more.
    backend: Option<Arc<SqliteBackend>>,
    address: SocketAddr,
    path: PathBuf,
    segments: SegmentOptions,
}

impl TestServer {
    pub(crate) fn start(path: PathBuf) -> Self {
        Self::start_with(path, SegmentOptions::default())
    }

    pub(crate) fn start_with(path: PathBuf, segments: SegmentOptions) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (handle, backend, address) = runtime.block_on(serve(&path, any, segments.clone()));
        Self { runtime, handle: Some(handle), backend: Some(backend), address, path, segments }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops it in the middle of whatever it does. Its file is closed when this returns.
    pub(crate) fn kill(&mut self) {
        if let Some(handle) = self.handle.take() {
            self.runtime.block_on(handle.abort());
        }
        if let Some(backend) = self.backend.take() {
            // Its sessions end a little later, each by itself.
            let alone = async {
                while Arc::strong_count(&backend) > 1 {
                    tokio::task::yield_now().await;
                }
            };
            self.runtime.block_on(async { tokio::time::timeout(GUARD, alone).await }).expect("the sessions end");
        }
    }

    /// Starts it again, on the same file and port.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let (handle, backend, address) = self.runtime.block_on(serve(&self.path, self.address, self.segments.clone()));
        assert_eq!(address, self.address);
        (self.handle, self.backend) = (Some(handle), Some(backend));
    }

    /// Starts it again, and builds segments in another way.
    pub(crate) fn restart_with(&mut self, segments: SegmentOptions) {
        self.segments = segments;
        self.restart();
    }

    /// Waits until the segments of the `main` space go up to this place of its log.
    pub(crate) fn segments_reach(&self, seq: u64) {
        let handle = self.handle.as_ref().expect("it runs");
        let reached = async { tokio::time::timeout(GUARD, handle.segments_reach(&main_space(), seq)).await };
        self.runtime.block_on(reached).expect("the segments are built");
    }

    /// Stops it, and reads what its file holds of the `main` space: entities, changes, and their digest.
    pub(crate) fn kill_and_count(&mut self) -> (u64, u64, Digest) {
        self.kill();
        let backend = SqliteBackend::open(&self.path, Box::new(SystemEnvironment::new())).expect("a backend");
        let overview = self.runtime.block_on(backend.overview(main_space())).expect("an overview");
        assert_eq!(overview.head.seq, overview.changes, "no gaps");
        (overview.entities, overview.changes, overview.digest)
    }

    /// The sync of a replica's `main` space with this server.
    pub(crate) fn sync(&self, replica: &Replica) -> Sync {
        replica.sync(&self.url()).space("main").expect("a space name")
    }
}

async fn serve(
    path: &std::path::Path,
    address: SocketAddr,
    segments: SegmentOptions,
) -> (ServerHandle, Arc<SqliteBackend>, SocketAddr) {
    let backend = Arc::new(SqliteBackend::open(path, Box::new(SystemEnvironment::new())).expect("a backend"));
    let options = ServerOptions { segments, ..ServerOptions::default() };
    let server = Server::bind(address, Arc::<SqliteBackend>::clone(&backend), options).await.expect("a server");
    let address = server.local_addr();
    (server.spawn(), backend, address)
}
