//! `conflicts`, `resolve` and `why`.

use anabranch::{Choice, Conflict, ConflictKind, Contender, Replica};
use serde_json::{Value, json};

use crate::args::{Conflicts, Resolve, Why};
use crate::commands;
use crate::commands::edit::record;
use crate::error::CliError;
use crate::output::{Output, plain, printable, shortened};

/// The widest value that is printed.
const VALUE_WIDTH: usize = 60;
/// Changes that `why` lists of a field that merges.
const WRITERS: usize = 10;

pub(crate) fn list(arguments: &Conflicts, output: &mut Output) -> Result<(), CliError> {
    let replica = commands::open(&arguments.file)?;
    let space = replica.space(&arguments.space.space)?;
    let conflicts = match &arguments.id {
        Some(prefix) => space.conflicts(record(&space, prefix)?.id)?,
        None => space.open_conflicts(arguments.limit)?,
    };
    if output.is_json() {
        return output.json(&conflicts);
    }
    if conflicts.is_empty() {
        return output.line("nothing to decide");
    }
    conflicts.iter().try_for_each(|conflict| show(&replica, conflict, output))
}

fn show(replica: &Replica, conflict: &Conflict, output: &mut Output) -> Result<(), CliError> {
    let Conflict { entity, collection, field, reason, .. } = conflict;
    let state = match conflict.kind {
        ConflictKind::Values if conflict.open => "waits for a person; until then the last writer's value is shown",
        ConflictKind::Values => "settled by policy",
        ConflictKind::Rule => "a merge has broken a rule",
        ConflictKind::Orphan => "orphaned",
    };
    output.line(format!("{collection} {entity}  {}: {state} ({})", printable(field), printable(reason)))?;
    if conflict.contenders.is_empty() {
        return output.line(format!("     {}", shortened(&plain(&conflict.value), VALUE_WIDTH)));
    }
    for (number, contender) in conflict.contenders.iter().enumerate() {
        let at = commands::iso_time(replica, contender.written_at)?;
        let who = commands::who(replica, &contender.actor);
        let how = if contender.resolution { ", a resolution" } else { "" };
        let value = shortened(&plain(&contender.value), VALUE_WIDTH);
        output.line(format!("  {number}  {value}  ({who}, {at}{how})"))?;
    }
    Ok(())
}

pub(crate) fn resolve(arguments: &Resolve, output: &mut Output) -> Result<(), CliError> {
    let replica = commands::open(&arguments.file)?;
    let space = replica.space(&arguments.space.space)?;
    let id = record(&space, &arguments.id)?.id;
    let conflicts = space.conflicts(id)?;
    let conflict = conflicts
        .iter()
        .find(|conflict| conflict.kind == ConflictKind::Values && conflict.field == arguments.field)
        .ok_or_else(|| CliError::NotFound(format!("nothing is contested in {:?} of {id}", arguments.field)))?;
    space.resolve(conflict, choice(arguments)?).wait()?;
    let value = space.get(id)?.and_then(|record| record.state.get(&arguments.field).cloned());
    output.either(&json!({ "id": id, "field": arguments.field, "value": value }), format!("{id} resolved"))
}

fn choice(arguments: &Resolve) -> Result<Choice, CliError> {
    match (arguments.take, &arguments.value, &arguments.json_value) {
        (Some(number), ..) => Ok(Choice::This(number)),
        (_, Some(text), _) => Ok(Choice::Value(Value::String(text.clone()))),
        (.., json) => serde_json::from_str(json.as_deref().unwrap_or("null"))
            .map(Choice::Value)
            .map_err(|error| CliError::Usage(format!("--json-value: {error}"))),
    }
}

pub(crate) fn why(arguments: &Why, output: &mut Output) -> Result<(), CliError> {
    let replica = commands::open(&arguments.file)?;
    let space = replica.space(&arguments.space.space)?;
    let id = record(&space, &arguments.id)?.id;
    let explanation = space.explain(id, &arguments.field).wait()?;
    let mut writers = space.history(id, None, usize::MAX).wait()?;
    writers.retain(|entry| entry.fields.contains(&arguments.field));
    let policy = explanation.policy.as_ref().map(ToString::to_string);
    if output.is_json() {
        let contender = |one: &Contender| {
            json!({
                "value": one.value, "actor": one.actor, "mine": one.actor.is_of(&replica.id()),
                "written_at": one.stamp.millis(), "change": one.change, "resolution": one.resolution,
            })
        };
        return output.json(&json!({
            "field": arguments.field,
            "kind": explanation.kind,
            "policy": policy,
            "value": explanation.value,
            "contenders": explanation.contenders.iter().map(contender).collect::<Vec<_>>(),
            "writers": writers.iter().map(|entry| super::history::object(&replica, entry)).collect::<Vec<_>>(),
        }));
    }
    let shown = shortened(&plain(&explanation.value), VALUE_WIDTH);
    output.line(format!("{} is a {}: {shown}", arguments.field, explanation.kind.as_str()))?;
    let line = |one: &Contender| -> Result<String, CliError> {
        let at = commands::iso_time(&replica, one.stamp.millis())?;
        let value = shortened(&plain(&one.value), VALUE_WIDTH);
        Ok(format!("{value}  ({}, {at})", commands::who(&replica, &one.actor)))
    };
    match explanation.contenders.as_slice() {
        [] => output.line("  it merges what everybody wrote:")?,
        [only] => output.line(format!("  written by  {}", line(only)?))?,
        [winner, losers @ ..] => {
            output.line(format!("  chosen by {}  {}", policy.unwrap_or_default(), line(winner)?))?;
            for loser in losers {
                output.line(format!("  lost  {}", line(loser)?))?;
            }
        }
    }
    for entry in writers.iter().take(WRITERS) {
        output.line(format!("    {}", super::history::line(&replica, entry)?))?;
    }
    match writers.len().saturating_sub(WRITERS) {
        0 => Ok(()),
        more => output.line(format!("    … and {more} earlier changes")),
    }
}
