//! Transactions: changes of several entities that stand or fall together, here, on the wire and elsewhere.

use anabranch_core::sync::fits_transaction;
use anabranch_core::{Change, ChangeHash, TransactionId};
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::cache::EntityKey;
use crate::engine::Write;
use crate::error::StoreError;
use crate::rows::{self, EntityRow, SpaceKey};

/// A transaction under way.
#[derive(Clone, Debug)]
pub(crate) struct OpenTransaction {
    id: TransactionId,
    /// The space of its first change.
    space: Option<SpaceKey>,
    changes: usize,
    bytes: usize,
}

impl Write<'_> {
    /// Makes everything that `work` writes one transaction: all of it is stored or nothing, servers accept all of
    /// it or nothing, and no replica that pulls it shows a part of it. One inside another is a part of the outer.
    ///
    /// # Errors
    /// What `work` returns; nothing of it is stored then, even if this write goes on. [`StoreError::TransactionSpaces`]
    /// if it writes to a second space, [`StoreError::TransactionTooLarge`] beyond
    /// [`MAX_TRANSACTION_CHANGES`](anabranch_core::sync::MAX_TRANSACTION_CHANGES) or
    /// [`MAX_TRANSACTION_BYTES`](anabranch_core::sync::MAX_TRANSACTION_BYTES).
    pub fn transaction<T, E: From<StoreError>>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        // What this write has done so far goes into the rows, which a deletion inside looks at.
        self.flush_rows()?;
        self.run("SAVEPOINT part")?;
        let outer = self.transaction.clone();
        if outer.is_none() {
            let now = self.now();
            let id = TransactionId::mint(now, self.engine.environment.entropy());
            self.transaction = Some(OpenTransaction { id, space: None, changes: 0, bytes: 0 });
        }
        let before = std::mem::take(self.pending);
        let used = self.used.len();
        let done = work(self).and_then(|value| match outer {
            None => self.close_transaction().map(|()| value).map_err(E::from),
            Some(_) => Ok(value),
        });
        let own = std::mem::replace(self.pending, before);
        if done.is_ok() {
            self.pending.absorb(own);
        } else {
            self.transaction = outer;
            for key in self.used.split_off(used) {
                drop(self.engine.cache.take(key));
            }
            self.run("ROLLBACK TO part")?;
        }
        self.run("RELEASE part")?;
        done
    }

    /// Counts a change that is about to be logged, and says which transaction it is part of.
    pub(crate) fn join_transaction(
        &mut self,
        row: &EntityRow,
        change: &Change,
    ) -> Result<Option<TransactionId>, StoreError> {
        let Some(open) = &mut self.transaction else { return Ok(None) };
        if *open.space.get_or_insert(row.space) != row.space {
            return Err(StoreError::TransactionSpaces);
        }
        open.changes += 1;
        open.bytes += change.bytes().len();
        if !fits_transaction(open.changes, open.bytes) {
            return Err(StoreError::TransactionTooLarge);
        }
        Ok(Some(open.id))
    }

    fn run(&self, sql: &'static str) -> Result<(), StoreError> {
        Ok(self.engine.run(sql)?)
    }

    fn close_transaction(&mut self) -> Result<(), StoreError> {
        if let Some(OpenTransaction { id, changes: 1, .. }) = self.transaction.take() {
            // A change alone is whole anyway.
            let connection = &self.engine.connection;
            connection.prepare_cached("UPDATE changes SET txn = NULL WHERE txn = ?")?.execute([id.as_bytes()])?;
        }
        Ok(())
    }
}

/// The transaction that a logged change is part of.
pub(crate) fn transaction_of(
    connection: &Connection,
    entity: EntityKey,
    hash: &ChangeHash,
) -> Result<Option<TransactionId>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT txn FROM changes WHERE entity = ? AND hash = ?")?;
    let found: Option<Option<Vec<u8>>> =
        statement.query_row(params![entity, hash.as_bytes()], |row| row.get(0)).optional()?;
    Ok(found.flatten().and_then(|bytes| rows::transaction_id(&bytes)))
}
