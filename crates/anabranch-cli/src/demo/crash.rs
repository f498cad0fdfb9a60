//! The crash: a writing process is killed in the middle of its work, and every id that it had printed must be
//! in its file.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anabranch::{EntityId, Replica, SystemEnvironment};
use anabranch_core::Environment as _;

use crate::demo::account::CrashAccount;
use crate::demo::fleet::{self, Fleet, NOTES, SPACE};
use crate::error::CliError;
use crate::output::Progress;

/// The replica that the process writes to.
pub(super) const NAME: &str = "writer";
/// What to say of it.
pub(super) const DEED: &str = "creates notes as fast as it can, in a process that is killed again and again";

const KILLS: usize = 6;
/// The process is killed after it has printed at most so many ids,
const MOST_PRINTED: u64 = 1_500;
/// and at most so long after that. Ids come in batches, one for each fsync: this hits any moment in between.
const MOST_MICROS: u64 = 50_000;

/// How long the process may live.
#[derive(Clone, Copy)]
struct Patience {
    ids: u64,
    then: Duration,
}

/// What the killed process had acknowledged.
pub(super) struct Crash {
    killed_after: Vec<u64>,
    printed: Vec<EntityId>,
}

/// Starts the process and kills it at a random moment, several times, and looks into the file each time.
pub(super) fn play(folder: &Path, progress: &mut Progress) -> Result<Crash, CliError> {
    let file = fleet::file(folder, NAME);
    drop(Replica::at(&file).create(fleet::schema()?)?);
    let mut crash = Crash { killed_after: Vec::new(), printed: Vec::new() };
    let mut environment = SystemEnvironment::new();
    for kill in 1..=KILLS {
        progress.show(format_args!("a writing process is killed ({kill} of {KILLS})"));
        let mut random = |most| environment.entropy().next_u64() % most;
        let patience = Patience { ids: random(MOST_PRINTED) + 1, then: Duration::from_micros(random(MOST_MICROS)) };
        let printed = write_and_kill(&file, patience)?;
        crash.killed_after.push(u64::try_from(printed.len()).unwrap_or(u64::MAX));
        crash.printed.extend(printed);
        // Opening the file recovers it; what is lost would be lost here.
        let lost = lost(&Replica::at(&file).existing()?, &crash.printed)?;
        if let Some(id) = lost.first() {
            return Err(CliError::Disagreement(format!("{id} had been acknowledged, and is lost")));
        }
    }
    Ok(crash)
}

impl Crash {
    /// Looks again, now that everything has been synced: every replica must have every id.
    pub(super) fn settle(self, fleet: &Fleet) -> Result<CrashAccount, CliError> {
        let mut all_lost = Vec::new();
        let mut in_file = 0;
        for member in &fleet.members {
            all_lost.extend(lost(&member.replica, &self.printed)?.iter().map(ToString::to_string));
            if member.name == NAME {
                let rows =
                    member.replica.query("SELECT count(*) AS n FROM notes WHERE title = 'from a process'", &[])?;
                in_file = rows.first().and_then(|row| row.get("n")?.as_u64()).unwrap_or(0);
            }
        }
        let acknowledged = u64::try_from(self.printed.len()).unwrap_or(u64::MAX);
        Ok(CrashAccount { killed_after: self.killed_after, acknowledged, in_file, lost: all_lost })
    }
}

fn lost(replica: &Replica, printed: &[EntityId]) -> Result<Vec<EntityId>, CliError> {
    let space = replica.space(SPACE)?;
    let mut lost = Vec::new();
    for id in printed {
        if space.get(*id)?.is_none() {
            lost.push(*id);
        }
    }
    Ok(lost)
}

/// Runs `create FILE notes -` with more lines than it can ever read, kills it once the patience is over,
/// and returns all that it had printed by then.
fn write_and_kill(file: &Path, patience: Patience) -> Result<Vec<EntityId>, CliError> {
    let failed = |error: std::io::Error| CliError::Io(format!("the writing process cannot be run: {error}"));
    let mut child = Command::new(std::env::current_exe().map_err(failed)?)
        .args(["create".as_ref(), file.as_os_str(), NOTES.as_ref(), "-".as_ref()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(failed)?;
    let feeding = child.stdin.take().map(|mut input| {
        std::thread::spawn(move || {
            // It ends with the process, when nobody reads any more.
            while input.write_all(b"{\"title\": \"from a process\", \"stars\": 1, \"body\": \"written\"}\n").is_ok() {}
        })
    });
    let printed = read_and_kill(&mut child, patience);
    child.wait().map_err(failed)?;
    if feeding.is_some_and(|feeding| feeding.join().is_err()) {
        return Err(CliError::Io("the feeding thread panicked".to_owned()));
    }
    printed.map_err(failed)
}

fn read_and_kill(child: &mut Child, patience: Patience) -> std::io::Result<Vec<EntityId>> {
    let mut printed = Vec::new();
    let Some(output) = child.stdout.take() else { return Ok(printed) };
    let mut output = BufReader::new(output);
    let (mut line, mut left, mut killed) = (String::new(), patience.ids, false);
    loop {
        line.clear();
        // What was printed before it was killed is read to the end; a line that was cut off is no promise.
        output.read_line(&mut line)?;
        let Some(id) = line.strip_suffix('\n') else { return Ok(printed) };
        printed.push(id.parse().map_err(std::io::Error::other)?);
        left = left.saturating_sub(1);
        if left == 0 && !killed {
            killed = true;
            std::thread::park_timeout(patience.then);
            child.kill()?;
        }
    }
}
