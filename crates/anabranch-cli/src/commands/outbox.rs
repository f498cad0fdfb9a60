//! `outbox`, `resend` and `discard`: what waits, what the server has refused, and what becomes of it.

use anabranch::{ChangeHash, EntityId, OutboxEntry, OutboxState, Replica, Resend, SpaceName};
use serde_json::json;

use crate::args::{Discard, Outbox, Resend as ResendArguments};
use crate::commands;
use crate::error::CliError;
use crate::output::{Output, count, printable, size};

/// How many refused changes are looked through for an id.
const LOOKED_THROUGH: u32 = 100_000;
/// Digits of a change's hash that are printed.
const DIGITS: usize = 12;

pub(crate) fn list(arguments: &Outbox, output: &mut Output) -> Result<(), CliError> {
    let replica = commands::open(&arguments.file)?;
    let entries = match arguments.refused {
        true => replica.refused(arguments.limit)?,
        false => replica.outbox(arguments.limit)?,
    };
    if output.is_json() {
        return output.json(&entries);
    }
    if entries.is_empty() {
        return output.line(if arguments.refused { "nothing has been refused" } else { "nothing is pending" });
    }
    entries.iter().try_for_each(|entry| output.line(line(&replica, entry)?))?;
    if entries.len() == usize::try_from(arguments.limit).unwrap_or(usize::MAX) {
        output.line(format!("… and perhaps more: --limit is {}", arguments.limit))?;
    }
    Ok(())
}

fn line(replica: &Replica, entry: &OutboxEntry) -> Result<String, CliError> {
    let state = match &entry.state {
        OutboxState::Pending => "pending".to_owned(),
        OutboxState::Deferred { until, reason } => {
            format!("put off until {}: {}", commands::iso_time(replica, *until)?, printable(reason))
        }
        OutboxState::Behind => "behind another that waits".to_owned(),
        OutboxState::Held { parent } => format!("held: its parent {parent} is not on the server"),
        OutboxState::Refused { code, reason, .. } => {
            let code = code.as_ref().map(|code| format!(" ({})", printable(code))).unwrap_or_default();
            format!("refused: {}{code}", printable(reason))
        }
        _ => "waiting".to_owned(),
    };
    let change = entry.change.to_string();
    let written = entry.written_at.map(|at| commands::iso_time(replica, at)).transpose()?;
    let OutboxEntry { entity, collection, bytes, .. } = entry;
    Ok(format!(
        "{}  {collection} {entity}  {}  {}  {state}",
        &change[..DIGITS],
        written.unwrap_or_else(|| "-".to_owned()),
        size(*bytes)
    ))
}

pub(crate) fn resend(arguments: &ResendArguments, output: &mut Output) -> Result<(), CliError> {
    let replica = commands::open(&arguments.file)?;
    let which = match &arguments.id {
        None => Resend::All,
        Some(id) => match refused(&replica, id)? {
            (space, entity, None) => Resend::Entity(space, entity),
            (space, entity, Some(change)) => Resend::Change(space, entity, change),
        },
    };
    let resent = replica.resend(which).wait()?;
    let text = format!("{} to be offered again: sync", count(u64::try_from(resent).unwrap_or(0), "change"));
    output.either(&json!({ "resent": resent }), text)
}

pub(crate) fn discard(arguments: &Discard, output: &mut Output) -> Result<(), CliError> {
    let replica = commands::open(&arguments.file)?;
    let (space, entity, change) = refused(&replica, &arguments.id)?;
    let done = replica.space(space.as_str())?.discard(entity, change).wait()?;
    let number = |number: usize| count(u64::try_from(number).unwrap_or(0), "change");
    let rewritten = match done.rewritten {
        0 => String::new(),
        rewritten => format!(", {} written again without: sync", number(rewritten)),
    };
    output.either(&done, format!("{entity}: {} discarded{rewritten}", number(done.discarded)))
}

/// The refused change whose hash begins so, or the entity with refused changes whose id does.
fn refused(replica: &Replica, prefix: &str) -> Result<(SpaceName, EntityId, Option<ChangeHash>), CliError> {
    if prefix.is_empty() {
        return Err(CliError::Usage("the id is empty: give the first digits of a change or an entity".to_owned()));
    }
    let begins = |text: String| text.starts_with(&prefix.to_ascii_lowercase());
    let mut found = Vec::new();
    for OutboxEntry { space, entity, change, .. } in replica.refused(LOOKED_THROUGH)? {
        if begins(change.to_string()) {
            found.push((space, entity, Some(change)));
        } else if begins(entity.to_string()) {
            found.push((space, entity, None));
        }
    }
    found.dedup();
    match found.pop() {
        Some(one) if found.is_empty() => Ok(one),
        Some(_) => Err(CliError::Usage(format!("several refused changes begin with {prefix}"))),
        None => Err(CliError::NotFound(format!("no refused change, and no entity with one, begins with {prefix}"))),
    }
}
