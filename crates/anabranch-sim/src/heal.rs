//! The end of all faults: within bounded time, everything is quiet and everyone agrees.

use anabranch_core::sync::{ClientEvent, Halt};
use anabranch_store::Resend;

use crate::dice::Dice;
use crate::failure::{Failure, ensure};
use crate::file;
use crate::fleet::Fleet;
use crate::server::Connection;

/// After the faults end, quiet comes within this time: long enough for the longest backoff, a few times over.
const BOUND_MINUTES: i64 = 60;
/// Far more steps than an honest recovery takes.
const BOUND_STEPS: u32 = 200_000;

impl Fleet {
    /// Ends all faults and runs until nothing is left to do, then checks that everyone agrees.
    ///
    /// # Errors
    /// [`Failure`] if quiet does not come in time, or a promise is broken.
    pub fn heal(&mut self, seed: u64) -> Result<(), Failure> {
        let mut dice = Dice::new(seed);
        self.note(format_args!("all faults end"));
        for client in 0..self.clients.len() {
            self.clients[client].clock.set(0, 0);
            self.mend(client);
            self.catch_up_schema(client)?;
            if self.clients[client].offline {
                self.switch(client)?;
            }
        }
        self.server.clock.set(0, 0);
        self.server.refused.clear();
        if self.server.lying.is_some() {
            self.unveil(dice.any())?;
        }
        let deadline = self.time.now() + BOUND_MINUTES * 60_000;
        for _ in 0..BOUND_STEPS {
            self.help_halted()?;
            if self.step(dice.any())? {
                continue;
            }
            if self.is_quiet()? {
                if self.send_again(&mut dice)? {
                    continue;
                }
                self.note_log();
                self.check_converged()?;
                self.sweep();
                return self.check_converged();
            }
            if self.want_again()? {
                continue;
            }
            ensure(self.time.now() < deadline, || format!("not quiet {BOUND_MINUTES} minutes after all faults ended"))?;
            let waits = self.wait() || self.send_again(&mut dice)?;
            ensure(waits, || format!("not quiet, and nothing will ever happen: {}", self.unrest()))?;
        }
        Err(Failure::new(format!("still busy after {BOUND_STEPS} steps")))
    }

    /// The replicas look at the documents that they took without looking.
    fn sweep(&mut self) {
        for client in &mut self.clients {
            if let Some(process) = &mut client.process {
                while process.engine.sweep().is_some() {}
            }
        }
    }

    /// What a person has to decide is decided.
    fn help_halted(&mut self) -> Result<(), Failure> {
        for number in 0..self.clients.len() {
            let halted = self.clients[number].process.as_mut().and_then(|process| process.halted.take());
            match halted {
                None => {}
                Some(Halt::Forbidden(_)) => {
                    self.note(format_args!("client {number}: signs in again"));
                    self.clients[number].begin_again()?;
                }
                Some(Halt::OtherLineage(lineage)) => {
                    self.note(format_args!("client {number}: adopts the server's new history"));
                    self.clients[number].adopt(lineage)?;
                }
                Some(Halt::Protocol(_)) if self.has_lied => {
                    self.note(format_args!("client {number}: tries again"));
                    self.clients[number].begin_again()?;
                }
                Some(halt) => return Err(Failure::new(format!("client {number} halted: {halt:?}"))),
            }
        }
        Ok(())
    }

    /// What a server has turned down for good is sent again by a person, or given up if others have given up something
    /// before. `false` if there is nothing like that.
    fn send_again(&mut self, dice: &mut Dice) -> Result<bool, Failure> {
        let mut sent = 0;
        for number in 0..self.clients.len() {
            if self.turned_down && self.model.histories.has_discards() && dice.once_in(2) {
                sent += usize::from(self.decide_at(number, dice.any())?);
            }
        }
        for number in 0..self.clients.len() {
            sent += self.give_up_purged(number)?;
            if self.turned_down {
                let what = "sending again what was refused";
                sent += self.within(number, what, |write| write.resend(&Resend::All))?.unwrap_or(0);
            }
        }
        // What is pushed next may be turned down in its turn.
        self.turned_down = self.connections.iter().flatten().any(Connection::turns_down);
        Ok(sent > 0)
    }

    /// Whoever still uses an older schema than others has an update waiting.
    fn catch_up_schema(&mut self, client: usize) -> Result<(), Failure> {
        let newest = self.version();
        if self.clients[client].version < newest { self.upgrade(client, 0) } else { Ok(()) }
    }

    /// The newest version of the schema that is in use.
    pub(crate) fn version(&self) -> u32 {
        self.clients.iter().map(|client| client.version).max().unwrap_or(1)
    }

    fn is_quiet(&self) -> Result<bool, Failure> {
        for process in self.clients.iter().filter_map(|client| client.process.as_ref()) {
            let waiting = file::number(&process.reader, "SELECT count(*) FROM outbox WHERE state = 'pending'")?;
            if !process.session.is_caught_up() || waiting > 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn unrest(&self) -> String {
        let mut parts = Vec::new();
        for (number, client) in self.clients.iter().enumerate() {
            let Some(process) = &client.process else { continue };
            let waiting = file::number(&process.reader, "SELECT count(*) FROM outbox").unwrap_or(-1);
            let caught_up = process.session.is_caught_up();
            parts.push(format!("client {number}: caught up: {caught_up}, outbox: {waiting}"));
        }
        parts.join("; ")
    }

    /// Wakes a client's session, as a person who presses a button.
    pub fn start(&mut self, client: usize) {
        let client = client % self.clients.len();
        self.clients[client].handle(ClientEvent::Start);
    }
}
