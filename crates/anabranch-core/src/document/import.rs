//! Edits that another system made to its copy of an entity, brought in as a change of their own.

use std::collections::BTreeSet;

use automerge::ActorId;
use serde_json::{Map, Value, json};

use super::Document;
use super::edit::Edit;
use super::error::EditError;
use super::note::Note;
use super::prepare::{Prepared, prepare_import};
use crate::change::Change;
use crate::id::Heads;
use crate::name::FieldName;
use crate::schema::{Collection, Kind};
use crate::stamp::Stamp;

impl Document {
    /// Brings in what another system did to the entity: `base_body` is its copy as of the heads `base`, on
    /// which both agreed, and `remote_body` its copy now. A field that is absent or null is empty there.
    ///
    /// What differs between the two is written on top of `base`, in a change by an actor derived from it, and
    /// merged. So fields that only one side wrote keep that side's value, and contested ones go by their
    /// policy, the other system's writes counting as of `stamp`. The same import from the same base is the same
    /// change on every replica, whatever else these have.
    ///
    /// Returns what is new: the geneses, then that change; nothing if the bodies do not differ, or it has been
    /// imported before. Rules and write-once
    /// fields do not stop it: what the other system holds has happened already. What breaks a rule is flagged.
    ///
    /// # Errors
    /// [`UnknownHeads`](super::DocumentError::UnknownHeads) if the document does not have the base, [`EditError`] if a body does not
    /// suit the schema. Throw the document away then.
    pub fn import(
        &mut self,
        collection: &Collection,
        base: &Heads,
        base_body: &Map<String, Value>,
        remote_body: &Map<String, Value>,
        stamp: Stamp,
    ) -> Result<Vec<Change>, EditError> {
        let mut fork = self.at(base)?;
        let name = fork.collection().ok_or(EditError::NotBorn)?;
        let edits = differences(collection, base_body, remote_body)?;
        let prepared =
            edits.iter().map(|edit| prepare_import(&name, collection, edit)).collect::<Result<Vec<_>, _>>()?;
        // The derived actor is a digest of the change with a blank actor, so the change is made twice.
        let Some(blank) = fork.clone().imported(stamp, &prepared)?.pop() else { return Ok(Vec::new()) };
        let actor = blank.expected_derived_actor();
        fork.automerge.set_actor(ActorId::from(actor.as_bytes()));
        let made = fork.imported(stamp, &prepared)?;
        let new = self.apply(&made)?;
        Ok(made.into_iter().filter(|change| new.contains(&change.hash())).collect())
    }

    /// The change with the geneses that it needs; nothing if it would change nothing.
    fn imported(&mut self, stamp: Stamp, prepared: &[Prepared]) -> Result<Vec<Change>, EditError> {
        let changes = self.write(stamp, Some(Note::Import), prepared, |_| Ok(()))?;
        let own = |change: &Change| self.automerge.get_actor().to_bytes() == change.actor().as_bytes();
        Ok(if changes.last().is_some_and(own) { changes } else { Vec::new() })
    }
}

fn differences(
    collection: &Collection,
    base: &Map<String, Value>,
    remote: &Map<String, Value>,
) -> Result<Vec<Edit>, EditError> {
    let value = |body: &Map<String, Value>, name: &str| body.get(name).cloned().unwrap_or_default();
    let names: BTreeSet<&String> = base.keys().chain(remote.keys()).collect();
    let differing = names.into_iter().filter(|name| value(base, name) != value(remote, name));
    let set = |name: &String| {
        let known = FieldName::new(name).ok().and_then(|field| collection.fields.get(&field).map(|it| (field, it)));
        let (field, known) = known.ok_or_else(|| super::edit::unknown(name))?;
        let value = Some(value(remote, name)).filter(|value| !value.is_null()).unwrap_or_else(|| empty(known.kind));
        Ok(Edit::Set { field, value })
    };
    differing.map(set).collect()
}

/// What a field of the kind holds while nobody has written to it.
fn empty(kind: Kind) -> Value {
    match kind {
        Kind::Register | Kind::Reference => Value::Null,
        Kind::Counter => json!(0),
        Kind::Text => json!(""),
        Kind::List | Kind::Set => json!([]),
        Kind::Map => json!({}),
    }
}
