//! Altered changes do no harm: what is refused leaves no trace, what is taken can be read, saved and loaded. The
//! bytes choose how an honest change is altered; plain `cargo test` replays the committed corpus
//! (`crates/anabranch-core/tests/admission/corpus.rs`).
#![no_main]
#![allow(dead_code, reason = "these files are shared with the tests of `anabranch-core`")]

#[path = "../../crates/anabranch-core/tests/admission/chunk.rs"]
mod chunk;
#[path = "../../crates/anabranch-core/tests/admission/fleet.rs"]
mod fleet;
#[path = "../../crates/anabranch-core/tests/admission/input.rs"]
mod input;
#[path = "../../crates/anabranch-core/tests/admission/mutation.rs"]
mod mutation;
#[path = "../../crates/anabranch-core/tests/admission/trial.rs"]
mod trial;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| input::change_admission(bytes));
