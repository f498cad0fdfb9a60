//! An entity's log, read past damage: by the table and by its index, every change on its own.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use anabranch_core::{Change, ChangeHash};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _};

use crate::cache::EntityKey;
use crate::error::StoreError;

/// What there is in the log of an entity.
#[derive(Default)]
pub(super) struct Log {
    /// Changes that are what their hash says, by their place in the log.
    pub(super) good: BTreeMap<i64, Good>,
    /// Rows that are not, or cannot be read.
    pub(super) bad: BTreeMap<i64, Bad>,
    /// Table and index do not say the same: the index must be made again before anything is written.
    pub(super) torn: bool,
}

pub(super) struct Good {
    pub(super) change: Change,
    pub(super) transaction: Option<Vec<u8>>,
    /// The row calls it by another hash, or gives it to another entity.
    pub(super) misnamed: bool,
}

#[derive(Default)]
pub(super) struct Bad {
    pub(super) hash: Option<ChangeHash>,
    pub(super) written_at: i64,
}

struct Raw {
    entity: Value,
    hash: Value,
    transaction: Value,
    bytes: Value,
    stamp: Value,
}

impl Log {
    pub(super) fn read(connection: &Connection, entity: EntityKey) -> Result<Self, StoreError> {
        let places = |from: &str| -> Result<BTreeSet<i64>, StoreError> {
            let mut select = connection.prepare(&format!("SELECT seq FROM changes {from} WHERE entity = ?"))?;
            Ok(select.query_map([entity], |row| row.get(0))?.collect::<Result<_, _>>()?)
        };
        let by_table = places("NOT INDEXED")?;
        let by_index = places("INDEXED BY sqlite_autoindex_changes_1")?;
        let mut log = Self { torn: by_table != by_index, ..Self::default() };
        for seq in by_table.union(&by_index) {
            log.add(*seq, entity, raw(connection, *seq)?);
        }
        log.find_misnamed();
        Ok(log)
    }

    fn add(&mut self, seq: i64, entity: EntityKey, raw: Option<Raw>) {
        let Some(Raw { entity: owner, hash, transaction, bytes, stamp }) = raw else {
            self.bad.insert(seq, Bad::default());
            return;
        };
        let hash = match hash {
            Value::Blob(hash) => <[u8; 32]>::try_from(hash).ok().map(ChangeHash::from_bytes),
            _ => None,
        };
        let change = match bytes {
            Value::Blob(bytes) => Change::parse(bytes).ok(),
            _ => None,
        };
        let transaction = match transaction {
            Value::Blob(id) => Some(id),
            _ => None,
        };
        match change {
            // Which of the two is right is told by what names it.
            Some(change) => {
                let misnamed = hash != Some(change.hash()) || owner != Value::Integer(entity);
                self.good.insert(seq, Good { change, transaction, misnamed });
            }
            None => {
                let written_at = if let Value::Integer(stamp) = stamp { stamp >> 16 } else { 0 };
                self.bad.insert(seq, Bad { hash, written_at });
            }
        }
    }

    /// A change whose row calls it otherwise is believed if another change builds on it, or it is one of `heads`.
    fn find_misnamed(&mut self) {
        self.torn |= self.good.values().any(|good| good.misnamed);
    }

    /// Takes misnamed changes that nothing names out of the good ones: their bytes are not what was written.
    pub(super) fn judge(&mut self, heads: &[ChangeHash], connection: &Connection) -> Result<(), StoreError> {
        let named: HashSet<ChangeHash> = self
            .good
            .values()
            .filter(|good| !good.misnamed)
            .flat_map(|good| good.change.dependencies().iter().copied())
            .chain(heads.iter().copied())
            .collect();
        let doubtful: Vec<i64> = self
            .good
            .iter()
            .filter(|(_, good)| good.misnamed && !named.contains(&good.change.hash()))
            .map(|(seq, _)| *seq)
            .collect();
        for seq in doubtful {
            let Some(good) = self.good.remove(&seq) else { continue };
            let hash: Option<Vec<u8>> =
                connection.query_row("SELECT hash FROM changes WHERE seq = ?", [seq], |row| row.get(0)).optional()?;
            // Another entity's row, which only the index gives to this one.
            let hash = hash.and_then(|hash| <[u8; 32]>::try_from(hash).ok()).map(ChangeHash::from_bytes);
            if hash == Some(good.change.hash()) {
                continue;
            }
            self.bad.insert(seq, Bad { hash, written_at: good.change.stamp().millis() });
        }
        Ok(())
    }
}

fn raw(connection: &Connection, seq: i64) -> Result<Option<Raw>, StoreError> {
    let mut select =
        connection.prepare_cached("SELECT entity, hash, txn, bytes, stamp FROM changes NOT INDEXED WHERE seq = ?")?;
    let read = |row: &rusqlite::Row<'_>| {
        Ok(Raw {
            entity: row.get(0)?,
            hash: row.get(1)?,
            transaction: row.get(2)?,
            bytes: row.get(3)?,
            stamp: row.get(4)?,
        })
    };
    match select.query_row([seq], read).optional() {
        Ok(raw) => Ok(raw),
        Err(error) if StoreError::is_corruption(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
