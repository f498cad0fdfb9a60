//! What an entity was, and taking one's own edits back.

use anabranch_core::document::{Explanation, FieldDiff, HistoryEntry, Page, State};
use anabranch_core::{ChangeHash, EntityId, FieldName, Heads, Stamp, UnixMillis};
use anabranch_store::Mine;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::Commit;
use crate::collection::Space;
use crate::error::Error;

impl Space {
    /// An entity's history, newest first: who wrote which fields when. At most `limit` entries, those before the
    /// change `before` if it is given. The calls of this kind load the document, so they return a [`Commit`]
    /// although they write nothing.
    pub fn history(&self, id: EntityId, before: Option<ChangeHash>, limit: usize) -> Commit<Vec<HistoryEntry>> {
        let space = self.name().clone();
        self.replica().store().write(move |write| Ok(write.history(&space, id, Page { before, limit })?))
    }

    /// The entity's heads now: the point in its history to come back to with [`Space::at`].
    pub fn heads(&self, id: EntityId) -> Commit<Heads> {
        let space = self.name().clone();
        self.replica().store().write(move |write| Ok(write.heads(&space, id)?))
    }

    /// The entity as it was at some heads: the same on every replica that has them. The dependencies of a
    /// [`HistoryEntry`] are the heads before it, its own hash are the heads right after it.
    pub fn at(&self, id: EntityId, heads: Heads) -> Commit<State> {
        let space = self.name().clone();
        self.replica().store().write(move |write| Ok(write.state_at(&space, id, &heads)?))
    }

    /// What differs between the entity at two points of its history.
    pub fn diff(&self, id: EntityId, before: Heads, after: Heads) -> Commit<Vec<FieldDiff>> {
        let space = self.name().clone();
        self.replica().store().write(move |write| Ok(write.diff(&space, id, &before, &after)?))
    }

    /// Why a field shows what it shows: who wrote it, which rule chose it, what lost.
    pub fn explain(&self, id: EntityId, field: &str) -> Commit<Explanation> {
        let (space, field) = (self.name().clone(), field.to_owned());
        self.replica().store().write(move |write| {
            let explanation = write.explain(&space, id, &FieldName::new(&field)?)?;
            explanation.ok_or_else(|| Error::invalid(format!("the entity's collection has no field {field:?}")))
        })
    }

    /// Takes back the last edit of mine that is not undone yet, as one change: what others wrote since stays, also
    /// inside the same text. Resolves to `false` if there is none. Settling a conflict, deleting and creating can be
    /// undone, too. Of a transaction, only this entity's part is taken back.
    pub fn undo(&self, id: EntityId, mine: Mine) -> Commit<bool> {
        let space = self.name().clone();
        self.replica().store().write_on_rows(move |write| Ok(write.undo(&space, id, mine)?))
    }

    /// Takes back the last undo of mine, unless I have edited the entity since. Resolves to `false` if there is none.
    pub fn redo(&self, id: EntityId, mine: Mine) -> Commit<bool> {
        let space = self.name().clone();
        self.replica().store().write_on_rows(move |write| Ok(write.redo(&space, id, mine)?))
    }

    /// Brings in what another system, such as a REST backend, did to its copy of the entity.
    ///
    /// `base_body` is its copy as of the heads `base`, on which both agreed; `remote_body` is its copy now. Fields
    /// that only one side wrote keep that side's value; contested ones go by their policy, the other system's
    /// writes counting as of `modified_at`. The same import from the same base makes the same change, on every
    /// replica. Resolves to `false` if there is nothing to bring in.
    ///
    /// # Errors
    /// The commit fails if a body is not an object, or the entity does not have the base.
    pub fn import(
        &self,
        id: EntityId,
        base: Heads,
        base_body: impl Serialize,
        remote_body: impl Serialize,
        modified_at: Option<UnixMillis>,
    ) -> Commit<bool> {
        let bodies = body(base_body).and_then(|base| Ok((base, body(remote_body)?)));
        let space = self.name().clone();
        let stamp = modified_at.map_or(Stamp::ZERO, Stamp::at);
        self.replica().store().write(move |write| {
            let (base_body, remote_body) = bodies?;
            Ok(write.import(&space, id, &base, &base_body, &remote_body, stamp)?)
        })
    }
}

fn body(body: impl Serialize) -> Result<Map<String, Value>, Error> {
    match serde_json::to_value(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        _ => Err(Error::invalid("a body is an object of fields")),
    }
}
