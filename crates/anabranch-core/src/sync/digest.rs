//! One digest for everything a space holds.

use sha2::{Digest as _, Sha256};

use crate::id::{Digest, EntityId, Heads};

/// The digest of a space: of every entity's id and heads, in order of id.
///
/// A server computes it from its index and a replica from its rows; neither loads a document. Two that agree
/// hold the same changes, since heads name everything below them.
///
/// ```
/// use anabranch_core::{ChangeHash, EntityId, Heads, sync::SpaceDigest};
/// let heads = Heads::new(vec![ChangeHash::from_bytes([1; 32])]);
/// let mut digest = SpaceDigest::default();
/// digest.add(&EntityId::from_bytes([1; 16]), &heads);
/// assert_ne!(digest.finish(), SpaceDigest::default().finish());
/// ```
#[derive(Clone, Debug, Default)]
pub struct SpaceDigest(Sha256);

impl SpaceDigest {
    /// Adds an entity; they must come in ascending order of id.
    pub fn add(&mut self, entity: &EntityId, heads: &Heads) {
        self.0.update(entity.as_bytes());
        self.0.update(heads.version().as_bytes());
    }

    /// The digest.
    #[must_use]
    pub fn finish(self) -> Digest {
        Digest::from_bytes(self.0.finalize().into())
    }
}
