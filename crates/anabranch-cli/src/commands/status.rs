//! `status`: what is pending, and how the sync stands.

use anabranch::Status as ReplicaStatus;
use serde_json::json;

use crate::args::Status;
use crate::commands::{self, progress, repair};
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
        object["damaged_entities"] = json!(replica.damaged()?);
        return output.json(&object);
    }
    output.line(format!("{}  replica {}", arguments.file.display(), replica.id()))?;
    let mut line = |name: &str, value: String| output.line(format!("  {name:<12}{value}"));
    line("server", status.url.as_deref().map_or_else(|| "none yet".to_owned(), printable))?;
    line("schema", format!("version {}", status.schema_version))?;
    line("entities", status.entities.to_string())?;
    line("pending", pending(&status, oldest.as_deref()))?;
    if let Some(progress) = &status.first_sync {
        line("first sync", progress::describe(progress))?;
    }
    line("last sync", last_sync.unwrap_or_else(|| "never".to_owned()))?;
    for (name, value) in troubles(&status) {
        line(name, value)?;
    }
    for damaged in replica.damaged()? {
        line("", repair::describe(&damaged))?;
    }
    if let Some(at) = time(status.next_retry_at)? {
        line("next try", at)?;
    }
    if let Some(lost) = replica.lost()? {
        let seen = commands::iso_time(&replica, lost.seen_at)?;
        output.line(format!("  {:<12}{} ({seen}, replica {})", "lost", printable(&lost.to_string()), lost.replica))?;
        // Told once; it must not frighten anybody for ever.
        replica.forget_lost().wait()?;
    }
    Ok(())
}

fn pending(status: &ReplicaStatus, oldest: Option<&str>) -> String {
    if status.pending == 0 {
        return "nothing".to_owned();
    }
    let age = status.oldest_pending_age_millis.map(|age| format!(" ({} ago)", duration(age))).unwrap_or_default();
    let since = oldest.map(|at| format!(", the oldest of {at}{age}")).unwrap_or_default();
    format!("{} ({}){since}", count(status.pending, "change"), size(status.pending_bytes))
}

/// What a person may have to look at.
fn troubles(status: &ReplicaStatus) -> Vec<(&'static str, String)> {
    let counted = [
        ("to decide", status.open_conflicts, "conflict"),
        ("contested", status.conflicts, "value"),
        ("refused", status.parked, "change"),
        ("held", status.held, "change"),
        ("quarantined", status.quarantined, "foreign change"),
        ("waiting", status.orphaned, "foreign change"),
        ("damaged", status.damaged, "entity"),
    ];
    let mut troubles: Vec<_> = counted
        .into_iter()
        .filter(|(_, number, _)| *number > 0)
        .map(|(name, number, thing)| (name, count(number, thing)))
        .collect();
    if let Some(first) = &status.first_refusal {
        let place = format!("{} {} in {}", first.collection, first.entity, first.space);
        troubles.push(("first of them", format!("{place}: {}", printable(&first.error))));
    }
    if status.failures > 0 {
        let why = status.last_error.as_deref().unwrap_or("for an unknown reason");
        let rarely = if status.circuit_open { "; it is tried only now and then" } else { "" };
        let attempts = count(status.failures.into(), "attempt");
        troubles.push(("failed", format!("{attempts} in a row: {}{rarely}", printable(why))));
    } else if let Some(error) = &status.last_error {
        troubles.push(("failed", printable(error)));
    }
    if let Some(ahead) = status.clock_skew_millis {
        let side = if ahead > 0 { "behind" } else { "ahead of" };
        troubles.push(("clock", format!("{} {side} the server's", duration(ahead.saturating_abs()))));
    }
    troubles
}

/// A length of time in its largest unit.
fn duration(millis: i64) -> String {
    let seconds = millis / 1_000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_is_told_in_its_largest_unit() {
        let told = [999, 119_000, 120_000, 7_199_000, 7_200_000, 172_800_000].map(duration);
        assert_eq!(told, ["0 s", "119 s", "2 min", "119 min", "2 h", "2 days"]);
    }
}
