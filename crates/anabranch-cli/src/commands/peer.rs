//! `peer`: two replicas, no server.

use std::path::Path;
use std::time::Duration;

use anabranch::{Error, Peer, PeerReport, PeerToken, Replica};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::args::{self, PeerDial, PeerListen};
use crate::commands;
use crate::commands::serve::stop_signal;
use crate::error::CliError;
use crate::output::{Output, count, size};

/// Sessions whose end has not been printed yet; beyond it, they are not printed.
const TOLD: usize = 256;

pub(crate) fn listen(arguments: &PeerListen, output: &mut Output) -> Result<(), CliError> {
    let replica = commands::open(&arguments.file)?;
    let (told, mut sessions) = mpsc::channel(TOLD);
    let peer = peer(&replica, &arguments.token)?.on_session(move |outcome| drop(told.try_send(outcome)));
    let listener = peer.listen(arguments.addr)?;
    let (address, file) = (listener.local_addr(), arguments.file.display());
    output.either(&json!({ "listening": address.to_string() }), format_args!("listening on {address} for {file}"))?;
    output.flush()?;
    runtime()?.block_on(async {
        let stop = stop_signal().map_err(|error| CliError::Io(format!("cannot wait for signals: {error}")))?;
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => return Ok(()),
                ended = sessions.recv() => match ended {
                    None => return Ok(()),
                    Some(ended) => {
                        tell(&ended, output)?;
                        output.flush()?;
                        if arguments.once {
                            return ended.map(drop).map_err(|error| failure(&address.to_string(), &error));
                        }
                    }
                },
            }
        }
    })
}

pub(crate) fn dial(arguments: &PeerDial, output: &mut Output) -> Result<(), CliError> {
    let replica = commands::open(&arguments.file)?;
    let peer = peer(&replica, &arguments.token)?;
    let address = arguments.address.as_str();
    if !arguments.watch {
        let report = peer.dial(address, Duration::from_secs(arguments.timeout.into())).wait();
        let report = report.map_err(|error| failure(address, &error))?;
        return tell(&Ok(report), output);
    }
    let (told, mut ended) = mpsc::channel(1);
    let following = peer.on_session(move |outcome| drop(told.try_send(outcome))).follow(address)?;
    output.either(&json!({ "following": address }), format_args!("following {address}"))?;
    output.flush()?;
    runtime()?.block_on(async {
        let stop = stop_signal().map_err(|error| CliError::Io(format!("cannot wait for signals: {error}")))?;
        tokio::select! {
            () = stop => Ok(()),
            ended = ended.recv() => match ended {
                None => Ok(()),
                Some(Ok(report)) => tell(&Ok(report), output),
                Some(Err(error)) => Err(failure(address, &error)),
            },
        }
    })?;
    drop(following);
    Ok(())
}

fn runtime() -> Result<Runtime, CliError> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|error| CliError::Io(format!("cannot start an event loop: {error}")))
}

fn peer(replica: &Replica, arguments: &args::PeerToken) -> Result<Peer, CliError> {
    let token = match (&arguments.token_file, &arguments.token_env) {
        (Some(file), _) => read(file)?,
        (None, Some(name)) => {
            std::env::var(name).map_err(|_| CliError::Usage(format!("the variable {name} holds no token")))?
        }
        (None, None) => return Err(CliError::Usage("give --token-file or --token-env".to_owned())),
    };
    let token = PeerToken::new(token.trim()).map_err(|error| CliError::Usage(error.to_string()))?;
    arguments.spaces.iter().try_fold(replica.peer(token), |peer, space| Ok(peer.space(space)?))
}

fn read(file: &Path) -> Result<String, CliError> {
    std::fs::read_to_string(file).map_err(|error| CliError::path("read", file, &error))
}

fn tell(outcome: &Result<PeerReport, Error>, output: &mut Output) -> Result<(), CliError> {
    match outcome {
        Ok(report) => {
            let bytes = format!("{} out, {} in", size(report.bytes_sent), size(report.bytes_received));
            let refused = match report.refused {
                0 => String::new(),
                refused => format!(", {} refused (in quarantine)", count(refused, "change")),
            };
            let line =
                format!("peer {}: {} sent, {} received{refused}; {bytes}", report.peer, report.sent, report.received);
            output.either(&json!(report), line)
        }
        Err(error) => output.either(&json!({ "failed": error.to_string() }), format_args!("a session failed: {error}")),
    }
}

fn failure(address: &str, error: &Error) -> CliError {
    CliError::Sync { message: format!("{address}: {error}"), kind: error.kind() }
}
