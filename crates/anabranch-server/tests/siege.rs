//! What an attacker can make a server hold: memory is counted for the whole process, the attackers' side included, so
//! this is a program of its own. `ANABRANCH_SIEGE` sets how many attackers of each kind there are (60; each takes two
//! file descriptors here).

#![expect(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]
#![expect(dead_code, reason = "each test program uses its part of what is shared")]

#[path = "suite/changes.rs"]
mod changes;
#[path = "suite/client.rs"]
mod client;

use std::net::SocketAddr;
use std::time::Duration;

use anabranch_core::wire::{self, Envelope, MAX_FRAME_BYTES};
use anabranch_server::{SegmentOptions, ServerOptions};
use peak_alloc::PeakAlloc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use changes::{Author, accepted, entity, notes};
use client::{Client, guarded, hello, pull, start_with};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// What all sessions together may hold.
const SHARED: usize = 32 << 20;
/// What a connection costs beside that.
const EACH: usize = 100 << 10;
/// For the honest clients, the log in memory, and the test itself.
const REST: usize = 16 << 20;

/// Attackers come from another address than the honest.
async fn attacker(server: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    // Where there is only one loopback address, all come from it.
    drop(socket.bind("127.0.0.66:0".parse().unwrap()));
    guarded(socket.connect(server)).await.unwrap()
}

/// Says the beginning of something; the server may have hung up by then.
async fn begin(server: SocketAddr, words: &[u8]) -> TcpStream {
    let mut stream = attacker(server).await;
    drop(tokio::time::timeout(Duration::from_secs(5), stream.write_all(words)).await);
    stream
}

const UPGRADE: &[u8] = b"GET /v1/sync HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";

/// A session by hand: what `words` says after the upgrade, in one go.
async fn session(server: SocketAddr, words: &[u8]) -> TcpStream {
    let mut stream = begin(server, UPGRADE).await;
    let mut answer = [0; 64];
    drop(guarded(stream.read(&mut answer)).await);
    drop(tokio::time::timeout(Duration::from_secs(5), stream.write_all(words)).await);
    stream
}

/// A message of a WebSocket client, with a mask of zeros. It claims to be `claimed` bytes long.
fn message(bytes: &[u8], claimed: usize) -> Vec<u8> {
    let mut message = vec![0x82, 0x80 | 127];
    message.extend(u64::try_from(claimed).unwrap().to_be_bytes());
    message.extend([0; 4]);
    message.extend(bytes);
    message
}

fn whole(frame: &[u8]) -> Vec<u8> {
    message(frame, frame.len())
}

/// A change that takes about 100 KiB, which cannot be deflated.
fn large(author: &mut Author, n: u8) -> Envelope {
    use anabranch_core::{Entropy as _, SplitMix64};
    let (mut bytes, mut entropy) = (vec![0; 50 << 10], SplitMix64::new(u64::from(n)));
    entropy.fill(&mut bytes);
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let envelope = author.edit(entity(n), &text);
    Envelope { collection: notes(), ..envelope }
}

fn head_of_post(length: usize) -> String {
    format!("POST /v1/sync HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n")
}

/// The name of the largest segment of a space.
async fn segment_of(server: SocketAddr, space: &str) -> String {
    let (_, manifest) = client::request(server, "GET", &format!("/v1/spaces/{space}/segments"), "", b"").await;
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let segments = manifest["segments"].as_array().unwrap();
    let largest = segments.iter().max_by_key(|segment| segment["bytes"].as_u64()).unwrap();
    assert!(largest["bytes"].as_u64().unwrap() > 500_000, "{largest}");
    largest["digest"].as_str().unwrap().to_owned()
}

fn memory_above(before: usize) -> usize {
    MEMORY.peak_usage().saturating_sub(before)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g11_attackers_of_every_kind_cost_a_bounded_amount_and_keep_nobody_from_syncing() {
    let each = std::env::var("ANABRANCH_SIEGE").ok().map_or(60, |count| count.parse().unwrap());
    let options = ServerOptions {
        max_memory: SHARED,
        max_connections_per_address: 100_000,
        segments: SegmentOptions { min_changes: 80, ..SegmentOptions::default() },
        ..ServerOptions::default()
    };
    let server = start_with(options).await;
    let address = server.local_addr();
    // Eight megabytes that a reader may ask for.
    let mut author = Author::new(1);
    let (mut ada, _) = Client::connect(address, 1).await;
    for n in 0..80 {
        let answers = ada.push(n.into(), vec![large(&mut author, n)]).await.answers;
        accepted(&answers[0]);
    }
    server.segments_reach(&changes::space("home"), 80).await;
    let segment = segment_of(address, "home").await;
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();

    let hello = whole(&wire::encode(&hello(66, None)).unwrap());
    let asks = [hello.clone(), whole(&wire::encode(&pull(None, true)).unwrap())].concat();
    // Without a confirmation no page follows; but one may ask again.
    let pulls: Vec<u8> = (0..20).flat_map(|_| wire::encode(&pull(None, true)).unwrap()).collect();
    let greedy = [wire::encode(&client::hello(66, None)).unwrap(), pulls].concat();
    let fetches = format!("GET /v1/spaces/home/segments/{segment} HTTP/1.1\r\nhost: x\r\n\r\n").repeat(20).into_bytes();
    let half_a_frame = [hello, message(&vec![0x41; 1 << 20], MAX_FRAME_BYTES)].concat();
    let too_long = message(&vec![0x41; 1 << 20], 1 << 40);
    let half_a_body =
        [&b"POST /v1/sync HTTP/1.1\r\nhost: x\r\ncontent-length: 4000000\r\n\r\n"[..], &vec![0x41; 1 << 20]].concat();
    let mut siege = Vec::new();
    for _ in 0..each {
        siege.push(begin(address, b"").await);
        siege.push(begin(address, b"GET /healthz HT").await);
        siege.push(begin(address, b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-slow: ").await);
        siege.push(begin(address, &half_a_body).await);
        siege.push(session(address, b"").await);
        siege.push(session(address, &half_a_frame).await);
        siege.push(session(address, &too_long).await);
    }
    // Some follow the space, and never read a byte; or ask for all of it at once, again and again, or for segments.
    let post = [head_of_post(greedy.len()).as_bytes(), &greedy].concat();
    for _ in 0..each.min(20) {
        siege.push(session(address, &asks).await);
        siege.push(begin(address, &post).await);
        siege.push(begin(address, &fetches).await);
    }

    // An honest reader and an honest writer.
    let (mut bob, _) = Client::connect(address, 2).await;
    assert_eq!(bob.pull(None).await.0.len(), 80);
    bob.send(&pull(None, true)).await;
    let mut pages = 0;
    while pages < 80 {
        pages += bob.changes().await.0.len();
        bob.send(&wire::ClientMessage::Received { space: changes::space("home") }).await;
    }
    for n in 80..120 {
        let change = large(&mut author, n);
        accepted(&ada.push(n.into(), vec![change.clone()]).await.answers[0]);
        assert_eq!(bob.changes().await.0, [change]);
        bob.send(&wire::ClientMessage::Received { space: changes::space("home") }).await;
    }

    let (cost, bound) = (memory_above(before), SHARED + siege.len() * EACH + REST);
    println!("{} attackers: {} KiB, bound {} KiB", siege.len(), cost >> 10, bound >> 10);
    assert!(cost < bound, "{} KiB", cost >> 10);
    drop(siege);
    ada.leave().await;
    bob.leave().await;
    server.abort().await;
}
