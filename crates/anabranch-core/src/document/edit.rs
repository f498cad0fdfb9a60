//! Local writes: what an application can do to an entity, and how it becomes one change.

use std::collections::BTreeSet;

use automerge::transaction::{CommitOptions, Transactable as _, Transaction};
use automerge::{ROOT, ScalarValue};
use serde_json::{Map, Value};

use super::contain::contained;
use super::error::{DocumentError, EditError};
use super::note::Note;
use super::prepare::{Prepared, prepare, settling};
use super::slot::held_at_root;
use super::state::{Breach, State};
use super::write::{Writer, force};
use super::{COLLECTION_KEY, Check, DELETED_KEY, Document, theirs};
use crate::change::Change;
use crate::id::Digest;
use crate::name::{CollectionName, FieldName};
use crate::schema::{Collection, Rule};
use crate::stamp::Stamp;

/// One step of an edit.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    /// Makes a field of any kind equal to the value, by the smallest difference: text by character, sets by
    /// member, lists by element, maps by key. A counter is incremented by the difference.
    ///
    /// A register that holds the value already, uncontested, is not written. Slots inside lists and maps
    /// that equal the value already are left alone even if they are contested; [`Edit::Put`] settles one.
    /// An empty value makes no container where there is none.
    Set {
        /// The field.
        field: FieldName,
        /// What it should be. Null clears a register.
        value: Value,
    },
    /// Adds to a counter.
    Increment {
        /// The counter.
        field: FieldName,
        /// The difference, of either sign.
        by: i64,
    },
    /// Replaces a part of a text. Positions count Unicode scalar values (`char`s).
    Splice {
        /// The text.
        field: FieldName,
        /// Where to begin.
        at: usize,
        /// How much to delete there.
        delete: usize,
        /// What to insert there.
        insert: String,
    },
    /// Adds a member to a set; one that is there already then outlives a concurrent removal.
    Add {
        /// The set.
        field: FieldName,
        /// A string, a number or a boolean.
        member: Value,
    },
    /// Removes a member from a set, if it is there.
    Remove {
        /// The set.
        field: FieldName,
        /// The member.
        member: Value,
    },
    /// Inserts into a list.
    Insert {
        /// The list or map field.
        field: FieldName,
        /// Which list; empty for the field's own.
        path: Path,
        /// Before which element.
        at: usize,
        /// The new elements.
        values: Vec<Value>,
    },
    /// Replaces the value of a map's entry or a list's element, or adds a map's entry. What was contested
    /// there is settled.
    Put {
        /// The list or map field.
        field: FieldName,
        /// Which entry or element; not empty.
        path: Path,
        /// The new value.
        value: Value,
    },
    /// Makes a map's entry or a list's element equal to the value, by the smallest difference: what is nested in
    /// it stays the same list or map, so that concurrent edits in there merge. Adds a map's entry if need be.
    Assign {
        /// The list or map field.
        field: FieldName,
        /// Which entry or element; not empty.
        path: Path,
        /// What it should be.
        value: Value,
    },
    /// Removes a map's entry, if it is there, or a list's element.
    Delete {
        /// The list or map field.
        field: FieldName,
        /// Which entry or element; not empty.
        path: Path,
    },
}

impl Edit {
    /// The field that is edited.
    #[must_use]
    pub const fn field(&self) -> &FieldName {
        match self {
            Self::Set { field, .. }
            | Self::Increment { field, .. }
            | Self::Splice { field, .. }
            | Self::Add { field, .. }
            | Self::Remove { field, .. }
            | Self::Insert { field, .. }
            | Self::Put { field, .. }
            | Self::Assign { field, .. }
            | Self::Delete { field, .. } => field,
        }
    }
}

/// A way into a list or map field, step by step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(pub Vec<Step>);

/// One step of a [`Path`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Into the entry of a map.
    Key(String),
    /// Into the element of a list.
    Index(usize),
}

impl From<&str> for Step {
    fn from(key: &str) -> Self {
        Self::Key(key.to_owned())
    }
}

impl From<usize> for Step {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

impl<S: Into<Step>> FromIterator<S> for Path {
    fn from_iter<I: IntoIterator<Item = S>>(steps: I) -> Self {
        Self(steps.into_iter().map(Into::into).collect())
    }
}

/// How a person settles a conflict.
#[derive(Clone, Debug, PartialEq)]
pub enum Choice {
    /// With the contender at this place of the list.
    This(usize),
    /// With another value.
    Value(Value),
}

impl Document {
    /// Creates the entity: its collection and its first fields, in one change.
    ///
    /// Returns the geneses that the fields need, then that change.
    ///
    /// # Errors
    /// [`EditError`]; throw the document away then.
    pub fn create(
        &mut self,
        name: &CollectionName,
        collection: &Collection,
        stamp: Stamp,
        fields: &Map<String, Value>,
    ) -> Result<Vec<Change>, EditError> {
        if self.is_born() {
            return Err(EditError::AlreadyExists);
        }
        let set = |(field, value): (&String, &Value)| {
            let field = FieldName::new(field).map_err(|_| unknown(field))?;
            prepare(name, collection, &Edit::Set { field, value: value.clone() })
        };
        let prepared = fields.iter().map(set).collect::<Result<Vec<_>, _>>()?;
        let born = |transaction: &mut Transaction<'_>| Ok(transaction.put(ROOT, COLLECTION_KEY, name.as_str())?);
        let changes = self.write(stamp, None, &prepared, born)?;
        self.check(collection, collection.fields.keys())?;
        Ok(changes)
    }

    /// Makes all edits, one after the other, in one change.
    ///
    /// Returns the geneses that the edits need, then that change; nothing if the edits change nothing. A
    /// deleted entity can be edited, which does not bring it back: see [`Document::restore`].
    ///
    /// # Errors
    /// [`EditError`]; throw the document away then.
    pub fn edit(&mut self, collection: &Collection, stamp: Stamp, edits: &[Edit]) -> Result<Vec<Change>, EditError> {
        let name = self.collection().ok_or(EditError::NotBorn)?;
        let prepared = edits.iter().map(|edit| prepare(&name, collection, edit)).collect::<Result<Vec<_>, _>>()?;
        let before = self.before(collection)?;
        let changes = self.write(stamp, None, &prepared, |_| Ok(()))?;
        self.check_since(before.as_ref(), collection, edits.iter().map(Edit::field))?;
        Ok(changes)
    }

    /// Settles a conflict, in one change that says so. The conflict must still be the one that was looked at: a
    /// value that has come since would be overwritten unseen.
    ///
    /// # Errors
    /// [`EditError::ConflictChanged`] if it is not; [`EditError`] otherwise. Throw the document away then.
    pub fn resolve(
        &mut self,
        collection: &Collection,
        stamp: Stamp,
        conflict: &Digest,
        choice: &Choice,
    ) -> Result<Vec<Change>, EditError> {
        let name = self.collection().ok_or(EditError::NotBorn)?;
        let state = self.state(Some(collection))?;
        let contest = state.contests.iter().find(|contest| contest.id == *conflict);
        let contest = contest.ok_or(EditError::ConflictChanged)?;
        let value = match choice {
            Choice::Value(value) => value,
            Choice::This(place) => {
                let contender = contest.contenders.get(*place);
                &contender.ok_or(EditError::NoContender { place: *place, count: contest.contenders.len() })?.value
            }
        };
        let prepared = settling(&name, collection, &contest.field, &contest.path, value)?;
        let field = prepared.field.clone();
        let changes = self.write(stamp, Some(Note::Resolve), &[prepared], |_| Ok(()))?;
        self.check_since(Some(&state), collection, [&field])?;
        Ok(changes)
    }

    /// Whether what has just been written fulfils the rules of the fields that it touched. Others may be broken
    /// already, which must not keep anybody from editing.
    pub(super) fn check<'f>(
        &self,
        collection: &Collection,
        touched: impl IntoIterator<Item = &'f FieldName>,
    ) -> Result<(), EditError> {
        self.check_since(None, collection, touched)
    }

    /// As [`Document::check`], given the state before the write: a rule that was broken then may stay broken, so that
    /// what a merge has broken can be mended in steps. What can be measured must come nearer to its bound.
    fn check_since<'f>(
        &self,
        before: Option<&State>,
        collection: &Collection,
        touched: impl IntoIterator<Item = &'f FieldName>,
    ) -> Result<(), EditError> {
        if !collection.has_rules() {
            return Ok(());
        }
        let touched: BTreeSet<_> = touched.into_iter().collect();
        let state = self.state(Some(collection))?;
        let value = |state: &State, field: &FieldName| state.fields.get(field.as_str()).cloned().unwrap_or_default();
        let is_new = |breach: &&Breach| {
            let Some(before) = before.filter(|before| before.breaches.iter().any(|old| old.is_of(breach))) else {
                return true;
            };
            let beyond = |state: &State| breach.rule.beyond(&value(state, &breach.field));
            touched.contains(&breach.field)
                && beyond(&state).zip(beyond(before)).is_some_and(|(now, before)| now >= before)
        };
        // A check of the application's looks at the whole entity, so any edit may break it.
        let concerned = |breach: &&Breach| touched.contains(&breach.field) || matches!(breach.rule, Rule::Check { .. });
        match state.breaches.iter().filter(concerned).find(is_new) {
            Some(Breach { field, rule }) => Err(EditError::Rule { field: field.clone(), rule: rule.clone() }),
            None => Ok(()),
        }
    }

    /// The state to measure an edit against, if there is any rule.
    fn before(&self, collection: &Collection) -> Result<Option<State>, EditError> {
        Ok(if collection.has_rules() { Some(self.state(Some(collection))?) } else { None })
    }

    /// Deletes the entity. Deleting it again is a deletion of its own: it counts even if a concurrent edit has
    /// brought the entity back.
    ///
    /// # Errors
    /// [`EditError`]; throw the document away then.
    pub fn delete(&mut self, stamp: Stamp) -> Result<Vec<Change>, EditError> {
        if !self.is_born() {
            return Err(EditError::NotBorn);
        }
        // The stamp is the value, so that no two deletions are the same write.
        let tombstone = ScalarValue::Int(stamp.raw());
        self.write(stamp, None, &[], |transaction| force(transaction, &ROOT, DELETED_KEY.into(), &tombstone))
    }

    /// Brings a deleted entity back; makes no change if it was never deleted.
    ///
    /// # Errors
    /// [`EditError`]; throw the document away then.
    pub fn restore(&mut self, stamp: Stamp) -> Result<Vec<Change>, EditError> {
        if !self.is_born() {
            return Err(EditError::NotBorn);
        }
        if held_at_root(&self.automerge, DELETED_KEY)?.iter().all(|op| op.is(&ScalarValue::Null)) {
            return Ok(Vec::new());
        }
        self.write(stamp, None, &[], |transaction| force(transaction, &ROOT, DELETED_KEY.into(), &ScalarValue::Null))
    }

    /// Brings in the geneses that are missing, then writes one change.
    pub(super) fn write(
        &mut self,
        stamp: Stamp,
        note: Option<Note>,
        prepared: &[Prepared],
        first: impl FnOnce(&mut Transaction<'_>) -> Result<(), EditError>,
    ) -> Result<Vec<Change>, EditError> {
        self.sound()?;
        let mut changes = Vec::new();
        for genesis in prepared.iter().filter(|edit| edit.action.bears()).filter_map(|edit| edit.genesis.as_ref()) {
            if !self.has(&genesis.change.hash()) {
                self.merge(std::slice::from_ref(&genesis.change), Check::Trusted)?;
                changes.push(genesis.change.clone());
            }
        }
        // An edit that bears nothing has nothing to do to a container that is not there.
        let exists = |edit: &&Prepared| edit.genesis.as_ref().is_none_or(|genesis| self.has(&genesis.change.hash()));
        let effective: Vec<_> = prepared.iter().filter(exists).collect();
        let made = self.transact(stamp, note, |transaction| {
            first(transaction)?;
            effective.iter().try_for_each(|edit| Writer::new(transaction, edit, stamp).write())
        })?;
        changes.extend(made);
        Ok(changes)
    }

    /// Runs `work` in a transaction; the change that it made, if it made one.
    pub(super) fn transact(
        &mut self,
        stamp: Stamp,
        note: Option<Note>,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<(), EditError>,
    ) -> Result<Option<Change>, EditError> {
        // Until the end is known to be good, it is not.
        self.poisoned = true;
        let mut transaction = contained(|| self.automerge.transaction())?;
        let hash = match contained(|| work(&mut transaction)) {
            Ok(Ok(())) => {
                let mut options = CommitOptions::default().with_time(stamp.raw());
                options.message = note.map(|note| note.to_string());
                contained(|| transaction.commit_with(options).0)?
            }
            Ok(Err(error)) => {
                contained(|| transaction.rollback())?;
                self.poisoned = false;
                return Err(error);
            }
            Err(panicked) => {
                // Dropping it would roll back, which may panic again and abort the process.
                std::mem::forget(transaction);
                return Err(panicked.into());
            }
        };
        self.poisoned = false;
        hash.map(|hash| self.committed(&hash)).transpose()
    }

    fn committed(&mut self, hash: &automerge::ChangeHash) -> Result<Change, EditError> {
        use automerge::ReadDoc as _;
        let made = contained(|| self.automerge.get_change_by_hash(hash))?.ok_or(DocumentError::Damaged)?;
        let change = Change::parse(made.raw_bytes().to_vec())?;
        let meta = self.automerge.get_change_meta_by_hash(&theirs(change.hash())).ok_or(DocumentError::Damaged)?;
        self.updated = self.updated.max(super::written_at(&meta)?);
        self.remember(&change);
        self.bytes = self.bytes.saturating_add(change.bytes().len());
        Ok(change)
    }
}

/// The error for a name that no field can have.
pub(super) fn unknown(field: &str) -> EditError {
    // A hostile name must not fill a log.
    EditError::UnknownField(field.chars().take(crate::MAX_NAME_BYTES).collect())
}
