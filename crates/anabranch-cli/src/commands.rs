//! The commands, one file each (those that only read share one), and what they have in common.

pub(crate) mod conflicts;
pub(crate) mod create;
pub(crate) mod edit;
pub(crate) mod history;
pub(crate) mod init;
pub(crate) mod outbox;
pub(crate) mod peer;
mod progress;
pub(crate) mod read;
pub(crate) mod repair;
pub(crate) mod schema;
pub(crate) mod serve;
pub(crate) mod status;
pub(crate) mod sync;
pub(crate) mod token;
pub(crate) mod verify;
mod watch;

use std::path::Path;

use anabranch::Replica;
use anabranch_core::{Actor, Collection, UnixMillis};
use serde_json::Value;

use crate::error::CliError;

/// Opens a replica that is there already.
pub(crate) fn open(file: &Path) -> Result<Replica, CliError> {
    Ok(Replica::at(file).existing()?)
}

/// A collection of the replica's schema.
fn collection<'a>(replica: &'a Replica, name: &str) -> Result<&'a Collection, CliError> {
    let schema = replica.schema();
    schema.collection(name).ok_or_else(|| {
        let known: Vec<_> = schema.collections.keys().map(ToString::to_string).collect();
        CliError::NotFound(format!("the schema has no collection {name:?}; it has {}", known.join(", ")))
    })
}

/// A time as ISO 8601. SQLite knows the calendar.
fn iso_time(replica: &Replica, millis: UnixMillis) -> Result<String, CliError> {
    let sql = "SELECT strftime('%Y-%m-%dT%H:%M:%SZ', ?1 / 1000, 'unixepoch') AS at";
    let rows = replica.query(sql, &[millis.into()])?;
    let at = rows.into_iter().next().and_then(|row| row.get("at").and_then(Value::as_str).map(str::to_owned));
    // SQLite's calendar ends with the year 9999, and a clock may be wrong by more.
    Ok(at.unwrap_or_else(|| format!("{millis} ms")))
}

/// Who wrote something: this replica, or the end of the writer's name.
fn who(replica: &Replica, actor: &Actor) -> String {
    if actor.is_of(&replica.id()) {
        return "this replica".to_owned();
    }
    let name = actor.to_string();
    let kind = if actor.is_derived() { "import" } else { "replica" };
    format!("{kind} {}", &name[name.len().saturating_sub(8)..])
}
