//! A server's file that may not grow: what does not fit is refused, leaves everything as it was, and is taken once there
//! is room.

use std::sync::Arc;

use anabranch_core::sync::LogPage;
use anabranch_core::wire::{Answer, Envelope, Mark, RefusalCode, ServerMessage};
use anabranch_server::{
    Backend as _, BackendErrorKind, PageBudget, Server, ServerHandle, ServerOptions, SqliteBackend, SystemEnvironment,
};

use crate::changes::{Author, accepted, entity, offered, replica, space};
use crate::client::{Client, push};

const PAGE: u64 = 4_096;
const WRITES: usize = 200;
const ALL: PageBudget = PageBudget { bytes: usize::MAX, changes: usize::MAX };

fn open(folder: &tempfile::TempDir) -> SqliteBackend {
    SqliteBackend::open(folder.path().join("server.db"), Box::new(SystemEnvironment)).unwrap()
}

/// The size of the database, the write-ahead log included.
fn pages(folder: &tempfile::TempDir) -> u64 {
    let connection = rusqlite::Connection::open(folder.path().join("server.db")).unwrap();
    connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap()
}

/// All that the log serves: its chain is checked while it is read.
async fn log(backend: &SqliteBackend) -> Vec<Envelope> {
    match backend.read(space("home"), Mark::START, Vec::new(), ALL).await.unwrap() {
        LogPage::Rows { rows, more: false } => rows.into_iter().map(|(_, change)| change).collect(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn g02_g03_a_full_disk_at_each_of_200_writes_loses_nothing_that_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let backend = open(&folder);
    let mut author = Author::new(1);
    let mut expected = Vec::new();
    let mut refused = 0;
    let mut bound = pages(&folder);
    backend.limit_file(Some(bound * PAGE));
    for write in 0..WRITES {
        let long = "long ".repeat(200 + write % 7 * 300);
        let of = if write % 3 == 0 { 100 + u8::try_from(write / 3).unwrap() } else { 1 };
        let change = author.edit(entity(of), &format!("{write} {long}"));
        loop {
            let batch = offered([change.clone()]);
            match backend.append(space("home"), replica(1), batch).await.map(|outcome| outcome.answers) {
                Ok(answers) => {
                    expected.push(change);
                    // Nothing of what was refused has taken a place.
                    assert_eq!(answers, [Answer::Accepted { seq: u64::try_from(expected.len()).unwrap() }]);
                    break;
                }
                Err(error) => {
                    assert_eq!(error.kind(), BackendErrorKind::Retry, "write {write}: {error}");
                    assert_eq!(
                        log(&backend).await,
                        expected,
                        "write {write}: reading goes on, and nothing has changed"
                    );
                    refused += 1;
                    bound += 1;
                    backend.limit_file(Some(bound * PAGE));
                }
            }
        }
        bound = pages(&folder);
        backend.limit_file(Some(bound * PAGE));
    }
    assert!(refused > WRITES / 2, "{refused} writes did not fit");
    let overview = backend.overview(space("home")).await.unwrap();
    drop(backend);
    let backend = open(&folder);
    assert_eq!(log(&backend).await, expected);
    assert_eq!(backend.overview(space("home")).await.unwrap(), overview);
    let batch = offered([author.edit(entity(1), &"x".repeat(100_000))]);
    assert_eq!(accepted(&backend.append(space("home"), replica(1), batch).await.unwrap().answers[0]), 201);
    drop(backend);
    let connection = rusqlite::Connection::open(folder.path().join("server.db")).unwrap();
    let verdict: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok");
}

async fn serve(folder: &tempfile::TempDir) -> (Arc<SqliteBackend>, ServerHandle) {
    let backend = Arc::new(open(folder));
    let address = "127.0.0.1:0".parse().unwrap();
    let server = Server::bind(address, Arc::clone(&backend) as _, ServerOptions::default()).await.unwrap();
    (backend, server.spawn())
}

#[tokio::test]
async fn a_client_of_a_full_server_is_told_to_come_back_and_reads_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let (backend, server) = serve(&folder).await;
    let mut author = Author::new(1);
    let (mut client, _) = Client::connect(server.local_addr(), 1).await;
    let first = author.edit(entity(1), "first");
    accepted(&client.push(1, vec![first.clone()]).await.answers[0]);
    backend.limit_file(Some(PAGE));
    let large = author.edit(entity(1), &"x".repeat(100_000));
    client.send(&push(2, vec![large.clone()])).await;
    let refused = client.receive().await;
    assert!(matches!(refused, ServerMessage::Refused { code: RefusalCode::Unavailable, .. }), "{refused:?}");
    let (mut reader, _) = Client::connect(server.local_addr(), 2).await;
    assert_eq!(reader.pull(None).await.0, std::slice::from_ref(&first));
    backend.limit_file(None);
    let (mut client, _) = Client::connect(server.local_addr(), 1).await;
    assert_eq!(accepted(&client.push(1, vec![large.clone()]).await.answers[0]), 2);
    assert_eq!(reader.pull(None).await.0, [first, large]);
    client.leave().await;
    reader.leave().await;
    server.shutdown().await.unwrap();
}
