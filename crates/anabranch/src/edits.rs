//! What an edit does, collected before it is made.

use anabranch_core::FieldName;
use anabranch_core::document::{Edit, Path};
use serde_json::Value;

use crate::error::Error;

/// The edits of one change, in order. They are made together or not at all.
///
/// Each records an *intent* (insert here, add one), so that concurrent edits merge; [`set`](Self::set) makes a
/// field equal to a value by the smallest difference. A name that is not a field shows when the change is
/// committed.
#[derive(Debug, Default)]
pub struct Edits {
    edits: Vec<Edit>,
    error: Option<Error>,
}

impl Edits {
    /// Makes a field of any kind equal to `value`. Null clears a register.
    pub fn set(&mut self, field: &str, value: impl Into<Value>) -> &mut Self {
        self.push(field, |field| Edit::Set { field, value: value.into() })
    }

    /// Adds to a counter; concurrent increments sum.
    pub fn increment(&mut self, field: &str, by: i64) -> &mut Self {
        self.push(field, |field| Edit::Increment { field, by })
    }

    /// Replaces `delete` characters of a text from `at` on. Positions count Unicode scalar values.
    pub fn splice(&mut self, field: &str, at: usize, delete: usize, insert: &str) -> &mut Self {
        self.push(field, |field| Edit::Splice { field, at, delete, insert: insert.to_owned() })
    }

    /// Adds a member to a set.
    pub fn add(&mut self, field: &str, member: impl Into<Value>) -> &mut Self {
        self.push(field, |field| Edit::Add { field, member: member.into() })
    }

    /// Removes a member from a set; a concurrent addition wins.
    pub fn remove(&mut self, field: &str, member: impl Into<Value>) -> &mut Self {
        self.push(field, |field| Edit::Remove { field, member: member.into() })
    }

    /// Inserts values into the list at `path` (empty for the field's own list), before its element `at`.
    pub fn insert(&mut self, field: &str, path: Path, at: usize, values: Vec<Value>) -> &mut Self {
        self.push(field, |field| Edit::Insert { field, path, at, values })
    }

    /// Replaces, or adds, the map entry or list element at `path`.
    pub fn put(&mut self, field: &str, path: Path, value: impl Into<Value>) -> &mut Self {
        self.push(field, |field| Edit::Put { field, path, value: value.into() })
    }

    /// Removes the map entry or list element at `path`.
    pub fn delete(&mut self, field: &str, path: Path) -> &mut Self {
        self.push(field, |field| Edit::Delete { field, path })
    }

    fn push(&mut self, field: &str, edit: impl FnOnce(FieldName) -> Edit) -> &mut Self {
        match FieldName::new(field) {
            Ok(field) => self.edits.push(edit(field)),
            Err(error) if self.error.is_none() => self.error = Some(error.into()),
            Err(_) => {}
        }
        self
    }

    pub(crate) fn into_edits(self) -> Result<Vec<Edit>, Error> {
        self.error.map_or(Ok(self.edits), Err)
    }
}

impl From<Vec<Edit>> for Edits {
    fn from(edits: Vec<Edit>) -> Self {
        Self { edits, error: None }
    }
}
