//! `conflicts`, `resolve` and `why`.

use anabranch::{Choice, Conflict, ConflictKind, Contender, Contest, Explanation, Path, Replica, Step};
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
    // A field's name has no dot in it.
    let field = arguments.field.split('.').next().unwrap_or_default();
    let contests = space.explain(id, field).wait()?.contests;
    let path = contests.into_iter().find(|contest| contest.id == conflict.id).map(|contest| contest.path);
    space.resolve(conflict, choice(arguments)?).wait()?;
    let state = space.get(id)?.map(|record| record.state).unwrap_or_default();
    let value = state.get(field).and_then(|value| inside(value, &path.unwrap_or_default()));
    output.either(&json!({ "id": id, "field": arguments.field, "value": value }), format!("{id} resolved"))
}

/// What is at a place in a field's value.
fn inside<'a>(value: &'a Value, path: &Path) -> Option<&'a Value> {
    path.0.iter().try_fold(value, |value, step| match step {
        Step::Key(key) => value.get(key),
        Step::Index(at) => value.get(at),
    })
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
    if output.is_json() {
        return output.json(&json!({
            "field": arguments.field,
            "kind": explanation.kind,
            "policy": explanation.policy.as_ref().map(ToString::to_string),
            "value": explanation.value,
            "contenders": contenders(&replica, &explanation.contenders, &explanation.value),
            "contests": explanation.contests.iter().map(|contest| object(&replica, contest)).collect::<Vec<_>>(),
            "writers": writers.iter().map(|entry| super::history::object(&replica, entry)).collect::<Vec<_>>(),
        }));
    }
    explain(&replica, &arguments.field, &explanation, output)?;
    for entry in writers.iter().take(WRITERS) {
        output.line(format!("    {}", super::history::line(&replica, entry)?))?;
    }
    match writers.len().saturating_sub(WRITERS) {
        0 => Ok(()),
        more => output.line(format!("    … and {more} earlier changes")),
    }
}

/// Says what is shown in a field, who chose it, and what lost, in the field and inside it.
fn explain(replica: &Replica, field: &str, explanation: &Explanation, output: &mut Output) -> Result<(), CliError> {
    let Explanation { kind, policy, value, contenders, contests, .. } = explanation;
    output.line(format!("{field} is a {}: {}", kind.as_str(), shortened(&plain(value), VALUE_WIDTH)))?;
    match contenders.as_slice() {
        [] => output.line("  it merges what everybody wrote:")?,
        [only] => output.line(format!("  written by  {}", line(replica, only)?))?,
        several => {
            let policy = policy.as_ref().map(ToString::to_string).unwrap_or_default();
            choice_lines(replica, &policy, value, several, "  ", output)?;
        }
    }
    for contest in contests.iter().filter(|contest| !contest.path.0.is_empty()) {
        let shown = shortened(&plain(&contest.value), VALUE_WIDTH);
        output.line(format!("  {}: {shown}", printable(&contest.place())))?;
        choice_lines(replica, &contest.policy.to_string(), &contest.value, &contest.contenders, "    ", output)?;
    }
    Ok(())
}

/// The writers of what is shown, and what lost. A policy may show a value that is nobody's.
fn choice_lines(
    replica: &Replica,
    policy: &str,
    shown: &Value,
    contenders: &[Contender],
    indent: &str,
    output: &mut Output,
) -> Result<(), CliError> {
    let (chosen, lost): (Vec<_>, Vec<_>) = contenders.iter().partition(|one| one.value == *shown);
    if chosen.is_empty() {
        output.line(format!("{indent}made by {policy}  {}", shortened(&plain(shown), VALUE_WIDTH)))?;
    }
    for (number, one) in chosen.into_iter().enumerate() {
        let how = if number == 0 { format!("chosen by {policy}") } else { "the same".to_owned() };
        output.line(format!("{indent}{how}  {}", line(replica, one)?))?;
    }
    lost.into_iter().try_for_each(|one| output.line(format!("{indent}lost  {}", line(replica, one)?)))
}

fn line(replica: &Replica, one: &Contender) -> Result<String, CliError> {
    let at = commands::iso_time(replica, one.stamp.millis())?;
    let value = shortened(&plain(&one.value), VALUE_WIDTH);
    Ok(format!("{value}  ({}, {at})", commands::who(replica, &one.actor)))
}

fn object(replica: &Replica, contest: &Contest) -> Value {
    json!({
        "field": contest.place(),
        "policy": contest.policy.to_string(),
        "open": contest.open,
        "value": contest.value,
        "contenders": contenders(replica, &contest.contenders, &contest.value),
    })
}

fn contenders(replica: &Replica, contenders: &[Contender], shown: &Value) -> Value {
    let contender = |one: &Contender| {
        json!({
            "value": one.value, "actor": one.actor, "mine": one.actor.is_of(&replica.id()),
            "written_at": one.stamp.millis(), "change": one.change, "resolution": one.resolution,
            "lost": one.value != *shown,
        })
    };
    contenders.iter().map(contender).collect()
}
