//! Spaces and collections: where entities are created, edited and read.

use std::fmt;

use anabranch_core::{CollectionName, EntityId, SpaceName};
use anabranch_store::{EntityRecord, LogEntry, Write};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::Commit;
use crate::edits::Edits;
use crate::error::Error;
use crate::replica::Replica;
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

    pub(crate) const fn replica(&self) -> &Replica {
        &self.replica
    }

    /// A collection of the schema.
    ///
    /// # Errors
    /// If the schema has no such collection.
    pub fn collection(&self, name: &str) -> Result<Collection, Error> {
        let name = CollectionName::new(name)?;
        if name.is_system() || self.replica.schema().collection(name.as_str()).is_none() {
            return Err(Error::invalid(format!("the schema has no collection {name:?}")));
        }
        Ok(Collection { space: self.clone(), name })
    }

    /// An entity of any collection. A deleted one is found, too, and says so.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn get(&self, id: EntityId) -> Result<Option<EntityRecord>, Error> {
        Ok(self.replica.store().read(|read| read.entity(&self.name, id))?)
    }

    /// Edits an entity of any collection; see [`Collection::edit`].
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

/// Entities of one shape, as JSON objects.
#[derive(Clone)]
pub struct Collection {
    space: Space,
    name: CollectionName,
}

impl fmt::Debug for Collection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collection").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Collection {
    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &CollectionName {
        &self.name
    }

    /// Creates an entity from anything that serde turns into an object of the schema's fields.
    ///
    /// Resolves to its id once it is fsynced; it fails, and stores nothing, if a field is unknown or a value
    /// does not fit its kind.
    pub fn create(&self, fields: impl Serialize) -> Commit<EntityId> {
        self.create_as(None, fields)
    }

    /// Creates an entity under a given id, such as [`EntityId::named`].
    pub fn create_with_id(&self, id: EntityId, fields: impl Serialize) -> Commit<EntityId> {
        self.create_as(Some(id), fields)
    }

    fn create_as(&self, id: Option<EntityId>, fields: impl Serialize) -> Commit<EntityId> {
        let fields = object(fields);
        let name = self.name.clone();
        self.space.write(move |write, space| Ok(write.create(space, &name, id, &fields?)?))
    }

    /// Edits an entity: everything the closure asks for becomes one change, or none if it fails.
    ///
    /// Resolves to `false` if the edits change nothing.
    pub fn edit(&self, id: EntityId, edit: impl FnOnce(&mut Edits) -> &mut Edits) -> Commit<bool> {
        self.space.edit(id, edit)
    }

    /// Deletes an entity: it leaves the view, and its history stays. What a concurrent edit means is the
    /// collection's deletion policy.
    pub fn delete(&self, id: EntityId) -> Commit<()> {
        self.space.delete(id)
    }

    /// Brings a deleted entity back.
    pub fn restore(&self, id: EntityId) -> Commit<()> {
        self.space.restore(id)
    }

    /// An entity, or `None` if it is not there, deleted, or of another collection. Loads no document.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn get(&self, id: EntityId) -> Result<Option<EntityRecord>, Error> {
        let found = self.space.get(id)?;
        Ok(found.filter(|record| !record.deleted && record.collection == self.name))
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
        Ok(self.space.replica.store().read(|read| read.list(&self.space.name, &self.name, after, limit))?)
    }

    /// Watches an entity: as it is now, and again after commits that touched it.
    #[must_use]
    pub fn watch(&self, id: EntityId) -> Watch<Option<EntityRecord>> {
        let scope = Scope::Entity(self.space.name.clone(), id);
        let collection = self.clone();
        Watch::new(&self.space.replica.inner.watchers, scope, move || collection.get(id))
    }
}

pub(crate) fn object(fields: impl Serialize) -> Result<Map<String, Value>, Error> {
    match serde_json::to_value(fields) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(Error::invalid("an entity is an object of fields")),
        Err(error) => Err(Error::invalid(format!("the entity cannot be serialised: {error}"))),
    }
}
