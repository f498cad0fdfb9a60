//! The handle of a sync in the background.

use std::fmt;

use anabranch_core::sync::{Conditions, Trigger};
use anabranch_store::Commit as StoreCommit;
use tokio::sync::mpsc;

use super::driver::Command;
use super::token::{Token, TokenSource};
use crate::Commit;
use crate::replica::Replica;

/// A sync in the background. It stops when the handle is dropped.
pub struct SyncHandle {
    commands: mpsc::UnboundedSender<Command>,
    replica: Replica,
}

impl fmt::Debug for SyncHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncHandle").field("replica", &self.replica).finish_non_exhaustive()
    }
}

impl SyncHandle {
    pub(super) const fn new(commands: mpsc::UnboundedSender<Command>, replica: Replica) -> Self {
        Self { commands, replica }
    }

    /// Something asks for a sync: a push service poked, say. The schedule decides when; the status says why it waits.
    /// A hint from a push service is [`Trigger::Poke`].
    pub fn trigger(&self, trigger: Trigger) {
        self.tell(Command::Trigger(trigger));
    }

    /// A person asked: tries at once, whatever the guardrails and the backoff. Only a server that asked to be left
    /// alone is left alone.
    pub fn retry_now(&self) {
        self.trigger(Trigger::Manual);
    }

    /// The network is back: tries at once, without waiting for the backoff. A connection that is being made begins anew.
    pub fn network_regained(&self) {
        self.trigger(Trigger::NetworkRegained);
    }

    /// The device has changed. Going back online counts as [`network_regained`](Self::network_regained).
    ///
    /// ```no_run
    /// # fn on_network(sync: &anabranch::SyncHandle, online: bool, metered: bool) {
    /// use anabranch::Conditions;
    /// sync.set_conditions(Conditions { online, metered, ..Conditions::default() });
    /// # }
    /// ```
    pub fn set_conditions(&self, conditions: Conditions) {
        self.tell(Command::Conditions(conditions));
    }

    /// Connects with this token from now on, in place of the one, or the provider, there was. A sync that waits for a
    /// sign-in goes on.
    pub fn set_token(&self, token: impl Into<Token>) {
        self.tell(Command::Token(TokenSource::Static(token.into())));
    }

    /// Looks into the outbox: another process may have written to the file.
    pub fn look_again(&self) {
        self.tell(Command::LookAgain);
    }

    /// Resolves when nothing is pending and nothing is left to pull, now or later.
    pub fn caught_up(&self) -> Commit<()> {
        let (promise, commit) = StoreCommit::pending();
        self.tell(Command::CaughtUp(promise));
        commit
    }

    fn tell(&self, command: Command) {
        // If the driver has ended, the status says why.
        drop(self.commands.send(command));
    }
}

impl Drop for SyncHandle {
    fn drop(&mut self) {
        self.tell(Command::Stop);
    }
}
