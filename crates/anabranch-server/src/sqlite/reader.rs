//! Reading: pages, heads and overviews, each in one read transaction on a connection of its own.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use anabranch_core::sync::{LogPage, MAX_BATCH_OPS, SpaceDigest, next_chain};
use anabranch_core::wire::{Envelope, Mark};
use anabranch_core::{Change, CollectionName, Digest, EntityId, Heads, SpaceName, TransactionId};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use tokio::sync::Semaphore;

use super::connection::Source;
use super::{blob, corrupt, failed, signed, unsigned};
use crate::backend::{PageBudget, SpaceOverview};
use crate::error::{BackendError, BackendErrorKind};

/// Reads that run at the same time.
const READERS: usize = 4;

/// A few connections, opened when they are first needed.
#[derive(Debug)]
pub(super) struct Readers {
    source: Source,
    pool: Mutex<Pool>,
    /// A read has ended.
    ended: Condvar,
    permits: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Pool {
    idle: Vec<Connection>,
    running: usize,
    closed: bool,
}

impl Readers {
    pub(super) fn new(source: Source) -> Self {
        Self { source, pool: Mutex::default(), ended: Condvar::new(), permits: Arc::new(Semaphore::new(READERS)) }
    }

    /// Runs a read on a thread where it may block.
    pub(super) async fn run<T, F>(self: Arc<Self>, read: F) -> Result<T, BackendError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, BackendError> + Send + 'static,
    {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|_| BackendError::internal("the readers are closed"))?;
        let task = tokio::task::spawn_blocking(move || {
            let result = self.run_blocking(read);
            drop(permit); // not before: the caller may have gone away meanwhile
            result
        });
        task.await.map_err(|_| BackendError::internal("a read panicked"))?
    }

    /// Closes all connections. Waits for the reads that are under way, since their callers may be gone.
    pub(super) fn close(&self) {
        let mut pool = self.pool();
        pool.closed = true;
        while pool.running > 0 {
            pool = self.ended.wait(pool).unwrap_or_else(PoisonError::into_inner);
        }
        pool.idle.clear();
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run_blocking<T, F>(&self, read: F) -> Result<T, BackendError>
    where
        F: FnOnce(&Connection) -> Result<T, BackendError>,
    {
        let _under_way = UnderWay::begin(self)?;
        self.run_within(read)
    }

    fn run_within<T, F>(&self, read: F) -> Result<T, BackendError>
    where
        F: FnOnce(&Connection) -> Result<T, BackendError>,
    {
        let idle = self.pool().idle.pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.source.reader().map_err(failed("opening a reader"))?,
        };
        // One transaction, so that everything read belongs to the same moment.
        let transaction = connection.unchecked_transaction().map_err(failed("beginning a read"))?;
        let result = read(&transaction);
        let ended = transaction.finish();
        // A connection that has seen trouble is not used again.
        if result.is_ok() && ended.is_ok() {
            self.pool().idle.push(connection);
        }
        result
    }
}

/// A read that is under way, however it ends.
struct UnderWay<'a>(&'a Readers);

impl<'a> UnderWay<'a> {
    fn begin(readers: &'a Readers) -> Result<Self, BackendError> {
        let mut pool = readers.pool();
        if pool.closed {
            return Err(BackendError::internal("the readers are closed"));
        }
        pool.running += 1;
        Ok(Self(readers))
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.pool().running -= 1;
        self.0.ended.notify_all();
    }
}

/// A space's key and the end of its log.
pub(super) fn space_head(connection: &Connection, space: &SpaceName) -> Result<Option<(i64, Mark)>, BackendError> {
    let row = connection
        .prepare_cached("SELECT id, seq, chain FROM spaces WHERE name = ?1")
        .and_then(|mut statement| {
            statement
                .query_row([space.as_str()], |row| {
                    Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, Vec<u8>>(2)?))
                })
                .optional()
        })
        .map_err(failed("reading a space's head"))?;
    row.map(|(id, seq, chain)| Ok((id, Mark { seq: unsigned(seq)?, chain: digest(&chain)? }))).transpose()
}

pub(super) fn is_empty(connection: &Connection) -> Result<bool, BackendError> {
    connection
        .query_row("SELECT NOT EXISTS (SELECT 1 FROM changes)", [], |row| row.get(0))
        .map_err(failed("looking for changes"))
}

pub(super) fn spaces(
    connection: &Connection,
    after: Option<&SpaceName>,
    most: usize,
) -> Result<Vec<SpaceName>, BackendError> {
    let what = "listing the spaces";
    let mut statement = connection
        .prepare_cached("SELECT name FROM spaces WHERE name > ?1 ORDER BY name LIMIT ?2")
        .map_err(failed(what))?;
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let after = after.map_or("", SpaceName::as_str);
    let names = statement.query_map(params![after, most], |row| row.get::<_, String>(0)).map_err(failed(what))?;
    let name = |name: rusqlite::Result<String>| {
        SpaceName::new(name.map_err(failed(what))?).map_err(|_| corrupt("a space's name"))
    };
    names.map(name).collect()
}

pub(super) fn overview(connection: &Connection, space: &SpaceName) -> Result<SpaceOverview, BackendError> {
    let mut digest = SpaceDigest::default();
    let Some((id, head)) = space_head(connection, space)? else {
        return Ok(SpaceOverview { head: Mark::START, entities: 0, changes: 0, digest: digest.finish() });
    };
    let what = "reading a space's entities";
    let changes: i64 = connection
        .query_row("SELECT count(*) FROM changes WHERE space = ?1", [id], |row| row.get(0))
        .map_err(failed("counting a space's changes"))?;
    let mut entities = 0;
    let mut statement = connection
        .prepare_cached("SELECT entity, heads FROM entities WHERE space = ?1 ORDER BY entity")
        .map_err(failed(what))?;
    let mut rows = statement.query([id]).map_err(failed(what))?;
    while let Some(row) = rows.next().map_err(failed(what))? {
        let entity = EntityId::from_bytes(blob(row, 0)?);
        let heads = row.get_ref(1).ok().and_then(|value| value.as_blob().ok());
        let heads =
            heads.and_then(|bytes| Heads::from_bytes(bytes).ok()).ok_or_else(|| corrupt("an entity's heads"))?;
        digest.add(&entity, &heads);
        entities += 1;
    }
    Ok(SpaceOverview { head, entities, changes: unsigned(changes)?, digest: digest.finish() })
}

pub(super) fn page(
    connection: &Connection,
    space: &SpaceName,
    after: Mark,
    check: &[Mark],
    budget: PageBudget,
) -> Result<LogPage, BackendError> {
    let found = space_head(connection, space)?;
    let id = found.map(|(id, _)| id);
    for mark in check.iter().chain([&after]) {
        if !holds(connection, id, *mark)? {
            return Ok(LogPage::Unknown);
        }
    }
    let Some(id) = id else { return Ok(LogPage::Rows { rows: Vec::new(), more: false }) };
    let what = "reading a page";
    let mut statement = connection
        .prepare_cached(
            "SELECT seq, chain, entity, hash, collection, parent, txn, joined, bytes FROM changes
             WHERE space = ?1 AND seq > ?2 ORDER BY seq",
        )
        .map_err(failed(what))?;
    // A place beyond SQLite's range cannot be in the log; `holds` has said so above.
    let mut rows = statement.query(params![id, signed(after.seq)?]).map_err(failed(what))?;
    let mut page = Page { rows: Vec::new(), bytes: 0, ops: 0, group_at: 0, last: after };
    while let Some(row) = rows.next().map_err(failed(what))? {
        if !page.take(row, budget)? {
            return Ok(LogPage::Rows { rows: page.rows, more: true });
        }
    }
    Ok(LogPage::Rows { rows: page.rows, more: false })
}

/// Whether the log has just this mark.
fn holds(connection: &Connection, space: Option<i64>, mark: Mark) -> Result<bool, BackendError> {
    if mark.seq == 0 {
        return Ok(mark == Mark::START);
    }
    let (Some(space), Ok(seq)) = (space, i64::try_from(mark.seq)) else { return Ok(false) };
    let chain: Option<Vec<u8>> = connection
        .prepare_cached("SELECT chain FROM changes WHERE space = ?1 AND seq = ?2")
        .and_then(|mut statement| statement.query_row([space, seq], |row| row.get(0)).optional())
        .map_err(failed("checking a place of the log"))?;
    Ok(chain.is_some_and(|chain| chain == mark.chain.as_bytes()))
}

/// A page while it grows, one whole transaction after the other.
struct Page {
    rows: Vec<(Mark, Envelope)>,
    bytes: usize,
    ops: usize,
    /// Where the last transaction begins.
    group_at: usize,
    last: Mark,
}

impl Page {
    /// Adds a row. `false` if the page is full; what does not fit has then been taken out again.
    fn take(&mut self, row: &Row<'_>, budget: PageBudget) -> Result<bool, BackendError> {
        let joined: bool = row.get(7).map_err(failed("reading a change"))?;
        if !joined {
            // What is complete and over the budget ends here, even if it stands alone.
            let full = self.bytes >= budget.bytes || self.rows.len() >= budget.changes || self.ops >= MAX_BATCH_OPS;
            if !self.rows.is_empty() && full {
                return Ok(false);
            }
            self.group_at = self.rows.len();
        }
        let (mark, envelope, ops) = envelope(row, self.last)?;
        self.bytes += envelope.change.len();
        self.ops = self.ops.saturating_add(ops);
        self.rows.push((mark, envelope));
        self.last = mark;
        let over = self.bytes > budget.bytes || self.rows.len() > budget.changes;
        if over && self.group_at > 0 {
            self.rows.truncate(self.group_at);
            return Ok(false);
        }
        Ok(true)
    }
}

/// Reads a row and how many ops it has, and proves that it is what was stored: SQLite does not notice a flipped bit in a
/// blob.
fn envelope(row: &Row<'_>, before: Mark) -> Result<(Mark, Envelope, usize), BackendError> {
    let what = "reading a change";
    let seq = unsigned(row.get(0).map_err(failed(what))?)?;
    let chain = Digest::from_bytes(blob(row, 1)?);
    let entity = EntityId::from_bytes(blob(row, 2)?);
    let collection: String = row.get(4).map_err(failed(what))?;
    let collection = CollectionName::new(collection).map_err(|_| corrupt("a collection's name"))?;
    let parent = optional_blob(row, 5)?.map(EntityId::from_bytes);
    let transaction = optional_blob(row, 6)?.map(TransactionId::from_bytes);
    let change = Change::parse(row.get(8).map_err(failed(what))?).map_err(|_| corrupt("a change's bytes"))?;
    let hash: [u8; 32] = blob(row, 3)?;
    if change.hash().as_bytes() != &hash {
        return Err(corrupt("a change's hash"));
    }
    let expected = next_chain(&before.chain, &entity, &change.hash(), transaction.as_ref());
    if seq != before.seq + 1 || chain != expected {
        return Err(corrupt("the log's chain"));
    }
    let ops = change.op_count();
    let envelope = Envelope { entity, collection, parent, transaction, change: change.into_bytes() };
    Ok((Mark { seq, chain }, envelope, ops))
}

pub(super) fn optional_blob(row: &Row<'_>, column: usize) -> Result<Option<[u8; 16]>, BackendError> {
    match row.get_ref(column) {
        Ok(rusqlite::types::ValueRef::Null) => Ok(None),
        Ok(_) => blob(row, column).map(Some),
        Err(error) => Err(failed("reading a change")(error)),
    }
}

fn digest(bytes: &[u8]) -> Result<Digest, BackendError> {
    Digest::try_from(bytes).map_err(|_| BackendError::new(BackendErrorKind::Corrupt, "a chain"))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn closing_waits_for_a_read_whose_caller_is_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("server.db");
        let writer = Connection::open(&path).expect("a file");
        writer
            .execute_batch("PRAGMA journal_mode = wal; CREATE TABLE t (x); INSERT INTO t VALUES (1)")
            .expect("a table");
        let readers = Arc::new(Readers::new(Source::File(path.clone())));
        let (begun, has_begun) = mpsc::channel();
        let seen = Arc::clone(&readers);
        let read = Arc::clone(&readers).run(move |connection| {
            begun.send(()).expect("somebody listens");
            // Not before somebody closes them, who then waits for this.
            while !seen.pool().closed {
                std::thread::yield_now();
            }
            connection.query_row("SELECT x FROM t", [], |row| row.get(0)).map_err(failed("reading"))
        });
        let read: tokio::task::JoinHandle<Result<i64, BackendError>> = tokio::spawn(read);
        has_begun.recv().expect("it has begun");
        readers.close();
        drop(writer);
        assert!(!folder.path().join("server.db-wal").exists(), "the last connection has taken it along");
        assert_eq!(read.await.expect("a task").expect("a row"), 1);
        assert!(Arc::clone(&readers).run(|_| Ok(())).await.is_err(), "nothing is opened again");
    }
}
