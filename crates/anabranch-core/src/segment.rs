//! Segments: immutable, content-addressed pieces of a space, for a first sync.
//!
//! A segment holds the whole histories of some entities of one collection, as of a place in the space's log:
//! the changes themselves, without what follows from the rest. A [`Manifest`] lists a space's segments and the
//! cursor from which to pull on. Whoever reads a segment derives states and heads from the changes, most of them
//! without a document ([`PlainReader`](crate::document::PlainReader)), so a segment cannot lie about them.
//!
//! The layout is documented byte for byte in docs/src/wire-format.md.

mod builder;
mod columns;
mod history;
mod open;

use bincode::{Decode, Encode};

use crate::id::Digest;
use crate::name::CollectionName;
use crate::wire::{Cursor, Mark};

pub use builder::{Built, SegmentBuilder};
pub use open::{Segment, SegmentEntity, SegmentError};

/// The size at which a segment is full, inflated.
pub const SEGMENT_BYTES: usize = 1 << 20;
/// The number of entities at which a segment is full: a client applies it in one commit.
pub const SEGMENT_ENTITIES: usize = 8_192;
/// The number of changes at which a segment is full.
pub const SEGMENT_CHANGES: usize = 16_384;
/// The number of ops at which a segment is full.
pub const SEGMENT_OPS: usize = 1 << 20;
/// The size of its changes, put together, at which a segment is full.
pub const SEGMENT_EXPANDED: usize = 4 << 20;
/// The most changes in a segment: an entity's history is divided only beyond.
pub const MAX_SEGMENT_CHANGES: usize = 2 * SEGMENT_CHANGES;
/// The most ops in a segment; a few bytes can claim many.
pub const MAX_SEGMENT_OPS: usize = 2 * SEGMENT_OPS;
/// The most bytes of a segment's changes, put together.
pub const MAX_SEGMENT_EXPANDED: usize = 2 * SEGMENT_EXPANDED;
/// The largest segment, inflated. It takes at least one change of any size.
pub const MAX_SEGMENT_INFLATED: usize = (3 << 20) / 2;
/// The largest segment as it is sent: it fits in a frame.
pub const MAX_SEGMENT_BYTES: usize = MAX_SEGMENT_INFLATED + (64 << 10);
/// The most segments of a space. A larger space is synced by its log.
pub const MAX_SEGMENTS: usize = 12_288;

/// The segments of a space, as of a place in its log.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Manifest {
    /// The place in the log that the segments go up to, or that the client has come to: the later one. A server
    /// that does not have it any more has been restored.
    pub mark: Mark,
    /// Where to pull on once all segments have been applied.
    pub cursor: Cursor,
    /// The segments.
    pub pieces: Vec<Piece>,
}

/// A segment, in a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Piece {
    /// The digest of its bytes: its name.
    pub digest: Digest,
    /// The collection of its entities.
    pub collection: CollectionName,
    /// How many entities it has.
    pub entities: u32,
    /// Its size.
    pub bytes: u32,
}
