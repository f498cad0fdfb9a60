//! A real server, real sockets.

use std::sync::Arc;

use anabranch_core::sync::{PAGE_CHANGES, WINDOW_PAGES};
use anabranch_core::wire::{self, Answer, ClientMessage, Limits, MAX_PRESENCE_BYTES, RefusalCode, ServerMessage};
use anabranch_server::{
    HeaderMap, OpenAccess, PageBudget, Server, ServerError, ServerOptions, SharedAccess, SqliteBackend,
    SystemEnvironment,
};

use crate::changes::{Author, accepted, entity, replica, space, transaction};
use crate::client::{Client, frames, guarded, hello, post, pull, push, request, start, start_in_memory};

#[tokio::test]
async fn what_is_pushed_can_be_pulled() {
    let server = start_in_memory().await;
    let mut author = Author::new(1);
    let batch = vec![author.edit(entity(1), "a"), author.edit(entity(2), "b")];
    let (mut ada, welcome) = Client::connect(server.local_addr(), 1).await;
    assert!(welcome.now > 1_500_000_000_000);
    let pushed = ada.push(7, batch.clone()).await;
    assert_eq!((pushed.id, pushed.answers.iter().map(accepted).collect()), (7, vec![1, 2]));
    assert_eq!(pushed.mark.unwrap().seq, 2);

    let (mut bob, _) = Client::connect(server.local_addr(), 2).await;
    let (changes, cursor) = bob.pull(None).await;
    assert_eq!(changes, batch);
    assert_eq!(bob.pull(Some(cursor.clone())).await, (Vec::new(), cursor.clone()));
    let next = author.edit(entity(1), "c");
    ada.push(8, vec![next.clone()]).await;
    assert_eq!(bob.pull(Some(cursor)).await.0, [next]);
    ada.leave().await;
    bob.leave().await;
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_live_session_hears_of_every_commit_but_its_own() {
    let server = start_in_memory().await;
    let (mut ada, _) = Client::connect(server.local_addr(), 1).await;
    let (mut bob, _) = Client::connect(server.local_addr(), 2).await;
    for client in [&mut ada, &mut bob] {
        client.send(&pull(None, true)).await;
        assert_eq!(client.changes().await.0, []);
    }
    let (mut mine, mut theirs) = (Author::new(1), Author::new(2));
    for round in 0..20 {
        let change = mine.edit(entity(1), &round.to_string());
        assert!(ada.push(round, vec![change.clone()]).await.cursor.is_some());
        assert_eq!(bob.changes().await.0, [change]);
        bob.send(&ClientMessage::Received { space: space("home") }).await;

        let change = theirs.edit(entity(2), &round.to_string());
        bob.push(round, vec![change.clone()]).await;
        assert_eq!(ada.changes().await.0, [change]);
        ada.send(&ClientMessage::Received { space: space("home") }).await;
    }
    ada.leave().await;
    bob.leave().await;
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn g05_pushing_a_batch_twice_stores_it_once() {
    let server = start_in_memory().await;
    let mut author = Author::new(1);
    let batch: Vec<_> = (0..5).map(|n| author.edit(entity(n), "x")).collect();
    let (mut client, _) = Client::connect(server.local_addr(), 1).await;
    let first = client.push(1, batch.clone()).await;
    let overview = overview(&server, "home").await;
    // Again in the same session, in another one, and by the other transport.
    let duplicates: Vec<_> = first.answers.iter().map(|answer| Answer::Duplicate { seq: accepted(answer) }).collect();
    assert_eq!(client.push(2, batch.clone()).await.answers, duplicates);
    let (mut other, _) = Client::connect(server.local_addr(), 2).await;
    assert_eq!(other.push(1, batch.clone()).await.answers, duplicates);
    let messages = post(server.local_addr(), &[hello(3, None), push(1, batch.clone())]).await;
    assert!(matches!(&messages[1], ServerMessage::Pushed(pushed) if pushed.answers == duplicates));
    assert_eq!(other.pull(None).await.0, batch);
    assert_eq!(self::overview(&server, "home").await, overview);
    assert_eq!(overview["changes"], 5);
    client.leave().await;
    other.leave().await;
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn one_request_holds_a_whole_session() {
    let server = start_in_memory().await;
    let mut author = Author::new(1);
    let batch = vec![author.edit(entity(1), "a")];
    let messages = post(server.local_addr(), &[hello(1, None), push(4, batch.clone()), pull(None, false)]).await;
    let [ServerMessage::Welcome(_), ServerMessage::Pushed(pushed), ServerMessage::Changes { changes, .. }] =
        &messages[..]
    else {
        panic!("{messages:?}")
    };
    assert_eq!(accepted(&pushed.answers[0]), 1);
    assert_eq!(changes, &batch);
    // A session of its own sees it too, and a live one ends with the request.
    let messages = post(server.local_addr(), &[hello(2, None), pull(None, true)]).await;
    assert!(matches!(&messages[1], ServerMessage::Changes { changes, .. } if *changes == batch));
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn garbage_is_refused() {
    let server = start_in_memory().await;
    let refused = |message: &ServerMessage, expected: RefusalCode| {
        let ServerMessage::Refused { code, .. } = message else { return false };
        *code == expected
    };
    // Not a frame; a frame that is cut off; no hello.
    let cut = {
        let mut frame = wire::encode(&hello(1, None)).unwrap();
        frame.pop();
        frame
    };
    let cases = [
        (b"garbage".to_vec(), RefusalCode::Damaged),
        (cut, RefusalCode::Damaged),
        (wire::encode(&pull(None, false)).unwrap(), RefusalCode::Protocol),
    ];
    for (bytes, expected) in cases {
        let mut client = Client::connect_silently(server.local_addr()).await;
        client.send_bytes(bytes.clone()).await;
        assert!(refused(&client.receive().await, expected));
        assert_eq!(client.next().await, Err(Some(1008)));
        let (status, response) = request(server.local_addr(), "POST", "/v1/sync", "", &bytes).await;
        assert_eq!(status, 200);
        assert!(refused(&frames(&response)[0], expected));
    }
    // Larger than any frame: not even read.
    let body = vec![0; 5 << 20];
    assert_eq!(request_ignoring_reset(&server, &body).await, Some(413));
    server.shutdown().await.unwrap();
}

/// A server may answer and close before it has read a body that is too large.
async fn request_ignoring_reset(server: &anabranch_server::ServerHandle, body: &[u8]) -> Option<u16> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(server.local_addr()).await.unwrap();
    let head = format!("POST /v1/sync HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n", body.len());
    guarded(stream.write_all(head.as_bytes())).await.unwrap();
    let mut start = [0; 12];
    guarded(stream.read_exact(&mut start)).await.unwrap();
    std::str::from_utf8(&start[9..]).ok()?.parse().ok()
}

#[tokio::test]
async fn small_routes_answer() {
    let server = start_in_memory().await;
    let address = server.local_addr();
    assert_eq!(request(address, "GET", "/healthz", "", b"").await, (200, b"ok".to_vec()));
    assert_eq!(request(address, "GET", "/v1/spaces/a%20b", "", b"").await.0, 400);
    assert_eq!(request(address, "GET", "/nowhere", "", b"").await.0, 404);
    let empty = overview(&server, "never_written").await;
    assert_eq!((&empty["seq"], &empty["entities"], &empty["changes"]), (&0.into(), &0.into(), &0.into()));
    let mut author = Author::new(1);
    let (mut client, _) = Client::connect(address, 1).await;
    client.push(1, vec![author.edit(entity(1), "a"), author.edit(entity(1), "b")]).await;
    let home = overview(&server, "home").await;
    assert_eq!((&home["seq"], &home["entities"], &home["changes"]), (&2.into(), &1.into(), &2.into()));
    assert_eq!(home["digest"].as_str().unwrap().len(), 64);
    client.leave().await;
    server.shutdown().await.unwrap();
}

async fn overview(server: &anabranch_server::ServerHandle, space: &str) -> serde_json::Value {
    let (status, body) = request(server.local_addr(), "GET", &format!("/v1/spaces/{space}"), "", b"").await;
    assert_eq!(status, 200);
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test]
async fn a_client_that_confirms_nothing_gets_a_window_and_no_more() {
    let server = start_in_memory().await;
    let (mut client, welcome) = Client::connect(server.local_addr(), 1).await;
    let mut author = Author::new(1);
    let pages = usize::try_from(WINDOW_PAGES).unwrap() + 2;
    let mut changes: Vec<_> = (0..pages * PAGE_CHANGES).map(|n| author.edit(entity(1), &n.to_string())).collect();
    let per_push = usize::try_from(welcome.limits.push_changes).unwrap();
    let mut id = 0;
    while !changes.is_empty() {
        id += 1;
        let rest = changes.split_off(per_push.min(changes.len()));
        client.push(id, std::mem::replace(&mut changes, rest)).await;
    }
    let (mut reader, _) = Client::connect(server.local_addr(), 2).await;
    reader.send(&pull(None, false)).await;
    for _ in 0..WINDOW_PAGES {
        assert!(reader.changes().await.2);
    }
    // Were there another page, it would come before this answer.
    assert!(reader.push(1, Vec::new()).await.answers.is_empty());
    reader.send(&ClientMessage::Received { space: space("home") }).await;
    assert!(!reader.changes().await.0.is_empty());
    client.leave().await;
    reader.leave().await;
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_reader_that_has_stalled_is_poked_once_and_gets_the_rest_when_it_reads_on() {
    let server = start_in_memory().await;
    let (mut client, _) = Client::connect(server.local_addr(), 1).await;
    let (mut reader, _) = Client::connect(server.local_addr(), 2).await;
    reader.send(&pull(None, true)).await;
    assert!(reader.changes().await.0.is_empty());
    let mut author = Author::new(1);
    let count = u64::from(WINDOW_PAGES) + 3;
    for id in 1..=count {
        // Each is committed and told before the next one, so each is a page of its own while the window is open.
        client.push(id, vec![author.edit(entity(1), &id.to_string())]).await;
        if id <= u64::from(WINDOW_PAGES) {
            assert_eq!(reader.changes().await.0.len(), 1);
        }
    }
    assert_eq!(reader.receive().await, ServerMessage::Poke { space: space("home") });
    // Were there another poke, it would come before this answer.
    assert!(reader.push(1, Vec::new()).await.answers.is_empty());
    reader.send(&ClientMessage::Received { space: space("home") }).await;
    assert_eq!(reader.changes().await.0.len(), 3, "all that has come meanwhile, in one page");
    client.leave().await;
    reader.leave().await;
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_a_replica_shows_reaches_those_who_follow_the_space_and_ends_with_its_session() {
    let server = start_in_memory().await;
    let show = |data: &[u8]| ClientMessage::Presence { space: space("home"), data: Some(data.to_vec()) };
    let shown = |data: Option<&[u8]>| ServerMessage::Presence {
        space: space("home"),
        replica: replica(1),
        data: data.map(<[u8]>::to_vec),
    };
    let (mut ann, _) = Client::connect(server.local_addr(), 1).await;
    let (mut bob, _) = Client::connect(server.local_addr(), 2).await;
    // Who does not follow the space is not in it.
    ann.send(&show(b"unseen")).await;
    for client in [&mut ann, &mut bob] {
        client.send(&pull(None, true)).await;
        client.changes().await;
    }
    ann.send(&show(b"here")).await;
    assert_eq!(bob.receive().await, shown(Some(b"here")));
    // Who comes later is told what is shown already; nobody is told about themselves.
    let (mut eve, _) = Client::connect(server.local_addr(), 3).await;
    eve.send(&pull(None, true)).await;
    let first = [eve.receive().await, eve.receive().await];
    assert!(first.contains(&shown(Some(b"here"))), "{first:?}");
    assert!(ann.push(1, Vec::new()).await.answers.is_empty());
    ann.leave().await;
    assert_eq!(bob.receive().await, shown(None));
    // More than a replica may show ends the session.
    bob.send(&show(&[0; MAX_PRESENCE_BYTES + 1])).await;
    assert!(matches!(bob.receive().await, ServerMessage::Refused { code: RefusalCode::Protocol, .. }));
    eve.leave().await;
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_transaction_larger_than_the_limits_is_taken_and_sent_whole() {
    let limits = Limits { push_changes: 3, push_bytes: 500 };
    let options = ServerOptions { limits, page: PageBudget { bytes: 500, changes: 3 }, ..ServerOptions::default() };
    let backend = SqliteBackend::open_in_memory(Box::new(SystemEnvironment)).unwrap();
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), Arc::new(backend), options).await.unwrap().spawn();
    let mut author = Author::new(1);
    let mut batch = |id: u8, size: u8| -> Vec<_> {
        let mut batch: Vec<_> = (0..size).map(|n| author.edit(entity(n), &id.to_string())).collect();
        batch.iter_mut().for_each(|envelope| envelope.transaction = transaction(id));
        batch
    };
    let batches = [batch(1, 9), batch(2, 7)];
    let (mut client, _) = Client::connect(server.local_addr(), 1).await;
    for (id, batch) in (1..).zip(&batches) {
        let answers = client.push(id, batch.clone()).await.answers;
        assert!(answers.iter().all(|answer| matches!(answer, Answer::Accepted { .. })));
    }
    let (mut reader, _) = Client::connect(server.local_addr(), 2).await;
    reader.send(&pull(None, false)).await;
    for (batch, more) in batches.iter().zip([true, false]) {
        let (changes, _, rest) = reader.changes().await;
        assert_eq!((&changes, rest), (batch, more), "a page is over its budget rather than a part");
    }
    // Two of them, or one with something beside it, could have been divided.
    client.send(&push(3, batches.concat())).await;
    assert!(matches!(client.receive().await, ServerMessage::Refused { code: RefusalCode::Protocol, .. }));
    reader.leave().await;
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn another_lineage_is_refused() {
    let (old, new) = (start_in_memory().await, start_in_memory().await);
    let (_, welcome) = Client::connect(old.local_addr(), 1).await;
    let messages = post(new.local_addr(), &[hello(1, Some(welcome.lineage)), push(1, Vec::new())]).await;
    assert!(matches!(
        messages[..],
        [ServerMessage::Refused { code: RefusalCode::OtherLineage { empty: true, .. }, .. }]
    ));
    old.shutdown().await.unwrap();
    new.shutdown().await.unwrap();
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_the_server_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let open = || SqliteBackend::open(folder.path().join("server.db"), Box::new(SystemEnvironment)).unwrap();
    let mut author = Author::new(1);
    let mut acknowledged = Vec::new();
    for round in 0..6u64 {
        let server = start(open()).await;
        let (mut client, _) = Client::connect(server.local_addr(), 1).await;
        // What was acknowledged before the last cut is here, in its place.
        let (log, _) = client.pull(None).await;
        for (seq, envelope) in &acknowledged {
            assert_eq!(&log[usize::try_from(seq - 1).unwrap()], envelope);
        }
        // Many pushes in flight; cut off, or stopped, after some of the answers.
        let batch: Vec<_> = (0..40).map(|n| author.edit(entity(n), &round.to_string())).collect();
        for (id, envelope) in (0..).zip(&batch) {
            client.send(&push(id, vec![envelope.clone()])).await;
        }
        let answered = |message| match message {
            ServerMessage::Pushed(pushed) => (accepted(&pushed.answers[0]), usize::try_from(pushed.id).unwrap()),
            other => panic!("not pushed: {other:?}"),
        };
        for _ in 0..=round * 5 {
            let (seq, at) = answered(client.receive().await);
            acknowledged.push((seq, batch[at].clone()));
        }
        if round % 2 == 0 {
            guarded(server.abort()).await;
        } else {
            let (stopped, ()) = tokio::join!(guarded(server.shutdown()), async {
                while let Ok(message) = client.next().await {
                    let (seq, at) = answered(message);
                    acknowledged.push((seq, batch[at].clone()));
                }
            });
            stopped.unwrap();
        }
        // The author's next change must not depend on one that has not arrived.
        author = Author::new(u8::try_from(round).unwrap() + 2);
    }
    let server = start(open()).await;
    let (mut client, _) = Client::connect(server.local_addr(), 1).await;
    for (seq, envelope) in acknowledged {
        assert_eq!(client.push(1, vec![envelope]).await.answers, [Answer::Duplicate { seq }]);
    }
    client.leave().await;
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_stopping_server_says_goodbye() {
    let server = start_in_memory().await;
    let address = server.local_addr();
    let (mut client, _) = Client::connect(address, 1).await;
    let (stopped, goodbye) = tokio::join!(guarded(server.shutdown()), client.next());
    stopped.unwrap();
    assert_eq!(goodbye, Err(Some(1001)));
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn authorization_decides() {
    let backend = SqliteBackend::open_in_memory(Box::new(SystemEnvironment)).unwrap();
    let options = ServerOptions {
        authorizer: Some(Arc::new(|headers: &HeaderMap| {
            let known = headers.get("authorization").is_some_and(|token| token == "Bearer good");
            known.then(|| -> SharedAccess { Arc::new(OpenAccess) })
        })),
        ..ServerOptions::default()
    };
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), Arc::new(backend), options).await.unwrap().spawn();
    let status = async |headers: &str| request(server.local_addr(), "GET", "/v1/spaces/home", headers, b"").await.0;
    assert_eq!(status("").await, 401);
    assert_eq!(status("authorization: Bearer bad\r\n").await, 401);
    assert_eq!(status("authorization: Bearer good\r\n").await, 200);
    assert_eq!(request(server.local_addr(), "POST", "/v1/sync", "", b"").await.0, 401);
    assert_eq!(request(server.local_addr(), "GET", "/healthz", "", b"").await.0, 200);
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn without_authorization_neither_public_addresses_nor_web_pages_are_served() {
    let backend = || Arc::new(SqliteBackend::open_in_memory(Box::new(SystemEnvironment)).unwrap());
    let public = "0.0.0.0:0".parse().unwrap();
    let refused = Server::bind(public, backend(), ServerOptions::default()).await;
    assert!(matches!(refused.err(), Some(ServerError::PublicWithoutAuth(address)) if address == public));

    let options = ServerOptions { allowed_origins: vec!["https://app.example".to_owned()], ..ServerOptions::default() };
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), backend(), options).await.unwrap().spawn();
    let status = async |headers: &str| request(server.local_addr(), "POST", "/v1/sync", headers, b"").await.0;
    assert_eq!(status("origin: https://evil.example\r\n").await, 403);
    assert_eq!(status("origin: https://app.example\r\n").await, 200);
    assert_eq!(status("").await, 200);
    server.shutdown().await.unwrap();
}
