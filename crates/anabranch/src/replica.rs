//! The replica: one open file and everything that hangs from it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anabranch_core::document::Contender;
use anabranch_core::{Digest, Environment, Functions, ReplicaId, Schema, SpaceName};
use anabranch_store::{OpenMode, QueryRows, Store, StoreError, Unsent};
use serde_json::{Map, Value};
use tokio::runtime::Runtime;

use crate::Commit;
use crate::collection::Space;
use crate::environment::{SharedEnvironment, SystemEnvironment};
use crate::error::Error;
use crate::events::EventSource;
use crate::online::Syncs;
use crate::presence::Board;
use crate::status::{Status, Stored};
use crate::sync::{InUse, Sync, Turns};
use crate::watch::{Scope, Watch, Watchers};

/// One device's copy of the data: a handle to one open file. Cheap to clone; the file is closed with the last.
///
/// See the [crate's guide](crate) for an example.
#[derive(Clone)]
pub struct Replica {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) environment: SharedEnvironment,
    pub(crate) staleness: Option<Duration>,
    pub(crate) watchers: Arc<Watchers>,
    pub(crate) events: Arc<EventSource>,
    pub(crate) online: Arc<Mutex<Syncs>>,
    /// The remotes that syncs are under way with.
    pub(crate) in_use: Arc<InUse>,
    pub(crate) presence: Arc<Board>,
    pub(crate) turns: Arc<Turns>,
    runtime: OnceLock<Runtime>,
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").field("path", &self.inner.store.path()).finish_non_exhaustive()
    }
}

/// How a replica's file is opened, when [`Replica::open`] is not enough.
pub struct OpenOptions {
    pub(crate) path: PathBuf,
    environment: Box<dyn Environment>,
    functions: Functions,
    staleness: Option<Duration>,
}

impl fmt::Debug for OpenOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenOptions").field("path", &self.path).finish_non_exhaustive()
    }
}

impl OpenOptions {
    /// Takes time and randomness from `environment` instead of from the system: for tests.
    ///
    /// This is what ids, stamps, everything else that is stored, and the timers and the backoff of a
    /// [`sync`](Replica::sync) come from. A clock that somebody sets should implement [`Environment::reached`];
    /// otherwise the timers go by the system's clock in between. It does not reach what
    /// [`clone_space`](Self::clone_space) does until the schema is known.
    ///
    /// ```
    /// use anabranch::{Entropy, Environment, Replica, Schema, UnixMillis};
    ///
    /// /// It is always noon, and nothing is random.
    /// struct Noon(u64);
    ///
    /// impl Environment for Noon {
    ///     fn now(&self) -> UnixMillis {
    ///         1_750_000_000_000
    ///     }
    ///
    ///     fn entropy(&mut self) -> &mut dyn Entropy {
    ///         self
    ///     }
    /// }
    ///
    /// impl Entropy for Noon {
    ///     fn next_u64(&mut self) -> u64 {
    ///         self.0 += 1;
    ///         self.0
    ///     }
    /// }
    ///
    /// # fn main() -> Result<(), anabranch::Error> {
    /// # let folder = tempfile::tempdir().expect("a temporary folder");
    /// # let schema = Schema::from_toml("version = 1\n[collections.notes.fields]\ntitle = { kind = \"register\" }")?;
    /// let replica = Replica::at(folder.path().join("a.db")).environment(Noon(0)).open_or_create(schema)?;
    /// let space = replica.space("home")?;
    /// let id = space.untyped("notes")?.create(serde_json::json!({ "title": "Lunch" })).wait()?;
    /// assert_eq!(space.get(id)?.expect("the note").created_at, 1_750_000_000_000);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn environment(mut self, environment: impl Environment + 'static) -> Self {
        self.environment = Box::new(environment);
        self
    }

    /// The same options, with the system's time and randomness.
    pub(crate) fn again(&self) -> Self {
        let environment = Box::new(SystemEnvironment::new());
        Self { path: self.path.clone(), environment, functions: self.functions.clone(), staleness: self.staleness }
    }

    pub(crate) fn into_parts(self) -> (PathBuf, Functions, Box<dyn Environment>) {
        (self.path, self.functions, self.environment)
    }

    /// The bound of staleness: a view that has not agreed with a server for longer is [`stale`](Status::stale). While
    /// a sync is started, crossing the bound is an event ([`Event::Stale`](crate::Event::Stale)).
    #[must_use]
    pub const fn staleness(mut self, bound: Duration) -> Self {
        self.staleness = Some(bound);
        self
    }

    /// Registers the function behind a policy of the schema, `policy = { custom = name, version = version }`. It
    /// gets the contested values, the last writer's first, and returns the value that is shown. It must be pure:
    /// every replica must come to the same value.
    #[must_use]
    pub fn policy(
        mut self,
        name: &str,
        version: u32,
        settle: impl Fn(&[Contender]) -> Value + Send + std::marker::Sync + 'static,
    ) -> Self {
        self.functions.policy(name, version, settle);
        self
    }

    /// Registers the function behind a rule of the schema, `check = name`. It gets the field's value and all
    /// fields of the entity, and says what is wrong.
    #[must_use]
    pub fn check(
        mut self,
        name: &str,
        check: impl Fn(&Value, &Map<String, Value>) -> Result<(), String> + Send + std::marker::Sync + 'static,
    ) -> Self {
        self.functions.check(name, check);
        self
    }

    /// Opens a file that is a replica already, with the schema that it holds.
    ///
    /// # Errors
    /// If there is no replica in the file, or it cannot be opened.
    pub fn existing(self) -> Result<Replica, Error> {
        self.open(OpenMode::Existing)
    }

    /// Makes a new file.
    ///
    /// # Errors
    /// If the file is there already, or cannot be made.
    pub fn create(self, schema: Schema) -> Result<Replica, Error> {
        self.open(OpenMode::Create(schema))
    }

    /// Opens the file with this schema, making it if need be.
    ///
    /// # Errors
    /// If the file cannot be opened, or has been used with a newer schema.
    pub fn open_or_create(self, schema: Schema) -> Result<Replica, Error> {
        self.open(OpenMode::Either(schema))
    }

    pub(crate) fn open(self, mode: OpenMode) -> Result<Replica, Error> {
        Ok(self.try_open(mode)?)
    }

    pub(crate) fn try_open(self, mode: OpenMode) -> Result<Replica, StoreError> {
        let environment = SharedEnvironment::new(self.environment);
        let store = Store::open_with(&self.path, mode, &self.functions, Box::new(environment.clone()))?;
        let watchers = Arc::new(Watchers::default());
        let notified = Arc::clone(&watchers);
        store.on_commit(move |committed| {
            notified.notify(committed);
            true
        });
        let inner = Inner {
            store,
            presence: Arc::default(),
            environment,
            staleness: self.staleness,
            watchers,
            events: Arc::default(),
            online: Arc::default(),
            in_use: Arc::default(),
            turns: Arc::default(),
            runtime: OnceLock::new(),
        };
        Ok(Replica { inner: Arc::new(inner) })
    }
}

impl Replica {
    /// Opens a file with this schema, making it if need be.
    ///
    /// # Errors
    /// If the file cannot be opened, is damaged, or has been used with a newer schema.
    pub fn open(path: impl AsRef<Path>, schema: Schema) -> Result<Self, Error> {
        Self::at(path).open_or_create(schema)
    }

    /// Options for opening the file at `path`.
    pub fn at(path: impl AsRef<Path>) -> OpenOptions {
        OpenOptions {
            path: path.as_ref().to_owned(),
            environment: Box::new(SystemEnvironment::new()),
            functions: Functions::default(),
            staleness: None,
        }
    }

    /// A space by name. Nothing has to be created: a space begins with its first entity.
    ///
    /// # Errors
    /// If the name breaks the rules of [`SpaceName`].
    pub fn space(&self, name: &str) -> Result<Space, Error> {
        Ok(Space::new(self.clone(), SpaceName::new(name)?))
    }

    /// Sync with the server at `url` (`http` or `ws`; with the feature `tls` of this crate also `https` and `wss`), to
    /// be configured and started.
    #[must_use]
    pub fn sync(&self, url: &str) -> Sync {
        Sync::new(self.clone(), url.to_owned())
    }

    /// Runs SQL that reads, and returns each row as an object. Each collection is a view with a column per field.
    ///
    /// # Errors
    /// If the SQL is wrong or tries to write.
    pub fn query(&self, sql: &str, parameters: &[Value]) -> Result<Vec<Map<String, Value>>, Error> {
        Ok(self.inner.store.read(|read| read.query(sql, parameters))?)
    }

    /// As [`Replica::query`], with the columns in the query's order, and known even if there are no rows.
    ///
    /// # Errors
    /// As [`Replica::query`].
    pub fn query_rows(&self, sql: &str, parameters: &[Value]) -> Result<QueryRows, Error> {
        Ok(self.inner.store.read(|read| read.query_rows(sql, parameters))?)
    }

    /// Watches a query: its rows now, and again after commits that may have changed them.
    #[must_use]
    pub fn watch_query(&self, sql: &str, parameters: Vec<Value>) -> Watch<Vec<Map<String, Value>>> {
        let (replica, sql) = (self.clone(), sql.to_owned());
        Watch::new(self, Scope::Everything, move || replica.query(&sql, &parameters))
    }

    /// What is pending, parked, contested, and how the sync stands.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn status(&self) -> Result<Status, Error> {
        let (schema_version, now) = (self.schema().version, self.inner.environment.now());
        let stored = self.inner.store.read(|read| {
            read.snapshot(|read| {
                let (totals, held, first_refusal) = (read.totals()?, read.held(now)?, read.first_refusal()?);
                let first_sync = read.first_sync()?;
                Ok(Stored { totals, held, first_refusal, first_sync, remotes: read.remotes()?, schema_version })
            })
        })?;
        let syncs = self.inner.online.lock().unwrap_or_else(PoisonError::into_inner);
        let online = syncs.shown();
        let live = syncs.follows(online.remote);
        drop(syncs);
        Ok(Status::new(stored, online, live, now, self.inner.staleness))
    }

    /// What is here and on no server yet: what would be lost if this device were, or if its user signed out. Changes
    /// of local-only collections are meant to be nowhere else and are not counted.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn unsent(&self) -> Result<Unsent, Error> {
        Ok(self.inner.store.read(|read| read.unsent())?)
    }

    /// Signs out, or makes room for another account: erases everything that is synced and forgets every server; only
    /// what is local-only stays. `seen` is what [`unsent`](Self::unsent) said and the user agreed to lose; with
    /// anything newer in the outbox nothing is erased. A sync that is under way ends.
    ///
    /// This handle takes no more writes. Open the file again: it is then another replica, with nothing in it.
    /// The bytes are overwritten, and gone from the disk for good when the file is closed.
    ///
    /// ```
    /// # use anabranch::{Replica, Schema};
    /// # fn main() -> Result<(), anabranch::Error> {
    /// # let folder = tempfile::tempdir().expect("a temporary folder");
    /// # let schema = Schema::from_toml("version = 1\n[collections.notes.fields]\ntitle = { kind = \"register\" }")?;
    /// # let phone = Replica::open(folder.path().join("phone.db"), schema)?;
    /// # phone.space("home")?.untyped("notes")?.create(serde_json::json!({ "title": "Lunch" })).wait()?;
    /// let unsent = phone.unsent()?;
    /// if !unsent.is_empty() {
    ///     println!("{} changes are on no server and would be lost; sync first?", unsent.changes);
    /// }
    /// phone.sign_out(unsent).wait()?;
    /// assert_eq!(phone.status()?.entities, 0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If more is unsent than `seen` says, or the file cannot be written.
    pub fn sign_out(&self, seen: Unsent) -> Commit<()> {
        // What shares its transaction is in the rows by then, and goes with them.
        self.inner.store.write_on_rows(move |write| Ok(write.sign_out(&seen)?))
    }

    /// Watches the status.
    #[must_use]
    pub fn watch_status(&self) -> Watch<Status> {
        let replica = self.clone();
        Watch::new(self, Scope::Status, move || replica.status())
    }

    /// The digest of a space's changes: equal to a server's, or another replica's, that holds the same.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn space_digest(&self, space: &SpaceName) -> Result<Digest, Error> {
        Ok(self.inner.store.read(|read| read.space_digest(space))?)
    }

    /// The digest of a space's states, as the application sees them.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn state_digest(&self, space: &SpaceName) -> Result<Digest, Error> {
        Ok(self.inner.store.read(|read| read.state_digest(space))?)
    }

    /// This replica's id.
    #[must_use]
    pub fn id(&self) -> ReplicaId {
        self.inner.store.replica()
    }

    /// The schema in use.
    #[must_use]
    pub fn schema(&self) -> &Schema {
        self.inner.store.schema()
    }

    /// The store beneath, for tools.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The library's own event loop, started when it is first needed.
    pub(crate) fn runtime(&self) -> Result<&Runtime, Error> {
        if let Some(runtime) = self.inner.runtime.get() {
            return Ok(runtime);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("anabranch-sync")
            .enable_all()
            .build()
            .map_err(|error| Error::invalid(format!("the event loop cannot be started: {error}")))?;
        if let Err(surplus) = self.inner.runtime.set(runtime) {
            // Another thread was quicker. Dropping it here could be inside an async task, where that panics.
            surplus.shutdown_background();
        }
        self.inner.runtime.get().ok_or_else(|| Error::invalid("the event loop cannot be started"))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // The last handle may be dropped inside somebody's async task, where waiting is not allowed.
            runtime.shutdown_background();
        }
    }
}
