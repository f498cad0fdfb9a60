//! `repair`: what is damaged in a file, and a new one from what can be read.

use anabranch::{DamagedEntity, Finding, Replica};
use serde_json::json;

use crate::args::Repair;
use crate::commands::schema;
use crate::error::CliError;
use crate::output::{Output, count, printable};

pub(crate) fn run(arguments: &Repair, output: &mut Output) -> Result<(), CliError> {
    let file = arguments.file.display();
    if arguments.dry_run {
        let findings = Replica::at(&arguments.file).check_file()?;
        if findings.is_empty() {
            return output.either(&json!({ "findings": [] }), format_args!("{file}: nothing is damaged"));
        }
        return if output.is_json() { output.json(&json!({ "findings": findings })) } else { tell(&findings, output) }
            .and_then(|()| Err(CliError::Differs(format!("{file}: {}", count(length(&findings), "finding")))));
    }
    let schema = arguments.schema.as_deref().map(schema::read).transpose()?;
    let repaired = Replica::at(&arguments.file).repair(schema)?;
    if output.is_json() {
        return output.json(&repaired);
    }
    let Some(original) = &repaired.original else {
        return output.line(format_args!("{file}: nothing is damaged"));
    };
    tell(&repaired.findings, output)?;
    for unsaved in &repaired.unsaved {
        output.line(format_args!("not saved: {}", printable(unsaved)))?;
    }
    for damaged in &repaired.damaged {
        output.line(describe(damaged))?;
    }
    let (entities, changes) = (count(repaired.entities, "entity"), count(repaired.changes, "change"));
    output.line(format_args!("{file}: saved {entities} and {changes}; the damaged file is {}", original.display()))
}

fn tell(findings: &[Finding], output: &mut Output) -> Result<(), CliError> {
    findings.iter().try_for_each(|finding| output.line(printable(&finding.to_string())))
}

/// One damaged entity, for a person.
pub(crate) fn describe(damaged: &DamagedEntity) -> String {
    let mut text = format!("{} {} in {}", damaged.collection, damaged.id, damaged.space);
    if damaged.missing > 0 {
        text += &format!(": {} missing, fetched with the next sync", count(damaged.missing, "change"));
    }
    if !damaged.lost.is_empty() {
        let hashes: Vec<&str> = damaged.lost.iter().map(|lost| lost.hash.get(..8).unwrap_or("unknown")).collect();
        text +=
            &format!(": {} lost that no server has ({})", count(length(&damaged.lost), "change"), hashes.join(", "));
    }
    text
}

fn length<T>(list: &[T]) -> u64 {
    u64::try_from(list.len()).unwrap_or(u64::MAX)
}
