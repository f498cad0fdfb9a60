//! What an entity was: its history, its past states, and taking one's own edits back. These load the document.

use anabranch_core::document::{
    Document, EditError, Explanation, FieldDiff, HistoryEntry, Page, State, TextSplice, diff,
};
use anabranch_core::{Actor, Change, Collection, EntityId, FieldName, Heads, SpaceName, Stamp};
use serde_json::{Map, Value};

use crate::engine::Write;
use crate::error::StoreError;
use crate::rows::EntityRow;

/// Whose edits an undo takes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mine {
    /// Those of this open of the file: an application's session.
    Session,
    /// Those of this replica, whenever they were made.
    Replica,
}

impl Write<'_> {
    /// An entity's history, newest first.
    ///
    /// # Errors
    /// If the entity is not there, or its document cannot be read.
    pub fn history(&mut self, space: &SpaceName, id: EntityId, page: Page) -> Result<Vec<HistoryEntry>, StoreError> {
        self.look(space, id, |document, collection| document.history(collection, page))
    }

    /// An entity's heads, as of this point of the transaction.
    ///
    /// # Errors
    /// If the entity is not there, or its document cannot be read.
    pub fn heads(&mut self, space: &SpaceName, id: EntityId) -> Result<Heads, StoreError> {
        self.look(space, id, |document, _| Ok(document.heads()))
    }

    /// What has been done to a text since the entity had these heads, whoever did it.
    ///
    /// # Errors
    /// If the entity is not there or does not have these heads, or the field is no text.
    pub fn text_splices(
        &mut self,
        space: &SpaceName,
        id: EntityId,
        field: &FieldName,
        since: &Heads,
    ) -> Result<Vec<TextSplice>, StoreError> {
        self.look(space, id, |document, collection| match document.heads() == *since {
            true => Ok(Vec::new()),
            false => document.text_splices(collection, field, since),
        })
    }

    /// An entity's state as of some of its heads.
    ///
    /// # Errors
    /// If the entity is not there, or does not have these heads.
    pub fn state_at(&mut self, space: &SpaceName, id: EntityId, heads: &Heads) -> Result<State, StoreError> {
        self.look(space, id, |document, collection| document.at(heads)?.state(Some(collection)))
    }

    /// What differs between an entity's states at two of its heads.
    ///
    /// # Errors
    /// If the entity is not there, or does not have these heads.
    pub fn diff(
        &mut self,
        space: &SpaceName,
        id: EntityId,
        before: &Heads,
        after: &Heads,
    ) -> Result<Vec<FieldDiff>, StoreError> {
        self.look(space, id, |document, collection| {
            let state = |heads| document.at(heads)?.state(Some(collection));
            Ok(diff(&state(before)?, &state(after)?))
        })
    }

    /// Why a field shows what it shows. `None` if the collection has no such field.
    ///
    /// # Errors
    /// If the entity is not there, or its document cannot be read.
    pub fn explain(
        &mut self,
        space: &SpaceName,
        id: EntityId,
        field: &FieldName,
    ) -> Result<Option<Explanation>, StoreError> {
        self.look(space, id, |document, collection| document.explain(collection, field))
    }

    /// Brings in what another system did to its copy of an entity: see [`Document::import`]. `false` if it changes
    /// nothing.
    ///
    /// # Errors
    /// If the entity is not there or does not have the base, or a body does not fit the schema.
    pub fn import(
        &mut self,
        space: &SpaceName,
        id: EntityId,
        base: &Heads,
        base_body: &Map<String, Value>,
        remote_body: &Map<String, Value>,
        modified_at: Stamp,
    ) -> Result<bool, StoreError> {
        self.rework(space, id, |document, collection| {
            document.import(collection, base, base_body, remote_body, modified_at)
        })
    }

    /// Takes back the last edit of mine that is not undone yet; what others wrote since stays. `false` if there is
    /// none. If that deletes the entity, its references are treated as by [`Write::delete`], so the job that calls
    /// this must [read rows](crate::Job::reads_rows).
    ///
    /// # Errors
    /// If the entity is not there, its document cannot be read, or a reference forbids the deletion.
    pub fn undo(&mut self, space: &SpaceName, id: EntityId, mine: Mine) -> Result<bool, StoreError> {
        self.take_back(space, id, mine, Document::undo)
    }

    /// Takes back the last undo of mine, unless something else of mine came after it. `false` if there is none.
    ///
    /// # Errors
    /// As [`Write::undo`].
    pub fn redo(&mut self, space: &SpaceName, id: EntityId, mine: Mine) -> Result<bool, StoreError> {
        self.take_back(space, id, mine, Document::redo)
    }

    fn take_back(
        &mut self,
        space: &SpaceName,
        id: EntityId,
        mine: Mine,
        take_back: impl FnOnce(
            &mut Document,
            &Collection,
            Stamp,
            &dyn Fn(&Actor, Stamp) -> bool,
        ) -> Result<Vec<Change>, EditError>,
    ) -> Result<bool, StoreError> {
        let row = self.own_entity(space, id)?;
        let is_mine = self.is_mine(mine);
        self.transaction(|write| {
            let deleted = |write: &mut Self| write.look(space, id, |it, schema| it.is_deleted(schema.deletion));
            let before = deleted(write)?;
            let stamp = write.tick();
            let changed =
                write.rework(space, id, |document, collection| take_back(document, collection, stamp, &is_mine))?;
            if !before && deleted(write)? {
                write.delete_with(space, &row)?;
            }
            Ok(changed)
        })
    }

    fn look<T>(
        &mut self,
        space: &SpaceName,
        id: EntityId,
        look: impl FnOnce(&Document, &Collection) -> Result<T, anabranch_core::document::DocumentError>,
    ) -> Result<T, StoreError> {
        let row = self.entity(space, id)?;
        let schema = self.collection_or_none(&row);
        let document = self.engine.take_document(&row)?;
        let seen = look(&document, &schema);
        self.engine.cache.put(row.key, document);
        seen.map_err(|error| StoreError::of_document(id, error))
    }

    /// Changes an entity's document; the fields that differ afterwards count as dirty.
    fn rework(
        &mut self,
        space: &SpaceName,
        id: EntityId,
        work: impl FnOnce(&mut Document, &Collection) -> Result<Vec<Change>, EditError>,
    ) -> Result<bool, StoreError> {
        let row = self.own_entity(space, id)?;
        let schema = self.collection(&row.collection)?;
        let changes = self.with_document(&row, |write, document| {
            if document.is_purged() {
                return Err(StoreError::Purged(id));
            }
            let damaged = |source| StoreError::Damaged { entity: id, source };
            let before = document.state(Some(&schema)).map_err(damaged)?;
            let changes = work(document, &schema).map_err(StoreError::of_edit(id))?;
            let after = document.state(Some(&schema)).map_err(damaged)?;
            write.log(&row, &changes)?;
            write.dirty(row.key).fields.extend(diff(&before, &after).into_iter().map(|field| field.field));
            Ok(changes)
        })?;
        Ok(!changes.is_empty())
    }

    fn collection_or_none(&self, row: &EntityRow) -> Collection {
        self.engine.schema.collection(row.collection.as_str()).cloned().unwrap_or_default()
    }

    fn is_mine(&self, mine: Mine) -> impl Fn(&Actor, Stamp) -> bool + use<> {
        let (opened, replica) = (self.engine.opened_at, self.engine.replica());
        // An actor may last longer than one open, so a session is told by when it began, too.
        let actors = self.engine.session_actors.clone();
        move |actor: &Actor, stamp: Stamp| match mine {
            Mine::Session => stamp > opened && actors.contains(actor),
            Mine::Replica => actor.is_of(&replica),
        }
    }
}
