//! Segments of a hostile server do no harm, and what is read of them without a document is what documents say. The
//! bytes choose how an honest segment is altered (`anabranch_sim::fuzz`); plain `cargo test` replays the corpus.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| anabranch_sim::fuzz::segment_apply(bytes));
