//! What goes wrong: links, processes, clocks and disks.

use std::collections::BTreeSet;
use std::fs;

use anabranch_core::sync::ClientEvent;

use crate::bug::Bug;
use crate::check::stored;
use crate::client::Backup;
use crate::dice::Dice;
use crate::failure::{Failure, broken, ensure};
use crate::file;
use crate::fleet::Fleet;
use crate::model::Item;
use crate::server::Disk;

const YEAR_MILLIS: i64 = 365 * 24 * 60 * 60 * 1_000;

impl Fleet {
    /// The client's end is gone. What it sent may still be read by the server; nobody hears the answers.
    pub(crate) fn forsake(&mut self, client: usize) {
        if let Some(mut connection) = self.connections[client].take() {
            connection.to_client.clear();
            connection.hints.clear();
            self.forsaken.push(connection);
        }
    }

    pub(crate) fn cut(&mut self, client: usize, pick: u64) -> Result<(), Failure> {
        let mut dice = Dice::new(pick);
        let Some(connection) = &mut self.connections[client] else { return Ok(()) };
        let arrives = dice.below(connection.to_server.len() + 1);
        connection.to_server.truncate(arrives);
        self.note(format_args!("client {client}: the connection is cut"));
        self.forsake(client);
        if let Some(process) = &mut self.clients[client].process {
            process.disconnected = true;
        }
        Ok(())
    }

    /// Damages a frame under way: a flipped bit, or a missing end.
    pub(crate) fn corrupt(&mut self, client: usize, pick: u64) -> Result<(), Failure> {
        let mut dice = Dice::new(pick);
        let Some(connection) = &mut self.connections[client] else { return Ok(()) };
        let queue = if dice.once_in(2) { &mut connection.to_server } else { &mut connection.to_client };
        let place = dice.below(queue.len());
        let Some(frame) = queue.get_mut(place) else { return Ok(()) };
        let at = dice.below(frame.len());
        if dice.once_in(2) {
            frame.truncate(at);
        } else if let Some(byte) = frame.get_mut(at) {
            *byte ^= 1 << dice.below(8);
        }
        self.note(format_args!("client {client}: a frame is damaged at byte {at}"));
        Ok(())
    }

    pub(crate) fn switch(&mut self, client: usize) -> Result<(), Failure> {
        let offline = !self.clients[client].offline;
        self.clients[client].offline = offline;
        self.note(format_args!("client {client}: {}", if offline { "offline" } else { "online" }));
        if offline {
            return self.cut(client, 0);
        }
        self.clients[client].handle(ClientEvent::Start);
        Ok(())
    }

    /// The process dies with all it had in memory, and starts again.
    pub(crate) fn restart_client(&mut self, client: usize, pick: u64) -> Result<(), Failure> {
        if self.clients[client].lost {
            return Ok(());
        }
        self.kill_client(client, pick)?;
        self.open(client)?;
        self.check_file(client)
    }

    fn kill_client(&mut self, client: usize, pick: u64) -> Result<(), Failure> {
        self.note(format_args!("client {client}: dies"));
        self.cut(client, pick)?;
        self.check_file(client)?;
        self.clients[client].process = None;
        let log = self.clients[client].path.with_extension("db-wal");
        ensure(!log.exists(), || format!("client {client} left a write-ahead log behind"))
    }

    pub(crate) fn crash_server(&mut self, pick: u64) -> Result<(), Failure> {
        let mut dice = Dice::new(pick);
        self.note(format_args!("server: dies"));
        self.server.crash();
        self.forsaken.clear();
        for connection in self.connections.iter_mut().flatten() {
            let arrives = dice.below(connection.to_client.len() + 1);
            connection.to_client.truncate(arrives);
            connection.to_server.clear();
            connection.calls.clear();
            connection.hints.clear();
            connection.closed = true;
        }
        Ok(())
    }

    pub(crate) fn compact(&mut self, client: usize, pick: u64) -> Result<(), Failure> {
        let Some(process) = &mut self.clients[client].process else { return Ok(()) };
        let keys =
            file::rows(&process.reader, "SELECT key FROM entities ORDER BY key", [], |row| row.get::<_, i64>(0))?;
        let Some(key) = Dice::new(pick).one_of(&keys).copied() else { return Ok(()) };
        let committed = process.engine.compact(key).ok_or_else(|| Failure::new("a compaction was not committed"))?;
        process.note(committed);
        self.note(format_args!("client {client}: folds entity {key}"));
        Ok(())
    }

    pub(crate) fn jump(&mut self, client: usize, pick: u64) -> Result<(), Failure> {
        let mut dice = Dice::new(pick);
        let millis = match dice.below(5) {
            0 => 0,
            1 => i64::try_from(dice.below(10_000)).unwrap_or(0) - 5_000,
            2 => i64::try_from(dice.below(1_000_000)).unwrap_or(0) - 500_000,
            3 => 10 * YEAR_MILLIS,
            _ => -10 * YEAR_MILLIS,
        };
        self.clients[client].clock.set_skew(millis);
        self.note(format_args!("client {client}: the clock is {millis} ms off"));
        Ok(())
    }

    pub(crate) fn back_up_client(&mut self, client: usize, pick: u64) -> Result<(), Failure> {
        if self.clients[client].lost {
            return Ok(());
        }
        self.kill_client(client, pick)?;
        let copy = self.path(&format!("{client}.backup"));
        // Closed, so all of it is in the one file.
        fs::copy(&self.clients[client].path, &copy).map_err(broken("copying a client's file"))?;
        self.note(format_args!("client {client}: backed up"));
        self.open(client)?;
        self.check_file(client)?;
        self.clients[client].backup = Some(Backup { path: copy, held: self.clients[client].held.clone() });
        Ok(())
    }

    pub(crate) fn restore_client(&mut self, client: usize, pick: u64) -> Result<(), Failure> {
        let Some(backup) = self.clients[client].backup.take() else { return Ok(()) };
        if self.clients[client].lost {
            return Ok(());
        }
        self.kill_client(client, pick)?;
        fs::copy(&backup.path, &self.clients[client].path).map_err(broken("restoring a client's file"))?;
        self.note(format_args!("client {client}: restored from its backup"));
        let before = std::mem::replace(&mut self.clients[client].held, backup.held.clone());
        self.clients[client].backup = Some(backup);
        self.give_up(&before)?;
        if self.planted.is(Bug::ReuseActorAfterRestore) {
            let seed = self.clients[client].opened_with;
            self.clients[client].open(&self.schema, &self.spaces, seed)?;
        } else {
            self.open(client)?;
        }
        self.check_file(client)
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
        self.server.backup = Some(self.server.disk.clone());
        self.note(format_args!("server: backed up"));
        Ok(())
    }

    pub(crate) fn restore_server(&mut self, pick: u64) -> Result<(), Failure> {
        let Some(backup) = self.server.backup.clone() else { return Ok(()) };
        self.crash_server(pick)?;
        self.note(format_args!("server: restored from its backup"));
        self.replace_disk(backup)
    }

    pub(crate) fn wipe_server(&mut self, pick: u64) -> Result<(), Failure> {
        self.crash_server(pick)?;
        self.note(format_args!("server: wiped"));
        self.replace_disk(Disk::new(pick, self.planted))
    }

    fn replace_disk(&mut self, disk: Disk) -> Result<(), Failure> {
        let before = stored(&self.server.disk.log);
        self.server.disk = disk;
        self.model.server_holds_only(&stored(&self.server.disk.log));
        self.give_up(&before)
    }

    /// Of what a disk held that is gone now: changes that no other disk holds are lost, and nobody's fault.
    fn give_up(&mut self, gone: &BTreeSet<Item>) -> Result<(), Failure> {
        let mut left = stored(&self.server.disk.log);
        for (number, client) in self.clients.iter().enumerate() {
            if client.lost {
                continue;
            }
            let Some(process) = &client.process else {
                left.extend(client.held.iter().cloned());
                continue;
            };
            let (now, purged) = (file::changes(&process.reader)?, file::purged(&process.reader)?);
            let forgotten = client.held.difference(&now).any(|item| !purged.contains(&(item.0.clone(), item.1)));
            ensure(!forgotten, || format!("client {number} has forgotten a committed change"))?;
            left.extend(now);
        }
        let lost: Vec<Item> = gone.difference(&left).cloned().collect();
        self.model.lost.extend(lost);
        Ok(())
    }
}
