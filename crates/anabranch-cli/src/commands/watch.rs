//! `sync --watch`: a line for every change of the status, until ctrl-c.

use std::time::Duration;

use anabranch::{ErrorKind, Phase, Replica, Status, Sync};
use serde_json::json;
use tokio::signal::ctrl_c;
use tokio::time::{MissedTickBehavior, interval};

use crate::commands::progress;
use crate::error::CliError;
use crate::output::{Output, count, printable};

/// How often the file is asked whether another process has written to it.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(super) fn run(replica: &Replica, sync: Sync, url: &str, output: &mut Output) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Io(format!("cannot start an event loop: {error}")))?;
    runtime.block_on(watch(replica, sync, url, output))
}

async fn watch(replica: &Replica, sync: Sync, url: &str, output: &mut Output) -> Result<(), CliError> {
    let mut changes = replica.watch_status();
    let sync = sync.start()?;
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // What waits for other servers goes on waiting; only a rise is news.
    let mut settled = 0;
    let mut shown = String::new();
    loop {
        let status = changes.latest()?;
        let line = if output.is_json() { json(&status) } else { describe(&status, url) };
        if line != shown {
            output.line(&line)?;
            output.flush()?;
            shown = line;
        }
        if status.phase == Phase::Halted {
            let why = status.last_error.unwrap_or_else(|| "the sync has ended".to_owned());
            return Err(CliError::Sync { message: format!("{url}: {why}"), kind: ErrorKind::Refused });
        }
        tokio::select! {
            changed = changes.changed() => drop(changed?),
            interrupted = ctrl_c() => {
                return interrupted.map_err(|error| CliError::Io(format!("cannot wait for ctrl-c: {error}")));
            }
            _ = looks.tick() => if status.phase == Phase::Live {
                if status.pending > settled {
                    sync.look_again();
                }
                settled = status.pending;
            },
        }
    }
}

fn json(status: &Status) -> String {
    json!(status).to_string()
}

fn describe(status: &Status, url: &str) -> String {
    let phase = match status.phase {
        Phase::Idle => "idle",
        Phase::Connecting => "connecting",
        Phase::Syncing => "syncing",
        Phase::Live => "live",
        Phase::Waiting => "offline, trying again soon",
        Phase::Deferred => "waiting",
        Phase::Elsewhere => "another process syncs this file; waiting for its end",
        _ => "halted",
    };
    let why = match (&status.phase, &status.last_error) {
        (Phase::Waiting | Phase::Halted, Some(error)) => format!(" ({})", printable(error)),
        (Phase::Deferred, _) => status.waits_because().map(|why| format!(" ({why})")).unwrap_or_default(),
        _ => String::new(),
    };
    if let Some(progress) = &status.first_sync {
        return format!("{phase}{why}: {}; {url}", progress::describe(progress));
    }
    let pending = count(status.pending, "change");
    format!("{phase}{why}: {pending} pending, {}; {url}", count(status.entities, "entity"))
}
