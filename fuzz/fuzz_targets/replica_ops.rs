//! Operation sequences on several replicas converge. The operations are read from the input's bytes by
//! `anabranch_sim::fuzz`, which plain `cargo test` replays over the committed corpus.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| anabranch_sim::fuzz::replica_ops(bytes));
