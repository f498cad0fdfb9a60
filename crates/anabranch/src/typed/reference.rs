//! [`Reference`].

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

use anabranch_core::EntityId;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::entity::Entity;

/// The id of an entity of another (or the same) collection. As a field it is usually an `Option` of one.
///
/// A `Reference` without `Option` is a field that is required. What becomes of it when the entity that it names
/// is deleted is said by `#[field(on_delete = "…")]`.
pub struct Reference<E: Entity> {
    id: EntityId,
    entity: PhantomData<fn() -> E>,
}

impl<E: Entity> Reference<E> {
    /// A reference to the entity of this id.
    #[must_use]
    pub const fn to(id: EntityId) -> Self {
        Self { id, entity: PhantomData }
    }

    /// The id of the entity that it names.
    #[must_use]
    pub const fn id(&self) -> EntityId {
        self.id
    }
}

impl<E: Entity> From<EntityId> for Reference<E> {
    fn from(id: EntityId) -> Self {
        Self::to(id)
    }
}

impl<E: Entity> From<Reference<E>> for EntityId {
    fn from(reference: Reference<E>) -> Self {
        reference.id
    }
}

// Not derived: that would ask the same of `E`.
impl<E: Entity> Clone for Reference<E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E: Entity> Copy for Reference<E> {}

impl<E: Entity> PartialEq for Reference<E> {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl<E: Entity> Eq for Reference<E> {}

impl<E: Entity> PartialOrd for Reference<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E: Entity> Ord for Reference<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.id.cmp(&other.id)
    }
}

impl<E: Entity> Hash for Reference<E> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl<E: Entity> fmt::Debug for Reference<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", E::COLLECTION, self.id)
    }
}

impl<E: Entity> Serialize for Reference<E> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.id.serialize(serializer)
    }
}

impl<'de, E: Entity> Deserialize<'de> for Reference<E> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        EntityId::deserialize(deserializer).map(Self::to)
    }
}
