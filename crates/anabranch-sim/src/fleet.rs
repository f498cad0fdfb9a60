//! The fleet: clients, a server, and what is under way between them.

use std::collections::BTreeMap;
use std::fmt::Arguments;
use std::path::PathBuf;

use anabranch_core::{Schema, SpaceName};
use tempfile::TempDir;

use crate::bug::{Bug, Planted};
use crate::client::Client;
use crate::clock::VirtualTime;
use crate::dice::Dice;
use crate::disk::Files;
use crate::exchange::Parcel;
use crate::failure::{Failure, broken};
use crate::medium::Medium;
use crate::model::Model;
use crate::op::Op;
use crate::server::{Connection, Server};
use crate::trace::Trace;
use crate::workload;

/// How a fleet is set up.
#[derive(Clone, Copy, Debug)]
pub struct FleetOptions {
    /// Everything follows from it.
    pub seed: u64,
    /// How many clients.
    pub replicas: usize,
    /// Keeps the trace's lines, not just their digest.
    pub trace: bool,
    /// The bug to plant.
    pub bug: Option<Bug>,
}

/// Clients and a server in one thread.
pub struct Fleet {
    pub(crate) time: VirtualTime,
    pub(crate) clients: Vec<Client>,
    /// Each client's connection, if it has one.
    pub(crate) connections: Vec<Option<Connection>>,
    /// Connections whose clients are gone, while the server still reads what they sent.
    pub(crate) forsaken: Vec<Connection>,
    pub(crate) parcels: Vec<Parcel>,
    pub(crate) server: Server,
    pub(crate) model: Model,
    pub(crate) planted: Planted,
    pub(crate) spaces: Vec<SpaceName>,
    /// The versions of the schema.
    pub(crate) schemas: [Schema; 2],
    /// A server has lied at some time.
    pub(crate) has_lied: bool,
    /// A server has turned something down for good: a person has to send it again.
    pub(crate) turned_down: bool,
    /// Some clients want only some collections.
    pub(crate) has_subsets: bool,
    /// For what is fixed neither by the operations nor by the machines: seeds of opens.
    pub(crate) dice: Dice,
    pub(crate) bytes: u64,
    /// How often came of operations what may come of them.
    pub(crate) tally: BTreeMap<&'static str, u64>,
    trace: Trace,
    /// Dropped last.
    _folder: TempDir,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet").field("clients", &self.clients.len()).finish_non_exhaustive()
    }
}

impl Fleet {
    /// A fleet whose clients have just been switched on.
    ///
    /// # Errors
    /// [`Failure`] if a client cannot open its file.
    pub fn new(options: FleetOptions) -> Result<Self, Failure> {
        let time = VirtualTime::new();
        let mut dice = Dice::new(options.seed);
        let planted = Planted::new(options.bug);
        let folder = folder()?;
        let names = ["main", "work"].iter().take(1 + dice.below(2));
        let spaces = names.map(|name| SpaceName::new(name).expect("the names are good")).collect();
        let mut media = Vec::new();
        for number in 0..options.replicas {
            media.push(match dice.once_in(2) {
                true => Medium::disk(&Files::new())?,
                false => Medium::folder(folder.path().join(number.to_string()))?,
            });
        }
        let mut fleet = Self {
            clients: media.into_iter().map(|medium| Client::new(medium, &time)).collect(),
            connections: (0..options.replicas).map(|_| None).collect(),
            forsaken: Vec::new(),
            parcels: Vec::new(),
            server: Server::new(&time, dice.any(), planted)?,
            model: Model::default(),
            planted,
            spaces,
            schemas: [1, 2].map(|version| workload::schema(version, planted)),
            has_lied: false,
            turned_down: false,
            has_subsets: false,
            dice,
            bytes: 0,
            tally: BTreeMap::new(),
            trace: Trace::new(options.trace),
            _folder: folder,
            time,
        };
        for client in 0..options.replicas {
            fleet.prepare_disk(client);
            fleet.open(client)?;
        }
        Ok(fleet)
    }

    /// Lets something happen.
    ///
    /// # Errors
    /// [`Failure`] if that broke a promise.
    pub fn apply(&mut self, op: Op) -> Result<(), Failure> {
        let client = |number: usize| number % self.clients.len();
        match op {
            Op::Edit { client: number, pick } => self.edit(client(number), pick),
            Op::Step { pick } => self.step(pick).map(drop),
            Op::Pass { millis } => {
                self.time.advance(i64::from(millis));
                Ok(())
            }
            Op::Wait => {
                self.wait();
                Ok(())
            }
            Op::Cut { client: number, pick } => self.cut(client(number), pick),
            Op::Corrupt { client: number, pick } => self.corrupt(client(number), pick),
            Op::Switch { client: number } => self.switch(client(number)),
            Op::Exchange { client: number, with, pick } => self.exchange(client(number), client(with), pick),
            Op::RestartClient { client: number, pick } => self.restart_client(client(number), pick),
            Op::CrashServer { pick } => self.crash_server(pick),
            Op::Compact { client: number, pick } => self.compact(client(number), pick),
            Op::Jump { client: number, pick } => self.jump(client(number), pick),
            Op::Trouble { client: number, pick } => self.trouble(client(number), pick),
            Op::LosePower { client: number, pick } => self.lose_power(client(number), pick),
            Op::FailDisk { client: number, pick } => {
                self.fail_disk(client(number), pick);
                Ok(())
            }
            Op::Refuse { client: number, pick } => self.refuse(client(number), pick),
            Op::Decide { client: number, pick } => self.decide(client(number), pick),
            Op::Want { client: number, pick } => self.want(client(number), pick),
            Op::Intrude { client: number, pick } => self.intrude(client(number), pick),
            Op::Upgrade { client: number, pick } => self.upgrade(client(number), pick),
            Op::Clone { client: number, with, pick } => self.clone_client(client(number), client(with), pick),
            Op::FailOver { pick } => self.fail_over(pick),
            Op::BackUpClient { client: number, pick } => self.back_up_client(client(number), pick),
            Op::RestoreClient { client: number, pick } => self.restore_client(client(number), pick),
            Op::LoseClient { client: number, pick } => self.lose_client(client(number), pick),
            Op::BackUpServer => self.back_up_server(),
            Op::RestoreServer { pick } => self.restore_server(pick),
            Op::WipeServer { pick } => self.wipe_server(pick),
            Op::Lie { pick } => self.lie(pick),
        }
    }

    /// The digest of all that has happened.
    #[must_use]
    pub fn digest(&self) -> String {
        self.trace.hexadecimal()
    }

    /// Events so far.
    #[must_use]
    pub const fn events(&self) -> u64 {
        self.trace.events()
    }

    /// The trace's lines, if they were to be kept.
    #[must_use]
    pub fn into_lines(self) -> Vec<String> {
        self.trace.into_lines()
    }

    pub(crate) fn note(&mut self, line: Arguments<'_>) {
        self.trace.note(format_args!("{:>10} {line}", self.time.now() - 1_800_000_000_000));
    }

    pub(crate) fn note_bytes(&mut self, bytes: &[u8]) {
        self.bytes += u64::try_from(bytes.len()).unwrap_or(0);
        self.trace.note_bytes(bytes);
    }

    pub(crate) fn open(&mut self, number: usize) -> Result<(), Failure> {
        let seed = self.dice.any();
        self.open_with(number, seed)
    }

    /// Starts a client's process. It stays down if its disk does not let it, and is started again later.
    pub(crate) fn open_with(&mut self, number: usize, seed: u64) -> Result<(), Failure> {
        let schema = self.schema_of(number).clone();
        if !self.clients[number].open(&schema, &self.spaces, seed, self.planted)? {
            self.note(format_args!("client {number}: cannot start, since its disk fails"));
            self.after_failed_sync(number)?;
            if self.dice.once_in(2) {
                self.mend(number);
            }
        }
        self.find_unknown(number)
    }

    pub(crate) fn schema_of(&self, client: usize) -> &Schema {
        &self.schemas[usize::from(self.clients[client].version > 1)]
    }
}

/// A folder for the clients' files, in memory where the system has such a place: syncs cost nothing there.
fn folder() -> Result<TempDir, Failure> {
    let memory = PathBuf::from("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.or_else(|_| tempfile::tempdir()).map_err(broken("making a temporary folder"))
}
