//! The demo's server: a real one, on a loopback port, that can be stopped and started again.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anabranch::SpaceName;
use anabranch_server::{Backend, Server, ServerHandle, ServerOptions, SpaceOverview, SqliteBackend, SystemEnvironment};
use tokio::runtime::Runtime;

use crate::commands::serve::{FILE, with_causes};
use crate::error::CliError;

pub(super) struct DemoServer {
    runtime: Runtime,
    file: PathBuf,
    address: SocketAddr,
    running: Option<Running>,
}

struct Running {
    backend: Arc<SqliteBackend>,
    handle: ServerHandle,
}

impl DemoServer {
    /// Starts one that keeps its data in this folder.
    pub(super) fn start(folder: &Path) -> Result<Self, CliError> {
        let runtime = Runtime::new().map_err(|error| CliError::Io(format!("cannot start an event loop: {error}")))?;
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Self { runtime, file: folder.join(FILE), address: any_port, running: None };
        server.restart()?;
        Ok(server)
    }

    /// Starts it again, on the port that it had.
    pub(super) fn restart(&mut self) -> Result<(), CliError> {
        let backend = SqliteBackend::open(&self.file, Box::new(SystemEnvironment)).map_err(|error| failed(&error))?;
        let backend = Arc::new(backend);
        let handle = self.runtime.block_on(async {
            let shared = Arc::<SqliteBackend>::clone(&backend);
            Server::bind(self.address, shared, ServerOptions::default()).await.map(Server::spawn)
        });
        let handle = handle.map_err(|error| failed(&error))?;
        self.address = handle.local_addr();
        self.running = Some(Running { backend, handle });
        Ok(())
    }

    /// Stops it: nobody listens on its port any more, and its file is closed.
    pub(super) fn stop(&mut self) -> Result<(), CliError> {
        let Some(Running { handle, .. }) = self.running.take() else { return Ok(()) };
        self.runtime.block_on(handle.shutdown()).map_err(|error| failed(&error))
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it holds of a space, by its own count.
    pub(super) fn overview(&self, space: &SpaceName) -> Result<SpaceOverview, CliError> {
        let Some(running) = &self.running else { return Err(CliError::Server("the server is stopped".to_owned())) };
        self.runtime.block_on(running.backend.overview(space.clone())).map_err(|error| failed(&error))
    }
}

fn failed(error: &dyn std::error::Error) -> CliError {
    CliError::Server(with_causes(error))
}
