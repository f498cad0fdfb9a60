//! Clients' disks that fail, fill up, and lose what was not synced when the power goes.

use anabranch_core::ErrorKind;
use anabranch_store::{StoreError, Write};

use crate::bug::Bug;
use crate::crash::Replay;
use crate::dice::Dice;
use crate::disk::{Access, Fault, Skipped};
use crate::failure::{Failure, ensure};
use crate::fleet::Fleet;
use crate::job;
use crate::medium::Medium;

/// A fault strikes among the next so many accesses of its kind.
const SOON: usize = 40;

impl Fleet {
    /// Does some work in a client's file. `None` if there is no process, or if its disk failed: then the session has
    /// begun anew, or the process has ended.
    pub(crate) fn within<T, F>(&mut self, client: usize, what: &'static str, work: F) -> Result<Option<T>, Failure>
    where
        T: Send + 'static,
        F: FnOnce(&mut Write<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let Some(process) = &mut self.clients[client].process else { return Ok(None) };
        match job::within(&mut process.engine, work) {
            Ok((value, committed)) => {
                process.note(committed);
                Ok(Some(value))
            }
            Err(error) => {
                self.disk_failed(client, what, &error)?;
                Ok(None)
            }
        }
    }

    /// Something could not be committed. It came too late, or that is the disk's fault, or else a failure.
    pub(crate) fn disk_failed(&mut self, client: usize, what: &str, error: &StoreError) -> Result<(), Failure> {
        if matches!(error, StoreError::Overtaken) {
            self.note(format_args!("client {client}: what the server has accepted has been written again"));
            self.forsake(client);
            return self.clients[client].begin_again();
        }
        let struck = self.clients[client].has_failing_disk();
        ensure(struck && error.kind() == ErrorKind::Retry, || format!("client {client}: {what}: {error}"))?;
        self.note(format_args!("client {client}: {what}: the disk failed: {error}"));
        let fault = self.clients[client].fault;
        let lasting = fault.is_some_and(|fault| fault.lasting);
        if !lasting || self.dice.once_in(2) {
            self.mend(client);
        }
        self.forsake(client);
        if fault.is_some_and(|fault| fault.access == Access::Sync) {
            self.clients[client].process = None;
            return self.restart_machine(client);
        }
        if self.dice.once_in(2) {
            self.clients[client].process = None;
            return Ok(());
        }
        self.clients[client].begin_again()
    }

    /// What a failed sync has left in the system's memory is on the disk when the machine has started again.
    fn restart_machine(&mut self, client: usize) -> Result<(), Failure> {
        let files = self.clients[client].medium.contents()?;
        self.put(client, &files)
    }

    /// As after a failed commit, if the process has ended without one: when it closed its file, or could not open it.
    pub(crate) fn after_failed_sync(&mut self, client: usize) -> Result<(), Failure> {
        let failed = self.clients[client].fault.is_some_and(|fault| fault.access == Access::Sync);
        if failed && self.clients[client].has_failing_disk() {
            self.note(format_args!("client {client}: a sync has failed; the machine starts again"));
            self.mend(client);
            self.restart_machine(client)?;
        }
        Ok(())
    }

    /// The disk works again.
    pub(crate) fn mend(&mut self, client: usize) {
        self.clients[client].fault = None;
        if let Some(disk) = self.clients[client].medium.as_disk() {
            disk.mend();
        }
    }

    /// From now on the disk is full, or fails: at once or soon, once or until it is mended.
    pub(crate) fn fail_disk(&mut self, client: usize, pick: u64) {
        let mut dice = Dice::new(pick);
        let Some(disk) = self.clients[client].medium.as_disk() else { return };
        let access = dice.one_of(&Access::ALL).copied().unwrap_or(Access::Room);
        let at = u64::try_from(dice.below(SOON)).unwrap_or(0);
        let fault = Fault { access, at, lasting: dice.once_in(3) };
        disk.fail(fault);
        self.clients[client].fault = Some(fault);
        self.note(format_args!("client {client}: the disk will fail: {fault:?}"));
    }

    /// The power fails while the client does something; its file is what the disk has kept.
    pub(crate) fn lose_power(&mut self, client: usize, pick: u64) -> Result<(), Failure> {
        let mut dice = Dice::new(pick);
        self.mend(client);
        let Some(disk) = self.clients[client].medium.as_disk().cloned() else {
            return self.restart_client(client, pick);
        };
        if self.clients[client].lost {
            return Ok(());
        }
        self.check_file(client)?;
        let (before, from) = (self.clients[client].held.clone(), disk.log().len());
        match dice.below(4) {
            0 => {}
            1 => self.compact(client, dice.any())?,
            2 => self.task(client)?,
            _ => self.edit(client, dice.any())?,
        }
        let log = disk.log();
        let place = from + dice.below(log.len() - from + 1);
        self.check_file(client)?;
        let after = self.clients[client].held.clone();
        self.cut(client, pick)?;
        self.clients[client].process = None;
        let mut replay = Replay::default();
        log[..place].iter().for_each(|event| replay.take(event));
        let files = replay.one(&mut dice);
        self.note(format_args!(
            "client {client}: the power fails at {} of {} accesses",
            place - from,
            log.len() - from
        ));
        self.put(client, &files)?;
        // What was under way is there or not; what was reported is there.
        if place < log.len() {
            self.clients[client].held = before;
        }
        self.open(client)?;
        self.check_file(client)?;
        self.give_up(&after)
    }

    /// Replaces what is on a client's disk, while its process is not running.
    pub(crate) fn put(&mut self, client: usize, files: &crate::disk::Files) -> Result<(), Failure> {
        self.clients[client].medium.replace(files)?;
        self.prepare_disk(client);
        Ok(())
    }

    pub(crate) fn prepare_disk(&self, client: usize) {
        if let (Medium::Disk(disk), true) = (&self.clients[client].medium, self.planted.is(Bug::SkipSync)) {
            disk.skip(Skipped::Logs);
        }
    }
}
