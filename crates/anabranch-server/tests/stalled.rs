//! A reader that stops reading. A program of its own, since memory is counted for the whole process.

#![expect(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]
#![expect(dead_code, reason = "each test program uses its part of what is shared")]

#[path = "suite/changes.rs"]
mod changes;
#[path = "suite/client.rs"]
mod client;

use std::sync::Arc;

use anabranch_core::wire::{ClientMessage, Envelope};
use anabranch_core::{ChangeHash, Entropy as _, SplitMix64};
use anabranch_server::{SegmentOptions, Server, ServerHandle, ServerOptions, SqliteBackend, SystemEnvironment};
use peak_alloc::PeakAlloc;

use changes::{Author, entity, space};
use client::{Client, guarded, pull};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// As many bytes as 1,000 small changes a second make in a minute.
const BYTES: usize = 12_000_000;
/// What one reader may cost the server beyond what the writer costs: its window of pages, in some forms at once.
const MOST: usize = 4 << 20;

/// `ANABRANCH_STALLED=60000` is a minute of 1,000 changes a second; the default has as many bytes in fewer of them.
fn count() -> usize {
    std::env::var("ANABRANCH_STALLED").ok().and_then(|count| count.parse().ok()).unwrap_or(6_000)
}

/// Changes that cannot be deflated to nothing.
fn changes(author: &mut Author, from: &mut SplitMix64) -> Vec<Envelope> {
    let letters = |word: u64| word.to_be_bytes().map(|byte| char::from(b'a' + byte % 26));
    let mut title = || (0..BYTES / count() / 8).flat_map(|_| letters(from.next_u64())).collect::<String>();
    (0..count()).map(|n| author.edit(entity(u8::try_from(n % 200).unwrap()), &title())).collect()
}

/// Pushes changes, and returns how much more memory was held at some time of that.
async fn push(server: &ServerHandle, name: u8, changes: &[Envelope]) -> usize {
    let (mut writer, _) = Client::connect(server.local_addr(), name).await;
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    for (id, batch) in (1..).zip(changes.chunks(50)) {
        writer.push(id, batch.to_vec()).await;
    }
    let most = MEMORY.peak_usage() - before;
    writer.leave().await;
    most
}

fn hashes(changes: &[Envelope]) -> Vec<ChangeHash> {
    let parse = |envelope: &Envelope| anabranch_core::Change::parse(envelope.change.clone()).unwrap().hash();
    changes.iter().map(parse).collect()
}

#[tokio::test]
async fn a_reader_that_has_stalled_costs_a_window_and_catches_up() {
    let folder = tempfile::tempdir().unwrap();
    let backend = SqliteBackend::open(folder.path().join("log.db"), Box::new(SystemEnvironment)).unwrap();
    // Segments are built beside it, at a cost of their own.
    let segments = SegmentOptions { min_changes: u64::MAX, ..SegmentOptions::default() };
    let options = ServerOptions { segments, ..ServerOptions::default() };
    let address = "127.0.0.1:0".parse().unwrap();
    let server = Server::bind(address, Arc::new(backend), options).await.unwrap().spawn();
    let (mut author, mut dice) = (Author::new(1), SplitMix64::new(1));
    let (first, second) = (changes(&mut author, &mut dice), changes(&mut author, &mut dice));
    let alone = push(&server, 1, &first).await;

    let (mut reader, _) = Client::connect(server.local_addr(), 2).await;
    let (_, cursor) = reader.pull(None).await;
    reader.send(&pull(Some(cursor), true)).await;
    assert!(reader.changes().await.0.is_empty());
    // From here on it does not read.
    let beside_it = push(&server, 1, &second).await;
    println!("{} changes, {BYTES} bytes pushed; most memory held: {alone} alone, {beside_it} beside it", count());
    assert!(beside_it < alone + MOST, "{alone} alone, {beside_it} beside it");

    let mut read = Vec::new();
    while read.len() < second.len() {
        if let anabranch_core::wire::ServerMessage::Changes { changes, .. } = guarded(reader.next()).await.unwrap() {
            read.extend(changes);
            reader.send(&ClientMessage::Received { space: space("home") }).await;
        }
    }
    assert_eq!(hashes(&read), hashes(&second), "everything, in the order of the log");
    reader.leave().await;
    server.shutdown().await.unwrap();
}
