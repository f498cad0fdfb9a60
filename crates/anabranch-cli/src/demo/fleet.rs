//! The demo's replicas, each in a file of its own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anabranch::{Collection, EntityId, EntityRecord, Replica, Schema, Space, SpaceName, SyncReport};
use anabranch_core::Actor;
use tempfile::TempDir;

use crate::demo::server::DemoServer;
use crate::error::CliError;

/// The schema of the demo, which is also the example in the README.
pub(super) const SCHEMA: &str = include_str!("../../demo/notes.toml");
pub(super) const SPACE: &str = "main";
pub(super) const NOTES: &str = "notes";

/// Long enough for a great trace on a slow machine; being offline is told at once.
const SYNC_DEADLINE: Duration = Duration::from_secs(1_800);
const NAMES: [&str; 3] = ["phone", "laptop", "tablet"];

/// Where the demo's files are: a folder to keep, or one that goes when the demo ends.
pub(super) enum Folder {
    Kept(PathBuf),
    Temporary(TempDir),
}

impl Folder {
    pub(super) fn new(keep: Option<&Path>) -> Result<Self, CliError> {
        let Some(folder) = keep else {
            let made = tempfile::Builder::new().prefix("anabranch-demo-").tempdir();
            return made.map(Self::Temporary).map_err(|error| CliError::Io(format!("no temporary folder: {error}")));
        };
        std::fs::create_dir_all(folder).map_err(|error| CliError::path("make", folder, &error))?;
        let mut files = std::fs::read_dir(folder).map_err(|error| CliError::path("read", folder, &error))?;
        if files.next().is_some() {
            return Err(CliError::Usage(format!(
                "{} is not empty: the demo wants a folder of its own",
                folder.display()
            )));
        }
        Ok(Self::Kept(folder.to_owned()))
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }

    pub(super) const fn is_kept(&self) -> bool {
        matches!(self, Self::Kept(_))
    }
}

/// One replica.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) file: PathBuf,
    pub(super) replica: Replica,
    /// Whether it was there when the others were cut off.
    pub(super) took_part: bool,
    url: String,
}

/// All of them, in one space.
pub(super) struct Fleet {
    pub(super) members: Vec<Member>,
    pub(super) space: SpaceName,
    folder: PathBuf,
    url: String,
}

impl Fleet {
    /// Makes the replicas.
    pub(super) fn open(folder: &Path, count: u8, url: String) -> Result<Self, CliError> {
        let space = SpaceName::new(SPACE).map_err(anabranch::Error::from)?;
        let mut fleet = Self { members: Vec::new(), space, folder: folder.to_owned(), url };
        for number in 0..usize::from(count) {
            let name = NAMES.get(number).map_or_else(|| format!("device{}", number + 1), ToString::to_string);
            fleet.add(&name, true)?;
        }
        Ok(fleet)
    }

    /// One more, whose file is there already.
    pub(super) fn join(&mut self, name: &str) -> Result<(), CliError> {
        self.add(name, false)
    }

    fn add(&mut self, name: &str, took_part: bool) -> Result<(), CliError> {
        let file = file(&self.folder, name);
        let replica = Replica::open(&file, schema()?)?;
        self.members.push(Member { name: name.to_owned(), file, replica, took_part, url: self.url.clone() });
        Ok(())
    }

    /// Whether all of them, and the server, hold the same.
    pub(super) fn agrees(&self, server: &DemoServer) -> Result<bool, CliError> {
        let expected = server.overview(&self.space)?.digest;
        let mut state = None;
        for member in &self.members {
            let own = member.replica.state_digest(&self.space)?;
            if member.replica.space_digest(&self.space)? != expected || *state.get_or_insert(own) != own {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The name of whoever wrote under this actor.
    pub(super) fn name_of(&self, actor: &Actor) -> String {
        let found = self.members.iter().find(|member| member.replica.store().actor() == *actor);
        found.map_or_else(|| actor.to_string(), |member| member.name.clone())
    }
}

impl Member {
    pub(super) fn space(&self) -> Result<Space, CliError> {
        Ok(self.replica.space(SPACE)?)
    }

    pub(super) fn notes(&self) -> Result<Collection, CliError> {
        Ok(self.space()?.untyped(NOTES)?)
    }

    /// An entity that must be there.
    pub(super) fn record(&self, id: EntityId) -> Result<EntityRecord, CliError> {
        self.space()?.get(id)?.ok_or_else(|| CliError::Disagreement(format!("{} has lost the note {id}", self.name)))
    }

    /// Syncs once.
    pub(super) fn sync(&self) -> Result<SyncReport, CliError> {
        Ok(self.replica.sync(&self.url).space(SPACE)?.now(SYNC_DEADLINE).wait()?)
    }
}

pub(super) fn file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.db"))
}

pub(super) fn schema() -> Result<Schema, CliError> {
    Ok(Schema::from_toml(SCHEMA).map_err(anabranch::Error::from)?)
}

/// Adds a sync to the sum of those before.
pub(super) const fn add(sum: &mut SyncReport, report: &SyncReport) {
    sum.pushed += report.pushed;
    sum.duplicates += report.duplicates;
    sum.refused += report.refused;
    sum.pulled += report.pulled;
    sum.round_trips += report.round_trips;
    sum.bytes_sent += report.bytes_sent;
    sum.bytes_received += report.bytes_received;
}
