//! The server's log in the real backend, in a file on a disk that loses what was not synced.

use std::collections::BTreeMap;

use anabranch_core::sync::{AppendOutcome, LogPage, LogRow, Offered, Pushable};
use anabranch_core::wire::{Ask, Mark};
use anabranch_core::{
    Change, CollectionName, Digest, EntityId, Lineage, ReplicaId, SpaceName, SplitMix64, TransactionId,
};
use anabranch_server::{Backend as _, BackendError, BackendFuture, PageBudget, Reconciled, SqliteBackend};
use tokio::runtime::Runtime;

use crate::bug::{Bug, Planted};
use crate::clock::{Machine, VirtualTime, WallClock};
use crate::crash::Replay;
use crate::dice::Dice;
use crate::disk::{Access, Disk, Fault, Files, Skipped};
use crate::failure::{Failure, broken};
use crate::file::{self, unreadable};
use crate::log::{Log, PAGE_BYTES, PAGE_ROWS};

const FILE: &str = "server.db";
/// Small, as that of the log in memory.
const PAGE: PageBudget = PageBudget { bytes: PAGE_BYTES, changes: PAGE_ROWS };
/// A fault strikes among the next so many accesses of its kind.
const SOON: usize = 6;

/// A server's file, and the backend while the server's process lives.
#[derive(Debug)]
pub(crate) struct Database {
    disk: Disk,
    backend: Option<SqliteBackend>,
    runtime: Runtime,
    /// What a new file is made from: its lineage follows from this alone, for the time stands still in here.
    seed: u64,
    planted: Planted,
}

impl Database {
    /// Opens these files, or a new one.
    pub(crate) fn new(files: &Files, seed: u64, planted: Planted) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(broken("starting a runtime"))?;
        let disk = Disk::holding(files, true)?;
        let mut database = Self { disk, backend: None, runtime, seed, planted };
        database.open()?;
        Ok(database)
    }

    /// Another file, of the same history, with what a log holds.
    pub(crate) fn holding(&self, log: &Log) -> Result<Self, Failure> {
        let other = Self::new(&Files::new(), self.seed, self.planted)?;
        other.fill(log)?;
        Ok(other)
    }

    /// Stores what a log holds.
    pub(crate) fn fill(&self, log: &Log) -> Result<(), Failure> {
        for (space, rows) in log.spaces() {
            // What was agreed to once is not asked about again.
            let batch = rows.iter().map(|row| Ok(Offered { agreed: true, ..row.offered.clone() })).collect();
            self.append(space, ReplicaId::from_bytes([0; 16]), batch)?.map_err(broken("filling another server"))?;
        }
        Ok(())
    }

    /// The server's process starts.
    pub(crate) fn open(&mut self) -> Result<(), Failure> {
        if self.backend.is_none() {
            if self.planted.is(Bug::SkipServerSync) {
                self.disk.skip(Skipped::Logs);
            }
            let clock = WallClock::new(&VirtualTime::new());
            let machine = Machine { clock, entropy: SplitMix64::new(self.seed) };
            let opened = SqliteBackend::open(self.disk.path(FILE), Box::new(machine));
            self.backend = Some(opened.map_err(broken("opening the server's file"))?);
        }
        Ok(())
    }

    pub(crate) fn lineage(&self) -> Result<Lineage, Failure> {
        self.backend().map(SqliteBackend::lineage)
    }

    /// The backend's answer, which may be that its disk has failed.
    pub(crate) fn append(
        &self,
        space: &SpaceName,
        who: ReplicaId,
        batch: Vec<Pushable>,
    ) -> Result<Result<AppendOutcome, BackendError>, Failure> {
        self.ask(|backend| backend.append(space.clone(), who, batch))
    }

    /// As [`append`](Self::append).
    pub(crate) fn page(
        &self,
        space: &SpaceName,
        after: Mark,
        check: Vec<Mark>,
    ) -> Result<Result<LogPage, BackendError>, Failure> {
        self.ask(|backend| backend.read(space.clone(), after, check, PAGE))
    }

    /// As [`append`](Self::append).
    pub(crate) fn reconcile(&self, space: &SpaceName, ask: Ask) -> Result<Result<Reconciled, BackendError>, Failure> {
        self.ask(|backend| backend.reconcile(space.clone(), ask, PAGE))
    }

    /// As [`append`](Self::append).
    pub(crate) fn head(&self, space: &SpaceName) -> Result<Result<Mark, BackendError>, Failure> {
        self.ask(|backend| backend.head(space.clone()))
    }

    /// What is in the file, read with plain SQL.
    pub(crate) fn rows(&self) -> Result<BTreeMap<SpaceName, Vec<LogRow>>, Failure> {
        let reader = self.disk.connect_unhurt(FILE)?;
        let sql = "SELECT s.name, c.seq, c.chain, c.entity, c.collection, c.parent, c.txn, c.bytes FROM changes c \
                   JOIN spaces s ON s.id = c.space ORDER BY s.name, c.seq";
        let found = file::rows(&reader, sql, [], |row| {
            let name = SpaceName::new(row.get::<_, String>(0)?).map_err(unreadable)?;
            let mark = Mark { seq: row.get(1)?, chain: Digest::from_bytes(row.get(2)?) };
            let offered = Offered {
                entity: EntityId::from_bytes(row.get(3)?),
                collection: CollectionName::new(row.get::<_, String>(4)?).map_err(unreadable)?,
                parent: row.get::<_, Option<[u8; 16]>>(5)?.map(EntityId::from_bytes),
                transaction: row.get::<_, Option<[u8; 16]>>(6)?.map(TransactionId::from_bytes),
                change: Change::parse(row.get(7)?).map_err(unreadable)?,
                agreed: false,
            };
            Ok((name, LogRow { mark, offered }))
        })?;
        let mut spaces: BTreeMap<SpaceName, Vec<LogRow>> = BTreeMap::new();
        for (space, row) in found {
            spaces.entry(space).or_default().push(row);
        }
        Ok(spaces)
    }

    /// A copy of the file, as a backup makes one.
    pub(crate) fn files(&self) -> Files {
        self.disk.files()
    }

    pub(crate) const fn seed(&self) -> u64 {
        self.seed
    }

    /// How many accesses there were so far.
    pub(crate) fn accesses(&self) -> usize {
        self.disk.log().len()
    }

    /// The process dies at one of the accesses since `from`; or the power fails there, and what was not synced may be
    /// lost.
    pub(crate) fn die(&mut self, from: usize, power: bool, dice: &mut Dice) -> Result<(), Failure> {
        let log = self.disk.log();
        let place = from + dice.below(log.len().saturating_sub(from) + 1);
        let mut replay = Replay::default();
        log.iter().take(place).for_each(|event| replay.take(event));
        let files = if power { replay.one(dice) } else { replay.everything() };
        // Whatever it still does when it is dropped, it does to the old disk.
        self.backend = None;
        self.disk = Disk::holding(&files, true)?;
        Ok(())
    }

    /// From now on the disk is full, or fails, soon or at once.
    pub(crate) fn fail(&self, dice: &mut Dice) {
        let access = dice.one_of(&Access::ALL).copied().unwrap_or(Access::Room);
        let at = u64::try_from(dice.below(SOON)).unwrap_or(0);
        self.disk.fail(Fault { access, at, lasting: dice.once_in(2) });
    }

    /// Whether it has failed since then.
    pub(crate) fn has_failed(&self) -> bool {
        self.disk.has_struck()
    }

    /// The disk works again.
    pub(crate) fn mend(&self) {
        self.disk.mend();
    }

    pub(crate) const fn is_open(&self) -> bool {
        self.backend.is_some()
    }

    fn backend(&self) -> Result<&SqliteBackend, Failure> {
        self.backend.as_ref().ok_or_else(|| Failure::new("a server that is down was asked"))
    }

    fn ask<'a, T>(
        &'a self,
        question: impl FnOnce(&'a SqliteBackend) -> BackendFuture<'a, T>,
    ) -> Result<Result<T, BackendError>, Failure> {
        let answer = question(self.backend()?);
        Ok(self.runtime.block_on(answer))
    }
}
