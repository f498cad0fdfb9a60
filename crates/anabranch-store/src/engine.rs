//! The engine: everything that writes, without a thread of its own.

mod flush;
mod prepare;

use std::collections::BTreeSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anabranch_core::document::Document;
use anabranch_core::{
    Actor, Clock, CollectionName, EntityId, Environment, Functions, ReplicaId, Schema, SpaceName, Stamp,
};
use rusqlite::{Connection, OptionalExtension as _};
use tracing::{debug, error, warn};

use crate::cache::{DocumentCache, EntityKey};
use crate::declined::Declined;
use crate::error::StoreError;
use crate::file;
use crate::read::Read;
use crate::rows::{self, EntityRow, SpaceKey};
use crate::seal::Seals;
use crate::transaction::OpenTransaction;
use crate::witness::Witness;

pub(crate) use flush::{Dirty, Pending};

/// The most pages that SQLite gives a file.
const MOST_PAGES: u64 = 4_294_967_294;

/// Owns the write connection and the documents in memory. [`Store`](crate::Store) runs one on a thread;
/// a simulator runs one directly.
pub struct Engine {
    path: PathBuf,
    pub(crate) connection: Connection,
    pub(crate) seals: Seals,
    pub(crate) schema: Arc<Schema>,
    pub(crate) environment: Box<dyn Environment>,
    pub(crate) clock: Clock,
    replica: ReplicaId,
    pub(crate) actor: Actor,
    /// The same, for whoever asks from another thread.
    shared_actor: Arc<Mutex<Actor>>,
    /// All that this open has written under.
    pub(crate) session_actors: Vec<Actor>,
    /// The last stamp before this open.
    pub(crate) opened_at: Stamp,
    pub(crate) witness: Option<Witness>,
    pub(crate) cache: DocumentCache,
    /// Changes when another process commits.
    data_version: i64,
    /// A commit failed, and what the connection says is not to be trusted.
    broken: bool,
    /// Collections that stay in this file.
    pub(crate) local_only: BTreeSet<String>,
    /// Entities whose rows were repaired while their documents were loaded.
    pub(crate) repaired: Vec<Touched>,
    /// A remote of which entities are left that are not wanted any more.
    pub(crate) unwanted: Option<i64>,
    /// A sweep has begun and not come to its end: it is not tried again.
    pub(crate) sweeping: bool,
    /// Rows are derived again, after an upgrade.
    pub(crate) projecting: bool,
    pub(crate) sign_out: SignOut,
    /// Spaces of which something has to be fetched again, and sessions may be under way that do not know.
    pub(crate) outdated: BTreeSet<SpaceKey>,
    /// This transaction has added to what is set aside, which has bounds.
    pub(crate) aside_grew: bool,
    /// The replica's id is the file's.
    is_prepared: bool,
    stats: Arc<Stats>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("replica", &self.replica).finish_non_exhaustive()
    }
}

/// Whether everything has been erased: then nothing is written before the file is opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignOut {
    No,
    /// In a transaction that has not been committed.
    UnderWay,
    Done,
}

/// Counters since the file was opened.
#[derive(Debug, Default)]
pub struct Stats {
    /// Documents loaded from the file. Reading entities never raises it.
    pub documents_loaded: AtomicU64,
    /// Transactions committed (each one fsync).
    pub commits: AtomicU64,
    /// Writes that those transactions held.
    pub writes: AtomicU64,
    /// Documents folded by compaction.
    pub compactions: AtomicU64,
}

/// What a [`Job`] returns to have what it wrote undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undo;

/// A unit of work that shares a transaction with others but succeeds or fails by itself.
pub trait Job: Send {
    /// Does the work.
    ///
    /// # Errors
    /// [`Undo`] to have undone what this job wrote, and only that. The job itself keeps the reason, for
    /// [`Job::finish`].
    fn run(&mut self, write: &mut Write<'_>) -> Result<(), Undo>;
    /// Whether it reads entities' rows, which must then show what the jobs before it have written. Costs those
    /// jobs the sharing of their row's update.
    fn reads_rows(&self) -> bool {
        false
    }
    /// Called once after the commit, with its outcome.
    fn finish(self: Box<Self>, outcome: Result<(), StoreError>);
}

/// What a transaction changed, told after it has been committed.
#[derive(Clone, Debug, Default)]
pub struct Committed {
    /// The entities whose rows changed.
    pub entities: Vec<Touched>,
    /// The spaces in which something was added to the outbox.
    pub pushable: BTreeSet<SpaceName>,
    /// Whether outbox or sync state changed.
    pub sync_state: bool,
    /// Whether the file has been signed out: it takes no more writes.
    pub signed_out: bool,
}

impl Committed {
    /// Whether the file has changed.
    fn has_changes(&self) -> bool {
        self.sync_state || !self.entities.is_empty() || !self.pushable.is_empty()
    }
}

/// An entity whose row changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    /// Its space.
    pub space: SpaceName,
    /// Its collection.
    pub collection: CollectionName,
    /// Its id.
    pub id: EntityId,
}

/// A transaction under way, as a [`Job`] sees it.
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

impl Engine {
    /// Opens a file that already is a replica, or makes one if a schema is given.
    ///
    /// # Errors
    /// [`StoreError`] if the file cannot be opened, is not ours, is damaged, or has seen a newer schema.
    pub fn open(path: &Path, schema: Option<Schema>, environment: Box<dyn Environment>) -> Result<Self, StoreError> {
        Self::open_with(path, schema, &Functions::default(), environment)
    }

    /// As [`Engine::open`], with the functions that the schema names.
    ///
    /// # Errors
    /// As [`Engine::open`]; also if a function is missing.
    pub fn open_with(
        path: &Path,
        schema: Option<Schema>,
        functions: &Functions,
        environment: Box<dyn Environment>,
    ) -> Result<Self, StoreError> {
        Self::open_watched(path, schema, functions, environment, None)
    }

    /// As [`Engine::open_with`], with a witness of what the file was when it was last seen.
    pub(crate) fn open_watched(
        path: &Path,
        schema: Option<Schema>,
        functions: &Functions,
        mut environment: Box<dyn Environment>,
        witness: Option<Witness>,
    ) -> Result<Self, StoreError> {
        if schema.is_none() && !path.exists() {
            return Err(StoreError::NotInitialised(path.display().to_string()));
        }
        let seals = Seals::default();
        let connection = file::open_writer(path, &seals)?;
        let now = environment.now();
        let replica = ReplicaId::mint(now, environment.entropy());
        let actor = Actor::mint(&replica, environment.entropy());
        let mut engine = Self {
            path: path.to_owned(),
            connection,
            seals,
            schema: Arc::new(Schema { version: 0, collections: Default::default() }),
            environment,
            clock: Clock::default(),
            replica,
            shared_actor: Arc::new(Mutex::new(actor.clone())),
            session_actors: Vec::new(),
            opened_at: Stamp::ZERO,
            witness,
            actor,
            cache: DocumentCache::default(),
            data_version: 0,
            broken: false,
            local_only: BTreeSet::new(),
            repaired: Vec::new(),
            unwanted: None,
            sweeping: false,
            projecting: false,
            sign_out: SignOut::No,
            outdated: BTreeSet::new(),
            aside_grew: false,
            is_prepared: false,
            stats: Arc::default(),
        };
        engine.transaction(|engine| engine.prepare(schema, functions))?;
        engine.is_prepared = true;
        engine.opened_at = engine.clock.last();
        engine.note_sight(true);
        Ok(engine)
    }

    /// The schema in use.
    #[must_use]
    pub const fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// This replica's id.
    #[must_use]
    pub const fn replica(&self) -> ReplicaId {
        self.replica
    }

    /// The actor of this open.
    #[must_use]
    pub const fn actor(&self) -> &Actor {
        &self.actor
    }

    /// The counters.
    #[must_use]
    pub const fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Runs jobs in one transaction, commits once, and finishes them. `None` if nothing was committed.
    pub fn commit(&mut self, jobs: Vec<Box<dyn Job>>) -> Option<Committed> {
        self.commit_telling(jobs, |_| ())
    }

    /// As [`Engine::commit`]; `tell` hears of it before the jobs are finished, so that whoever waits for one finds
    /// everybody told.
    pub(crate) fn commit_telling(
        &mut self,
        mut jobs: Vec<Box<dyn Job>>,
        tell: impl FnOnce(&Committed),
    ) -> Option<Committed> {
        let mut late = Vec::new();
        let outcome = match self.run_jobs(&mut jobs, &mut late) {
            Ok(committed) => self.finish_commit().map(|()| committed),
            Err(error) => {
                self.roll_back();
                Err(error)
            }
        };
        let count = u64::try_from(jobs.len()).unwrap_or(u64::MAX);
        match outcome {
            Ok(committed) => {
                self.stats.commits.fetch_add(1, Ordering::Relaxed);
                self.stats.writes.fetch_add(count, Ordering::Relaxed);
                debug!(writes = count, entities = committed.entities.len(), "committed");
                tell(&committed);
                jobs.into_iter().for_each(|job| job.finish(Ok(())));
                late.into_iter().for_each(|job| job.finish(Err(StoreError::SignedOut)));
                Some(committed)
            }
            Err(error) => {
                error!(kind = ?error.kind(), "a transaction failed");
                jobs.into_iter().chain(late).for_each(|job| job.finish(Err(error.for_another())));
                None
            }
        }
    }

    /// Runs all jobs but those that come too `late`: after one that signs out.
    fn run_jobs(
        &mut self,
        jobs: &mut Vec<Box<dyn Job>>,
        late: &mut Vec<Box<dyn Job>>,
    ) -> Result<Committed, StoreError> {
        self.begin()?;
        let mut pending = Pending::default();
        let mut done = 0;
        while let Some(job) = jobs.get_mut(done).filter(|_| self.sign_out == SignOut::No) {
            if job.reads_rows() {
                self.flush(&mut pending)?;
            }
            self.run_job(&mut **job, &mut pending)?;
            done += 1;
        }
        late.extend(jobs.drain(done..));
        self.flush(&mut pending)?;
        if self.aside_grew {
            self.bound_aside()?;
        }
        pending.committed.entities.append(&mut self.repaired);
        pending.committed.signed_out = self.sign_out == SignOut::UnderWay;
        if pending.committed.has_changes()
            && let Some(witness) = &mut self.witness
        {
            witness.claim(&self.connection)?;
        }
        Ok(pending.committed)
    }

    fn run_job(&mut self, job: &mut dyn Job, pending: &mut Pending) -> Result<(), StoreError> {
        self.connection.execute_batch("SAVEPOINT job")?;
        let mut own = Pending::default();
        let mut write = Write::of(self, &mut own);
        let result = catch_unwind(AssertUnwindSafe(|| job.run(&mut write))).unwrap_or(Err(Undo));
        let used = write.used;
        if result.is_ok() {
            pending.absorb(own);
        } else {
            for key in used {
                drop(self.cache.take(key));
            }
            self.sign_out = SignOut::No;
            if self.connection.is_autocommit() {
                // After some failures of the disk SQLite undoes all of it by itself, savepoints included.
                return Err(StoreError::Aborted("the disk failed, and the database has undone it".to_owned()));
            }
            self.connection.execute_batch("ROLLBACK TO job")?;
        }
        Ok(self.connection.execute_batch("RELEASE job")?)
    }

    fn begin(&mut self) -> Result<(), StoreError> {
        if self.sign_out == SignOut::Done {
            return Err(StoreError::SignedOut);
        }
        if self.broken {
            self.connection = file::open_writer(&self.path, &self.seals)?;
            self.broken = false;
            self.data_version = 0;
        }
        // IMMEDIATE: a transaction that reads first and upgrades later fails at once when another is writing.
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let version: i64 = self.connection.pragma_query_value(None, "data_version", |row| row.get(0))?;
        if version != self.data_version {
            // Another process has written: what is in memory may be old.
            self.cache.clear();
            if self.is_prepared {
                self.check_schema()?;
                if let Err(gone) = self.check_signed_in() {
                    self.witness = None;
                    return Err(gone);
                }
                self.reload_clock()?;
            }
            // Not before: what has been refused once is refused again.
            self.data_version = version;
        }
        if let Some(witness) = &mut self.witness
            && witness.is_forestalled(&self.connection)?
        {
            let actor = Actor::mint(&self.replica, self.environment.entropy());
            self.set_actor(actor);
        }
        Ok(())
    }

    /// Another process may have brought the file to a newer schema; rows written under the old one would differ
    /// from what everybody else derives.
    fn check_schema(&self) -> Result<(), StoreError> {
        let given = self.schema.version;
        let stored: Option<u32> = self
            .connection
            .query_row("SELECT json_extract(value, '$.version') FROM meta WHERE key = 'schema'", [], |row| row.get(0))
            .optional()?;
        match stored {
            Some(stored) if given > 0 && stored > given => Err(StoreError::SchemaOutdated { stored, given }),
            _ => Ok(()),
        }
    }

    fn finish_commit(&mut self) -> Result<(), StoreError> {
        if let Err(error) = self.seals.seal_touched(&self.connection) {
            self.roll_back();
            return Err(error);
        }
        let Err(failure) = self.connection.execute_batch("COMMIT") else {
            if self.sign_out == SignOut::UnderWay {
                self.sign_out = SignOut::Done;
                self.part_with_witness();
            }
            return Ok(());
        };
        // The disk failed at the worst moment. Nothing in memory can be trusted; look at the file afresh.
        self.roll_back();
        self.broken = true;
        Err(StoreError::CommitUnknown(failure.to_string()))
    }

    fn roll_back(&mut self) {
        self.seals.forget_touched();
        self.cache.clear();
        self.repaired.clear();
        if self.sign_out == SignOut::UnderWay {
            self.sign_out = SignOut::No;
        }
        if let Some(witness) = &mut self.witness {
            witness.unclaim();
        }
        if !self.connection.is_autocommit()
            && let Err(failure) = self.connection.execute_batch("ROLLBACK")
        {
            error!(%failure, "a rollback failed");
        }
    }

    fn transaction<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, StoreError>) -> Result<T, StoreError> {
        match self.begin().and_then(|()| work(self)) {
            Ok(value) => self.finish_commit().map(|()| value),
            Err(error) => {
                self.roll_back();
                Err(error)
            }
        }
    }

    /// Takes a new actor if this one is ours: somebody else has written under it, so it is not ours alone.
    pub(crate) fn renew_actor_if(&mut self, forked: &Actor) {
        if *forked == self.actor {
            let actor = Actor::mint(&self.replica, self.environment.entropy());
            self.set_actor(actor);
            warn!(new = %self.actor, "another copy of this file writes under the same actor; taking a new one");
        }
    }

    /// Takes a new actor if a change of this one's is taken back: others may have it, so its place must stay empty.
    pub(crate) fn retire_actor_if(&mut self, author: &Actor) {
        if *author == self.actor {
            let actor = Actor::mint(&self.replica, self.environment.entropy());
            self.set_actor(actor);
        }
    }

    pub(crate) fn set_actor(&mut self, actor: Actor) {
        self.actor = actor.clone();
        self.session_actors.push(actor.clone());
        *self.shared_actor.lock().unwrap_or_else(PoisonError::into_inner) = actor;
    }

    pub(crate) fn shared_actor(&self) -> Arc<Mutex<Actor>> {
        Arc::clone(&self.shared_actor)
    }

    fn reload_clock(&mut self) -> Result<(), StoreError> {
        let last = rows::meta::<i64>(&self.connection, "clock")?.and_then(Stamp::from_raw).unwrap_or_default();
        self.clock = Clock::after(last.max(self.clock.last()));
        Ok(())
    }

    /// The entity's document, out of the cache or the file. Whoever takes it puts it back.
    pub(crate) fn take_document(&mut self, row: &EntityRow) -> Result<Document, StoreError> {
        if let Some(mut document) = self.cache.take(row.key) {
            document.write_as(&self.actor);
            return Ok(document);
        }
        self.stats.documents_loaded.fetch_add(1, Ordering::Relaxed);
        let document = if self.is_unchecked(row.key)? {
            self.load_unchecked(row)
        } else {
            rows::load_document(&self.connection, row, &self.actor)
        };
        // An index that has lost a change must not pass for a history without it.
        let whole = document.and_then(|document| match rows::entity_heads(&self.connection, row.key)? {
            heads if heads.hashes().iter().all(|head| document.has(head)) => Ok(document),
            _ => Err(StoreError::DamagedEntity { entity: row.id, reason: "a part of its history is not in the log" }),
        });
        if whole.is_err() {
            self.seals.suspect(row.key);
        }
        whole
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
}

impl Engine {
    /// Takes the actor of the last open if the witness knows this file, or else a new one. A file that was copied or
    /// restored must not write under its original's name.
    fn choose_actor(&mut self) -> Result<(), StoreError> {
        let witness = self.witness.as_mut();
        let kept = witness.map(|witness| witness.take_over(&self.connection, &self.replica)).transpose()?.flatten();
        let actor = kept.unwrap_or_else(|| Actor::mint(&self.replica, self.environment.entropy()));
        self.set_actor(actor);
        Ok(())
    }

    /// Keeps the witness in the file's folder up to date, now and then.
    pub(crate) fn note_sight(&mut self, at_once: bool) {
        let now = self.environment.now();
        if let Some(witness) = &mut self.witness {
            witness.look(&self.connection, self.replica, now, at_once);
        }
    }

    /// Leaves the file tidy: the write-ahead log is merged into it, and the witness knows who wrote last.
    pub(crate) fn close(mut self) {
        if matches!(self.check_signed_in(), Err(StoreError::SignedOut)) {
            // It is another replica's file by now, which is not ours to speak of.
            self.witness = None;
        }
        let left = match &mut self.witness {
            Some(_) if self.broken => None,
            Some(witness) => witness.leave(&mut self.connection, &self.actor),
            None => None,
        };
        if let Err(failure) = self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)") {
            debug!(%failure, "the last checkpoint was left to the next open");
        }
        self.note_sight(true);
        let Self { connection, witness, .. } = self;
        drop(connection);
        if let (Some(mut witness), Some(left)) = (witness, left) {
            witness.close(left);
        }
    }
}

impl Write<'_> {
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
