//! `sync`: once, or until ctrl-c.

use std::path::Path;
use std::time::Duration;

use anabranch::{ErrorKind, Replica, SyncReport};
use serde_json::json;

use crate::args::Sync;
use crate::commands::{self, progress, watch};
use crate::error::CliError;
use crate::output::{Output, count, size};

pub(crate) fn run(arguments: &Sync, output: &mut Output) -> Result<(), CliError> {
    let replica = commands::open(&arguments.file)?;
    let url = server(&replica, arguments.url.as_deref().or(arguments.server.as_deref()), &arguments.file)?;
    if arguments.watch {
        return watch::run(&replica, configured(&replica, &url, arguments)?, &url, output);
    }
    let sync = configured(&replica, &url, arguments)?;
    let _shown = progress::show(&replica, output)?;
    let report = sync.now(Duration::from_secs(arguments.timeout.into())).wait();
    let report = report.map_err(|error| failure(&replica, &url, &error))?;
    let mut object = json!(report);
    object["url"] = url.clone().into();
    output.either(&object, format_args!("{url}: {}", describe(&report)))?;
    if report.finished {
        return Ok(());
    }
    let message = format!("{url}: the time was up before everything was synced{}", kept(report.pending));
    Err(CliError::Sync { message, kind: ErrorKind::Retry })
}

/// The sync that was asked for.
fn configured(replica: &Replica, url: &str, arguments: &Sync) -> Result<anabranch::Sync, CliError> {
    let sync = replica.sync(url).space(&arguments.space.space)?;
    let sync = if arguments.adopt { sync.adopt() } else { sync };
    let sync = signed_in(sync, arguments.token.read()?);
    match arguments.collections.as_slice() {
        [] => Ok(sync),
        [all] if all == "all" => Ok(sync.all_collections()),
        names => Ok(sync.collections(names)?),
    }
}

/// With the token, if there is one.
pub(super) fn signed_in(sync: anabranch::Sync, token: Option<String>) -> anabranch::Sync {
    match token {
        Some(token) => sync.token(token),
        None => sync,
    }
}

/// The URL that was given, or the one of the last sync.
pub(super) fn server(replica: &Replica, given: Option<&str>, file: &Path) -> Result<String, CliError> {
    match given {
        Some(url) => address(url),
        None => replica.status()?.url.ok_or_else(|| {
            CliError::Usage(format!("no server is known yet: anabranch sync {} http://HOST:PORT", file.display()))
        }),
    }
}

/// The report in a line.
pub(crate) fn describe(report: &SyncReport) -> String {
    let bytes = format!("{} out, {} in", size(report.bytes_sent), size(report.bytes_received));
    // What was refused earlier is not sent again, and must not be forgotten.
    let refused = match report.refused.max(report.parked.saturating_add(report.held)) {
        0 => String::new(),
        refused => format!(", {refused} refused or held (see outbox)"),
    };
    let known = match report.duplicates {
        0 => String::new(),
        duplicates => format!(" ({duplicates} more were there already)"),
    };
    let trips = count(report.round_trips, "round trip");
    format!("{} pushed{known}, {} pulled{refused}; {bytes}, {trips}", report.pushed, report.pulled)
}

/// The server's URL in one form, so that the file knows it again.
pub(super) fn address(url: &str) -> Result<String, CliError> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let rest = rest.trim_end_matches('/');
    if !["http", "https", "ws", "wss"].contains(&scheme) || rest.is_empty() {
        return Err(CliError::Usage(format!("{url:?} is not the URL of a server, like http://127.0.0.1:7700")));
    }
    Ok(format!("{scheme}://{rest}"))
}

/// What went wrong, and what is kept.
fn failure(replica: &Replica, url: &str, error: &anabranch::Error) -> CliError {
    let pending = replica.status().map_or(0, |status| status.pending);
    let advice = if error.other_lineage().is_some() { " (sync --adopt)" } else { "" };
    CliError::Sync { message: format!("{url}: {error}{advice}{}", kept(pending)), kind: error.kind() }
}

fn kept(pending: u64) -> String {
    match pending {
        0 => String::new(),
        1 => "; 1 change is safe in the file and waits".to_owned(),
        pending => format!("; {pending} changes are safe in the file and wait"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_earlier_is_named_again() {
        let mut report = SyncReport::default();
        assert!(!describe(&report).contains("refused"));
        (report.parked, report.held) = (1, 2);
        assert!(describe(&report).contains("3 refused or held (see outbox)"), "{}", describe(&report));
    }

    #[test]
    fn a_server_has_one_address() {
        for url in ["http://127.0.0.1:7700/", "127.0.0.1:7700", "http://127.0.0.1:7700"] {
            assert_eq!(address(url).ok().as_deref(), Some("http://127.0.0.1:7700"));
        }
        for url in ["", "http://", "ftp://x"] {
            assert!(address(url).is_err(), "{url}");
        }
    }
}
