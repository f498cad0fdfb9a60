//! Files and logs that are gone, older than they were, or there twice.

use std::collections::BTreeSet;

use crate::bug::Bug;
use crate::check::stored;
use crate::client::Backup;
use crate::dice::Dice;
use crate::failure::{Failure, ensure};
use crate::file;
use crate::fleet::Fleet;
use crate::model::Item;
use crate::storage::Storage;

impl Fleet {
    pub(crate) fn back_up_client(&mut self, client: usize, pick: u64) -> Result<(), Failure> {
        if self.clients[client].lost {
            return Ok(());
        }
        self.kill_client(client, pick)?;
        let files = self.clients[client].medium.contents()?;
        self.note(format_args!("client {client}: backed up"));
        self.open(client)?;
        self.check_file(client)?;
        self.clients[client].backup = Some(Backup { files, held: self.clients[client].held.clone() });
        Ok(())
    }

    pub(crate) fn restore_client(&mut self, client: usize, pick: u64) -> Result<(), Failure> {
        let Some(backup) = self.clients[client].backup.take() else { return Ok(()) };
        if self.clients[client].lost {
            return Ok(());
        }
        self.kill_client(client, pick)?;
        self.put(client, &backup.files)?;
        self.note(format_args!("client {client}: restored from its backup"));
        let before = std::mem::replace(&mut self.clients[client].held, backup.held.clone());
        self.clients[client].backup = Some(backup);
        self.give_up(&before)?;
        if self.planted.is(Bug::ReuseActorAfterRestore) {
            let seed = self.clients[client].opened_with;
            self.open_with(client, seed)?;
        } else {
            self.open(client)?;
        }
        self.check_file(client)
    }

    /// The file of one client is put in the place of another's, which is gone; both go on.
    pub(crate) fn clone_client(&mut self, from: usize, onto: usize, pick: u64) -> Result<(), Failure> {
        if from == onto || self.clients[from].lost || self.clients[onto].lost {
            return Ok(());
        }
        self.kill_client(from, pick)?;
        self.kill_client(onto, pick)?;
        let files = self.clients[from].medium.contents()?;
        self.put(onto, &files)?;
        self.note(format_args!("client {onto}: is a copy of client {from} now"));
        (self.clients[onto].version, self.clients[onto].backup) = (self.clients[from].version, None);
        let copied = self.clients[from].held.clone();
        let before = std::mem::replace(&mut self.clients[onto].held, copied);
        self.give_up(&before)?;
        for client in [from, onto] {
            self.open(client)?;
            self.check_file(client)?;
        }
        Ok(())
    }

    /// The device is at the bottom of the sea. One always stays, so that there is someone to agree with.
    pub(crate) fn lose_client(&mut self, client: usize, pick: u64) -> Result<(), Failure> {
        let left = self.clients.iter().filter(|client| !client.lost).count();
        if self.clients[client].lost || left <= 2 {
            return Ok(());
        }
        self.kill_client(client, pick)?;
        self.note(format_args!("client {client}: lost for good"));
        self.clients[client].lost = true;
        let held = std::mem::take(&mut self.clients[client].held);
        self.give_up(&held)
    }

    pub(crate) fn back_up_server(&mut self) -> Result<(), Failure> {
        if self.server.up {
            self.server.backup = Some(self.server.disk.back_up());
            self.note(format_args!("server: backed up"));
        }
        Ok(())
    }

    pub(crate) fn restore_server(&mut self, pick: u64) -> Result<(), Failure> {
        let Some(backup) = self.server.backup.clone() else { return Ok(()) };
        self.crash_server(pick)?;
        self.note(format_args!("server: restored from its backup"));
        let restored = Storage::restored(backup, self.planted)?;
        self.replace_disk(restored)
    }

    /// Another server takes over that had not heard of the last few changes.
    pub(crate) fn fail_over(&mut self, pick: u64) -> Result<(), Failure> {
        let mut dice = Dice::new(pick);
        let mut log = self.server.disk.log.clone();
        log.lose_tail(|| dice.below(5));
        let other = self.server.disk.with(log)?;
        self.crash_server(pick)?;
        self.note(format_args!("server: another takes over, which lacks the newest changes"));
        self.replace_disk(other)
    }

    pub(crate) fn wipe_server(&mut self, pick: u64) -> Result<(), Failure> {
        self.crash_server(pick)?;
        self.note(format_args!("server: wiped"));
        let wiped = self.server.disk.wiped(pick, self.planted)?;
        self.replace_disk(wiped)
    }

    pub(crate) fn replace_disk(&mut self, disk: Storage) -> Result<(), Failure> {
        self.note_log();
        let before = stored(&self.server.disk.log);
        self.server.disk = disk;
        self.model.server_holds_only(&stored(&self.server.disk.log));
        self.give_up(&before)
    }

    /// Of what a disk held that is gone now: changes that no other disk holds are lost, and nobody's fault.
    pub(crate) fn give_up(&mut self, gone: &BTreeSet<Item>) -> Result<(), Failure> {
        (0..self.clients.len()).try_for_each(|client| self.note_forms(client))?;
        let mut left = stored(&self.server.disk.log);
        let mut seen = Vec::new();
        for (number, client) in self.clients.iter().enumerate() {
            if client.lost {
                continue;
            }
            let Some(process) = &client.process else {
                left.extend(client.held.iter().cloned());
                continue;
            };
            let (now, purged) = (file::changes(&process.reader)?, file::purged(&process.reader)?);
            let wanted = self.wanted(number)?;
            let may_go = |item: &Item| {
                purged.contains(&(item.0.clone(), item.1))
                    || !self.is_wanted(&wanted, &item.0, item.1)
                    || self.model.histories.may_go(item)
            };
            let forgotten = client.held.difference(&now).any(|item| !may_go(item));
            ensure(!forgotten, || format!("client {number} has forgotten a committed change"))?;
            left.extend(now.iter().cloned());
            seen.push((number, now));
        }
        // What counts as left with a client now goes down with that, even if it dies before its file is looked at again.
        seen.into_iter().for_each(|(number, now)| self.clients[number].held.extend(now));
        // What is left of it in another form is not lost.
        let (gone, left) =
            (self.model.histories.with_originals(gone.clone()), self.model.histories.with_originals(left));
        let lost: Vec<Item> = gone.difference(&left).cloned().collect();
        self.model.lost.extend(lost);
        Ok(())
    }
}
