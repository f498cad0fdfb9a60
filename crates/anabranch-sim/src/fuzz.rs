//! What the fuzz targets run, so that plain `cargo test` can replay their corpus without cargo-fuzz.
//!
//! Each takes any bytes, and panics if the code under test breaks a promise. `change_admission` is not here: it is made
//! of the tests of `anabranch-core`.

use anabranch_core::SpaceName;
use anabranch_core::sync::Access;

mod cursors;
mod frames;
mod honest;
mod messages;
mod replicas;
mod schemas;
mod segments;
mod sessions;

pub use cursors::cursor_decode;
pub use frames::{frame_decode, frames, reads};
pub use replicas::replica_ops;
pub use schemas::schema_parse;
pub use segments::segment_apply;
pub use sessions::server_session;

/// Alterations of something honest that one input stands for.
const MAX_ALTERATIONS: usize = 24;

const SCHEMA: &str = r#"
    version = 1
    [collections.notes.fields]
    title = { kind = "register" }
    owner = { kind = "register", policy = "causal" }
    stars = { kind = "counter" }
    body = { kind = "text" }
    tags = { kind = "set" }
    items = { kind = "list" }
    extra = { kind = "map" }
"#;

/// Everybody may do everything.
struct Everything;

impl Access for Everything {
    fn may_read(&self, _: &SpaceName) -> bool {
        true
    }

    fn may_write(&self, _: &SpaceName) -> bool {
        true
    }
}

/// The rest of the input; an empty one reads as zeros.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn next(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, count: usize) -> usize {
        usize::from(self.next()) % count.max(1)
    }

    /// A number below one that may be large.
    fn place(&mut self, count: usize) -> usize {
        (usize::from(self.next()) << 8 | usize::from(self.next())) % count.max(1)
    }
}

/// The bytes with some of them changed, put in or taken out, as the input says.
fn altered(mut bytes: Vec<u8>, input: &mut Input<'_>) -> Vec<u8> {
    for _ in 0..MAX_ALTERATIONS {
        if input.0.is_empty() || bytes.is_empty() {
            break;
        }
        let at = input.place(bytes.len());
        match input.next() % 4 {
            0 => bytes[at] = input.next(),
            1 => bytes[at] ^= 1 << (input.next() % 8),
            2 => bytes.insert(at, input.next()),
            _ => drop(bytes.remove(at)),
        }
    }
    bytes
}
