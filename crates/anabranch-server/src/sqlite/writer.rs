//! Writing: one thread, one connection, and one commit for all appends that wait (group commit).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use anabranch_core::sync::{AppendOutcome, Pushable};
use anabranch_core::{Environment, SpaceName};
use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::{broadcast, mpsc, oneshot};

use super::append::append_one;
use super::connection::Source;
use super::failed;
use crate::backend::{Author, Commit};
use crate::error::BackendError;

/// Appends that wait for the writer; whoever comes later waits for a place.
const QUEUE: usize = 256;
/// Appends that share a commit.
const GROUP: usize = 128;
/// No bound for the file: more bytes than SQLite can address.
const NO_BOUND: u64 = u64::MAX;
/// The most pages that a database can have.
const MOST_PAGES: u64 = 4_294_967_294;

/// An append on its way to the writer.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) space: SpaceName,
    pub(super) author: Author,
    pub(super) batch: Vec<Pushable>,
    pub(super) reply: oneshot::Sender<Result<AppendOutcome, BackendError>>,
}

/// The writer's thread. It ends, after what is queued, when this is dropped.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// How large the file may become, in bytes.
    bound: Arc<AtomicU64>,
}

impl Writer {
    pub(super) fn start(
        connection: Connection,
        source: Source,
        environment: Box<dyn Environment>,
        commits: broadcast::Sender<Commit>,
    ) -> std::io::Result<Self> {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let bound = Arc::new(AtomicU64::new(NO_BOUND));
        let asked = Arc::clone(&bound);
        let state = State { connection, trusted: true, bound: NO_BOUND, asked, source, environment, commits };
        let thread = thread::Builder::new().name("anabranch-writer".to_owned()).spawn(move || state.run(jobs))?;
        Ok(Self { queue: Some(queue), thread: Some(thread), bound })
    }

    /// From the next commit on.
    pub(super) fn bound(&self, bytes: Option<u64>) {
        self.bound.store(bytes.unwrap_or(NO_BOUND), Ordering::Relaxed);
    }

    pub(super) async fn append(
        &self,
        space: SpaceName,
        author: Author,
        batch: Vec<Pushable>,
    ) -> Result<AppendOutcome, BackendError> {
        let gone = || BackendError::internal("the writer is gone");
        let (reply, answer) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or_else(gone)?;
        queue.send(Job { space, author, batch, reply }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| BackendError::internal("the writer did not answer"))?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        // The file is closed, and may be opened again or moved, when the drop returns.
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the writer's thread has panicked");
        }
    }
}

struct State {
    connection: Connection,
    /// Not after a failed commit: what a connection says then is not to be trusted.
    trusted: bool,
    /// How large the file may become, in bytes, as this connection knows it, and as it has been asked for.
    bound: u64,
    asked: Arc<AtomicU64>,
    source: Source,
    environment: Box<dyn Environment>,
    commits: broadcast::Sender<Commit>,
}

impl State {
    fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(first) = jobs.blocking_recv() {
            let mut group = vec![first];
            while group.len() < GROUP
                && let Ok(next) = jobs.try_recv()
            {
                group.push(next);
            }
            if catch_unwind(AssertUnwindSafe(|| self.commit_and_answer(group))).is_err() {
                tracing::error!("an append panicked");
                self.trusted = false;
            }
        }
    }

    fn commit_and_answer(&mut self, group: Vec<Job>) {
        let appends = group.len();
        let mut replies = Vec::with_capacity(appends);
        let mut work = Vec::with_capacity(appends);
        for Job { space, author, batch, reply } in group {
            replies.push((space.clone(), reply));
            work.push((space, author, batch));
        }
        match self.commit(work) {
            Ok(outcomes) => {
                for ((space, reply), outcome) in replies.into_iter().zip(outcomes) {
                    if let Some(mark) = outcome.as_ref().ok().and_then(|outcome| outcome.marks.last()) {
                        tracing::debug!(%space, seq = mark.seq, appends, "committed");
                        // Nobody listening is fine.
                        drop(self.commits.send(Commit { space, seq: mark.seq }));
                    }
                    drop(reply.send(outcome)); // whoever asked may have gone
                }
            }
            Err(error) => {
                tracing::error!(%error, appends, "a group of appends failed");
                self.trusted = false;
                for (_, reply) in replies {
                    drop(reply.send(Err(error.clone())));
                }
            }
        }
    }

    /// Does all appends in one transaction, each in a savepoint of its own. An error here is everyone's.
    fn commit(
        &mut self,
        work: Vec<(SpaceName, Author, Vec<Pushable>)>,
    ) -> Result<Vec<Result<AppendOutcome, BackendError>>, BackendError> {
        let received_at = self.environment.now();
        if !self.trusted {
            // The old one is closed only when the new one is open. Nobody in between would have to recover the log, and
            // find in it the commit whose sync has failed: it would be there, and might never reach the disk.
            self.connection = self.source.writer().map_err(failed("reopening the file"))?;
            (self.trusted, self.bound) = (true, NO_BOUND);
        }
        self.keep_bound().map_err(failed("bounding the file"))?;
        let mut transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(failed("beginning a transaction"))?;
        let mut outcomes = Vec::with_capacity(work.len());
        for (space, author, batch) in work {
            let outcome = in_savepoint(&mut transaction, |connection| {
                append_one(connection, &space, &author, received_at, batch)
            });
            if let Err(error) = &outcome {
                tracing::warn!(%space, %error, "an append failed");
                if transaction.is_autocommit() {
                    // SQLite has rolled back the whole transaction, and with it the appends before this one.
                    return Err(error.clone());
                }
            }
            outcomes.push(outcome);
        }
        transaction.commit().map_err(failed("committing"))?;
        Ok(outcomes)
    }

    /// A bound is the connection's, so a new one has to be told.
    fn keep_bound(&mut self) -> rusqlite::Result<()> {
        let asked = self.asked.load(Ordering::Relaxed);
        if asked != self.bound {
            let page: u64 = self.connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
            let pages = (asked / page.max(1)).clamp(1, MOST_PAGES);
            self.connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))?;
            self.bound = asked;
        }
        Ok(())
    }
}

fn in_savepoint<T>(
    transaction: &mut Transaction<'_>,
    work: impl FnOnce(&Connection) -> Result<T, BackendError>,
) -> Result<T, BackendError> {
    // Dropped without a commit, it is rolled back.
    let savepoint = transaction.savepoint().map_err(failed("setting a savepoint"))?;
    let done = work(&savepoint)?;
    savepoint.commit().map_err(failed("releasing a savepoint"))?;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use anabranch_core::wire::Answer;
    use anabranch_core::{CollectionName, EntityId, ReplicaId};

    use super::*;
    use crate::SystemEnvironment;
    use crate::sqlite::schema::migrate;

    /// A change that says nothing: a header without columns is all that a server reads.
    fn pushable(entity: u8) -> Pushable {
        use anabranch_core::sync::Offered;
        use anabranch_core::wire::Envelope;
        // No dependencies, actor 01, seq 1, first op 1, time 0, no message, no other actors, no columns.
        let content = [0, 1, 1, 1, 1, 0, 0, 0, 0];
        let mut chunk = vec![1, 9];
        chunk.extend(content);
        let hash = anabranch_core::Digest::of(&chunk);
        let mut change = vec![0x85, 0x6f, 0x4a, 0x83];
        change.extend(&hash.as_bytes()[..4]);
        change.extend(chunk);
        let collection = CollectionName::new("notes").unwrap();
        let entity = EntityId::from_bytes([entity; 16]);
        Offered::open(Envelope { entity, collection, parent: None, transaction: None, change })
    }

    /// A writer whose first connection says no to the commits for which `refuse` is set.
    fn writer(path: &std::path::Path, refuse: &'static AtomicBool) -> (Writer, broadcast::Receiver<Commit>) {
        let source = Source::File(path.to_path_buf());
        let mut connection = source.writer().unwrap();
        migrate(&mut connection, &mut SystemEnvironment).unwrap();
        connection.commit_hook(Some(|| refuse.load(Ordering::Relaxed))).unwrap();
        let (commits, heard) = broadcast::channel(8);
        (Writer::start(connection, source, Box::new(SystemEnvironment), commits).unwrap(), heard)
    }

    #[tokio::test]
    async fn a_failed_commit_acknowledges_nothing_and_the_next_one_works() {
        static REFUSE: AtomicBool = AtomicBool::new(true);
        let folder = tempfile::tempdir().unwrap();
        let (writer, mut heard) = writer(&folder.path().join("server.db"), &REFUSE);
        let home = SpaceName::new("home").unwrap();
        let replica = ReplicaId::from_bytes([1; 16]);
        let append = |entity| writer.append(home.clone(), Author::new(replica), vec![pushable(entity)]);
        let (first, second) = tokio::join!(append(1), append(2));
        assert!(first.is_err() && second.is_err());
        assert!(heard.try_recv().is_err());
        // The connection is a new one, without the hook; what failed has left no trace.
        for (entity, seq) in [(2, 1), (1, 2)] {
            let AppendOutcome { answers, marks, .. } = append(entity).await.unwrap();
            assert_eq!(answers, [Answer::Accepted { seq }]);
            assert_eq!(marks[0].seq, seq);
            assert_eq!(heard.recv().await.unwrap().seq, seq);
        }
    }
}
