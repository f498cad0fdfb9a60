//! [`Listed`].

use std::ops::Deref;

use anabranch_core::EntityId;
use anabranch_store::EntityRecord;

use super::entity::Entity;
use super::record::Record;
use crate::error::Error;

/// Some entities of a collection, in order of id: what [`Collection::list`](crate::Collection::list) returns.
///
/// It reads as a slice of the records, and a `for` loop goes over them. An entity that does not fit the type (an
/// older schema version, or code without one, has written a text where a number should be) is not among them: it
/// is in [`misfits`](Self::misfits), and takes nothing from the others.
#[derive(Debug)]
pub struct Listed<T> {
    /// Those that fit the type.
    pub records: Vec<Record<T>>,
    /// Those that do not, and why. [`Space::get`](crate::Space::get) shows them as they are.
    pub misfits: Vec<(EntityId, Error)>,
    /// Where the next page begins, for `list(next, …)`; `None` if there is none.
    pub next: Option<EntityId>,
}

impl<T: Entity> Listed<T> {
    /// Reads a page of rows, of which there were to be `limit` at most.
    pub(super) fn read(rows: Vec<EntityRecord>, limit: u32) -> Self {
        let is_full = u32::try_from(rows.len()).is_ok_and(|length| length == limit);
        let next = rows.last().filter(|_| is_full).map(|last| last.id);
        let (mut records, mut misfits) = (Vec::with_capacity(rows.len()), Vec::new());
        for row in rows {
            let id = row.id;
            match Record::read(row) {
                Ok(record) => records.push(record),
                Err(error) => misfits.push((id, error)),
            }
        }
        Self { records, misfits, next }
    }
}

impl<T> Deref for Listed<T> {
    type Target = [Record<T>];

    fn deref(&self) -> &[Record<T>] {
        &self.records
    }
}

impl<T> IntoIterator for Listed<T> {
    type Item = Record<T>;
    type IntoIter = std::vec::IntoIter<Record<T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.records.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a Listed<T> {
    type Item = &'a Record<T>;
    type IntoIter = std::slice::Iter<'a, Record<T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.records.iter()
    }
}
