//! `history`, `diff`, `undo` and `redo`.

use anabranch::{Action, EntityId, FieldDiff, Heads, HistoryEntry, Replica, Space, TextSplice};
use serde_json::{Value, json};

use crate::args::{Diff, History, OneEntity};
use crate::commands;
use crate::commands::edit::record;
use crate::error::CliError;
use crate::output::{Output, count, plain, printable, shortened};

/// The digits of a hash that a person is shown.
const SHORT_HASH: usize = 12;
/// The widest value that is printed.
const VALUE_WIDTH: usize = 60;
/// What is printed before the place where two long values differ.
const CONTEXT: usize = 20;

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
        "original": entry.original,
    })
}

/// An entry as a line.
pub(super) fn line(replica: &Replica, entry: &HistoryEntry) -> Result<String, CliError> {
    let hash = format!("{:.SHORT_HASH$}", entry.hash.to_string());
    let at = commands::iso_time(replica, entry.stamp.millis())?;
    let who = match &entry.original {
        Some(original) => format!("written again from {:.SHORT_HASH$}", original.to_string()),
        None => commands::who(replica, &entry.actor),
    };
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
        let field = |field: &FieldDiff| {
            let splice =
                |splice: &TextSplice| json!({ "at": splice.at, "delete": splice.delete, "insert": splice.insert });
            let splices: Vec<_> = field.splices.iter().map(splice).collect();
            json!({ "field": field.field, "before": field.before, "after": field.after, "splices": splices })
        };
        return output.json(&fields.iter().map(field).collect::<Vec<_>>());
    }
    fields.iter().flat_map(lines).try_for_each(|line| output.line(line))?;
    if fields.is_empty() { output.line("no difference") } else { Ok(()) }
}

/// What differs in a field, for a person: its values, or of a text that is long the places that differ.
fn lines(field: &FieldDiff) -> Vec<String> {
    let mut lines = vec![format!("{}:", printable(&field.field))];
    let [before, after] = [&field.before, &field.after].map(|value| value.as_ref().map(plain));
    let is_long = |text: &Option<String>| text.as_ref().is_some_and(|text| text.chars().count() > VALUE_WIDTH);
    match &field.before {
        Some(Value::String(text)) if !field.splices.is_empty() && (is_long(&before) || is_long(&after)) => {
            lines.extend(places(text, &field.splices));
        }
        _ => {
            let shared = shared(before.as_deref(), after.as_deref());
            let sides = [("-", before), ("+", after)];
            let side = |(sign, text): (&str, Option<String>)| Some(format!("  {sign} {}", excerpt(&text?, shared)));
            lines.extend(sides.into_iter().filter_map(side));
        }
    }
    lines
}

/// The places in which a text differs, as they count before the change.
fn places(before: &str, splices: &[TextSplice]) -> Vec<String> {
    let mut lines = Vec::new();
    // Each splice counts its place after those before it.
    let (mut inserted, mut deleted) = (0, 0);
    for splice in splices {
        let at = (splice.at + deleted).saturating_sub(inserted);
        let gone: String = before.chars().skip(at).take(splice.delete).collect();
        lines.push(format!("  at {at}"));
        let sides = [("-", &gone), ("+", &splice.insert)].into_iter().filter(|(_, text)| !text.is_empty());
        lines.extend(sides.map(|(sign, text)| format!("    {sign} {}", shortened(&printable(text), VALUE_WIDTH))));
        inserted += splice.insert.chars().count();
        deleted += splice.delete;
    }
    lines
}

/// How many characters two values share at their beginning.
fn shared(before: Option<&str>, after: Option<&str>) -> usize {
    let (before, after) = (before.unwrap_or_default().chars(), after.unwrap_or_default().chars());
    before.zip(after).take_while(|(before, after)| before == after).count()
}

/// A value, or if it is long the part of it from shortly before the place where it differs.
fn excerpt(text: &str, shared: usize) -> String {
    if text.chars().count() <= VALUE_WIDTH || shared <= CONTEXT {
        return shortened(text, VALUE_WIDTH);
    }
    let rest: String = text.chars().skip(shared - CONTEXT).collect();
    format!("…{}", shortened(&rest, VALUE_WIDTH - 1))
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
