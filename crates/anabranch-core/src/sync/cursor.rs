//! What is inside a cursor. Only the server looks.

use bincode::{Decode, Encode};

use crate::id::Lineage;
use crate::name::SpaceName;
use crate::wire::{Cursor, MAX_CURSOR_BYTES, Mark};

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct CursorContent {
    pub(super) lineage: Lineage,
    pub(super) space: SpaceName,
    pub(super) mark: Mark,
}

impl CursorContent {
    pub(super) fn seal(&self) -> Cursor {
        // Encoding to a vector fails only when memory does.
        Cursor(bincode::encode_to_vec(self, bincode::config::standard()).unwrap_or_default())
    }

    /// What a cursor says, or `None` if no server of ours wrote it.
    pub(super) fn open(cursor: &Cursor) -> Option<Self> {
        let config = bincode::config::standard().with_limit::<MAX_CURSOR_BYTES>();
        let (content, read) = bincode::decode_from_slice(&cursor.0, config).ok()?;
        (read == cursor.0.len()).then_some(content)
    }
}

/// The cursor of a place in a space's log.
#[must_use]
pub fn seal_cursor(lineage: Lineage, space: &SpaceName, mark: Mark) -> Cursor {
    CursorContent { lineage, space: space.clone(), mark }.seal()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::Digest;

    proptest! {
        #[test]
        fn a_cursor_opens_to_what_was_sealed(seq: u64, lineage: [u8; 16], chain: [u8; 32]) {
            let content = CursorContent {
                lineage: Lineage::from_bytes(lineage),
                space: SpaceName::new("x".repeat(64)).unwrap(),
                mark: Mark { seq, chain: Digest::from_bytes(chain) },
            };
            let cursor = content.seal();
            prop_assert!(cursor.0.len() <= MAX_CURSOR_BYTES);
            prop_assert_eq!(CursorContent::open(&cursor), Some(content));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(CursorContent::open(&Cursor(bytes)));
        }
    }
}
