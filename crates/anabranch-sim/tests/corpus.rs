//! Replays the fuzzers' corpora, and a few thousand inputs of their kind.

use std::path::Path;

use anabranch_core::{Entropy as _, SplitMix64};
use anabranch_sim::fuzz;

fn replay(target: &str, run: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut replayed = 0;
    for entry in std::fs::read_dir(&folder).expect("the corpus") {
        let path = entry.expect("an entry").path();
        println!("{}", path.display());
        run(&std::fs::read(path).expect("an input"));
        replayed += 1;
    }
    assert!(replayed > 0, "the corpus is there");
}

/// Runs `times` inputs of random bytes, of up to `most` each.
fn random(times: u64, most: u64, run: impl Fn(&[u8])) {
    for seed in 0..times {
        let mut entropy = SplitMix64::new(seed);
        let mut bytes = vec![0; usize::try_from(entropy.next_u64() % most).expect("a length")];
        entropy.fill(&mut bytes);
        run(&bytes);
    }
}

#[test]
fn replica_ops_converge() {
    replay("replica_ops", fuzz::replica_ops);
    random(400, 440, fuzz::replica_ops);
}

#[test]
fn segment_apply_does_no_harm() {
    replay("segment_apply", fuzz::segment_apply);
    random(300, 28, fuzz::segment_apply);
}

#[test]
fn frame_decode_reads_what_is_written() {
    replay("frame_decode", |bytes| {
        fuzz::frame_decode(bytes);
    });
    random(3_000, 60, |bytes| {
        fuzz::frame_decode(bytes);
    });
}

#[test]
fn cursor_decode_knows_its_own() {
    replay("cursor_decode", fuzz::cursor_decode);
    random(3_000, 100, fuzz::cursor_decode);
}

#[test]
fn schema_parse_takes_what_it_writes() {
    replay("schema_parse", fuzz::schema_parse);
}

#[test]
fn server_session_keeps_every_rule() {
    replay("server_session", fuzz::server_session);
    random(400, 300, fuzz::server_session);
}
