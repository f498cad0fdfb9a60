//! Typing: a share of a trace goes into a text, a change for each of its transactions.

use std::collections::VecDeque;

use anabranch::{Commit, EntityId};
use serde_json::Value;

use crate::demo::account::TypingAccount;
use crate::demo::deal::Deal;
use crate::demo::fleet::{Fleet, Member};
use crate::demo::trace::{Patch, Trace, Txn};
use crate::error::CliError;
use crate::output::{Progress, shortened};

/// The field that is typed into.
const FIELD: &str = "body";
/// Changes that are under way at the same time: they share their fsyncs.
const IN_FLIGHT: usize = 512;
/// How much of the text is shown.
const BEGINNING: usize = 160;

/// Types into a note. Everything is durable when this returns.
pub(super) fn play(member: &Member, id: EntityId, txns: &[Txn], progress: &mut Progress) -> Result<(), CliError> {
    let notes = member.notes()?;
    let mut writes: VecDeque<Commit<bool>> = VecDeque::new();
    for (number, txn) in txns.iter().enumerate() {
        if writes.len() == IN_FLIGHT
            && let Some(oldest) = writes.pop_front()
        {
            oldest.wait()?;
        }
        writes.push_back(notes.edit(id, |edits| {
            for Patch(at, delete, insert) in &txn.patches {
                edits.splice(FIELD, *at, *delete, insert);
            }
            edits
        }));
        if number % IN_FLIGHT == 0 {
            progress.show(format_args!("{} types: {number} of {} edits", member.name, txns.len()));
        }
    }
    for write in writes {
        write.wait()?;
    }
    Ok(())
}

/// What was typed, and what has become of it on every replica.
pub(super) fn account(fleet: &Fleet, id: EntityId, trace: &Trace, deal: &Deal) -> Result<TypingAccount, CliError> {
    let texts = fleet.members.iter().map(|member| text(member, id)).collect::<Result<Vec<_>, _>>()?;
    let text = texts.first().cloned().unwrap_or_default();
    Ok(TypingAccount {
        source: trace.source.clone(),
        shared: deal.before.len(),
        shares: deal.shares.iter().map(Vec::len).collect(),
        characters: text.chars().count(),
        same_text: texts.iter().all(|other| *other == text),
        is_end_content: (deal.shares.len() == 1).then(|| text == trace.end_content),
        beginning: shortened(&text, BEGINNING),
    })
}

fn text(member: &Member, id: EntityId) -> Result<String, CliError> {
    let record = member.record(id)?;
    Ok(record.state.get(FIELD).and_then(Value::as_str).unwrap_or_default().to_owned())
}
