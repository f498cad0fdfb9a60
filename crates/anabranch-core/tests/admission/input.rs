//! The fuzzer's bytes as choices; `fuzz/fuzz_targets/change_admission.rs` includes this file.

use anabranch_core::Change;
use anabranch_core::document::Document;

use super::mutation::Choose;
use super::trial::{self, History};
use super::{chunk, fleet};

thread_local! {
    static HISTORIES: Vec<History> = (0..4)
        .flat_map(|seed| [fleet::library(seed, 16), fleet::plain(seed, 16)])
        .map(History::new)
        .collect();
}

/// Choices read from bytes; after their end, always the first.
struct Input<'a>(&'a [u8]);

impl Choose for Input<'_> {
    fn below(&mut self, end: usize) -> usize {
        let count = if end <= 256 { 1 } else { 3 };
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)) % end
    }
}

/// Bytes that begin like a chunk are one, but for the checksum; others say how to alter an honest change.
pub fn change_admission(bytes: &[u8]) {
    if bytes.len() > 9 && bytes.starts_with(&[0x85, 0x6f, 0x4a, 0x83]) {
        let mut bytes = bytes.to_vec();
        chunk::reseal(&mut bytes);
        if let Ok(change) = Change::parse(bytes) {
            let mut document = Document::new(&fleet::actor(9));
            if document.apply(&[change]).is_ok() {
                document.state(None).unwrap();
                document.fold().unwrap();
            }
        }
        return;
    }
    let mut input = Input(bytes);
    HISTORIES.with(|histories| {
        let history = &histories[input.below(histories.len())];
        trial::run(&mut input, history);
    });
}
