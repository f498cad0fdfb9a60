//! `history`, `diff`, `undo` and `redo`.

use anabranch::{Action, EntityId, Heads, HistoryEntry, Replica, Space};
use serde_json::{Value, json};

use crate::args::{Diff, History, OneEntity};
use crate::commands;
use crate::commands::edit::record;
use crate::error::CliError;
use crate::output::{Output, count, plain, shortened};

/// The digits of a hash that a person is shown.
const SHORT_HASH: usize = 12;
/// The widest value that is printed.
const VALUE_WIDTH: usize = 60;

pub(crate) fn run(arguments: &History, output: &mut Output) -> Result<(), CliError> {
    let replica = commands::open(&arguments.file)?;
    let space = replica.space(&arguments.space.space)?;
    let id = record(&space, &arguments.id)?.id;
    let entries = space.history(id, None, arguments.limit).wait()?;
    if output.is_json() {
        return output.json(&entries.iter().map(|entry| object(&replica, entry)).collect::<Vec<_>>());
    }
    entries.iter().try_for_each(|entry| output.line(line(&replica, entry)?))
}

/// An entry as JSON.
pub(super) fn object(replica: &Replica, entry: &HistoryEntry) -> Value {
    json!({
        "change": entry.hash,
        "actor": entry.actor,
        "mine": entry.actor.is_of(&replica.id()),
        "written_at": entry.stamp.millis(),
        "action": action(entry.action),
        "fields": entry.fields,
        "ops": entry.ops,
    })
}

/// An entry as a line.
pub(super) fn line(replica: &Replica, entry: &HistoryEntry) -> Result<String, CliError> {
    let hash = format!("{:.SHORT_HASH$}", entry.hash.to_string());
    let at = commands::iso_time(replica, entry.stamp.millis())?;
    let who = commands::who(replica, &entry.actor);
    let ops = count(u64::try_from(entry.ops).unwrap_or(u64::MAX), "op");
    Ok(format!("{hash}  {at}  {who}  {} {} ({ops})", action(entry.action), entry.fields.join(", ")))
}

const fn action(action: Action) -> &'static str {
    match action {
        Action::Create => "create",
        Action::Edit => "edit",
        Action::Delete => "delete",
        Action::Restore => "restore",
        Action::Resolve => "resolve",
        Action::Import => "import",
        Action::Undo(_) => "undo",
        Action::Redo(_) => "redo",
        Action::Purge => "purge",
    }
}

pub(crate) fn diff(arguments: &Diff, output: &mut Output) -> Result<(), CliError> {
    let replica = commands::open(&arguments.file)?;
    let space = replica.space(&arguments.space.space)?;
    let id = record(&space, &arguments.id)?.id;
    let before = match &arguments.from {
        Some(prefix) => after(&space, id, prefix)?,
        None => {
            let newest = space.history(id, None, 1).wait()?;
            Heads::new(newest.into_iter().next().map(|entry| entry.dependencies).unwrap_or_default())
        }
    };
    let to = match &arguments.to {
        Some(prefix) => after(&space, id, prefix)?,
        None => space.heads(id).wait()?,
    };
    let fields = space.diff(id, before, to).wait()?;
    if output.is_json() {
        let field = |field: &anabranch::FieldDiff| {
            let splice = |splice: &anabranch::TextSplice| json!({ "at": splice.at, "delete": splice.delete, "insert": splice.insert });
            let splices: Vec<_> = field.splices.iter().map(splice).collect();
            json!({ "field": field.field, "before": field.before, "after": field.after, "splices": splices })
        };
        return output.json(&fields.iter().map(field).collect::<Vec<_>>());
    }
    for field in &fields {
        output.line(format!("{}:", field.field))?;
        for (sign, value) in [("-", &field.before), ("+", &field.after)] {
            if let Some(value) = value {
                output.line(format!("  {sign} {}", shortened(&plain(value), VALUE_WIDTH)))?;
            }
        }
    }
    if fields.is_empty() { output.line("no difference") } else { Ok(()) }
}

/// The heads right after the change whose hash begins so.
fn after(space: &Space, id: EntityId, prefix: &str) -> Result<Heads, CliError> {
    let entries = space.history(id, None, usize::MAX).wait()?;
    let mut found = entries.iter().map(|entry| entry.hash).filter(|hash| hash.to_string().starts_with(prefix));
    match (found.next(), found.next()) {
        (Some(hash), None) => Ok(Heads::new(vec![hash])),
        (None, _) => Err(CliError::NotFound(format!("the history of {id} has no change {prefix:?}"))),
        _ => Err(CliError::NotFound(format!("several changes of {id} begin with {prefix:?}"))),
    }
}

pub(crate) fn undo(arguments: &OneEntity, output: &mut Output) -> Result<(), CliError> {
    let replica = commands::open(&arguments.file)?;
    let space = replica.space(&arguments.space.space)?;
    let id = record(&space, &arguments.id)?.id;
    let undone = space.undo(id, anabranch::Mine::Replica).wait()?;
    let text = if undone { "undone" } else { "has no edit of this replica to undo" };
    output.either(&json!({ "id": id, "undone": undone }), format!("{id} {text}"))
}

pub(crate) fn redo(arguments: &OneEntity, output: &mut Output) -> Result<(), CliError> {
    let replica = commands::open(&arguments.file)?;
    let space = replica.space(&arguments.space.space)?;
    let id = record(&space, &arguments.id)?.id;
    let redone = space.redo(id, anabranch::Mine::Replica).wait()?;
    let text = if redone { "redone" } else { "has no undo of this replica to take back" };
    output.either(&json!({ "id": id, "redone": redone }), format!("{id} {text}"))
}
