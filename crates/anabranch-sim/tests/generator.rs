//! Hundreds of thousands of altered frames: none panics, none hangs, none takes more than it may, and honest ones are
//! read before and after. The same for changes is in `anabranch-core/tests/admission/mutants.rs`.

use std::thread;

use anabranch_core::{Entropy as _, SplitMix64};
use anabranch_sim::fuzz::{frame_decode, frames, reads};

/// Altered frames that plain `cargo test` runs. `ANABRANCH_MUTANTS` sets another number.
const MUTANTS: u64 = 200_000;
const THREADS: u64 = 2;

#[test]
fn g11_altered_frames_do_no_harm() {
    let count = std::env::var("ANABRANCH_MUTANTS").map_or(MUTANTS, |count| count.parse().expect("a number"));
    assert!(frames().iter().all(|frame| reads(frame) > 0), "an honest frame is refused");
    // One in a hundred more: some alterations put a byte where it is already.
    let inputs = (count + count / 100).div_ceil(THREADS);
    let run = |thread: u64| thread::spawn(move || altered(thread, inputs));
    let threads: Vec<_> = (0..THREADS).map(run).collect();
    let (mut ran, mut read) = (0, 0);
    for thread in threads {
        let (more, of_them) = thread.join().expect("no panic escapes");
        (ran, read) = (ran + more, read + of_them);
    }
    println!("{ran} altered frames, {read} of them can be read, as another message or by another side");
    assert!(ran >= count);
    // The trial means something only while altered frames come past the first check, and do not all pass.
    assert!(read > count / 20 && read < ran - count / 20, "{read} of {ran}");
    assert!(frames().iter().all(|frame| reads(frame) > 0), "an honest frame is refused");
}

/// How many altered frames there were, and how many of them could be read.
fn altered(seed: u64, count: u64) -> (u64, u64) {
    let mut entropy = SplitMix64::new(seed);
    let mut read = 0;
    for _ in 0..count {
        let mut input = [0; 16];
        entropy.fill(&mut input);
        // An honest frame, and a few alterations of its body.
        input[0] |= 4;
        let length = 5 + usize::try_from(entropy.next_u64() % 12).expect("a length");
        read += u64::from(frame_decode(&input[..length]) > 0);
    }
    (count, read)
}
