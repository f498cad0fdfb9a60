//! Reconciling: finding out which entities differ without listing all of them, and then exchanging only those.
//!
//! Each entity is one [`Item`]: its id and a digest of its heads. The initiator runs a [`Reconciler`]: it compares
//! [sketches](Sketch) with the other side until it knows the entities that differ, asks for their heads, and then for
//! the changes that it lacks. The other side only answers, from what it holds at that moment; between two answers it
//! remembers nothing.

mod initiator;
mod item;
mod ranges;
mod reply;
mod sketch;
mod walk;

pub use initiator::{Compared, ReconcileError, ReconcileStep, Reconciler, Theirs, Then};
pub use item::Item;
pub use ranges::Ranges;
pub use reply::{ReconcileIndex, heads_reply, is_among, reply};
pub use sketch::{Sketch, SketchError, answer_sketch};
pub use walk::{Visit, Walk, sample};

/// The most bytes in one message of a sketch.
pub const MAX_SKETCH_BYTES: usize = 512 << 10;
/// The most entities that are reconciled at once; a space that has more is exchanged by its log.
pub const MAX_ITEMS: usize = 2_000_000;
/// The most messages of a sketch that an initiator sends. With full messages, that many are enough for
/// [`MAX_ITEMS`] of which all differ, several times over.
pub const MAX_ROUNDS: u32 = 4_096;
/// The most entities in one question about heads.
pub const MAX_ASKED: usize = 4_096;
/// The most entities in one question about changes.
pub const MAX_WANTED: usize = 512;
/// The most changes that are looked at to answer one question, beyond the history of one entity: what is left of the
/// question is asked again.
pub const MAX_VISITED: usize = 1 << 16;
/// The most changes that are named, for each entity, as those that the asking side has.
pub const MAX_KNOWN: usize = 64;
/// The target size of the heads in one answer, in bytes; an entity with more of them travels alone.
pub const HEADS_BYTES: usize = 256 << 10;
