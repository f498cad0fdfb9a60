//! What stands for an entity while two sides compare what they hold.

use crate::id::{EntityId, Heads};

/// One entity in a reconcile: its id, and a digest of its heads (those of a purged entity are its markers).
///
/// Two sides that have the same items hold the same changes. An item says itself which entity it stands for, so that
/// nothing has to be looked up when one is found on one side only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Item {
    entity: EntityId,
    digest: [u8; 16],
}

impl Item {
    /// The bytes of an item.
    pub const BYTES: usize = 32;

    /// The item of an entity with these heads.
    #[must_use]
    pub fn new(entity: EntityId, heads: &Heads) -> Self {
        let mut digest = [0; 16];
        digest.copy_from_slice(&heads.version().as_bytes()[..16]);
        Self { entity, digest }
    }

    /// The entity.
    #[must_use]
    pub const fn entity(&self) -> EntityId {
        self.entity
    }

    /// Where it is sorted: by the beginning of its id. The greatest number stands for the end of all items.
    pub(super) fn key(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = *self.entity.as_bytes();
        u64::from_be_bytes([a, b, c, d, e, f, g, h]).min(u64::MAX - 1)
    }

    pub(super) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(self.entity.as_bytes());
        bytes[16..].copy_from_slice(&self.digest);
        bytes
    }

    /// The entity of an item's bytes.
    pub(super) fn entity_of(bytes: &[u8; Self::BYTES]) -> EntityId {
        let mut entity = [0; 16];
        entity.copy_from_slice(&bytes[..16]);
        EntityId::from_bytes(entity)
    }
}
