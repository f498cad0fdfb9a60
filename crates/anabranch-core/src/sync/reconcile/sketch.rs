//! The interface of a sketch: whatever finds the difference of two sets with few bytes.

use std::collections::BTreeSet;

use crate::id::EntityId;
use crate::sync::reconcile::item::Item;
use crate::sync::reconcile::{MAX_ITEMS, MAX_SKETCH_BYTES, Ranges};

/// A message of a sketch that cannot be answered, or a set that cannot be sketched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SketchError {
    /// There are more than [`MAX_ITEMS`] items, here or there.
    #[error("there are too many entities to reconcile")]
    TooMany,
    /// The message is longer than [`MAX_SKETCH_BYTES`].
    #[error("the sketch is too long")]
    TooLong,
    /// The message makes no sense.
    #[error("the sketch cannot be read")]
    Unreadable,
}

/// A way to find out in which items two sets differ. One side, the initiator, leads; the other answers.
///
/// Messages are opaque to everybody else. [`Ranges`] is the one in use; a denser one can take its place.
pub trait Sketch: Sized {
    /// The sketch of a set, in any order.
    ///
    /// # Errors
    /// [`SketchError::TooMany`].
    fn of(items: Vec<Item>) -> Result<Self, SketchError>;

    /// The initiator's first message.
    ///
    /// # Errors
    /// [`SketchError`].
    fn open(&mut self) -> Result<Vec<u8>, SketchError>;

    /// The answer to one of the initiator's messages. It depends on nothing but the set and the message.
    ///
    /// # Errors
    /// [`SketchError`]; no message panics.
    fn answer(&mut self, message: &[u8]) -> Result<Vec<u8>, SketchError>;

    /// Takes in an answer, adds the entities that are found to differ, and returns the initiator's next message, if
    /// the difference is not known yet.
    ///
    /// # Errors
    /// [`SketchError`]; no answer panics.
    fn take(&mut self, answer: &[u8], differing: &mut BTreeSet<EntityId>) -> Result<Option<Vec<u8>>, SketchError>;
}

/// Answers a message of a sketch over a set of items.
///
/// # Errors
/// [`SketchError`]; no message panics.
pub fn answer_sketch(items: Vec<Item>, message: &[u8]) -> Result<Vec<u8>, SketchError> {
    Ranges::of(items)?.answer(message)
}

pub(super) const fn fits(message: &[u8]) -> Result<(), SketchError> {
    if message.len() > MAX_SKETCH_BYTES { Err(SketchError::TooLong) } else { Ok(()) }
}

pub(super) const fn few(items: usize) -> Result<(), SketchError> {
    if items > MAX_ITEMS { Err(SketchError::TooMany) } else { Ok(()) }
}
