//! Cursors that clients make up: a session reads from the place that one names, or says that it does not know it.
//! Plain `cargo test` replays the corpus.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| anabranch_sim::fuzz::cursor_decode(bytes));
