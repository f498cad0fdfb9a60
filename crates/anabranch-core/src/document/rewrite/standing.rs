//! The form of a change that stands, in which what was built on another form finds its ops again.

use std::collections::{HashMap, VecDeque};

use automerge::legacy::{Change as Decoded, ElementId, Key, ObjectId, Op, OpId};

use super::ops::{Fate, Fates, named};
use crate::change::{Change, Rewrite};
use crate::document::Document;
use crate::document::contain::contained;
use crate::document::error::DocumentError;
use crate::id::ChangeHash;

/// The ops of a form of a change, in all its parts, that no other form's op has been found in yet.
///
/// Two forms may differ in what each could not write: a deletion of what is gone there, say. What both have comes in the
/// same order, and an insertion is in both if the object is.
#[derive(Debug)]
pub(super) struct Standing {
    ops: HashMap<Shape, VecDeque<OpId>>,
    /// What others depend on that depended on the other form.
    last: ChangeHash,
}

/// What an op does, as far as both forms of a change say it in the same way: where, and what. An insertion's place in its
/// sequence is left out: that may have moved.
type Shape = (ObjectId, Option<Key>, String);

fn shape(op: &Op, object: ObjectId, key: Option<Key>) -> Shape {
    (object, key, format!("{:?}", op.action))
}

impl Standing {
    /// The form that begins with `first`; none if the document does not have it.
    pub(super) fn of(document: &Document, first: &ChangeHash) -> Result<Option<Self>, DocumentError> {
        let Some(change) = document.change(first) else { return Ok(None) };
        let mut standing = Self { ops: HashMap::new(), last: *first };
        standing.add(&change)?;
        if let Some(Rewrite { original, part }) = change.rewrite_of() {
            let forms = document.rewrites();
            let parts = (part.saturating_add(1)..).map_while(|part| forms.get(&Rewrite { original, part }));
            for part in parts {
                standing.last = *part;
                standing.add(&document.change(part).ok_or(DocumentError::Damaged)?)?;
            }
        }
        Ok(Some(standing))
    }

    fn add(&mut self, change: &Change) -> Result<(), DocumentError> {
        let decoded = decode(change)?;
        for (op, counter) in decoded.operations.iter().zip(decoded.start_op.get()..) {
            let key = (!op.insert).then(|| op.key.clone());
            let id = named(counter, &decoded.actor_id);
            self.ops.entry(shape(op, op.obj.clone(), key)).or_default().push_back(id);
        }
        Ok(())
    }

    pub(super) const fn last(&self) -> ChangeHash {
        self.last
    }

    /// The ops of another form become those of this one; those that this one does not have are gone.
    pub(super) fn take(&mut self, fates: &mut Fates, other: &Decoded) {
        for (op, counter) in other.operations.iter().zip(other.start_op.get()..) {
            let id = named(counter, &other.actor_id);
            match self.find(fates, op) {
                Some(here) => fates.set(id, Fate::Moved(here)),
                None => fates.lose_op(op, id),
            }
        }
    }

    fn find(&mut self, fates: &Fates, op: &Op) -> Option<OpId> {
        let object = fates.object(&op.obj)?;
        let key = match &op.key {
            _ if op.insert => None,
            Key::Seq(ElementId::Id(element)) => Some(Key::Seq(ElementId::Id(fates.of(element)?))),
            key => Some(key.clone()),
        };
        self.ops.get_mut(&shape(op, object, key))?.pop_front()
    }
}

pub(super) fn decode(change: &Change) -> Result<Decoded, DocumentError> {
    contained(|| {
        let read = automerge::Change::from_bytes(change.bytes().to_vec()).map_err(|_| DocumentError::Damaged)?;
        Ok(read.decode())
    })?
}
