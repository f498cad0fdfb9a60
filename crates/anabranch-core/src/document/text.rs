//! Texts for editors: what has changed in one, and places in it that move with the text around them.
//!
//! Every position counts Unicode scalar values (`char`s).

use automerge::legacy::{ObjectId, Op, OpId};
use automerge::{Cursor, CursorPosition, ObjId, Patch, PatchAction, ReadDoc as _};

use super::contain::contained;
use super::error::DocumentError;
use super::genesis::genesis;
use super::history::changes_of;
use super::{Document, theirs};
use crate::id::Heads;
use crate::name::FieldName;
use crate::schema::{Collection, Kind};

/// One replacement in a text. Of several, each counts its position after those before it were made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextSplice {
    /// Where, in Unicode scalar values.
    pub at: usize,
    /// How many Unicode scalar values are deleted there.
    pub delete: usize,
    /// What is inserted there.
    pub insert: String,
}

impl Document {
    /// What turns a text as it was at some heads into the text as it is now.
    ///
    /// # Errors
    /// [`DocumentError::UnknownHeads`] if the document does not have the heads, [`DocumentError::NotText`] if
    /// the field is none.
    pub fn text_splices(
        &self,
        collection: &Collection,
        field: &FieldName,
        since: &Heads,
    ) -> Result<Vec<TextSplice>, DocumentError> {
        self.known(since)?;
        let Some(text) = self.text_object(collection, field)? else { return Ok(Vec::new()) };
        let before: Vec<_> = since.hashes().iter().copied().map(theirs).collect();
        contained(|| {
            if self.is_untouched(&text, &before)? {
                return Ok(Vec::new());
            }
            let patches = self.automerge.diff_obj(&text, &before, &self.automerge.get_heads(), false)?;
            Ok(splices(&patches))
        })?
    }

    /// A place in a text that stays with the character after it, whatever is written around it. If that
    /// character is deleted, the place is where it was.
    ///
    /// The cursor is of use on every replica. It is opaque.
    ///
    /// # Errors
    /// [`DocumentError::OutOfRange`] if the text is shorter, [`DocumentError::NotText`] if the field is none.
    pub fn text_cursor(&self, collection: &Collection, field: &FieldName, at: usize) -> Result<String, DocumentError> {
        self.sound()?;
        let text = self.text_object(collection, field)?;
        let length = text.as_ref().map_or(0, |text| self.automerge.length(text));
        if at > length {
            return Err(DocumentError::OutOfRange { at, length });
        }
        let cursor = match text.filter(|_| at < length) {
            None => Cursor::End,
            Some(text) => contained(|| self.automerge.get_cursor(&text, CursorPosition::Index(at), None))??,
        };
        Ok(cursor.to_string())
    }

    /// Where a cursor's place is now.
    ///
    /// # Errors
    /// [`DocumentError::UnknownCursor`] if it is not a cursor of this text, or the change that wrote its
    /// character is missing; [`DocumentError::NotText`] if the field is none.
    pub fn text_position(
        &self,
        collection: &Collection,
        field: &FieldName,
        cursor: &str,
    ) -> Result<usize, DocumentError> {
        self.sound()?;
        if !cursor.is_ascii() || cursor.is_empty() {
            return Err(DocumentError::UnknownCursor); // Automerge would slice it
        }
        let cursor = Cursor::try_from(cursor).map_err(|_| DocumentError::UnknownCursor)?;
        match self.text_object(collection, field)? {
            Some(text) => self.position(&text, &cursor),
            None if cursor == Cursor::Start || cursor == Cursor::End => Ok(0),
            None => Err(DocumentError::UnknownCursor),
        }
    }

    /// Where the element that a cursor is attached to is, or would be, in a list or text.
    pub(super) fn position(&self, object: &ObjId, cursor: &Cursor) -> Result<usize, DocumentError> {
        // Automerge panics at an element of another object; reading harms nothing.
        let found = contained(|| self.automerge.get_cursor_position(object, cursor, None));
        found.ok().and_then(Result::ok).ok_or(DocumentError::UnknownCursor)
    }

    /// An error unless the document has all the heads.
    pub(super) fn known(&self, heads: &Heads) -> Result<(), DocumentError> {
        self.sound()?;
        if heads.hashes().iter().all(|hash| self.has(hash)) { Ok(()) } else { Err(DocumentError::UnknownHeads) }
    }

    /// Whether it is cheap to see that nothing has been written to an object since. Automerge's own comparison
    /// takes a pass over the whole text: 20 ms for 100,000 characters.
    fn is_untouched(&self, object: &ObjId, since: &[automerge::ChangeHash]) -> Result<bool, DocumentError> {
        const FEW_OPS: u64 = 1_000;
        let new = self.automerge.get_changes_meta(since);
        let ops: u64 = new.iter().map(|meta| meta.max_op.saturating_sub(meta.start_op).saturating_add(1)).sum();
        if ops > FEW_OPS {
            return Ok(false);
        }
        let changes = changes_of(&self.automerge, new.iter().map(|meta| meta.hash))?;
        let within = |op: &Op| matches!(&op.obj, ObjectId::Id(OpId(counter, actor)) if *object == ObjId::Id(*counter, actor.clone(), 0));
        Ok(!changes.values().any(|change| change.decode().operations.iter().any(within)))
    }

    /// The text object of a field, if it is born.
    fn text_object(&self, collection: &Collection, field: &FieldName) -> Result<Option<ObjId>, DocumentError> {
        let known = collection.fields.get(field).filter(|known| known.kind == Kind::Text);
        let known = known.ok_or_else(|| DocumentError::NotText(field.clone()))?;
        let Some(name) = self.collection() else { return Ok(None) };
        let genesis = genesis(&name, known.key_under(field), Kind::Text)?;
        Ok(self.has(&genesis.change.hash()).then(|| genesis.object.clone()))
    }
}

/// Automerge's patches of one text, which are sequential.
fn splices(patches: &[Patch]) -> Vec<TextSplice> {
    let mut splices: Vec<TextSplice> = Vec::new();
    for patch in patches {
        let next = match &patch.action {
            PatchAction::SpliceText { index, value, .. } => {
                TextSplice { at: *index, delete: 0, insert: value.make_string() }
            }
            // Something that is no character, which only a foreign writer puts there.
            PatchAction::Insert { index, values } => {
                TextSplice { at: *index, delete: 0, insert: "\u{fffc}".repeat(values.len()) }
            }
            PatchAction::DeleteSeq { index, length } => {
                TextSplice { at: *index, delete: *length, insert: String::new() }
            }
            _ => continue,
        };
        push(&mut splices, next);
    }
    splices
}

/// Adds a splice, as a part of the one before if it goes on where that ends.
fn push(splices: &mut Vec<TextSplice>, next: TextSplice) {
    if let Some(last) = splices.last_mut() {
        let end = last.at + last.insert.chars().count();
        if next.at == end {
            last.delete += next.delete;
            last.insert.push_str(&next.insert);
            return;
        }
    }
    splices.push(next);
}
