//! A replica made from what a server holds.

use std::time::Duration;

use anabranch_core::{Schema, SpaceName};
use anabranch_store::{OpenMode, StoreError};

use crate::error::Error;
use crate::replica::{OpenOptions, Replica};
use crate::sync::{Sync, SyncError};

impl OpenOptions {
    /// Makes a new file from a space of the server at `url`, with the schema that the space carries: whoever
    /// pushes to a space leaves it there. Blocks until everything is here; a clone that was cut off goes on when
    /// it is called again.
    ///
    /// # Errors
    /// If the file is a replica already, the server cannot be reached or `deadline` passes, or the space carries
    /// no schema.
    pub fn clone_space(self, url: &str, space: &str, deadline: Duration) -> Result<Replica, Error> {
        self.clone_space_with(url, space, deadline, |sync| sync)
    }

    /// As [`clone_space`](Self::clone_space), by a sync that is configured first: with a token, for instance, or another
    /// transport.
    ///
    /// ```no_run
    /// # use anabranch::Replica;
    /// # use std::time::Duration;
    /// # fn clone(token: String) -> Result<Replica, anabranch::Error> {
    /// let deadline = Duration::from_secs(600);
    /// Replica::at("notes.db").clone_space_with("https://notes.example", "main", deadline, |sync| sync.token(token))
    /// # }
    /// ```
    ///
    /// # Errors
    /// As `clone_space`; and if the server does not accept who asks.
    pub fn clone_space_with(
        self,
        url: &str,
        space: &str,
        deadline: Duration,
        configure: impl FnOnce(Sync) -> Sync,
    ) -> Result<Replica, Error> {
        let name = SpaceName::new(space)?;
        // Changes need no schema to be stored. Their states are derived once it is known.
        let empty = Schema { version: 0, collections: Default::default() };
        let schema = {
            let replica = self.again().try_open(OpenMode::Either(empty)).map_err(|error| match error {
                // It has a schema, which an unfinished clone has not.
                StoreError::SchemaOutdated { .. } => StoreError::AlreadyInitialised(self.path.display().to_string()),
                other => other,
            })?;
            if !configure(replica.sync(url).space(space)?).now(deadline).wait()?.finished {
                return Err(SyncError::Deadline.into());
            }
            let carrier = replica.store().read(|read| read.entity(&name, Schema::carrier()))?;
            carrier.and_then(|carrier| Schema::from_carried(&carrier.state))
        };
        let missing = || Error::invalid(format!("the space {space:?} on {url} carries no schema that can be used"));
        self.open(OpenMode::Either(schema.ok_or_else(missing)?))
    }
}
