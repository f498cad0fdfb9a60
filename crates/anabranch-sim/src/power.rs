//! Power loss: workloads on a recording disk, every state that a crash may leave, and what is found in it.
//!
//! Whatever a crash leaves, the file opens; it shows what it showed after some commit, all of it, and not an
//! earlier one than the last that was reported as done (G2, G3); log, rows and outbox agree (G3); and what the
//! crash has cut off can be repeated (G5).

mod agree;
mod client;
mod client_workloads;
mod faults;
mod server;
mod timeline;

pub use faults::{Survived, survive_replica, survive_server};

use crate::crash::{Effort, Extent};
use crate::disk::{Disk, Skipped};
use crate::failure::Failure;

/// A file under test: how it is opened, and what must be true of it.
trait Subject {
    /// Opens the file of a disk as the product does, checks it, and goes on working with it.
    fn check(&self, disk: &Disk) -> Result<(), Failure>;
}

/// What the file shows now, to those who have it open, has been reported as done.
fn promise(disk: &Disk) -> Result<(), Failure> {
    disk.promise(timeline::shown(&disk.connect_unhurt(FILE)?)?);
    Ok(())
}

/// The file's name on its disk.
const FILE: &str = "file.db";

/// What a workload leaves: a disk with its log, and how its file is checked.
struct Played {
    disk: Disk,
    subject: Box<dyn Subject>,
}

/// Something to lose the power in.
#[derive(Clone, Copy)]
pub struct Workload {
    /// What it does.
    pub name: &'static str,
    play: fn(Planted) -> Result<Played, Failure>,
}

impl std::fmt::Debug for Workload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workload").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What is wrong with the disk or the database, for a test of the test.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Planted {
    /// Nothing.
    #[default]
    Nothing,
    /// The write-ahead log is not synced: as with `synchronous=NORMAL`, a commit returns before it is on the disk.
    NoLogSync,
    /// The file is not synced: a checkpoint lets go of the log before what was in it is on the disk.
    NoFileSync,
}

impl Planted {
    fn plant(self, disk: &Disk) {
        match self {
            Self::Nothing => {}
            Self::NoLogSync => disk.skip(Skipped::Logs),
            Self::NoFileSync => disk.skip(Skipped::Files),
        }
    }
}

/// What was covered, and what was found.
#[derive(Clone, Debug, Default)]
pub struct PowerReport {
    /// The workload.
    pub name: &'static str,
    /// Writes in its log.
    pub writes: usize,
    /// Syncs in its log.
    pub syncs: usize,
    /// Names that came and went.
    pub names: usize,
    /// States of the file that commits have led to.
    pub commits: usize,
    /// States of the disk that were opened.
    pub images: usize,
    /// Those of them that the product itself has opened, checked and gone on with.
    pub continued: usize,
    /// What was broken.
    pub failure: Option<String>,
}

impl std::fmt::Display for PowerReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, writes, syncs, names, commits, images, continued, failure } = self;
        write!(
            f,
            "{name:<58} {writes:>5} writes {syncs:>4} syncs {names:>3} names {commits:>4} commits {images:>7} images \
             {continued:>6} continued",
        )?;
        failure.iter().try_for_each(|failure| write!(f, "\n  FAILED: {failure}"))
    }
}

impl Workload {
    /// All workloads.
    #[must_use]
    pub fn all() -> Vec<Self> {
        [client_workloads::ALL, server::ALL].concat()
    }

    /// Plays it, and loses the power at every write and sync.
    #[must_use]
    pub fn lose_power(&self, effort: Effort, planted: Planted) -> PowerReport {
        let mut report = PowerReport { name: self.name, ..PowerReport::default() };
        let outcome = (self.play)(planted).and_then(|played| {
            let log = played.disk.log();
            let extent = Extent::of(&log);
            (report.writes, report.syncs, report.names) = (extent.writes, extent.syncs, extent.names);
            timeline::check(&log, effort, &*played.subject, &mut report)
        });
        report.failure = outcome.err().map(|failure| failure.to_string());
        report
    }
}
