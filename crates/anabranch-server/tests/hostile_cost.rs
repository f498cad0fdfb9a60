//! What a hostile change costs the server that it is pushed to: time, and memory of the whole process.

#![expect(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]
#![expect(dead_code, reason = "each test program uses its part of what is shared")]

#[path = "suite/changes.rs"]
mod changes;
#[path = "suite/client.rs"]
mod client;

use std::path::Path;

use anabranch_core::sync::MAX_PUSH_CHANGES;
use anabranch_core::wire::{self, Answer, Envelope, RefusalCode, ServerMessage};
use peak_alloc::PeakAlloc;

use changes::{entity, notes};
use client::{Client, push, start_in_memory};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// What one push may cost.
const MOST: usize = 64 << 20;

#[tokio::test]
async fn no_hostile_change_costs_the_server_more_than_64_mib() {
    let server = start_in_memory().await;
    let (mut client, _) = Client::connect(server.local_addr(), 1).await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../anabranch-core/tests/hostile");
    let mut count = 0;
    for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.extension().is_none_or(|extension| extension != "change") {
            continue;
        }
        let change = std::fs::read(&path).unwrap();
        let envelope = Envelope { entity: entity(1), collection: notes(), parent: None, transaction: None, change };
        // As many as one push holds.
        for copies in [1, MAX_PUSH_CHANGES.try_into().unwrap()] {
            let before = MEMORY.current_usage();
            MEMORY.reset_peak_usage();
            let started = tokio::time::Instant::now();
            let answers = client.push(1, vec![envelope.clone(); copies]).await.answers;
            let (cost, time) = (MEMORY.peak_usage() - before, started.elapsed());
            assert!(answers.iter().all(|answer| matches!(answer, Answer::Rejected { .. })));
            println!("{} × {copies}: {} KiB, {time:?}", path.file_name().unwrap().display(), cost >> 10);
            assert!(cost < MOST, "{} KiB", cost >> 10);
        }
        count += 1;
    }
    assert_eq!(count, 4);

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
    server.shutdown().await.unwrap();
}
