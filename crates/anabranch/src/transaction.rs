//! Transactions across the entities of a space.

use std::fmt;

use anabranch_core::document::State;
use anabranch_core::{CollectionName, EntityId, SpaceName};
use anabranch_store::{StoreError, Write};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::Commit;
use crate::collection::{Space, object};
use crate::edits::Edits;
use crate::error::Error;

impl Space {
    /// Writes to several entities of this space, all or nothing: here, on the server, and on every replica that
    /// syncs with it. If the closure fails, nothing is stored; if the server refuses one of its changes, none is
    /// accepted. Whoever watches is told once, after the commit.
    ///
    /// The closure runs on the writer's thread, between other writes: it should be quick. To wait in it for
    /// another write of the same replica would never end.
    ///
    /// A transaction holds at most [`MAX_TRANSACTION_CHANGES`](crate::MAX_TRANSACTION_CHANGES) changes (one per
    /// create, edit or delete, and one more for each text, counter, list, map or set of an entity that is written
    /// for the first time) and [`MAX_TRANSACTION_BYTES`](crate::MAX_TRANSACTION_BYTES).
    ///
    /// ```
    /// # use anabranch::{Replica, Schema};
    /// # use serde_json::json;
    /// # fn main() -> Result<(), anabranch::Error> {
    /// # let folder = tempfile::tempdir().expect("a temporary folder");
    /// # let schema = Schema::from_toml(r#"
    /// #     version = 1
    /// #     [collections.accounts.fields]
    /// #     owner = { kind = "register" }
    /// #     cents = { kind = "counter" }
    /// # "#)?;
    /// # let replica = Replica::open(folder.path().join("phone.db"), schema)?;
    /// let home = replica.space("home")?;
    /// let (ada, bob) = home
    ///     .transaction(|t| {
    ///         let ada = t.create("accounts", json!({ "owner": "Ada", "cents": 500 }))?;
    ///         let bob = t.create("accounts", json!({ "owner": "Bob" }))?;
    ///         Ok((ada, bob))
    ///     })
    ///     .wait()?;
    /// home.transaction(move |t| {
    ///     t.edit(ada, |account| account.increment("cents", -200))?;
    ///     t.edit(bob, |account| account.increment("cents", 200))
    /// })
    /// .wait()?;
    /// assert_eq!(home.get(bob)?.expect("the account").state["cents"], 200);
    /// # Ok(())
    /// # }
    /// ```
    pub fn transaction<T, F>(&self, work: F) -> Commit<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Transaction<'_, '_>) -> Result<T, Error> + Send + 'static,
    {
        let space = self.name().clone();
        let work = move |write: &mut Write<'_>| work(&mut Transaction { write, space: &space });
        self.replica().store().write_on_rows(move |write| write.transaction(work))
    }
}

/// Writes that are made together or not at all, and reads that see them. See [`Space::transaction`].
pub struct Transaction<'a, 'w> {
    pub(crate) write: &'a mut Write<'w>,
    pub(crate) space: &'a SpaceName,
}

impl fmt::Debug for Transaction<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("space", &self.space).finish_non_exhaustive()
    }
}

impl Transaction<'_, '_> {
    /// Creates an entity from anything that serde turns into an object of the schema's fields.
    ///
    /// # Errors
    /// If the collection or a field is unknown, or a value does not fit its kind.
    pub fn create(&mut self, collection: &str, fields: impl Serialize) -> Result<EntityId, Error> {
        self.create_as(collection, None, fields)
    }

    /// Creates an entity under a given id, such as [`EntityId::named`].
    ///
    /// # Errors
    /// As [`Transaction::create`], or if the id is taken.
    pub fn create_with_id(
        &mut self,
        collection: &str,
        id: EntityId,
        fields: impl Serialize,
    ) -> Result<EntityId, Error> {
        self.create_as(collection, Some(id), fields)
    }

    fn create_as(&mut self, collection: &str, id: Option<EntityId>, fields: impl Serialize) -> Result<EntityId, Error> {
        Ok(self.write.create(self.space, &CollectionName::new(collection)?, id, &object(fields)?)?)
    }

    /// Edits an entity: everything the closure asks for becomes one change. `false` if that changes nothing.
    ///
    /// # Errors
    /// If the entity is not there or is deleted, or an edit does not fit it.
    pub fn edit(&mut self, id: EntityId, edit: impl FnOnce(&mut Edits) -> &mut Edits) -> Result<bool, Error> {
        let mut edits = Edits::default();
        edit(&mut edits);
        Ok(self.write.edit(self.space, id, &edits.into_edits()?)?)
    }

    /// Deletes an entity, and what the schema's `on_delete` says of those that refer to it.
    ///
    /// # Errors
    /// If the entity is not there, or a reference forbids it.
    pub fn delete(&mut self, id: EntityId) -> Result<(), Error> {
        Ok(self.write.delete(self.space, id).map(drop)?)
    }

    /// Brings a deleted entity back.
    ///
    /// # Errors
    /// If the entity was never there.
    pub fn restore(&mut self, id: EntityId) -> Result<(), Error> {
        Ok(self.write.restore(self.space, id)?)
    }

    /// An entity's fields as this transaction has left them; `None` if it is not there or is deleted.
    ///
    /// Unlike the reads outside, this loads the entity's document, if that is not in memory.
    ///
    /// # Errors
    /// If the document cannot be loaded.
    pub fn get(&mut self, id: EntityId) -> Result<Option<Map<String, Value>>, Error> {
        Ok(self.state(id)?.map(|state| state.fields))
    }

    pub(crate) fn state(&mut self, id: EntityId) -> Result<Option<State>, Error> {
        match self.write.state(self.space, id) {
            Ok(state) => Ok(Some(state).filter(|state| state.collection.is_some() && !state.deleted)),
            Err(StoreError::NoEntity(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The error to return in order to give up: nothing of the transaction is stored, and the `Commit` resolves
    /// to this.
    #[must_use]
    pub fn abort(&self, reason: &str) -> Error {
        Error::invalid(reason)
    }
}
