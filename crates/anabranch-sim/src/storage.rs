//! What outlives the server's process: its log. The checkers have it in memory; in some fleets it is in a file of the
//! real backend's as well, and what that answers is held against it.

use anabranch_core::sync::{AppendOutcome, LogPage, LogRow, Pushable};
use anabranch_core::wire::{Ask, Envelope, Mark};
use anabranch_core::{Entropy as _, Lineage, ReplicaId, SpaceName, SplitMix64};
use anabranch_server::{BackendError, Reconciled};

use crate::bug::Planted;
use crate::database::Database;
use crate::dice::Dice;
use crate::disk::Files;
use crate::failure::{Failure, ensure};
use crate::log::Log;

/// A server's history.
#[derive(Debug)]
pub(crate) struct Storage {
    pub(crate) lineage: Lineage,
    pub(crate) log: Log,
    database: Option<Database>,
    /// The log with the append that was under way when the process died: the file holds this, or what it held before.
    under_way: Option<Log>,
}

/// A copy of it.
#[derive(Clone, Debug)]
pub(crate) struct Backup {
    lineage: Lineage,
    log: Log,
    /// With what the file was made from.
    files: Option<(Files, u64)>,
}

/// What a push wants stored.
pub(crate) type Wanted = (SpaceName, ReplicaId, Vec<Pushable>);

impl Storage {
    /// An empty history, in a file of its own or in memory alone.
    pub(crate) fn new(seed: u64, in_file: bool, planted: Planted) -> Result<Self, Failure> {
        let mut bytes = [0; 16];
        SplitMix64::new(seed).fill(&mut bytes);
        let database = if in_file { Some(Database::new(&Files::new(), seed, planted)?) } else { None };
        let lineage = database.as_ref().map_or(Ok(Lineage::from_bytes(bytes)), Database::lineage)?;
        Ok(Self { lineage, log: Log::new(planted), database, under_way: None })
    }

    /// The same kind of storage, empty, and of another history.
    pub(crate) fn wiped(&self, seed: u64, planted: Planted) -> Result<Self, Failure> {
        Self::new(seed, self.database.is_some(), planted)
    }

    pub(crate) fn back_up(&self) -> Backup {
        let files = self.database.as_ref().map(|database| (database.files(), database.seed()));
        Backup { lineage: self.lineage, log: self.log.clone(), files }
    }

    /// What a backup holds takes the place of what is there.
    pub(crate) fn restored(backup: Backup, planted: Planted) -> Result<Self, Failure> {
        let Backup { lineage, log, files } = backup;
        let database = files.map(|(files, seed)| Database::new(&files, seed, planted)).transpose()?;
        let mut storage = Self { lineage, log, database, under_way: None };
        storage.start()?;
        Ok(storage)
    }

    /// The same log under a new lineage, on another machine.
    pub(crate) fn renewed(&self, seed: u64, planted: Planted) -> Result<Self, Failure> {
        let mut storage = self.wiped(seed, planted)?;
        if let Some(database) = &storage.database {
            database.fill(&self.log)?;
        }
        storage.log = self.log.clone();
        storage.start()?;
        Ok(storage)
    }

    /// The same history on another machine, which has not heard of all of it.
    pub(crate) fn with(&self, log: Log) -> Result<Self, Failure> {
        let database = self.database.as_ref().map(|database| database.holding(&log)).transpose()?;
        let mut storage = Self { lineage: self.lineage, log, database, under_way: None };
        storage.start()?;
        Ok(storage)
    }

    /// The process is gone, perhaps in the middle of an append.
    pub(crate) fn die(&mut self, wanted: Option<Wanted>, dice: &mut Dice) -> Result<Option<&'static str>, Failure> {
        let Some(database) = &mut self.database else { return Ok(None) };
        let from = database.accesses();
        if let Some((space, who, batch)) = wanted.filter(|_| database.is_open() && dice.once_in(2)) {
            let mut log = self.log.clone();
            log.append(&space, batch.clone());
            self.under_way = Some(log);
            // Nobody hears the answer.
            database.append(&space, who, batch)?.map_err(|error| Failure::new(format!("an append: {error}")))?;
        }
        let power = dice.once_in(2);
        database.die(from, power, dice)?;
        Ok(Some(if power { "the power fails" } else { "its file stays as it is" }))
    }

    /// The process starts, and finds what was committed, and of the last append all or nothing.
    pub(crate) fn start(&mut self) -> Result<(), Failure> {
        let Some(database) = &mut self.database else { return Ok(()) };
        database.open()?;
        ensure(database.lineage()? == self.lineage, || "the server's file is of another history".to_owned())?;
        let found = database.rows()?;
        let holds = |log: &Log| {
            let spaces: Vec<_> = log.spaces().filter(|(_, rows)| !rows.is_empty()).collect();
            let same = |(space, rows): &(&SpaceName, &[LogRow])| found.get(*space).is_some_and(|it| are_same(it, rows));
            spaces.len() == found.len() && spaces.iter().all(same)
        };
        match self.under_way.take() {
            Some(log) if holds(&log) => self.log = log,
            _ => ensure(holds(&self.log), || "the server's file does not hold just what was committed".to_owned())?,
        }
        Ok(())
    }

    /// Appends a batch. `None` if the disk has failed; then nothing was stored.
    pub(crate) fn append(
        &mut self,
        space: &SpaceName,
        who: ReplicaId,
        batch: Vec<Pushable>,
    ) -> Result<Option<AppendOutcome>, Failure> {
        let Some(database) = &self.database else { return Ok(Some(self.log.append(space, batch))) };
        let Some(outcome) = self.settled(database.append(space, who, batch.clone())?)? else {
            self.start()?;
            return Ok(None);
        };
        let expected = self.log.append(space, batch);
        ensure(outcome == expected, || format!("the backend answers {outcome:?}, and should {expected:?}"))?;
        Ok(Some(outcome))
    }

    /// A page of what follows `after`. `None` if the disk has failed.
    pub(crate) fn page(&self, space: &SpaceName, after: Mark, check: Vec<Mark>) -> Result<Option<LogPage>, Failure> {
        let Some(database) = &self.database else { return Ok(Some(self.log.page(space, after, &check))) };
        let known = self.log.has(space, &check) && self.log.has(space, &[after]);
        let Some(page) = self.settled(database.page(space, after, check)?)? else { return Ok(None) };
        let right = match &page {
            LogPage::Unknown => !known,
            LogPage::Rows { rows, more } => {
                let all = self.log.rows(space);
                let all = &all[all.partition_point(|row| row.mark.seq <= after.seq)..];
                let same =
                    rows.iter().zip(all).all(|((mark, envelope), row)| *mark == row.mark && is_of(row, envelope));
                known && same && *more == (rows.len() < all.len()) && (!rows.is_empty() || all.is_empty())
            }
        };
        ensure(right, || format!("the backend's page of {space} after {} is not the log's", after.seq))?;
        Ok(Some(page))
    }

    /// Answers a question of a reconcile. `None` if the disk has failed.
    pub(crate) fn reconcile(&self, space: &SpaceName, ask: Ask) -> Result<Option<Reconciled>, Failure> {
        let expected = self.log.reconcile(space, &ask);
        let Some(database) = &self.database else { return Ok(Some(expected)) };
        let Some(answer) = self.settled(database.reconcile(space, ask)?)? else { return Ok(None) };
        ensure(answer == expected, || format!("the backend reconciles {space} otherwise than the log"))?;
        Ok(Some(answer))
    }

    /// The end of a space's log. `None` if the disk has failed.
    pub(crate) fn head(&self, space: &SpaceName) -> Result<Option<Mark>, Failure> {
        let expected = self.log.rows(space).last().map_or(Mark::START, |row| row.mark);
        let Some(database) = &self.database else { return Ok(Some(expected)) };
        let Some(head) = self.settled(database.head(space)?)? else { return Ok(None) };
        ensure(head == expected, || format!("the backend says that {space} ends at {}", head.seq))?;
        Ok(Some(head))
    }

    /// From now on its disk fails, if it has one.
    pub(crate) fn fail(&self, pick: u64) -> bool {
        self.database.as_ref().inspect(|database| database.fail(&mut Dice::new(pick))).is_some()
    }

    /// Its disk works again.
    pub(crate) fn mend(&self) {
        self.database.iter().for_each(Database::mend);
    }

    /// An answer; `None` if there is none because of the disk.
    fn settled<T>(&self, answer: Result<T, BackendError>) -> Result<Option<T>, Failure> {
        let error = match answer {
            Ok(answer) => return Ok(Some(answer)),
            Err(error) => error,
        };
        let failing = self.database.as_ref().is_some_and(Database::has_failed);
        ensure(failing, || format!("the backend failed by itself: {error}"))?;
        Ok(None)
    }
}

fn are_same(ones: &[LogRow], others: &[LogRow]) -> bool {
    let same =
        |(one, other): (&LogRow, &LogRow)| one.mark == other.mark && is_of(one, &Envelope::from(other.offered.clone()));
    ones.len() == others.len() && ones.iter().zip(others).all(same)
}

fn is_of(row: &LogRow, envelope: &Envelope) -> bool {
    Envelope::from(row.offered.clone()) == *envelope
}
