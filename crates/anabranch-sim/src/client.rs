//! A client's process: the real store and the real session, and what it has still to do.

use anabranch_core::sync::{
    Adopt, ClientConfig, ClientEvent, ClientSession, ClientStep, Halt, LinkCommand, Look, OutboxRead, SyncEvent,
    WriteBatch,
};
use anabranch_core::wire::ClientMessage;
use anabranch_core::{Lineage, Schema, SpaceName, SplitMix64, UnixMillis};
use anabranch_store::{Committed, Engine, Read, RemoteKey};
use rusqlite::Connection;
use std::collections::{BTreeSet, VecDeque};

use crate::bug::{Bug, Planted};
use crate::clock::{Machine, VirtualTime, WallClock};
use crate::disk::{Disk, Fault, Files};
use crate::failure::{Failure, broken};
use crate::job::within;
use crate::medium::Medium;
use crate::model::{Effect, Item};
use crate::workload;

const SERVER: &str = "sim://server";

/// Something that a step of the session told the driver to do. Each is a moment of its own: a crash may come
/// between any two.
#[derive(Debug)]
pub(crate) enum Task {
    Commit(WriteBatch),
    Send(ClientMessage),
    Link(LinkCommand),
    Read(OutboxRead),
    Look(Look),
    Tell(SyncEvent),
}

/// How a link has ended, as the transport tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Broken,
    /// 503, or nothing at all.
    Unavailable,
    /// 429, to be tried again after so many milliseconds.
    Busy(u32),
    /// 413.
    TooLarge,
}

/// The part of a client that ends with its process.
pub(crate) struct Process {
    /// Closed before the engine: only the last connection to close folds the write-ahead log into the file, and
    /// one that reads cannot.
    pub(crate) reader: Connection,
    pub(crate) engine: Engine,
    pub(crate) remote: RemoteKey,
    pub(crate) session: ClientSession,
    pub(crate) agenda: VecDeque<Task>,
    followed: BTreeSet<SpaceName>,
    written: BTreeSet<SpaceName>,
    /// The session has asked for a link.
    pub(crate) connecting: bool,
    /// The link is gone, and the session does not know it yet.
    pub(crate) ended: Option<Ended>,
    pub(crate) halted: Option<Halt>,
    /// When the timer fires, in true time.
    pub(crate) wake_at: Option<UnixMillis>,
    entropy: SplitMix64,
    planted: Planted,
}

/// A client: its file, and its process.
pub(crate) struct Client {
    pub(crate) medium: Medium,
    /// The version of the schema that its application knows.
    pub(crate) version: u32,
    pub(crate) clock: WallClock,
    pub(crate) process: Option<Process>,
    /// Cut off from the server.
    pub(crate) offline: bool,
    /// Gone with its disk.
    pub(crate) lost: bool,
    /// What the file is known to hold.
    pub(crate) held: BTreeSet<Item>,
    pub(crate) backup: Option<Backup>,
    /// What is wrong with the disk.
    pub(crate) fault: Option<Fault>,
    /// A commit that has failed may be found in the file when that is opened again: after this place of its log, with
    /// these effects.
    pub(crate) unknown: Option<(i64, Vec<Effect>)>,
    /// The seed of the last open.
    pub(crate) opened_with: u64,
    time: VirtualTime,
}

/// A copy of a client's file.
pub(crate) struct Backup {
    pub(crate) files: Files,
    pub(crate) held: BTreeSet<Item>,
}

impl Client {
    pub(crate) fn new(medium: Medium, time: &VirtualTime) -> Self {
        Self {
            medium,
            version: 1,
            clock: WallClock::new(time),
            process: None,
            offline: false,
            lost: false,
            held: BTreeSet::new(),
            backup: None,
            fault: None,
            unknown: None,
            opened_with: 0,
            time: time.clone(),
        }
    }

    /// Starts the process; its sync begins at once.
    ///
    /// `false` if its disk does not let it.
    pub(crate) fn open(
        &mut self,
        schema: &Schema,
        spaces: &[SpaceName],
        seed: u64,
        planted: Planted,
    ) -> Result<bool, Failure> {
        self.opened_with = seed;
        let opened = Process::open(&self.medium, &self.clock, schema, spaces, (seed, planted));
        if opened.is_err() && self.has_failing_disk() {
            return Ok(false);
        }
        self.process = Some(opened?);
        self.handle(ClientEvent::Start);
        Ok(true)
    }

    /// The session begins anew with what the file says, as after a commit that has failed.
    pub(crate) fn begin_again(&mut self) -> Result<(), Failure> {
        if let Some(process) = &mut self.process {
            process.begin_session(Adopt::Nothing)?;
        }
        self.handle(ClientEvent::Start);
        Ok(())
    }

    /// Whether its disk has failed since it was last mended.
    pub(crate) fn has_failing_disk(&self) -> bool {
        self.medium.as_disk().is_some_and(Disk::has_struck)
    }

    /// Feeds an event to the session, and puts what it decides on the agenda.
    pub(crate) fn handle(&mut self, event: ClientEvent) {
        let now = self.clock.now();
        if let Some(process) = &mut self.process {
            let deadline = process.handle(now, event);
            let wait = deadline.map(|at| at.saturating_sub(now).max(0));
            process.wake_at = wait.map(|wait| self.time.now().saturating_add(wait));
        }
    }

    /// The person in front of it accepts the server's other history.
    pub(crate) fn adopt(&mut self, lineage: Lineage) -> Result<(), Failure> {
        if let Some(process) = &mut self.process {
            process.begin_session(Adopt::Only(lineage))?;
        }
        self.handle(ClientEvent::Start);
        Ok(())
    }

    /// Whether anything was written locally that the session has not been told of.
    pub(crate) fn has_news(&self) -> bool {
        self.process.as_ref().is_some_and(|process| !process.written.is_empty())
    }

    /// Tells the session in which spaces something was written.
    pub(crate) fn tell_news(&mut self) {
        let Some(process) = &mut self.process else { return };
        let mut events = Vec::new();
        for space in std::mem::take(&mut process.written) {
            if process.followed.insert(space.clone()) {
                let progress = anabranch_core::sync::SpaceProgress::begin(space);
                events.push(ClientEvent::Follow(progress));
            } else {
                events.push(ClientEvent::LocalWrite { space });
            }
        }
        events.into_iter().for_each(|event| self.handle(event));
    }
}

impl Process {
    fn open(
        medium: &Medium,
        clock: &WallClock,
        schema: &Schema,
        spaces: &[SpaceName],
        (seed, planted): (u64, Planted),
    ) -> Result<Self, Failure> {
        let machine = Machine { clock: clock.clone(), entropy: SplitMix64::new(seed) };
        let mut engine =
            Engine::open_with(&medium.path(), Some(schema.clone()), &workload::functions(planted), Box::new(machine))
                .map_err(broken("opening a client's file"))?;
        let wanted = spaces.to_vec();
        let (remote, _) = within(&mut engine, move |write| {
            wanted.iter().try_for_each(|space| write.ensure_space(space))?;
            write.ensure_remote(SERVER, &[])
        })
        .map_err(broken("preparing a client's file"))?;
        let reader = medium.reader()?;
        let config = config(&engine, Adopt::Nothing);
        let mut process = Self {
            engine,
            reader,
            remote,
            session: ClientSession::new(config, None, Vec::new(), 0),
            agenda: VecDeque::new(),
            followed: BTreeSet::new(),
            written: BTreeSet::new(),
            connecting: false,
            ended: None,
            halted: None,
            wake_at: None,
            entropy: SplitMix64::new(!seed),
            planted,
        };
        process.begin_session(Adopt::Nothing)?;
        Ok(process)
    }

    /// Makes a session from what the file says.
    fn begin_session(&mut self, adopt: Adopt) -> Result<(), Failure> {
        let remotes = Read::new(&self.reader).remotes().map_err(broken("reading how far the sync has come"))?;
        let known = remotes.into_iter().find(|known| known.key == self.remote);
        let (lineage, failures, mut spaces) =
            known.map(|known| (known.lineage, known.failures, known.spaces)).unwrap_or_default();
        if self.planted.is(Bug::ForgetWidening) {
            spaces.iter_mut().filter(|progress| progress.cursor.is_some()).for_each(|progress| progress.had = None);
        }
        self.followed = spaces.iter().map(|progress| progress.space.clone()).collect();
        self.session = ClientSession::new(config(&self.engine, adopt), lineage, spaces, failures);
        self.agenda.clear();
        self.connecting = false;
        self.ended = None;
        self.halted = None;
        self.wake_at = None;
        Ok(())
    }

    fn handle(&mut self, now: UnixMillis, event: ClientEvent) -> Option<UnixMillis> {
        let ClientStep { batch, send, reads, looks, link, events, deadline } =
            self.session.handle(now, &mut self.entropy, event);
        self.agenda.extend(batch.map(Task::Commit));
        self.agenda.extend(send.into_iter().map(Task::Send));
        self.agenda.extend(link.map(Task::Link));
        self.agenda.extend(reads.into_iter().map(Task::Read));
        self.agenda.extend(looks.into_iter().map(Task::Look));
        self.agenda.extend(events.into_iter().map(Task::Tell));
        deadline
    }

    /// Notes what a commit has put into the outbox.
    pub(crate) fn note(&mut self, committed: Committed) {
        self.written.extend(committed.pushable);
    }
}

fn config(engine: &Engine, adopt: Adopt) -> ClientConfig {
    let (replica, actor) = (engine.replica(), engine.actor().clone());
    ClientConfig { replica, actor, schema_version: engine.schema().version, adopt }
}
