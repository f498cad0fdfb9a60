//! `demo`: the whole path in one command. A real server and replicas in files of their own; cut off, each
//! edits the same and different entities; reconnected, they agree, and the account proves it.

mod account;
mod crash;
mod deal;
mod fleet;
mod render;
mod server;
mod story;
mod trace;
mod typing;

use anabranch::SyncReport;

use crate::args::Demo;
use crate::error::CliError;
use crate::output::{Output, Progress};
use crate::stopwatch::Stopwatch;
use account::{Account, Seconds};
use fleet::{Fleet, Folder};
use server::DemoServer;
use trace::Trace;

/// Everyone syncs at least twice: the first to come cannot know yet what the others bring.
const LEAST_ROUNDS: usize = 2;
/// A fleet that does not agree by then will not.
const MOST_ROUNDS: usize = 5;

pub(crate) fn run(arguments: &Demo, output: &mut Output) -> Result<(), CliError> {
    let trace = Trace::load(arguments.trace.as_deref())?;
    let folder = Folder::new(arguments.keep.as_deref())?;
    let account = play(arguments, &trace, &folder)?;
    if output.is_json() {
        output.json(&account)?;
    } else {
        render::print(&account, output)?;
    }
    output.flush()?;
    if account.agree { Ok(()) } else { Err(CliError::Disagreement(account.disagreements.join("; "))) }
}

fn play(arguments: &Demo, trace: &Trace, folder: &Folder) -> Result<Account, CliError> {
    let (watch, mut progress) = (Stopwatch::start(), Progress::new());
    let mut server = DemoServer::start(folder.path())?;
    let mut fleet = Fleet::open(folder.path(), arguments.replicas, server.url())?;
    let deal = deal::deal(trace, fleet.members.len())?;

    progress.show("together: writing the first notes");
    let seeds = story::seed(&fleet.members[0], trace)?;
    typing::play(&fleet.members[0], seeds.draft, &deal.before, &mut progress)?;
    for member in &fleet.members {
        member.sync()?;
    }

    server.stop()?;
    let unreachable = fleet.members[0].sync().err().map(|error| error.to_string());
    let mut deeds = story::part(&fleet.members, &seeds)?;
    let typing = Stopwatch::start();
    for (member, share) in fleet.members.iter().zip(&deal.shares) {
        typing::play(member, seeds.draft, share, &mut progress)?;
    }
    let typing = typing.elapsed();
    let crash = if arguments.crash { Some(crash::play(folder.path(), &mut progress)?) } else { None };
    if crash.is_some() {
        deeds.push(vec![crash::DEED.to_owned()]);
        fleet.join(crash::NAME)?;
    }
    let pending = fleet.members.iter().map(|member| Ok(member.replica.status()?.pending));
    let pending = pending.collect::<Result<Vec<_>, CliError>>()?;

    server.restart()?;
    let syncing = Stopwatch::start();
    let mut reports = vec![SyncReport::default(); fleet.members.len()];
    for round in 1..=MOST_ROUNDS {
        for (member, report) in fleet.members.iter().zip(&mut reports) {
            progress.show(format_args!("reconnected: {} syncs (round {round})", member.name));
            fleet::add(report, &member.sync()?);
        }
        if round >= LEAST_ROUNDS && fleet.agrees(&server)? {
            break;
        }
    }
    let seconds = Seconds { typing: typing.as_secs_f64(), syncing: syncing.elapsed().as_secs_f64(), total: 0.0 };
    let idle = fleet.members[0].sync()?;

    progress.show("checking");
    let mut account = Account::begin(&fleet, &server, &reports, &pending, &deeds)?;
    (account.unreachable, account.idle_sync, account.seconds) = (unreachable, idle, seconds);
    account.contested = story::contests(&fleet, &seeds)?;
    account.merged = story::merged(&fleet, &seeds)?;
    account.typing = typing::account(&fleet, seeds.draft, trace, &deal)?;
    account.crash = crash.map(|crash| crash.settle(&fleet)).transpose()?;
    account.folder = folder.is_kept().then(|| folder.path().display().to_string());
    account.seconds.total = watch.elapsed().as_secs_f64();
    account.judge();
    server.stop()?;
    Ok(account)
}
