//! The end of all faults: within bounded time, everything is quiet and everyone agrees.

use anabranch_core::sync::{ClientEvent, Halt};

use crate::dice::Dice;
use crate::failure::{Failure, ensure};
use crate::file;
use crate::fleet::Fleet;

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
            self.clients[client].clock.set_skew(0);
            if self.clients[client].offline {
                self.switch(client)?;
            }
        }
        let deadline = self.time.now() + BOUND_MINUTES * 60_000;
        for _ in 0..BOUND_STEPS {
            self.help_halted()?;
            if self.step(dice.any())? {
                continue;
            }
            if self.is_quiet()? {
                self.check_converged()?;
                self.sweep();
                return self.check_converged();
            }
            ensure(self.time.now() < deadline, || format!("not quiet {BOUND_MINUTES} minutes after all faults ended"))?;
            let waits = self.wait();
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
                Some(Halt::OtherLineage(lineage)) => {
                    self.note(format_args!("client {number}: adopts the server's new history"));
                    self.clients[number].adopt(lineage)?;
                }
                Some(halt) => return Err(Failure::new(format!("client {number} halted: {halt:?}"))),
            }
        }
        Ok(())
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
