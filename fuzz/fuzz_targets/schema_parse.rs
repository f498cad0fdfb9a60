//! Schemas, as files and as spaces carry them: one that passes its checks is written and read as the same, and a file
//! can be opened with it. Plain `cargo test` replays the corpus.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| anabranch_sim::fuzz::schema_parse(bytes));
