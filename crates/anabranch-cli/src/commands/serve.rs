//! `serve`: a sync server in the foreground.

use std::io::{IsTerminal as _, stderr};
use std::sync::Arc;

use anabranch_server::{
    Authorizer, Quota, SegmentOptions, Server, ServerError, ServerOptions, SqliteBackend, SystemEnvironment,
    TokenAuthorizer, TokenSecret,
};
use serde_json::json;
use tokio::runtime::Runtime;
use tracing_subscriber::EnvFilter;

use crate::args::Serve;
use crate::error::CliError;
use crate::output::Output;

/// The server's file in its folder.
pub(crate) const FILE: &str = "server.db";
/// The folder of the segments of first syncs, in the server's. What is in it can be built again.
const SEGMENTS: &str = "segments";
/// How large that folder may become.
const MAX_SEGMENTS_BYTES: u64 = 4 << 30;

pub(crate) fn run(arguments: &Serve, output: &mut Output) -> Result<(), CliError> {
    log_to_stderr();
    std::fs::create_dir_all(&arguments.dir).map_err(|error| CliError::path("make", &arguments.dir, &error))?;
    let file = arguments.dir.join(FILE);
    let backend = SqliteBackend::open(&file, Box::new(SystemEnvironment))
        .map_err(|error| CliError::Server(format!("{}: {}", file.display(), with_causes(&error))))?;
    let options = options(arguments)?;
    let runtime = Runtime::new().map_err(|error| CliError::Io(format!("cannot start an event loop: {error}")))?;
    runtime.block_on(async {
        let server = Server::bind(arguments.listen, Arc::new(backend), options).await.map_err(refused)?;
        let stop = stop_signal().map_err(|error| CliError::Io(format!("cannot wait for signals: {error}")))?;
        let url = format!("http://{}", server.local_addr());
        let folder = arguments.dir.display();
        output.either(&json!({ "listening": url }), format_args!("listening on {url}, data in {folder}"))?;
        output.flush()?;
        server.run(stop).await;
        Ok(())
    })
}

fn options(arguments: &Serve) -> Result<ServerOptions, CliError> {
    let mebibytes = |count: u32| u64::from(count) << 20;
    let quota = Quota {
        entity: mebibytes(arguments.quota_entity),
        space: mebibytes(arguments.quota_space),
        principal: mebibytes(arguments.quota_principal),
    };
    Ok(ServerOptions {
        authorizer: authorizer(arguments)?,
        allow_public_without_auth: arguments.allow_public_without_auth,
        relay_own: arguments.relay_own.clone(),
        max_connections: arguments.max_connections,
        max_connections_per_address: arguments.max_connections_per_address,
        max_memory: usize::try_from(mebibytes(arguments.max_memory)).unwrap_or(usize::MAX),
        quota,
        segments: SegmentOptions {
            folder: Some(arguments.dir.join(SEGMENTS)),
            max_bytes: MAX_SEGMENTS_BYTES,
            ..SegmentOptions::default()
        },
        ..ServerOptions::default()
    })
}

fn authorizer(arguments: &Serve) -> Result<Option<Arc<dyn Authorizer>>, CliError> {
    let Some(file) = &arguments.auth_secret_file else { return Ok(None) };
    let secret = TokenSecret::from_file(file).map_err(|error| CliError::path("use", file, &error))?;
    let tokens = TokenAuthorizer::new(secret);
    Ok(Some(Arc::new(match &arguments.auth_audience {
        Some(audience) => tokens.audience(audience),
        None => tokens,
    })))
}

fn refused(error: ServerError) -> CliError {
    match error {
        ServerError::PublicWithoutAuth(address) => CliError::Server(format!(
            "{address} is reachable from other machines, and everyone could read and write everything; \
             give --auth-secret-file, or --allow-public-without-auth if that is meant"
        )),
        other => CliError::Server(with_causes(&other)),
    }
}

/// The error and what it is due to, in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Logs what `RUST_LOG` asks for (warnings by default) on standard error.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    subscriber.with_ansi(stderr().is_terminal()).init();
}

/// Resolves on ctrl-c and on a polite request to end. The signals are caught from the call on.
#[cfg(unix)]
pub(super) fn stop_signal() -> std::io::Result<impl Future<Output = ()> + Send> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Resolves on ctrl-c.
#[cfg(not(unix))]
pub(super) fn stop_signal() -> std::io::Result<impl Future<Output = ()> + Send> {
    Ok(async {
        drop(tokio::signal::ctrl_c().await);
    })
}
