//! Spaces and collections: where entities are created, edited and read.

use std::fmt;
use std::marker::{PhantomData, Sync};

use anabranch_core::{CollectionName, EntityId, SpaceName};
use anabranch_store::{EntityRecord, LogEntry, StoreError, Write};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::Commit;
use crate::edits::Edits;
use crate::error::Error;
use crate::replica::Replica;
use crate::typed::Entity;
use crate::typed::private::collection_name;
use crate::watch::{Scope, Watch};

/// One space of a replica: the unit of replication and access.
#[derive(Clone, Debug)]
pub struct Space {
    replica: Replica,
    name: SpaceName,
}

impl Space {
    pub(crate) const fn new(replica: Replica, name: SpaceName) -> Self {
        Self { replica, name }
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &SpaceName {
        &self.name
    }

    /// The replica that it is a part of.
    #[must_use]
    pub const fn replica(&self) -> &Replica {
        &self.replica
    }

    /// The collection of an entity type. Its operations fail if the replica's schema lacks it.
    #[must_use]
    pub fn collection<T: Entity>(&self) -> Collection<T> {
        Collection::new(self.clone(), collection_name(T::COLLECTION))
    }

    /// A collection of the schema, with its entities as JSON.
    ///
    /// # Errors
    /// If the schema has no such collection.
    pub fn untyped(&self, name: &str) -> Result<Collection<Json>, Error> {
        let name = CollectionName::new(name)?;
        if name.is_system() || self.replica.schema().collection(name.as_str()).is_none() {
            return Err(StoreError::NoCollection(name).into());
        }
        Ok(Collection::new(self.clone(), name))
    }

    /// An entity of any collection. A deleted one is found, too, and says so.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn get(&self, id: EntityId) -> Result<Option<EntityRecord>, Error> {
        Ok(self.replica.store().read(|read| read.entity(&self.name, id))?)
    }

    /// Edits an entity of any collection; its edits are those of an untyped [`Collection`].
    pub fn edit(&self, id: EntityId, edit: impl FnOnce(&mut Edits) -> &mut Edits) -> Commit<bool> {
        let mut edits = Edits::default();
        edit(&mut edits);
        self.write(move |write, space| Ok(write.edit(space, id, &edits.into_edits()?)?))
    }

    /// Deletes an entity of any collection; see [`Collection::delete`].
    pub fn delete(&self, id: EntityId) -> Commit<()> {
        let space = self.name.clone();
        self.replica.store().write_on_rows(move |write| Ok(write.delete(&space, id).map(drop)?))
    }

    /// Brings a deleted entity back.
    pub fn restore(&self, id: EntityId) -> Commit<()> {
        self.write(move |write, space| Ok(write.restore(space, id)?))
    }

    /// The one entity whose id begins with this text.
    ///
    /// # Errors
    /// If none does, or several do.
    pub fn find(&self, prefix: &str) -> Result<EntityId, Error> {
        let ids = self.replica.store().read(|read| read.ids_starting_with(&self.name, prefix, 2))?;
        match ids.as_slice() {
            [id] => Ok(*id),
            [] => Err(Error::invalid(format!("no entity has an id that begins with {prefix:?}"))),
            _ => Err(Error::invalid(format!("several entities have an id that begins with {prefix:?}"))),
        }
    }

    /// The change log, oldest first: of one entity, or of the whole space.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn log(&self, id: Option<EntityId>) -> Result<Vec<LogEntry>, Error> {
        Ok(self.replica.store().read(|read| read.log(&self.name, id))?)
    }

    pub(crate) fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Write<'_>, &SpaceName) -> Result<T, Error> + Send + 'static,
    ) -> Commit<T> {
        let space = self.name.clone();
        self.replica.store().write(move |write| work(write, &space))
    }
}

/// Marks a [`Collection`] whose entities are JSON objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Json {}

/// Entities of one shape: of a type that derives [`Entity`], or [`Json`] objects.
pub struct Collection<T = Json> {
    space: Space,
    name: CollectionName,
    entity: PhantomData<fn() -> T>,
}

impl<T> Clone for Collection<T> {
    fn clone(&self) -> Self {
        Self::new(self.space.clone(), self.name.clone())
    }
}

impl<T> fmt::Debug for Collection<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collection").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<T> Collection<T> {
    const fn new(space: Space, name: CollectionName) -> Self {
        Self { space, name, entity: PhantomData }
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &CollectionName {
        &self.name
    }

    /// The space that it is in.
    #[must_use]
    pub const fn space(&self) -> &Space {
        &self.space
    }

    /// Deletes an entity: it leaves the view, and its history stays. What a concurrent edit means is the
    /// collection's deletion policy.
    pub fn delete(&self, id: EntityId) -> Commit<()> {
        let (space, name) = (self.space.name.clone(), self.name.clone());
        self.space.replica.store().write_on_rows(move |write| {
            write.expect(&space, id, &name)?;
            Ok(write.delete(&space, id).map(drop)?)
        })
    }

    /// Brings a deleted entity back.
    pub fn restore(&self, id: EntityId) -> Commit<()> {
        let name = self.name.clone();
        self.space.write(move |write, space| {
            write.expect(space, id, &name)?;
            Ok(write.restore(space, id)?)
        })
    }

    pub(crate) fn create_as(
        &self,
        id: Option<EntityId>,
        fields: Result<Map<String, Value>, Error>,
    ) -> Commit<EntityId> {
        let name = self.name.clone();
        self.space.write(move |write, space| Ok(write.create(space, &name, id, &fields?)?))
    }

    /// An entity's row, unless it is deleted or of another collection.
    pub(crate) fn row(&self, id: EntityId) -> Result<Option<EntityRecord>, Error> {
        let found = self.space.get(id)?;
        Ok(found.filter(|record| !record.deleted && record.collection == self.name))
    }

    pub(crate) fn rows(&self, after: Option<EntityId>, limit: u32) -> Result<Vec<EntityRecord>, Error> {
        Ok(self.space.replica.store().read(|read| read.list(&self.space.name, &self.name, after, limit))?)
    }

    pub(crate) fn watch_entity<V>(
        &self,
        id: EntityId,
        evaluate: impl Fn() -> Result<V, Error> + Send + Sync + 'static,
    ) -> Watch<V> {
        Watch::new(&self.space.replica, Scope::Entity(self.space.name.clone(), id), evaluate)
    }

    pub(crate) fn watch_collection<V>(
        &self,
        evaluate: impl Fn() -> Result<V, Error> + Send + Sync + 'static,
    ) -> Watch<V> {
        let scope = Scope::Collection(self.space.name.clone(), self.name.clone());
        Watch::new(&self.space.replica, scope, evaluate)
    }
}

impl Collection<Json> {
    /// Creates an entity from anything that serde turns into an object of the schema's fields.
    ///
    /// Resolves to its id once it is fsynced; it fails, and stores nothing, if a field is unknown or a value
    /// does not fit its kind.
    pub fn create(&self, fields: impl Serialize) -> Commit<EntityId> {
        self.create_as(None, object(fields))
    }

    /// Creates an entity under a given id, such as [`EntityId::named`].
    pub fn create_with_id(&self, id: EntityId, fields: impl Serialize) -> Commit<EntityId> {
        self.create_as(Some(id), object(fields))
    }

    /// Edits an entity: everything the closure asks for becomes one change, or none if it fails.
    ///
    /// Resolves to `false` if the edits change nothing.
    pub fn edit(&self, id: EntityId, edit: impl FnOnce(&mut Edits) -> &mut Edits) -> Commit<bool> {
        let mut edits = Edits::default();
        edit(&mut edits);
        let name = self.name.clone();
        self.space.write(move |write, space| {
            write.expect(space, id, &name)?;
            Ok(write.edit(space, id, &edits.into_edits()?)?)
        })
    }

    /// An entity, or `None` if it is not there, deleted, or of another collection. Loads no document.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn get(&self, id: EntityId) -> Result<Option<EntityRecord>, Error> {
        self.row(id)
    }

    /// An entity's fields as a type of yours. Fields never written are absent: use `#[serde(default)]`.
    ///
    /// # Errors
    /// If the file cannot be read, or the fields do not fit the type.
    pub fn get_as<T: DeserializeOwned>(&self, id: EntityId) -> Result<Option<T>, Error> {
        let Some(record) = self.get(id)? else { return Ok(None) };
        let value = serde_json::from_value(Value::Object(record.state));
        value.map(Some).map_err(|error| Error::invalid(format!("the entity does not fit the type: {error}")))
    }

    /// The entities after `after`, in order of id, at most `limit`.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn list(&self, after: Option<EntityId>, limit: u32) -> Result<Vec<EntityRecord>, Error> {
        self.rows(after, limit)
    }

    /// Watches an entity: as it is now, and again after commits that touched it.
    #[must_use]
    pub fn watch(&self, id: EntityId) -> Watch<Option<EntityRecord>> {
        let collection = self.clone();
        self.watch_entity(id, move || collection.get(id))
    }

    /// Watches the first `limit` entities: as they are now, and again after commits that touched the collection.
    #[must_use]
    pub fn watch_list(&self, limit: u32) -> Watch<Vec<EntityRecord>> {
        let collection = self.clone();
        self.watch_collection(move || collection.list(None, limit))
    }
}

/// The object that a value serialises as.
pub(crate) fn object(fields: impl Serialize) -> Result<Map<String, Value>, Error> {
    match serde_json::to_value(fields) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(Error::invalid("an entity is an object of fields")),
        Err(error) => Err(Error::invalid(format!("the entity cannot be serialised: {error}"))),
    }
}
