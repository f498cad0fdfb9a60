//! A collection of typed entities inside a transaction.

use std::fmt;
use std::marker::PhantomData;

use anabranch_core::EntityId;

use super::collection::edit_now;
use super::entity::Entity;
use super::private::collection_name;
use super::record::{from_state, to_state};
use crate::error::Error;
use crate::transaction::Transaction;

/// A collection of typed entities inside a [`Transaction`]. See [`Transaction::collection`].
pub struct Part<'t, 'a, 'w, T> {
    transaction: &'t mut Transaction<'a, 'w>,
    entity: PhantomData<T>,
}

impl<T: Entity> fmt::Debug for Part<'_, '_, '_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part").field("collection", &T::COLLECTION).finish_non_exhaustive()
    }
}

impl<'a, 'w> Transaction<'a, 'w> {
    /// The collection of an entity type, as this transaction has left it.
    ///
    /// ```
    /// # use anabranch::{Counter, Entity, Replica, schema};
    /// # use serde::{Deserialize, Serialize};
    /// #[derive(Entity, Serialize, Deserialize, Default)]
    /// struct Account { owner: String, cents: Counter }
    /// # fn main() -> Result<(), anabranch::Error> {
    /// # let folder = tempfile::tempdir().expect("a temporary folder");
    /// # let replica = Replica::open(folder.path().join("a.db"), schema![Account])?;
    /// # let home = replica.space("home")?;
    /// # let accounts = home.collection::<Account>();
    /// # let ada = accounts.create(Account { owner: "Ada".into(), cents: 500.into() }).wait()?;
    /// let moved = home.transaction(move |t| {
    ///     let mut accounts = t.collection::<Account>();
    ///     let bob = accounts.create(Account { owner: "Bob".into(), cents: 200.into() })?;
    ///     accounts.edit(ada, |account| account.cents -= 200)?;
    ///     Ok(bob)
    /// });
    /// let bob = moved.wait()?;
    /// assert_eq!(accounts.get(ada)?.expect("Ada's").cents.value(), 300);
    /// assert_eq!(accounts.get(bob)?.expect("Bob's").cents.value(), 200);
    /// # Ok(())
    /// # }
    /// ```
    pub fn collection<T: Entity>(&mut self) -> Part<'_, 'a, 'w, T> {
        Part { transaction: self, entity: PhantomData }
    }
}

impl<T: Entity> Part<'_, '_, '_, T> {
    /// Creates an entity.
    ///
    /// # Errors
    /// If a rule is broken.
    pub fn create(&mut self, entity: T) -> Result<EntityId, Error> {
        self.transaction.create(T::COLLECTION, to_state(&entity)?)
    }

    /// Creates an entity under a given id, such as [`EntityId::named`].
    ///
    /// # Errors
    /// If a rule is broken, or the id is taken.
    pub fn create_with_id(&mut self, id: EntityId, entity: T) -> Result<EntityId, Error> {
        self.transaction.create_with_id(T::COLLECTION, id, to_state(&entity)?)
    }

    /// Edits an entity, as [`Collection::edit`](crate::Collection::edit) does. `false` if that changes nothing.
    ///
    /// # Errors
    /// If the entity is not there or is deleted, or a rule is broken.
    pub fn edit(&mut self, id: EntityId, edit: impl FnOnce(&mut T)) -> Result<bool, Error> {
        let Transaction { write, space } = self.transaction;
        edit_now(write, space, &collection_name(T::COLLECTION), id, edit)
    }

    /// An entity as this transaction has left it; `None` if it is not there, deleted, or of another collection.
    ///
    /// # Errors
    /// If the document cannot be loaded, or does not fit the type.
    pub fn get(&mut self, id: EntityId) -> Result<Option<T>, Error> {
        let state = self.transaction.state(id)?;
        let own = state.filter(|state| state.collection.as_ref().is_some_and(|name| name.as_str() == T::COLLECTION));
        own.map(|state| from_state(id, state.fields)).transpose()
    }

    /// Deletes an entity, and what the schema's `on_delete` says of those that refer to it.
    ///
    /// # Errors
    /// If the entity is not there, or a reference forbids it.
    pub fn delete(&mut self, id: EntityId) -> Result<(), Error> {
        self.transaction.write.expect(self.transaction.space, id, &collection_name(T::COLLECTION))?;
        self.transaction.delete(id)
    }
}
