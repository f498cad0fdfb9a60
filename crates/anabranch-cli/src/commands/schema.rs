//! `schema diff` and `schema apply`.

use std::path::Path;

use anabranch::{Replica, Schema};
use anabranch_core::{Effect, SchemaChange};
use serde_json::json;

use crate::args::{SchemaApply, SchemaDiff};
use crate::commands;
use crate::error::CliError;
use crate::output::Output;

pub(crate) fn diff(arguments: &SchemaDiff, output: &mut Output) -> Result<(), CliError> {
    let (old, new) = (read(&arguments.old)?, read(&arguments.new)?);
    let changes = old.changes_to(&new);
    if output.is_json() {
        return output.json(&changes);
    }
    if new.version <= old.version && !changes.is_empty() {
        output
            .line(format!("raise the version above {}: a file of the old schema refuses the new one", old.version))?;
    }
    for change in &changes {
        output.line(line(change))?;
    }
    if changes.is_empty() { output.line("no difference") } else { Ok(()) }
}

/// Opens the file with the new schema, which brings it to that.
pub(crate) fn apply(arguments: &SchemaApply, output: &mut Output) -> Result<(), CliError> {
    let new = read(&arguments.schema)?;
    let before = commands::open(&arguments.file)?.schema().clone();
    let replica = Replica::at(&arguments.file).open_or_create(new)?;
    let changes = before.changes_to(replica.schema());
    if output.is_json() {
        return output.json(&json!({ "version": replica.schema().version, "changes": changes }));
    }
    for change in &changes {
        output.line(line(change))?;
    }
    output.line(format!("{} has version {} of its schema", arguments.file.display(), replica.schema().version))
}

/// Reads a schema file.
pub(crate) fn read(path: &Path) -> Result<Schema, CliError> {
    let text = std::fs::read_to_string(path).map_err(|error| CliError::path("read", path, &error))?;
    Ok(Schema::from_toml(&text).map_err(anabranch::Error::from)?)
}

fn line(change: &SchemaChange) -> String {
    let effect = match change.effect {
        Effect::None => "nothing changes for what is there",
        Effect::ReadsDifferently => "what is there reads differently",
        Effect::Shared => "what stayed here is pushed to servers",
        Effect::Hidden => "kept, but no longer in the SQL view",
        Effect::Refused => "REFUSED",
    };
    format!("{change}  [{effect}]")
}
