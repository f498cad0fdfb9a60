//! The account, for a person.

use anabranch::SyncReport;

use crate::demo::account::{Account, Contested};
use crate::error::CliError;
use crate::output::{Cell, Output, Table, count, plain, printable, shortened, size};

/// The digits of a digest that a person compares.
const DIGITS: usize = 16;
const VALUE_WIDTH: usize = 72;

pub(super) fn print(account: &Account, output: &mut Output) -> Result<(), CliError> {
    let replicas = account.replicas.iter().filter(|replica| !replica.offline.is_empty()).count();
    let replicas = count(u64::try_from(replicas).unwrap_or(u64::MAX), "replica");
    output.line(format!("Anabranch: a server, {replicas}, each in a file of its own."))?;
    cut_off(account, output)?;
    reconnected(account, output)?;
    contested(account, output)?;
    merged(account, output)?;
    typing(account, output)?;
    crash(account, output)?;
    proof(account, output)
}

fn heading(output: &mut Output, text: &str) -> Result<(), CliError> {
    output.line("")?;
    output.line(text)
}

fn cut_off(account: &Account, output: &mut Output) -> Result<(), CliError> {
    heading(output, "CUT OFF  The server is stopped. Everyone goes on writing; every write is fsynced at once.")?;
    if let Some(error) = &account.unreachable {
        output.line(format!("  a sync says: {}", printable(error)))?;
    }
    for replica in &account.replicas {
        output.line(format!("  {}: {} waiting", replica.name, count(replica.waited, "change")))?;
        for deed in &replica.offline {
            output.line(format!("      {}", printable(deed)))?;
        }
    }
    Ok(())
}

fn reconnected(account: &Account, output: &mut Output) -> Result<(), CliError> {
    heading(output, "RECONNECTED  The server is back. Each replica syncs, one after the other, twice round.")?;
    let mut table = Table::new(["replica", "pushed", "pulled", "sent", "received", "round trips"]);
    let mut row = |name: &str, report: &SyncReport| {
        table.row(vec![
            Cell::text(name),
            Cell::number(report.pushed),
            Cell::number(report.pulled),
            Cell::number(size(report.bytes_sent)),
            Cell::number(size(report.bytes_received)),
            Cell::number(report.round_trips),
        ]);
    };
    account.replicas.iter().for_each(|replica| row(&replica.name, &replica.sync));
    row("nothing new", &account.idle_sync);
    lines(&table, output)
}

fn lines(table: &Table, output: &mut Output) -> Result<(), CliError> {
    table.lines(2).into_iter().try_for_each(|line| output.line(line))
}

fn contested(account: &Account, output: &mut Output) -> Result<(), CliError> {
    heading(output, "CONTESTED  A register holds one value. All replicas show the same one, and keep the others.")?;
    if account.contested.is_empty() {
        output.line("  nothing: nobody else wrote")?;
    }
    account.contested.iter().try_for_each(|contested| one_contest(contested, output))
}

fn one_contest(contested: &Contested, output: &mut Output) -> Result<(), CliError> {
    output.line(format!("  {} of {:?}: {}", contested.field, contested.entity, contested.settled_by))?;
    let mut table = Table::new(["", "value", "written on", "at (UTC)"]);
    for (place, contender) in contested.values.iter().enumerate() {
        table.row(vec![
            Cell::text(if place == 0 { "shown" } else { "kept" }),
            Cell::value(&contender.value, VALUE_WIDTH),
            Cell::text(&contender.replica),
            Cell::text(time_of_day(contender.millis)),
        ]);
    }
    table.lines(4).into_iter().skip(1).try_for_each(|line| output.line(line))
}

/// The time of day, in UTC.
fn time_of_day(millis: i64) -> String {
    let (seconds, millis) = (millis.div_euclid(1_000).rem_euclid(86_400), millis.rem_euclid(1_000));
    format!("{:02}:{:02}:{:02}.{millis:03}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

fn merged(account: &Account, output: &mut Output) -> Result<(), CliError> {
    heading(output, "MERGED  The other kinds take everyone's edits.")?;
    let mut table = Table::new(["field", "kind", "outcome", "how"]);
    for merged in &account.merged {
        let outcome = shortened(&plain(&merged.outcome), VALUE_WIDTH);
        table.row(vec![
            Cell::text(merged.field),
            Cell::text(merged.kind),
            Cell::text(outcome),
            Cell::text(&merged.how),
        ]);
    }
    lines(&table, output)
}

fn typing(account: &Account, output: &mut Output) -> Result<(), CliError> {
    let typing = &account.typing;
    let sessions: Vec<_> = typing.shares.iter().map(ToString::to_string).collect();
    let dealt = if typing.shares.len() > 1 { "dealt out as sessions at the same time" } else { "as it was typed" };
    heading(output, &format!("TYPED  {}, {dealt}.", printable(&typing.source)))?;
    let seconds = account.seconds.typing;
    output.line(format!(
        "  edits before the cut {}, then per replica {} ({seconds:.1} s)",
        typing.shared,
        sessions.join(" + ")
    ))?;
    let same = match (typing.same_text, typing.is_end_content) {
        (_, Some(true)) => "exactly the text that the trace ends with",
        (_, Some(false)) => "NOT the text that the trace ends with",
        (true, None) => "the same text on all replicas",
        (false, None) => "NOT the same on all replicas",
    };
    output.line(format!("  {} characters: {same}", typing.characters))?;
    output.line(format!("  {:?}", typing.beginning))
}

fn crash(account: &Account, output: &mut Output) -> Result<(), CliError> {
    let Some(crash) = &account.crash else { return Ok(()) };
    let killed: Vec<_> = crash.killed_after.iter().map(ToString::to_string).collect();
    heading(output, "KILLED  A process prints an id when the entity is durable, and is killed in the middle.")?;
    output.line(format!("  killed {} times, after {} ids", killed.len(), killed.join(", ")))?;
    let lost = if crash.lost.is_empty() { "none is lost".to_owned() } else { format!("{} ARE LOST", crash.lost.len()) };
    let (acknowledged, in_file) = (crash.acknowledged, crash.in_file);
    output.line(format!("  {acknowledged} acknowledged, {in_file} in its file and on every replica: {lost}"))
}

fn proof(account: &Account, output: &mut Output) -> Result<(), CliError> {
    heading(output, "PROOF  Equal digests: the same changes everywhere, and the same state from them.")?;
    let mut table = Table::new(["", "entities", "pending", "digest of the state", "digest of the changes"]);
    for replica in &account.replicas {
        table.row(vec![
            Cell::text(&replica.name),
            Cell::number(replica.entities),
            Cell::number(replica.pending),
            Cell::text(shortened_digest(&replica.state_digest)),
            Cell::text(shortened_digest(&replica.space_digest)),
        ]);
    }
    table.row(vec![
        Cell::text("server"),
        Cell::number(account.server.entities),
        Cell::text(""),
        Cell::text("(never loads one)"),
        Cell::text(shortened_digest(&account.server.space_digest)),
    ]);
    lines(&table, output)?;
    output.line("")?;
    if let Some(folder) = &account.folder {
        output.line(format!("The files are in {folder}: try `anabranch list {folder}/phone.db notes`."))?;
    }
    let (total, syncing) = (account.seconds.total, account.seconds.syncing);
    match account.agree {
        true => output.line(format!("All agree. ({total:.1} s, {syncing:.1} s of it syncing)")),
        false => output.line(format!("They do NOT agree: {}", account.disagreements.join("; "))),
    }
}

fn shortened_digest(digest: &str) -> String {
    digest.chars().take(DIGITS).collect()
}
