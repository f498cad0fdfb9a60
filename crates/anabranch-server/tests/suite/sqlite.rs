//! The SQLite backend: the conformance suite, and what only a file can go through.

use std::sync::Arc;

use anabranch_core::wire::{Answer, Mark};
use anabranch_server::{Backend, BackendErrorKind, OpenError, PageBudget, SqliteBackend, SystemEnvironment};
use tempfile::TempDir;

use crate::changes::{Author, accepted, entity, offered, replica, space};
use crate::conformance::{Storage, conformance};

struct File(TempDir);

impl File {
    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("server.db")
    }

    fn backend(&self) -> SqliteBackend {
        SqliteBackend::open(self.path(), Box::new(SystemEnvironment)).unwrap()
    }
}

impl Storage for File {
    const DURABLE: bool = true;

    fn fresh() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn open(&self) -> Arc<dyn Backend> {
        Arc::new(self.backend())
    }
}

struct Memory;

impl Storage for Memory {
    const DURABLE: bool = false;

    fn fresh() -> Self {
        Self
    }

    fn open(&self) -> Arc<dyn Backend> {
        Arc::new(SqliteBackend::open_in_memory(Box::new(SystemEnvironment)).unwrap())
    }
}

mod file {
    super::conformance!(super::File);
}

mod memory {
    super::conformance!(super::Memory);
}

const ALL: PageBudget = PageBudget { bytes: usize::MAX, changes: usize::MAX };

#[tokio::test]
async fn two_handles_on_one_file_share_one_sequence() {
    let file = File::fresh();
    let (first, second) = (file.backend(), file.backend());
    assert_eq!(first.lineage(), second.lineage());
    let mut author = Author::new(1);
    for expected in 1..=10 {
        let backend = if expected % 2 == 0 { &first } else { &second };
        let batch = offered([author.edit(entity(1), &expected.to_string())]);
        let answers = backend.append(space("home"), replica(1), batch).await.unwrap().answers;
        assert_eq!(accepted(&answers[0]), expected);
    }
}

#[tokio::test]
async fn appends_that_wait_together_are_each_answered() {
    let file = File::fresh();
    let backend = file.backend();
    let mut author = Author::new(1);
    let first = author.edit(entity(1), "a");
    let appends = [vec![first.clone()], vec![author.edit(entity(1), "b")], vec![first], Vec::new()]
        .map(|batch| backend.append(space("home"), replica(1), offered(batch)));
    let outcomes = futures_util::future::join_all(appends).await;
    let answers: Vec<_> = outcomes.into_iter().map(|outcome| outcome.unwrap().answers).collect();
    assert_eq!(
        answers,
        [
            vec![Answer::Accepted { seq: 1 }],
            vec![Answer::Accepted { seq: 2 }],
            vec![Answer::Duplicate { seq: 1 }],
            vec![]
        ]
    );
}

#[tokio::test]
async fn a_damaged_row_is_noticed_and_not_sent() {
    for damage in [
        // One bit in the middle of a change; a change in the place of another; a change that is gone.
        "UPDATE changes SET bytes = CAST(substr(bytes, 1, 50) || x'00' || substr(bytes, 52) AS BLOB) WHERE seq = 2",
        "UPDATE changes SET bytes = (SELECT bytes FROM changes WHERE seq = 1) WHERE seq = 2",
        "UPDATE changes SET chain = zeroblob(32) WHERE seq = 2",
        "DELETE FROM changes WHERE seq = 2",
    ] {
        let file = File::fresh();
        let backend = file.backend();
        let mut author = Author::new(1);
        let batch = ["a", "b", "c"].map(|title| author.edit(entity(1), title));
        backend.append(space("home"), replica(1), offered(batch)).await.unwrap();
        let changed = rusqlite::Connection::open(file.path()).unwrap().execute(damage, []).unwrap();
        assert_eq!(changed, 1);
        let error = backend.read(space("home"), Mark::START, Vec::new(), ALL).await.unwrap_err();
        assert_eq!(error.kind(), BackendErrorKind::Corrupt, "{error}");
    }
}

#[tokio::test]
async fn what_is_not_a_server_file_is_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.db");
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (a)").unwrap();
    let error = SqliteBackend::open(&path, Box::new(SystemEnvironment)).unwrap_err();
    assert!(matches!(error, OpenError::NotAServerFile));
}
