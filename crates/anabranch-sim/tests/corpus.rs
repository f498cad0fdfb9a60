//! Replays the fuzzer's corpus, and a few thousand inputs of its kind.

use std::path::Path;

use anabranch_core::{Entropy as _, SplitMix64};
use anabranch_sim::fuzz;

fn replay(target: &str, run: impl Fn(&[u8])) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut replayed = 0;
    for entry in std::fs::read_dir(&folder).expect("the corpus") {
        let path = entry.expect("an entry").path();
        println!("{}", path.display());
        run(&std::fs::read(path).expect("an input"));
        replayed += 1;
    }
    replayed
}

#[test]
fn the_corpus_of_replica_ops_converges() {
    assert!(replay("replica_ops", fuzz::replica_ops) > 0, "the corpus is there");
}

#[test]
fn random_inputs_of_replica_ops_converge() {
    for seed in 0..400 {
        let mut entropy = SplitMix64::new(seed);
        let mut bytes = vec![0; 40 + usize::try_from(entropy.next_u64() % 400).expect("a length")];
        entropy.fill(&mut bytes);
        fuzz::replica_ops(&bytes);
    }
}

#[test]
fn the_corpus_of_segment_apply_does_no_harm() {
    assert!(replay("segment_apply", fuzz::segment_apply) > 0, "the corpus is there");
}

#[test]
fn random_inputs_of_segment_apply_do_no_harm() {
    for seed in 0..300 {
        let mut entropy = SplitMix64::new(seed);
        let mut bytes = vec![0; 4 + usize::try_from(entropy.next_u64() % 24).expect("a length")];
        entropy.fill(&mut bytes);
        fuzz::segment_apply(&bytes);
    }
}
