//! A server's sessions with clients that say anything: nobody is told what is not theirs, every log stays whole, and an
//! honest client is served afterwards. Plain `cargo test` replays the corpus.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| anabranch_sim::fuzz::server_session(bytes));
