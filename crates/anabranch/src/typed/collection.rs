//! Collections of typed entities.

use anabranch_core::document::Edit;
use anabranch_core::{CollectionName, EntityId, SpaceName};
use anabranch_store::{StoreError, Write};

use super::entity::Entity;
use super::listed::Listed;
use super::record::{Record, from_state, to_state};
use super::shape::Changes;
use crate::Commit;
use crate::collection::Collection;
use crate::error::Error;
use crate::watch::Watch;

impl<T: Entity> Collection<T> {
    /// Creates an entity. Resolves to its id once it is fsynced; it fails, and stores nothing, if a rule is broken.
    pub fn create(&self, entity: T) -> Commit<EntityId> {
        self.create_as(None, to_state(&entity))
    }

    /// Creates an entity under a given id, such as [`EntityId::named`].
    pub fn create_with_id(&self, id: EntityId, entity: T) -> Commit<EntityId> {
        self.create_as(Some(id), to_state(&entity))
    }

    /// Edits an entity: what the closure does to it becomes one change, or none if it fails.
    ///
    /// The closure runs on the writer thread, on the entity as it is at that moment. What its types record (an
    /// insertion into a [`Text`](crate::Text), an increment of a [`Counter`](crate::Counter), …) is written as that;
    /// everything else becomes the smallest difference. Resolves to `false` if nothing has changed: then nothing is
    /// written.
    ///
    /// ```
    /// # use anabranch::{Counter, Entity, Replica, Text, schema};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Entity, Serialize, Deserialize, Default)]
    /// # struct Note { title: String, body: Text, stars: Counter }
    /// # fn main() -> Result<(), anabranch::Error> {
    /// # let folder = tempfile::tempdir().expect("a temporary folder");
    /// # let replica = Replica::open(folder.path().join("a.db"), schema![Note])?;
    /// let notes = replica.space("home")?.collection::<Note>();
    /// let id = notes.create(Note { body: "milk".into(), ..Note::default() }).wait()?;
    /// let edit = notes.edit(id, |note| {
    ///     note.body.push_str(", eggs");
    ///     note.stars += 1;
    /// });
    /// assert!(edit.wait()?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn edit(&self, id: EntityId, edit: impl FnOnce(&mut T) + Send + 'static) -> Commit<bool> {
        let name = self.name().clone();
        self.space().write(move |write, space| edit_now(write, space, &name, id, edit))
    }

    /// An entity, or `None` if it is not there, deleted, or of another collection. Loads no document.
    ///
    /// # Errors
    /// If the file cannot be read, or the entity does not fit the type.
    pub fn get(&self, id: EntityId) -> Result<Option<Record<T>>, Error> {
        self.row(id)?.map(Record::read).transpose()
    }

    /// The entities after `after`, in order of id (of creation, for ids that were minted here), at most `limit`.
    /// Those that do not fit the type are set apart: see [`Listed`].
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn list(&self, after: Option<EntityId>, limit: u32) -> Result<Listed<T>, Error> {
        Ok(Listed::read(self.rows(after, limit)?, limit))
    }

    /// Watches an entity: as it is now, and again after commits that touched it.
    #[must_use]
    pub fn watch(&self, id: EntityId) -> Watch<Option<Record<T>>> {
        let collection = self.clone();
        self.watch_entity(id, move || collection.get(id))
    }

    /// Watches the first `limit` entities: as they are now, and again after commits that touched the collection.
    #[must_use]
    pub fn watch_list(&self, limit: u32) -> Watch<Listed<T>> {
        let collection = self.clone();
        self.watch_collection(move || collection.list(None, limit))
    }
}

/// Edits an entity as it is at this point of the transaction.
pub(crate) fn edit_now<T: Entity>(
    write: &mut Write<'_>,
    space: &SpaceName,
    name: &CollectionName,
    id: EntityId,
    edit: impl FnOnce(&mut T),
) -> Result<bool, Error> {
    let state = write.state(space, id)?;
    if state.collection.as_ref() != Some(name) {
        return Err(StoreError::NoEntity(id).into());
    }
    if state.deleted {
        return Err(StoreError::Deleted(id).into());
    }
    let edits = recorded(id, &state.fields, edit)?;
    Ok(!edits.is_empty() && write.edit(space, id, &edits)?)
}

/// The edits that a closure makes to an entity of these fields.
fn recorded<T: Entity>(
    id: EntityId,
    actual: &super::entity::Object,
    edit: impl FnOnce(&mut T),
) -> Result<Vec<Edit>, Error> {
    let mut entity: T = from_state(id, actual.clone())?;
    let before = to_state(&entity)?;
    edit(&mut entity);
    let after = to_state(&entity)?;
    let mut changes = Changes { actual, before: &before, after: &after, edits: Vec::new() };
    entity.record(&mut changes);
    Ok(changes.edits)
}
