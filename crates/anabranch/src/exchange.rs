//! Two open replicas, no server and no network.

use crate::error::Error;
use crate::peer;
use crate::replica::Replica;

/// What an exchange moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exchanged {
    /// Changes the other replica took.
    pub sent: usize,
    /// Changes this replica took.
    pub received: usize,
}

impl Replica {
    /// Exchanges changes with another open replica, both ways, until both hold the same (unless something is
    /// written meanwhile): what two [peers](crate::Peer) do, inside one process. Blocks; each side commits as it goes,
    /// so an interruption loses nothing. Not to be called from an async task.
    ///
    /// # Errors
    /// If one of the files cannot be read or written.
    pub fn exchange(&self, other: &Self) -> Result<Exchanged, Error> {
        let (promise, commit) = anabranch_store::Commit::<_, Error>::pending();
        let (one, other) = (self.clone(), other.clone());
        drop(self.runtime()?.spawn(async move {
            let outcome = peer::exchange(&one, &other).await;
            promise.resolve(outcome.map_err(Error::from));
        }));
        let report = commit.wait()?;
        let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Ok(Exchanged { sent: count(report.sent), received: count(report.received) })
    }
}
