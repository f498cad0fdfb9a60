//! What a hostile change costs the server that it is pushed to: time, and memory of the whole process.

#![expect(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]
#![expect(dead_code, reason = "each test program uses its part of what is shared")]

#[path = "suite/changes.rs"]
mod changes;
#[path = "suite/client.rs"]
mod client;

use std::io::Write as _;
use std::path::Path;

use anabranch_core::Digest;
use anabranch_core::sync::{MAX_PUSH_BYTES, MAX_PUSH_CHANGES};
use anabranch_core::wire::{self, Answer, Ask, ClientMessage, Envelope, RefusalCode, Reply, ServerMessage, Wanted};
use peak_alloc::PeakAlloc;

use changes::{Author, accepted, entity, notes, space};
use client::{Client, push, start_in_memory};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// The hostile changes that are kept as files.
const FILES: usize = 24;
/// What one push may cost.
const MOST: usize = 64 << 20;

/// A deflated change that is too large when it is inflated, with the right checksum.
fn deflated_zeros(bytes: usize) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&vec![0; bytes]).unwrap();
    let content = encoder.finish().unwrap();
    let mut chunk = vec![2];
    let mut length = content.len();
    while length >= 0x80 {
        chunk.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    chunk.push(u8::try_from(length).unwrap());
    chunk.extend(content);
    [&[0x85, 0x6f, 0x4a, 0x83][..], &Digest::of(&chunk).as_bytes()[..4], &chunk].concat()
}

#[tokio::test]
async fn no_hostile_change_costs_the_server_more_than_64_mib() {
    let server = start_in_memory().await;
    let (mut client, _) = Client::connect(server.local_addr(), 1).await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../anabranch-core/tests/hostile");
    let mut inputs = Vec::new();
    for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.extension().is_none_or(|extension| extension != "change") {
            continue;
        }
        let change = std::fs::read(&path).unwrap();
        inputs.push((path.file_name().unwrap().display().to_string(), change));
    }
    assert_eq!(inputs.len(), FILES);
    inputs.push(("deflated, 128 MiB".to_owned(), deflated_zeros(128 << 20)));
    for (name, change) in inputs {
        let envelope = Envelope { entity: entity(1), collection: notes(), parent: None, transaction: None, change };
        // As many as one push holds, in changes and in bytes.
        let most = (MAX_PUSH_BYTES / u32::try_from(envelope.change.len()).unwrap()).min(MAX_PUSH_CHANGES);
        for copies in [1, most.try_into().unwrap()] {
            let before = MEMORY.current_usage();
            MEMORY.reset_peak_usage();
            let started = tokio::time::Instant::now();
            let answers = client.push(1, vec![envelope.clone(); copies]).await.answers;
            let (cost, time) = (MEMORY.peak_usage() - before, started.elapsed());
            assert!(answers.iter().all(|answer| matches!(answer, Answer::Rejected { .. })), "{name}");
            println!("{name} × {copies}: {} KiB, {time:?}", cost >> 10);
            assert!(cost < MOST, "{} KiB", cost >> 10);
        }
    }

    // As many envelopes as a frame holds, which deflate to next to nothing.
    let empty =
        Envelope { entity: entity(1), collection: notes(), parent: None, transaction: None, change: Vec::new() };
    let frame = wire::encode(&push(2, vec![empty; 75_000])).unwrap();
    assert!(frame.len() < 32_000, "{}", frame.len());
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    client.send_bytes(frame).await;
    let refused = client.receive().await;
    assert!(matches!(refused, ServerMessage::Refused { code: RefusalCode::Protocol, .. }), "{refused:?}");
    let cost = MEMORY.peak_usage() - before;
    println!("75,000 envelopes: {} KiB", cost >> 10);
    assert!(cost < 20 << 20, "{} KiB", cost >> 10);
    assert!(client.next().await.is_err());

    // A history that is far longer than a page, asked for from its beginning again and again.
    let (mut client, _) = Client::connect(server.local_addr(), 1).await;
    let mut author = Author::new(1);
    let history: Vec<_> = (0..100).map(|n| author.edit(entity(9), &format!("{n}{}", "x".repeat(100 << 10)))).collect();
    for (id, change) in (10..).zip(&history) {
        accepted(&client.push(id, vec![change.clone()]).await.answers[0]);
    }
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let mut skip = 0;
    loop {
        let wanted = vec![Wanted { entity: entity(9), known: Vec::new() }];
        client.send(&ClientMessage::Reconcile { space: space("home"), ask: Ask::Changes { wanted, skip } }).await;
        let answer = client.receive().await;
        let ServerMessage::Reconciled { reply: Reply::Changes { changes, done, skip: next }, .. } = answer else {
            panic!("{answer:?}")
        };
        let at = usize::try_from(skip).unwrap();
        assert_eq!(changes, history[at..at + changes.len()]);
        skip = next;
        if done == 1 {
            break;
        }
    }
    let cost = MEMORY.peak_usage() - before;
    println!("a history of {} KiB: {} KiB", history.iter().map(|it| it.change.len()).sum::<usize>() >> 10, cost >> 10);
    assert!(cost < 3 << 20, "{} KiB", cost >> 10);
    client.leave().await;
    server.shutdown().await.unwrap();
}
