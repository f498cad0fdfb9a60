//! What goes wrong: links, processes and clocks.

use anabranch_core::sync::ClientEvent;

use crate::client::Ended;
use crate::dice::Dice;
use crate::failure::{Failure, ensure};
use crate::file;
use crate::fleet::Fleet;
use crate::server::Connection;

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
            process.ended = Some(Ended::Broken);
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

    pub(crate) fn kill_client(&mut self, client: usize, pick: u64) -> Result<(), Failure> {
        self.note(format_args!("client {client}: dies"));
        self.cut(client, pick)?;
        self.check_file(client)?;
        if self.clients[client].process.take().is_none() {
            return Ok(());
        }
        let tidy = self.clients[client].medium.is_tidy() || self.clients[client].has_failing_disk();
        ensure(tidy, || format!("client {client} left a write-ahead log behind"))?;
        self.after_failed_sync(client)
    }

    pub(crate) fn crash_server(&mut self, pick: u64) -> Result<(), Failure> {
        let mut dice = Dice::new(pick);
        let wanted = self.connections.iter().flatten().find_map(Connection::wanted);
        let file = self.server.crash(wanted, &mut Dice::new(!pick))?;
        self.note(format_args!("server: dies{}{}", if file.is_some() { ", " } else { "" }, file.unwrap_or_default()));
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
        let Some(process) = &self.clients[client].process else { return Ok(()) };
        let keys =
            file::rows(&process.reader, "SELECT key FROM entities ORDER BY key", [], |row| row.get::<_, i64>(0))?;
        let Some(key) = Dice::new(pick).one_of(&keys).copied() else { return Ok(()) };
        if self.within(client, "a compaction", move |write| write.compact(key))?.is_none() {
            return Ok(());
        }
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
        // Up to a second in ten, either way.
        let drift = if dice.once_in(3) { i64::try_from(dice.below(200_000)).unwrap_or(0) - 100_000 } else { 0 };
        if dice.once_in(5) {
            self.server.clock.set(millis, drift);
            self.note(format_args!("server: the clock is {millis} ms off"));
        } else {
            self.clients[client].clock.set(millis, drift);
            self.note(format_args!("client {client}: the clock is {millis} ms off"));
        }
        Ok(())
    }

    /// The application is updated, and knows a newer schema.
    pub(crate) fn upgrade(&mut self, client: usize, pick: u64) -> Result<(), Failure> {
        if self.clients[client].lost || self.clients[client].version > 1 {
            return Ok(());
        }
        self.kill_client(client, pick)?;
        self.clients[client].version = 2;
        self.note(format_args!("client {client}: uses the next schema"));
        self.open(client)?;
        self.check_file(client)
    }
}
