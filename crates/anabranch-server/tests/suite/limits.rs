//! What a client may cost: connections, sessions, and changes that are made to harm.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use anabranch_core::sync::Access;
use anabranch_core::wire::{Answer, Envelope, RejectCode};
use anabranch_core::{Digest, SpaceName};
use anabranch_server::{HeaderMap, ServerOptions, SharedAccess};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpSocket, TcpStream};

use crate::changes::{Author, accepted, entity, notes};
use crate::client::{Client, guarded, request, start_in_memory, start_with};

#[tokio::test]
async fn an_address_has_so_many_connections_and_others_are_not_affected() {
    let options = ServerOptions { max_connections_per_address: 3, ..ServerOptions::default() };
    let server = start_with(options).await;
    let (first, _) = Client::connect(server.local_addr(), 1).await;
    let mut idle = Vec::new();
    for _ in 0..2 {
        idle.push(TcpStream::connect(server.local_addr()).await.unwrap());
    }
    let mut late = TcpStream::connect(server.local_addr()).await.unwrap();
    // Cut off, without a word.
    assert!(!matches!(guarded(late.read(&mut [0; 1])).await, Ok(1..)));
    // Another address is let in.
    let socket = TcpSocket::new_v4().unwrap();
    if socket.bind("127.0.0.2:0".parse().unwrap()).is_ok() {
        let other = guarded(socket.connect(server.local_addr())).await.unwrap();
        other.writable().await.unwrap();
        let mut byte = [0; 1];
        let waits = tokio::time::timeout(std::time::Duration::from_millis(50), other.peek(&mut byte)).await;
        assert!(waits.is_err(), "it is not cut off");
    }
    // A place is free again when its connection has ended.
    first.leave().await;
    let healthy = async {
        // The server may not have noticed yet.
        while TcpStream::connect(server.local_addr()).await.is_err() {}
        loop {
            let mut stream = TcpStream::connect(server.local_addr()).await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET /healthz HTTP/1.0\r\n\r\n").await.ok();
            let mut answer = Vec::new();
            if stream.read_to_end(&mut answer).await.is_ok() && answer.ends_with(b"ok") {
                return;
            }
        }
    };
    guarded(healthy).await;
    server.abort().await;
}

#[tokio::test]
async fn who_only_gives_signs_of_life_is_cut_off() {
    let server = start_in_memory().await;
    let (mut client, _) = Client::connect(server.local_addr(), 1).await;
    for _ in 0..50 {
        assert!(client.ping().await);
    }
    assert!(client.push(1, Vec::new()).await.answers.is_empty());
    for _ in 0..100 {
        client.ping().await;
    }
    assert!(client.next().await.is_err());
    server.abort().await;
}

struct Ann;

impl Access for Ann {
    fn may_read(&self, _space: &SpaceName) -> bool {
        true
    }

    fn may_write(&self, _space: &SpaceName) -> bool {
        true
    }

    fn principal(&self) -> Option<&str> {
        Some("ann")
    }
}

#[tokio::test]
async fn a_principal_has_so_many_sessions() {
    let options = ServerOptions {
        authorizer: Some(Arc::new(|_: &HeaderMap| -> Option<SharedAccess> { Some(Arc::new(Ann)) })),
        max_sessions_per_principal: 2,
        ..ServerOptions::default()
    };
    let server = start_with(options).await;
    let (one, _) = Client::connect(server.local_addr(), 1).await;
    let (mut two, _) = Client::connect(server.local_addr(), 2).await;
    assert_eq!(Client::open(server.local_addr(), None).await.err(), Some(429));
    assert_eq!(request(server.local_addr(), "POST", "/v1/sync", "", b"").await.0, 429);
    assert!(two.push(1, Vec::new()).await.answers.is_empty());
    one.leave().await;
    let again = async {
        loop {
            // The server may not have noticed yet.
            if let Ok(client) = Client::open(server.local_addr(), None).await {
                return client;
            }
        }
    };
    guarded(again).await.leave().await;
    two.leave().await;
    server.shutdown().await.unwrap();
}

fn envelope(change: Vec<u8>) -> Envelope {
    Envelope { entity: entity(1), collection: notes(), parent: None, transaction: None, change }
}

/// A chunk of this type with the right checksum.
fn chunk(kind: u8, content: &[u8]) -> Vec<u8> {
    let mut length = Vec::new();
    let mut rest = content.len();
    while rest >= 0x80 {
        length.push(u8::try_from(rest & 0x7f).unwrap() | 0x80);
        rest >>= 7;
    }
    length.push(u8::try_from(rest).unwrap());
    let chunk = [&[kind][..], &length, content].concat();
    let checksum = Digest::of(&chunk);
    [&[0x85, 0x6f, 0x4a, 0x83][..], &checksum.as_bytes()[..4], &chunk].concat()
}

fn deflated_zeros(bytes: usize) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&vec![0; bytes]).unwrap();
    encoder.finish().unwrap()
}

/// Changes that harm a bare Automerge, as files and made here, and what goes on beside them.
#[tokio::test]
async fn g11_hostile_changes_are_refused_with_a_reason_and_the_honest_ones_beside_them_are_taken() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../anabranch-core/tests/hostile");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut hostile: Vec<_> = files.filter(|path| path.extension().is_some_and(|it| it == "change")).collect();
    hostile.sort();
    let mut hostile: Vec<Vec<u8>> = hostile.iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert_eq!(hostile.len(), 24);
    let honest = Author::new(3).edit(entity(3), "x").change;
    hostile.extend([
        chunk(2, &deflated_zeros(128 << 20)),
        chunk(2, &deflated_zeros(1 << 10)),
        chunk(0, &honest[11..]),
        chunk(3, &honest[11..]),
        chunk(1, &[]),
        chunk(1, &[0xff; 64]),
        chunk(1, &vec![0; 100 << 10]),
        honest[..honest.len() - 1].to_vec(),
        [honest.clone(), vec![0]].concat(),
        Vec::new(),
    ]);
    let server = start_in_memory().await;
    let mut author = Author::new(1);
    let (mut client, _) = Client::connect(server.local_addr(), 1).await;
    for (id, bytes) in (1..).zip(&hostile) {
        let good = author.edit(entity(2), &id.to_string());
        // Before and after it in the same batch, and the bad one twice.
        let next = author.edit(entity(2), "next");
        let batch = vec![good.clone(), envelope(bytes.clone()), next, envelope(bytes.clone())];
        let answers = client.push(id, batch).await.answers;
        assert_eq!((accepted(&answers[0]), accepted(&answers[2])), (2 * id - 1, 2 * id), "{id}");
        for answer in [&answers[1], &answers[3]] {
            let Answer::Rejected { code: RejectCode::Malformed, message, retryable: false } = answer else {
                panic!("{id}: {answer:?}")
            };
            assert!(!message.is_empty() && message.len() < 200, "{message}");
        }
    }
    // What is well formed, and depends on what nobody has, is held, and kept nowhere.
    let mut unknown = Author::new(5);
    unknown.edit(entity(4), "never sent");
    let orphan = unknown.edit(entity(4), "sent");
    for id in 100..103 {
        let answers = client.push(id, vec![orphan.clone()]).await.answers;
        assert!(matches!(answers[..], [Answer::Held { .. }]));
    }
    let (mut other, _) = Client::connect(server.local_addr(), 2).await;
    assert_eq!(other.pull(None).await.0.len(), 2 * hostile.len());
    client.leave().await;
    other.leave().await;
    server.shutdown().await.unwrap();
}
