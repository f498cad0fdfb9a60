//! Why a field has the value that it shows.

use serde_json::Value;

use super::Document;
use super::contain::contained;
use super::error::DocumentError;
use super::genesis::is_birth;
use super::resolve::{Contender, settle};
use super::slot::{Reader, held_at_root};
use super::state::Contest;
use crate::name::FieldName;
use crate::schema::{Collection, Field, Kind, Policy};

/// Who wrote what a field shows, which rule chose it, and what lost.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// What the field is.
    pub kind: Kind,
    /// The rule that chooses among concurrent values, if the kind has any to choose among.
    pub policy: Option<Policy>,
    /// The value that is shown; null if there is none.
    pub value: Value,
    /// A register's values that nobody has overwritten yet: the one that is shown, then those that lost, best
    /// first. Empty for the kinds that merge.
    pub contenders: Vec<Contender>,
    /// What is contested in the field and inside it.
    pub contests: Vec<Contest>,
}

impl Document {
    /// Explains a field. `None` if the collection has no such field.
    ///
    /// # Errors
    /// As [`Document::state`].
    pub fn explain(&self, collection: &Collection, field: &FieldName) -> Result<Option<Explanation>, DocumentError> {
        let Some((name, known)) = collection.fields.get_key_value(field) else { return Ok(None) };
        let state = self.state(Some(collection))?;
        let policy = collection.policy_of(known);
        let contenders = match known.kind {
            Kind::Register | Kind::Reference => contained(|| self.contenders(name, known, policy))??,
            _ => Vec::new(),
        };
        Ok(Some(Explanation {
            kind: known.kind,
            policy: known.kind.settles().then(|| policy.clone()),
            value: state.fields.get(name.as_str()).cloned().unwrap_or_default(),
            contenders,
            contests: state.contests.into_iter().filter(|contest| contest.field == name.as_str()).collect(),
        }))
    }

    fn contenders(&self, name: &FieldName, field: &Field, policy: &Policy) -> Result<Vec<Contender>, DocumentError> {
        let mut reader = Reader::attentive(&self.automerge);
        reader.enter(name.as_str(), policy, Some(field));
        let mut ops = held_at_root(&self.automerge, field.key_under(name).as_str())?;
        ops.retain(|op| !is_birth(&op.value, &op.id));
        let mut contenders = reader.contenders(&ops, 0)?;
        drop(settle(policy, &mut contenders));
        Ok(contenders)
    }
}
