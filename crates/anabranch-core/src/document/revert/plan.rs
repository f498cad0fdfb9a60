//! What an undo writes, worked out before anything is written.

use std::collections::{BTreeMap, BTreeSet};

use automerge::transaction::{Transactable as _, Transaction};
use automerge::{ObjId, Prop, ROOT, ScalarValue, hydrate};
use serde_json::Value as Json;

use crate::document::error::EditError;
use crate::document::value::to_nested;
use crate::document::write::{force, signed};
use crate::name::FieldName;

/// What is put into a slot.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Scalar(ScalarValue),
    /// A list or map, as its content.
    Nested(Json),
}

impl Content {
    pub(super) const fn is_null(&self) -> bool {
        matches!(self, Self::Scalar(ScalarValue::Null))
    }

    fn hydrated(&self) -> hydrate::Value {
        match self {
            Self::Scalar(scalar) => hydrate::Value::Scalar(scalar.clone()),
            Self::Nested(json) => to_nested(json),
        }
    }
}

/// A write to one slot. Elements are named by their place before the plan is carried out.
#[derive(Debug)]
pub(super) enum Write {
    Put(ObjId, Prop, Content),
    Delete(ObjId, String),
    Count(String, i64),
}

/// What happens to the elements of a list or text, by their places before the plan is carried out.
#[derive(Debug, Default)]
pub(super) struct Elements {
    pub(super) is_text: bool,
    pub(super) deleted: BTreeSet<usize>,
    /// What comes in before the element of a place.
    pub(super) inserted: BTreeMap<usize, Vec<Content>>,
}

/// All that one undo writes.
#[derive(Debug, Default)]
pub(super) struct Plan {
    writes: Vec<Write>,
    elements: Vec<(ObjId, Elements)>,
    fields: BTreeSet<FieldName>,
}

impl Plan {
    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.elements.is_empty()
    }

    /// The fields that are written to.
    pub(super) fn fields(&self) -> impl Iterator<Item = &FieldName> {
        self.fields.iter()
    }

    pub(super) fn touches(&mut self, field: &FieldName) {
        self.fields.insert(field.clone());
    }

    pub(super) fn push(&mut self, write: Write) {
        self.writes.push(write);
    }

    pub(super) fn elements(&mut self, object: &ObjId, is_text: bool) -> &mut Elements {
        let known = self.elements.iter().position(|(known, _)| known == object);
        let at = known.unwrap_or_else(|| {
            self.elements.push((object.clone(), Elements { is_text, ..Elements::default() }));
            self.elements.len() - 1
        });
        &mut self.elements[at].1
    }

    pub(super) fn write(&self, transaction: &mut Transaction<'_>) -> Result<(), EditError> {
        for write in &self.writes {
            match write {
                Write::Put(object, prop, Content::Scalar(scalar)) => force(transaction, object, prop.clone(), scalar)?,
                Write::Put(object, prop, Content::Nested(json)) => {
                    transaction.batch_create_object(object, prop.clone(), &to_nested(json), false)?;
                }
                Write::Delete(object, key) => transaction.delete(object, key.as_str())?,
                Write::Count(key, by) => transaction.increment(ROOT, key.as_str(), *by)?,
            }
        }
        self.elements.iter().try_for_each(|(object, elements)| elements.write(transaction, object))
    }
}

impl Elements {
    /// From left to right, so that the new elements come in the order in which the old ones stood.
    fn write(&self, transaction: &mut Transaction<'_>, object: &ObjId) -> Result<(), EditError> {
        let mut places: BTreeSet<usize> = self.inserted.keys().copied().collect();
        places.extend(&self.deleted);
        let (mut come, mut gone) = (0, 0);
        let mut places = places.into_iter().peekable();
        while let Some(place) = places.next() {
            let inserted = self.inserted.get(&place).map_or(&[][..], Vec::as_slice);
            let mut deleted = usize::from(self.deleted.contains(&place));
            // Deletions one after the other are one.
            while deleted > 0
                && places.next_if(|next| *next == place + deleted && !self.inserted.contains_key(next)).is_some()
            {
                deleted += 1;
            }
            let at = place + come - gone;
            if self.is_text {
                let text: String = inserted.iter().map(character).collect();
                transaction.splice_text(object, at, signed(deleted)?, &text)?;
            } else {
                transaction.splice(object, at, signed(deleted)?, inserted.iter().map(Content::hydrated))?;
            }
            (come, gone) = (come + inserted.len(), gone + deleted);
        }
        Ok(())
    }
}

/// What a text shows for an element.
fn character(content: &Content) -> &str {
    match content {
        Content::Scalar(ScalarValue::Str(text)) => text,
        _ => "\u{fffc}",
    }
}
