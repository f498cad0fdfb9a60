//! Bytes as frames: whatever is read of them is written and read again as the same, within every bound. Plain
//! `cargo test` replays the corpus.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    anabranch_sim::fuzz::frame_decode(bytes);
});
