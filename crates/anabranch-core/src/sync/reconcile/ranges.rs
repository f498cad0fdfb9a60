//! Range-based set reconciliation (Meyer, 2023), by the `negentropy` crate: fingerprints of ranges that are split where
//! they differ.

use std::collections::BTreeSet;

use negentropy::{Id, Negentropy, NegentropyStorageVector};

use crate::document::contained;
use crate::id::EntityId;
use crate::sync::reconcile::MAX_SKETCH_BYTES;
use crate::sync::reconcile::item::Item;
use crate::sync::reconcile::sketch::{Sketch, SketchError, few, fits};

/// A set of items, sorted, whose ranges can be compared with another's by their fingerprints.
#[derive(Debug)]
pub struct Ranges(Negentropy<'static, NegentropyStorageVector>);

impl Sketch for Ranges {
    fn of(items: Vec<Item>) -> Result<Self, SketchError> {
        few(items.len())?;
        let mut sorted = NegentropyStorageVector::with_capacity(items.len());
        for item in items {
            sorted.insert(item.key(), Id::from_byte_array(item.to_bytes())).map_err(unreadable)?;
        }
        sorted.seal().map_err(unreadable)?;
        let limit = u64::try_from(MAX_SKETCH_BYTES).map_err(|_| SketchError::TooLong)?;
        Negentropy::owned(sorted, limit).map(Self).map_err(unreadable)
    }

    fn open(&mut self) -> Result<Vec<u8>, SketchError> {
        self.0.initiate().map_err(unreadable)
    }

    fn answer(&mut self, message: &[u8]) -> Result<Vec<u8>, SketchError> {
        fits(message)?;
        // No message of many was found to panic; one that does must not take the others with it.
        let answer = contained(|| self.0.reconcile(message)).map_err(|_| SketchError::Unreadable)?;
        answer.map_err(unreadable)
    }

    fn take(&mut self, answer: &[u8], differing: &mut BTreeSet<EntityId>) -> Result<Option<Vec<u8>>, SketchError> {
        fits(answer)?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let next = contained(|| self.0.reconcile_with_ids(answer, &mut ours, &mut theirs));
        let next = next.map_err(|_| SketchError::Unreadable)?.map_err(unreadable)?;
        differing.extend(ours.iter().chain(&theirs).map(|id| Item::entity_of(id.as_bytes())));
        few(differing.len())?;
        Ok(next)
    }
}

fn unreadable(_: negentropy::Error) -> SketchError {
    SketchError::Unreadable
}
