//! The store as an application's process uses it: one writer thread, many readers.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anabranch_core::sync::OutboxRead;
use anabranch_core::{Actor, EntityId, Environment, Functions, ReplicaId, Schema};
use rusqlite::Connection;
use tracing::{error, warn};

use crate::commit::{Commit, Promise};
use crate::engine::{Committed, Engine, Job, Stats, Undo, Write};
use crate::error::StoreError;
use crate::file;
use crate::outbox::OutboxPage;
use crate::read::Read;
use crate::rows::RemoteKey;
use crate::witness::{self, LostFile, Witness};

/// Writes that may wait for the writer; whoever writes faster blocks.
const QUEUE: usize = 4_096;
/// The most writes that share one transaction.
const GROUP: usize = 1_024;
/// Read connections that are kept open.
const IDLE_READERS: usize = 8;

/// How a file is opened.
#[derive(Clone, Debug)]
pub enum OpenMode {
    /// It must be a replica already; its own schema is used.
    Existing,
    /// It must not be a replica yet.
    Create(Schema),
    /// It is made if need be, and brought to this schema.
    Either(Schema),
}

type Listener = Box<dyn Fn(&Committed) -> bool + Send + Sync>;

/// One replica's file. Cheap to clone; the file is closed when the last clone is dropped.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    schema: Arc<Schema>,
    replica: ReplicaId,
    actor: Arc<Mutex<Actor>>,
    stats: Arc<Stats>,
    listeners: Arc<Mutex<Vec<Listener>>>,
    readers: Mutex<Vec<Connection>>,
    queue: Option<SyncSender<Box<dyn Job>>>,
    writer: Option<JoinHandle<()>>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens a file and starts its writer thread.
    ///
    /// # Errors
    /// [`StoreError`] if the file cannot be opened as asked.
    pub fn open(path: &Path, mode: OpenMode, environment: Box<dyn Environment>) -> Result<Self, StoreError> {
        Self::open_with(path, mode, &Functions::default(), environment)
    }

    /// As [`Store::open`], with the functions that the schema names.
    ///
    /// # Errors
    /// As [`Store::open`]; also if a function is missing.
    pub fn open_with(
        path: &Path,
        mode: OpenMode,
        functions: &Functions,
        environment: Box<dyn Environment>,
    ) -> Result<Self, StoreError> {
        if matches!(mode, OpenMode::Create(_)) && path.exists() {
            return Err(StoreError::AlreadyInitialised(path.display().to_string()));
        }
        let schema = match mode {
            OpenMode::Existing => None,
            OpenMode::Create(schema) | OpenMode::Either(schema) => Some(schema),
        };
        let witness = Witness::of(path, schema.is_none())?;
        let engine = Engine::open_watched(path, schema, functions, environment, Some(witness))?;
        let listeners: Arc<Mutex<Vec<Listener>>> = Arc::default();
        let (queue, jobs) = sync_channel(QUEUE);
        let mut inner = Inner {
            path: path.to_owned(),
            schema: Arc::clone(engine.schema()),
            replica: engine.replica(),
            actor: engine.shared_actor(),
            stats: Arc::clone(engine.stats()),
            listeners: Arc::clone(&listeners),
            readers: Mutex::default(),
            queue: Some(queue),
            writer: None,
        };
        let writer = std::thread::Builder::new().name("anabranch-writer".to_owned());
        let writer = writer.spawn(move || write_loop(engine, &jobs, &listeners)).map_err(|_| StoreError::Closed)?;
        inner.writer = Some(writer);
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Starts a write. The work runs on the writer thread, in a transaction that it may share with other
    /// writes; if it fails, nothing of it is stored and the others are not affected.
    pub fn write<T, E, F>(&self, work: F) -> Commit<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&mut Write<'_>) -> Result<T, E> + Send + 'static,
    {
        self.submit(work, false)
    }

    /// As [`Store::write`], for work that looks at the rows of entities: they show what all writes before it did.
    pub fn write_on_rows<T, E, F>(&self, work: F) -> Commit<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&mut Write<'_>) -> Result<T, E> + Send + 'static,
    {
        self.submit(work, true)
    }

    /// Reads what is to be pushed to a remote next; see [`Write::outbox_page`].
    pub fn outbox_page(&self, remote: RemoteKey, read: OutboxRead) -> Commit<OutboxPage> {
        // It looks up parents in the rows of entities, so writes that share its transaction must be in them.
        self.submit(move |write| write.outbox_page(remote, &read), true)
    }

    fn submit<T, E, F>(&self, work: F, reads_rows: bool) -> Commit<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&mut Write<'_>) -> Result<T, E> + Send + 'static,
    {
        let (promise, commit) = Commit::pending();
        let job = TypedJob { work: Some(work), result: Err(StoreError::Panicked.into()), promise, reads_rows };
        if let Some(queue) = &self.inner.queue {
            // A send fails only if the writer is gone; the dropped promise then says so.
            drop(queue.send(Box::new(job)));
        }
        commit
    }

    /// Reads on the calling thread, beside whatever is being written.
    ///
    /// # Errors
    /// What `work` returns, or if the database fails.
    pub fn read<T>(&self, work: impl FnOnce(&Read<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let idle = self.readers().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => file::open_reader(&self.inner.path)?,
        };
        let result = work(&Read::new(&connection));
        if let Err(error) = &result
            && let Some(entity) = error.damaged_entity()
        {
            self.suspect(entity);
        }
        let mut readers = self.readers();
        if readers.len() < IDLE_READERS && connection.is_autocommit() {
            readers.push(connection);
        }
        result
    }

    /// Has the writer look at an entity, without waiting for it: whoever reads has its answer already.
    fn suspect(&self, entity: EntityId) {
        let (promise, commit) = Commit::<(), StoreError>::pending();
        let work = move |write: &mut Write<'_>| write.suspect(entity);
        let job = TypedJob { work: Some(work), result: Err(StoreError::Panicked), promise, reads_rows: false };
        drop(commit);
        if let Some(queue) = &self.inner.queue
            && queue.try_send(Box::new(job)).is_err()
        {
            warn!(%entity, "the writer is too busy to look at a damaged entity");
        }
    }

    fn readers(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.inner.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `listener` after every commit, on the writer thread, until it returns `false`: it must be quick
    /// and must not write.
    pub fn on_commit(&self, listener: impl Fn(&Committed) -> bool + Send + Sync + 'static) {
        let mut listeners = self.inner.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.push(Box::new(listener));
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The schema in use.
    #[must_use]
    pub fn schema(&self) -> &Schema {
        &self.inner.schema
    }

    /// This replica's id.
    #[must_use]
    pub fn replica(&self) -> ReplicaId {
        self.inner.replica
    }

    /// The actor that this process writes under now. It changes if another copy of the file turns out to use it, too.
    #[must_use]
    pub fn actor(&self) -> Actor {
        self.inner.actor.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is known to have been lost with a file that was here before, until [`Write::forget_lost`].
    ///
    /// # Errors
    /// If the database fails.
    pub fn lost(&self) -> Result<Option<LostFile>, StoreError> {
        self.read(|read| witness::lost(read.connection()))
    }

    /// Counters since the file was opened.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.inner.stats
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // SQLite folds the WAL into the file when the last connection closes, and only the writer can.
        self.readers.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        // The writer ends when the queue does, after all that is in it.
        drop(self.queue.take());
        if let Some(writer) = self.writer.take()
            && writer.thread().id() != std::thread::current().id()
            && writer.join().is_err()
        {
            error!("the writer thread panicked");
        }
    }
}

struct TypedJob<T, E: From<StoreError>, F> {
    work: Option<F>,
    result: Result<T, E>,
    promise: Promise<T, E>,
    reads_rows: bool,
}

impl<T, E, F> Job for TypedJob<T, E, F>
where
    T: Send + 'static,
    E: From<StoreError> + Send + 'static,
    F: FnOnce(&mut Write<'_>) -> Result<T, E> + Send + 'static,
{
    fn run(&mut self, write: &mut Write<'_>) -> Result<(), Undo> {
        if let Some(work) = self.work.take() {
            self.result = work(write);
        }
        if self.result.is_ok() { Ok(()) } else { Err(Undo) }
    }

    fn reads_rows(&self) -> bool {
        self.reads_rows
    }

    fn finish(self: Box<Self>, outcome: Result<(), StoreError>) {
        let Self { work, result, promise, .. } = *self;
        let has_run = work.is_none();
        promise.resolve(match (result, outcome) {
            (_, Err(error)) if !has_run => Err(error.into()),
            (Ok(value), Ok(())) => Ok(value),
            (Ok(_), Err(error)) => Err(error.into()),
            (Err(error), _) => Err(error),
        });
    }
}

/// Takes every write that waits, commits them together, and folds a log when nothing waits.
fn write_loop(mut engine: Engine, jobs: &Receiver<Box<dyn Job>>, listeners: &Mutex<Vec<Listener>>) {
    while let Some(first) = next_job(&mut engine, jobs, listeners) {
        let mut group = vec![first];
        while group.len() < GROUP {
            match jobs.try_recv() {
                Ok(job) => group.push(job),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        commit_group(&mut engine, group, listeners);
        if let Some(committed) = engine.mend() {
            tell(listeners, &committed);
        }
        engine.note_sight(false);
        compact_one(&mut engine);
    }
    engine.close();
}

/// Waits for a job. Meanwhile entities are looked at that came without a document.
fn next_job(
    engine: &mut Engine,
    jobs: &Receiver<Box<dyn Job>>,
    listeners: &Mutex<Vec<Listener>>,
) -> Option<Box<dyn Job>> {
    loop {
        match jobs.try_recv() {
            Ok(job) => return Some(job),
            Err(TryRecvError::Disconnected) => return None,
            Err(TryRecvError::Empty) => {}
        }
        let Some(committed) = engine.sweep() else { return jobs.recv().ok() };
        if !committed.entities.is_empty() {
            tell(listeners, &committed);
        }
    }
}

fn tell(listeners: &Mutex<Vec<Listener>>, committed: &Committed) {
    let mut listeners = listeners.lock().unwrap_or_else(PoisonError::into_inner);
    listeners.retain(|listener| listener(committed));
}

fn commit_group(engine: &mut Engine, group: Vec<Box<dyn Job>>, listeners: &Mutex<Vec<Listener>>) {
    drop(engine.commit_telling(group, |committed| tell(listeners, committed)));
}

/// One fold between two groups: a busy writer is delayed by one document at most.
fn compact_one(engine: &mut Engine) {
    match engine.next_to_compact() {
        Ok(Some(key)) => {
            if engine.compact(key).is_none() {
                error!("a compaction failed; the log stays as it is");
            }
        }
        Ok(None) => {}
        Err(failure) => error!(kind = ?failure.kind(), "looking for a log to fold failed"),
    }
}
