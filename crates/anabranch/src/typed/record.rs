//! [`Record`].

use std::ops::{Deref, DerefMut};

use anabranch_core::{Digest, EntityId, UnixMillis};
use anabranch_store::EntityRecord;
use serde_json::Value;

use super::entity::{Entity, Object};
use super::finite;
use super::private::Fields;
use crate::error::Error;

/// An entity that was read: its value, and what is known about it.
///
/// It derefs to the value, so `note.title` is the title. Where a field of yours has the name of one of these, write
/// `note.value.version`.
#[derive(Clone, Debug, PartialEq)]
pub struct Record<T> {
    /// Its id.
    pub id: EntityId,
    /// Its fields, contested ones settled by policy.
    pub value: T,
    /// A digest of its heads: the ETag.
    pub version: Digest,
    /// Changes that no server has accepted yet.
    pub pending: u64,
    /// The fields that those changes touch.
    pub dirty_fields: Vec<String>,
    /// Contested slots, those that a policy has settled included.
    pub conflicts: u64,
    /// What waits for a person: open conflicts, broken rules, references to what has been deleted.
    pub open_conflicts: u64,
    /// When it was created, by its creator's clock.
    pub created_at: UnixMillis,
    /// When it was last written, by the writer's clock.
    pub updated_at: UnixMillis,
    /// When a server last confirmed or brought something of it, by this replica's clock.
    pub last_sync_at: Option<UnixMillis>,
}

impl<T: Entity> Record<T> {
    pub(crate) fn read(record: EntityRecord) -> Result<Self, Error> {
        Ok(Self {
            id: record.id,
            value: from_state(record.id, record.state)?,
            version: record.version,
            pending: record.pending,
            dirty_fields: record.dirty_fields,
            conflicts: record.conflicts,
            open_conflicts: record.open_conflicts,
            created_at: record.created_at,
            updated_at: record.updated_at,
            last_sync_at: record.last_sync_at,
        })
    }
}

impl<T> Deref for Record<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Record<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

/// The value that an entity's fields make.
pub(super) fn from_state<T: Entity>(id: EntityId, state: Object) -> Result<T, Error> {
    let mut fields = Fields(state);
    T::complete(&mut fields);
    serde_json::from_value(Value::Object(fields.0))
        .map_err(|error| Error::invalid(format!("entity {id} does not fit {}: {error}", T::COLLECTION)))
}

/// The fields that a value makes. Those without a value are left out.
pub(super) fn to_state<T: Entity>(value: &T) -> Result<Object, Error> {
    finite::check(value).map_err(|error| Error::invalid(format!("{} cannot be written: {error}", T::COLLECTION)))?;
    let mut fields = crate::collection::object(value)?;
    fields.retain(|_, value| !value.is_null());
    Ok(fields)
}
