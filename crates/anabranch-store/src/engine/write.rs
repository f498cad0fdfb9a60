//! A transaction under way, as a job sees it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use anabranch_core::Schema;
use anabranch_core::document::Document;

use super::{Dirty, Engine, Pending};
use crate::cache::EntityKey;
use crate::declined::Declined;
use crate::error::StoreError;
use crate::read::Read;
use crate::rows::EntityRow;
use crate::transaction::OpenTransaction;

/// The most pages that SQLite gives a file.
const MOST_PAGES: u64 = 4_294_967_294;

/// A transaction under way, as a [`Job`](crate::Job) sees it.
pub struct Write<'a> {
    pub(crate) engine: &'a mut Engine,
    pub(crate) pending: &'a mut Pending,
    /// Documents that this job has changed; they are thrown away if it fails.
    pub(crate) used: Vec<EntityKey>,
    pub(crate) transaction: Option<OpenTransaction>,
    /// What has come from a peer and was discarded here before.
    pub(crate) declined: BTreeSet<Declined>,
}

impl fmt::Debug for Write<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Write").finish_non_exhaustive()
    }
}

impl<'a> Write<'a> {
    pub(crate) const fn of(engine: &'a mut Engine, pending: &'a mut Pending) -> Self {
        Self { engine, pending, used: Vec::new(), transaction: None, declined: BTreeSet::new() }
    }
}

impl Write<'_> {
    /// The schema in use.
    #[must_use]
    pub fn schema(&self) -> &Arc<Schema> {
        &self.engine.schema
    }

    /// Brings the rows up to date with what this job has written so far.
    pub(crate) fn flush_rows(&mut self) -> Result<(), StoreError> {
        self.engine.flush(self.pending)
    }

    /// Changes an entity's document, and keeps it only if that succeeds.
    pub(crate) fn with_document<T>(
        &mut self,
        row: &EntityRow,
        work: impl FnOnce(&mut Self, &mut Document) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut document = self.engine.take_document(row)?;
        // From here on the document in memory may be ahead of the file.
        self.used.push(row.key);
        let value = work(self, &mut document)?;
        self.engine.cache.put(row.key, document);
        Ok(value)
    }

    pub(crate) fn dirty(&mut self, key: EntityKey) -> &mut Dirty {
        self.pending.dirty.entry(key).or_default()
    }

    pub(crate) fn now(&self) -> i64 {
        self.engine.environment.now()
    }

    /// Reads what the transaction sees.
    pub(crate) const fn as_read(&self) -> Read<'_> {
        Read::within(&self.engine.connection, &self.engine.seals)
    }

    /// Bounds the file's size, in bytes, until it is closed: what does not fit is refused as by a full disk. Never less
    /// than the file has; the write-ahead log comes on top. `None` takes the bound away.
    ///
    /// # Errors
    /// If the database fails.
    pub fn limit_file(&mut self, bytes: Option<u64>) -> Result<(), StoreError> {
        let connection = &self.engine.connection;
        let page: u64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
        let pages = bytes.map_or(MOST_PAGES, |bytes| (bytes / page.max(1)).clamp(1, MOST_PAGES));
        let limit = format!("PRAGMA max_page_count = {pages}");
        Ok(connection.query_row(&limit, [], |_| Ok(()))?)
    }

    /// Whether a commit of this connection is on disk before it is reported: a write-ahead log with
    /// `synchronous=FULL`, or any journal with `EXTRA`.
    ///
    /// # Errors
    /// If the database fails.
    pub fn is_fully_synchronous(&mut self) -> Result<bool, StoreError> {
        let pragma = |name| self.engine.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let mode: String = self.engine.connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
        let level = pragma("synchronous")?;
        Ok(level == 3 || mode == "wal" && level == 2)
    }
}
