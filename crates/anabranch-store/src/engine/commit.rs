//! Jobs in one transaction: begun, done, committed or undone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use anabranch_core::{Actor, Clock, Stamp};
use rusqlite::OptionalExtension as _;
use tracing::{debug, error};

use super::{Committed, Engine, Job, Pending, SignOut, Undo, Write};
use crate::error::StoreError;
use crate::file;
use crate::rows;

impl Engine {
    /// Runs jobs in one transaction, commits once, and finishes them. `None` if nothing was committed.
    pub fn commit(&mut self, jobs: Vec<Box<dyn Job>>) -> Option<Committed> {
        self.commit_telling(jobs, |_| ())
    }

    /// As [`Engine::commit`]; `tell` hears of it before the jobs are finished, so that whoever waits for one finds
    /// everybody told.
    pub(crate) fn commit_telling(
        &mut self,
        mut jobs: Vec<Box<dyn Job>>,
        tell: impl FnOnce(&Committed),
    ) -> Option<Committed> {
        let mut late = Vec::new();
        let outcome = match self.run_jobs(&mut jobs, &mut late) {
            Ok(committed) => self.finish_commit().map(|()| committed),
            Err(error) => {
                self.roll_back();
                Err(error)
            }
        };
        let count = u64::try_from(jobs.len()).unwrap_or(u64::MAX);
        match outcome {
            Ok(committed) => {
                self.stats.commits.fetch_add(1, Ordering::Relaxed);
                self.stats.writes.fetch_add(count, Ordering::Relaxed);
                debug!(writes = count, entities = committed.entities.len(), "committed");
                tell(&committed);
                jobs.into_iter().for_each(|job| job.finish(Ok(())));
                late.into_iter().for_each(|job| job.finish(Err(StoreError::SignedOut)));
                Some(committed)
            }
            Err(error) => {
                error!(kind = ?error.kind(), "a transaction failed");
                jobs.into_iter().chain(late).for_each(|job| job.finish(Err(error.for_another())));
                None
            }
        }
    }

    /// Runs all jobs but those that come too `late`: after one that signs out.
    fn run_jobs(
        &mut self,
        jobs: &mut Vec<Box<dyn Job>>,
        late: &mut Vec<Box<dyn Job>>,
    ) -> Result<Committed, StoreError> {
        self.begin()?;
        let mut pending = Pending::default();
        let mut done = 0;
        while let Some(job) = jobs.get_mut(done).filter(|_| self.sign_out == SignOut::No) {
            if job.reads_rows() {
                self.flush(&mut pending)?;
            }
            self.run_job(&mut **job, &mut pending)?;
            done += 1;
        }
        late.extend(jobs.drain(done..));
        self.flush(&mut pending)?;
        if self.aside_grew {
            self.bound_aside()?;
        }
        pending.committed.entities.append(&mut self.repaired);
        pending.committed.signed_out = self.sign_out == SignOut::UnderWay;
        if pending.committed.has_changes()
            && let Some(witness) = &mut self.witness
        {
            witness.claim(&self.connection)?;
        }
        Ok(pending.committed)
    }

    fn run_job(&mut self, job: &mut dyn Job, pending: &mut Pending) -> Result<(), StoreError> {
        self.run("SAVEPOINT job")?;
        let mut own = Pending::default();
        let mut write = Write::of(self, &mut own);
        let result = catch_unwind(AssertUnwindSafe(|| job.run(&mut write))).unwrap_or(Err(Undo));
        let used = write.used;
        if result.is_ok() {
            pending.absorb(own);
        } else {
            for key in used {
                drop(self.cache.take(key));
            }
            self.sign_out = SignOut::No;
            if self.connection.is_autocommit() {
                // After some failures of the disk SQLite undoes all of it by itself, savepoints included.
                return Err(StoreError::Aborted("the disk failed, and the database has undone it".to_owned()));
            }
            self.run("ROLLBACK TO job")?;
        }
        Ok(self.run("RELEASE job")?)
    }

    fn begin(&mut self) -> Result<(), StoreError> {
        if self.sign_out == SignOut::Done {
            return Err(StoreError::SignedOut);
        }
        if self.broken {
            self.connection = file::open_writer(&self.path, &self.seals)?;
            self.broken = false;
            self.data_version = 0;
        }
        // IMMEDIATE: a transaction that reads first and upgrades later fails at once when another is writing.
        self.run("BEGIN IMMEDIATE")?;
        let version: i64 = self.connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
        if version != self.data_version {
            // Another process has written: what is in memory may be old.
            self.cache.clear();
            if self.is_prepared {
                self.check_schema()?;
                if let Err(gone) = self.check_signed_in() {
                    self.witness = None;
                    return Err(gone);
                }
                self.reload_clock()?;
            }
            // Not before: what has been refused once is refused again.
            self.data_version = version;
        }
        if let Some(witness) = &mut self.witness
            && witness.is_forestalled(&self.connection)?
        {
            let actor = Actor::mint(&self.replica, self.environment.entropy());
            self.set_actor(actor);
        }
        Ok(())
    }

    /// Another process may have brought the file to a newer schema; rows written under the old one would differ
    /// from what everybody else derives.
    fn check_schema(&self) -> Result<(), StoreError> {
        let given = self.schema.version;
        let stored: Option<u32> = self
            .connection
            .query_row("SELECT json_extract(value, '$.version') FROM meta WHERE key = 'schema'", [], |row| row.get(0))
            .optional()?;
        match stored {
            Some(stored) if given > 0 && stored > given => Err(StoreError::SchemaOutdated { stored, given }),
            _ => Ok(()),
        }
    }

    fn finish_commit(&mut self) -> Result<(), StoreError> {
        if let Err(error) = self.seals.seal_touched(&self.connection) {
            self.roll_back();
            return Err(error);
        }
        let Err(failure) = self.run("COMMIT") else {
            if self.sign_out == SignOut::UnderWay {
                self.sign_out = SignOut::Done;
                self.part_with_witness();
            }
            return Ok(());
        };
        // The disk failed at the worst moment. Nothing in memory can be trusted; look at the file afresh.
        self.roll_back();
        self.broken = true;
        Err(StoreError::CommitUnknown(failure.to_string()))
    }

    /// Runs a statement that has no parameters, and that is prepared once.
    pub(crate) fn run(&self, sql: &'static str) -> rusqlite::Result<()> {
        self.connection.prepare_cached(sql)?.execute([]).map(drop)
    }

    fn roll_back(&mut self) {
        self.seals.forget_touched();
        self.cache.clear();
        self.repaired.clear();
        if self.sign_out == SignOut::UnderWay {
            self.sign_out = SignOut::No;
        }
        if let Some(witness) = &mut self.witness {
            witness.unclaim();
        }
        if !self.connection.is_autocommit()
            && let Err(failure) = self.connection.execute_batch("ROLLBACK")
        {
            error!(%failure, "a rollback failed");
        }
    }

    pub(super) fn transaction<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match self.begin().and_then(|()| work(self)) {
            Ok(value) => self.finish_commit().map(|()| value),
            Err(error) => {
                self.roll_back();
                Err(error)
            }
        }
    }

    pub(super) fn reload_clock(&mut self) -> Result<(), StoreError> {
        let last = rows::meta::<i64>(&self.connection, "clock")?.and_then(Stamp::from_raw).unwrap_or_default();
        self.clock = Clock::after(last.max(self.clock.last()));
        Ok(())
    }
}
