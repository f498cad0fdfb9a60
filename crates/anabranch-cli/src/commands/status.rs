//! `status`: what is pending, and how the sync stands.

use anabranch::Status as ReplicaStatus;
use serde_json::json;

use crate::args::Status;
use crate::commands;
use crate::error::CliError;
use crate::output::{Output, count, printable, size};

pub(crate) fn run(arguments: &Status, output: &mut Output) -> Result<(), CliError> {
    let replica = commands::open(&arguments.file)?;
    let status = replica.status()?;
    let time = |millis: Option<i64>| millis.map(|millis| commands::iso_time(&replica, millis)).transpose();
    let last_sync = time(status.last_success_at)?;
    let oldest = time(status.oldest_pending_at)?;
    if output.is_json() {
        let mut object = json!(status);
        object["file"] = arguments.file.display().to_string().into();
        object["replica"] = json!(replica.id());
        object["lost"] = json!(replica.lost()?);
        return output.json(&object);
    }
    output.line(format!("{}  replica {}", arguments.file.display(), replica.id()))?;
    let mut line = |name: &str, value: String| output.line(format!("  {name:<12}{value}"));
    line("server", status.url.as_deref().map_or_else(|| "none yet".to_owned(), printable))?;
    line("entities", status.entities.to_string())?;
    line(
        "pending",
        match status.pending {
            0 => "nothing".to_owned(),
            pending => {
                let since = oldest.map(|at| format!(", the oldest of {at}")).unwrap_or_default();
                format!("{} ({}){since}", count(pending, "change"), size(status.pending_bytes))
            }
        },
    )?;
    line("last sync", last_sync.unwrap_or_else(|| "never".to_owned()))?;
    for (name, value) in troubles(&status) {
        line(name, value)?;
    }
    if let Some(lost) = replica.lost()? {
        let seen = commands::iso_time(&replica, lost.seen_at)?;
        output.line(format!("  {:<12}{} ({seen}, replica {})", "lost", printable(&lost.to_string()), lost.replica))?;
        // Told once; it must not frighten anybody for ever.
        replica.forget_lost().wait()?;
    }
    Ok(())
}

/// What a person may have to look at.
fn troubles(status: &ReplicaStatus) -> Vec<(&'static str, String)> {
    let counted = [
        ("to decide", status.open_conflicts, "conflict"),
        ("contested", status.conflicts, "value"),
        ("refused", status.parked, "change"),
        ("quarantined", status.quarantined, "foreign change"),
        ("waiting", status.orphaned, "foreign change"),
    ];
    let mut troubles: Vec<_> = counted
        .into_iter()
        .filter(|(_, number, _)| *number > 0)
        .map(|(name, number, thing)| (name, count(number, thing)))
        .collect();
    if status.failures > 0 {
        let why = status.last_error.as_deref().unwrap_or("for an unknown reason");
        troubles.push(("failed", format!("{} in a row: {}", count(status.failures.into(), "attempt"), printable(why))));
    }
    troubles
}
