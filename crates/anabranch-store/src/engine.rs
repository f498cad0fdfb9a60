//! The engine: everything that writes, without a thread of its own.

mod commit;
mod flush;
mod identity;
mod job;
mod prepare;
mod write;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use anabranch_core::document::Document;
use anabranch_core::{Actor, Clock, Environment, Functions, ReplicaId, Schema, Stamp};
use rusqlite::Connection;
use tracing::debug;

use crate::cache::DocumentCache;
use crate::error::StoreError;
use crate::file;
use crate::rows::{self, EntityRow, SpaceKey};
use crate::seal::Seals;
use crate::witness::Witness;

pub(crate) use flush::{Dirty, Pending};
pub use job::{Committed, Job, Touched, Undo};
pub use write::Write;

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

impl Engine {
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
