//! The SQLite backend: one file, one writer, acknowledgement after the commit is on the disk.

mod accounts;
mod append;
mod connection;
mod histories;
mod reader;
mod reconcile;
mod schema;
mod writer;

use std::path::Path;
use std::sync::Arc;

use anabranch_core::sync::{AppendOutcome, LogPage, Pushable};
use anabranch_core::wire::{Ask, Mark};
use anabranch_core::{CollectionName, EntityId, Environment, Lineage, SpaceName};
use rusqlite::Row;
use tokio::sync::broadcast;

use self::connection::Source;
use self::reader::Readers;
use self::writer::Writer;
use crate::backend::{
    Author, Backend, BackendFuture, Commit, Histories, HistoryPage, PageBudget, Reconciled, SpaceOverview,
};
use crate::error::{BackendError, BackendErrorKind};

/// Hints that a receiver may be behind before it loses some.
const COMMIT_HINTS: usize = 1_024;

/// A file could not be opened as a server's storage.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It is a database, but not one that a server made.
    #[error("the file is not an Anabranch server's file")]
    NotAServerFile,
    /// A newer release has written it.
    #[error("the file has been written by a newer release (its version is {version})")]
    Newer {
        /// The version of its tables.
        version: i64,
    },
    /// What is in it cannot be right.
    #[error(transparent)]
    Damaged(#[from] BackendError),
    /// SQLite cannot open it.
    #[error("SQLite cannot open the file")]
    Sqlite(#[from] rusqlite::Error),
    /// The writer's thread cannot be started.
    #[error("the writer's thread cannot be started")]
    Thread(#[from] std::io::Error),
}

/// A [`Backend`] in one SQLite file, in write-ahead mode, with every commit synced to the disk.
///
/// Appends that wait for the disk share the next commit (*group commit*). One process serves a file at a
/// time: others may read it, but do not hear of its commits. Dropping the backend finishes what is queued
/// and closes the file.
///
/// ```
/// # let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
/// use anabranch_server::{Backend as _, SqliteBackend, SystemEnvironment};
/// let backend = SqliteBackend::open_in_memory(Box::new(SystemEnvironment))?;
/// # runtime.block_on(async {
/// assert!(backend.is_empty().await?);
/// # Ok::<(), anabranch_server::BackendError>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct SqliteBackend {
    lineage: Lineage,
    writer: Writer,
    readers: Arc<Readers>,
    commits: broadcast::Sender<Commit>,
}

impl Drop for SqliteBackend {
    fn drop(&mut self) {
        // Before the writer, whose connection takes the write-ahead log along if it is the last: the file is whole, and
        // may be copied or moved, when the drop returns.
        self.readers.close();
    }
}

impl SqliteBackend {
    /// Opens a file, or makes a new one with a fresh lineage.
    ///
    /// # Errors
    /// [`OpenError`]. A file that is not a server's is left as it is.
    pub fn open(path: impl AsRef<Path>, environment: Box<dyn Environment>) -> Result<Self, OpenError> {
        Self::open_source(Source::File(path.as_ref().to_path_buf()), environment)
    }

    /// A fresh backend that is gone when it is dropped: for tests.
    ///
    /// # Errors
    /// [`OpenError`], if there is no memory.
    pub fn open_in_memory(mut environment: Box<dyn Environment>) -> Result<Self, OpenError> {
        let source = Source::memory(environment.entropy());
        Self::open_source(source, environment)
    }

    /// Bounds the file's size, in bytes, from the next append on and until it is closed: what does not fit is refused
    /// as by a full disk, and clients try again. Never less than the file has; the write-ahead log comes on top. `None`
    /// takes the bound away.
    pub fn limit_file(&self, bytes: Option<u64>) {
        self.writer.bound(bytes);
    }

    fn open_source(source: Source, mut environment: Box<dyn Environment>) -> Result<Self, OpenError> {
        let mut connection = source.writer()?;
        let lineage = schema::migrate(&mut connection, environment.as_mut())?;
        let (commits, _) = broadcast::channel(COMMIT_HINTS);
        let writer = Writer::start(connection, source.clone(), environment, commits.clone())?;
        tracing::info!(%lineage, "the storage is open");
        Ok(Self { lineage, writer, readers: Arc::new(Readers::new(source)), commits })
    }
}

impl Backend for SqliteBackend {
    fn lineage(&self) -> Lineage {
        self.lineage
    }

    fn is_empty(&self) -> BackendFuture<'_, bool> {
        Box::pin(Arc::clone(&self.readers).run(reader::is_empty))
    }

    fn spaces(&self, after: Option<SpaceName>, most: usize) -> BackendFuture<'_, Vec<SpaceName>> {
        Box::pin(Arc::clone(&self.readers).run(move |connection| reader::spaces(connection, after.as_ref(), most)))
    }

    fn append_by(&self, space: SpaceName, author: Author, batch: Vec<Pushable>) -> BackendFuture<'_, AppendOutcome> {
        Box::pin(self.writer.append(space, author, batch))
    }

    fn read(&self, space: SpaceName, after: Mark, check: Vec<Mark>, budget: PageBudget) -> BackendFuture<'_, LogPage> {
        let read = move |connection: &_| reader::page(connection, &space, after, &check, budget);
        Box::pin(Arc::clone(&self.readers).run(read))
    }

    fn reconcile(&self, space: SpaceName, ask: Ask, budget: PageBudget) -> BackendFuture<'_, Reconciled> {
        let answer = move |connection: &_| reconcile::answer(connection, &space, &ask, budget);
        Box::pin(Arc::clone(&self.readers).run(answer))
    }

    fn head(&self, space: SpaceName) -> BackendFuture<'_, Mark> {
        let read = move |connection: &_| reader::space_head(connection, &space);
        let found = Arc::clone(&self.readers).run(read);
        Box::pin(async move { Ok(found.await?.map_or(Mark::START, |(_, head)| head)) })
    }

    fn overview(&self, space: SpaceName) -> BackendFuture<'_, SpaceOverview> {
        Box::pin(Arc::clone(&self.readers).run(move |connection| reader::overview(connection, &space)))
    }

    fn collections(&self, space: SpaceName) -> BackendFuture<'_, Vec<CollectionName>> {
        Box::pin(Arc::clone(&self.readers).run(move |connection| histories::collections(connection, &space)))
    }

    fn touched(&self, space: SpaceName, after: u64, up_to: u64) -> BackendFuture<'_, Vec<(CollectionName, EntityId)>> {
        let read = move |connection: &_| histories::touched(connection, &space, after, up_to);
        Box::pin(Arc::clone(&self.readers).run(read))
    }

    fn histories(&self, space: SpaceName, range: Histories, budget: PageBudget) -> BackendFuture<'_, HistoryPage> {
        let read = move |connection: &_| histories::histories(connection, &space, &range, budget);
        Box::pin(Arc::clone(&self.readers).run(read))
    }

    fn commits(&self) -> broadcast::Receiver<Commit> {
        self.commits.subscribe()
    }
}

/// SQLite's error as ours: the step and the code, without its text, which may quote what is stored.
fn failed(what: &'static str) -> impl FnOnce(rusqlite::Error) -> BackendError {
    use rusqlite::ErrorCode;
    move |error| match error.sqlite_error() {
        Some(code) => {
            let kind = match code.code {
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::ConstraintViolation => {
                    BackendErrorKind::Corrupt
                }
                ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::OutOfMemory
                | ErrorCode::OperationInterrupted
                | ErrorCode::SystemIoFailure
                | ErrorCode::DiskFull
                | ErrorCode::CannotOpen => BackendErrorKind::Retry,
                _ => BackendErrorKind::Internal,
            };
            BackendError::new(kind, what).with_code(code.extended_code)
        }
        None => BackendError::internal(what),
    }
}

fn corrupt(what: &'static str) -> BackendError {
    BackendError::corrupt(what)
}

/// A number as SQLite stores it.
fn signed(number: u64) -> Result<i64, BackendError> {
    i64::try_from(number).map_err(|_| BackendError::internal("a number is beyond what SQLite stores"))
}

/// A number that can only have been stored by [`signed`].
fn unsigned(number: i64) -> Result<u64, BackendError> {
    u64::try_from(number).map_err(|_| corrupt("a negative number"))
}

/// A blob of a known length.
fn blob<const N: usize>(row: &Row<'_>, column: usize) -> Result<[u8; N], BackendError> {
    let bytes = row.get_ref(column).ok().and_then(|value| value.as_blob().ok());
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| corrupt("the length of a stored id"))
}
