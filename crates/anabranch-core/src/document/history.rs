//! The past of an entity: who wrote what when, and the document as it was.

use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet};

use automerge::legacy::{Key, ObjectId, Op, OpType};
use automerge::{Automerge, ChangeMetadata, ObjId, Prop, ReadDoc as _, ScalarValue};

use super::contain::contained;
use super::error::DocumentError;
use super::genesis::is_genesis;
use super::note::Note;
use super::{COLLECTION_KEY, DELETED_KEY, Document, ours, theirs};
use crate::change::{Change, rewritten};
use crate::id::{Actor, ChangeHash, Heads};
use crate::schema::Collection;
use crate::stamp::Stamp;

/// How many changes are read in full at a time.
const AT_ONCE: usize = 1_000;

/// One change of an entity, as a person reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The change.
    pub hash: ChangeHash,
    /// Who wrote it.
    pub actor: Actor,
    /// Its place in the actor's changes to this entity, from 1.
    pub seq: u64,
    /// When it was written.
    pub stamp: Stamp,
    /// What it was written on top of: as heads, they give the document before it (see [`Document::at`]).
    pub dependencies: Vec<ChangeHash>,
    /// What kind of change it is.
    pub action: Action,
    /// The change that it was written from, if it is a [rewrite](super::Removal).
    pub original: Option<ChangeHash>,
    /// The fields that it wrote to, sorted, under the names that [`State`](super::State) shows them under.
    pub fields: Vec<String>,
    /// How many ops it is made of; a character is an op.
    pub ops: usize,
}

/// What a change did, by and large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It created the entity.
    Create,
    /// It wrote to fields.
    Edit,
    /// It deleted the entity.
    Delete,
    /// It brought the entity back.
    Restore,
    /// It settled a conflict.
    Resolve,
    /// It brought in another system's edit.
    Import,
    /// It took back this change.
    Undo(ChangeHash),
    /// It took back this undo.
    Redo(ChangeHash),
    /// It is the marker that is left of a purged entity.
    Purge,
}

/// Which part of a history to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Begins with the entry after this one, which is older; `None` begins with the newest.
    pub before: Option<ChangeHash>,
    /// The most entries to read.
    pub limit: usize,
}

impl Document {
    /// The document as it was at some of its heads: the same on every replica that has them.
    ///
    /// It is for reading; its actor is a blank one. Building it costs as much as loading the document from its
    /// changes.
    ///
    /// # Errors
    /// [`DocumentError::UnknownHeads`] if the document does not have all of them.
    pub fn at(&self, heads: &Heads) -> Result<Self, DocumentError> {
        self.known(heads)?;
        let blank = Actor::from_bytes(&[0; 16]).ok_or(DocumentError::Damaged)?;
        let changes = contained(|| {
            let wanted = ancestry(&self.automerge.get_changes_meta(&[]), heads);
            let changes = self.automerge.get_changes(&[]).into_iter().filter(|change| wanted.contains(&change.hash()));
            changes.map(|change| Change::parse(change.raw_bytes().to_vec())).collect::<Result<Vec<_>, _>>()
        })?;
        Self::load(&blank, None, changes.map_err(|_| DocumentError::Damaged)?)
    }

    /// A page of the entity's history, newest first: every change comes before those that it depends on, and
    /// of concurrent ones the later stamp first. The order is the same on every replica that has the changes.
    /// Geneses are nobody's edits, and left out.
    ///
    /// Only the page's own changes are read in full; ordering them takes one pass over the headers of all.
    ///
    /// # Errors
    /// [`DocumentError::UnknownChange`] if the document does not have the change that the page begins after.
    pub fn history(&self, collection: &Collection, page: Page) -> Result<Vec<HistoryEntry>, DocumentError> {
        self.sound()?;
        if let Some(hash) = page.before.filter(|hash| !self.has(hash)) {
            return Err(DocumentError::UnknownChange(hash));
        }
        contained(|| {
            let metas = self.automerge.get_changes_meta(&[]);
            let mut order = NewestFirst::new(&metas);
            if let Some(before) = page.before.map(theirs) {
                order.find(|meta| meta.hash == before);
            }
            let wanted: Vec<_> = order.filter(|meta| !is_genesis(meta)).take(page.limit).collect();
            let mut fields = FieldNames { document: self, collection, names: HashMap::new() };
            let mut entries = Vec::with_capacity(wanted.len());
            for some in wanted.chunks(AT_ONCE) {
                let changes = changes_of(&self.automerge, some.iter().map(|meta| meta.hash))?;
                for meta in some {
                    let change = changes.get(&meta.hash).ok_or(DocumentError::Damaged)?;
                    entries.push(entry(meta, change, &mut fields)?);
                }
            }
            Ok(entries)
        })?
    }
}

fn entry(
    meta: &ChangeMetadata<'_>,
    change: &automerge::Change,
    fields: &mut FieldNames<'_>,
) -> Result<HistoryEntry, DocumentError> {
    let ops = change.decode().operations;
    let mut names = BTreeSet::new();
    for op in &ops {
        names.extend(fields.of(op)?);
    }
    let action = match meta.message.as_deref().and_then(Note::parse) {
        Some(Note::Resolve) => Action::Resolve,
        Some(Note::Import) => Action::Import,
        Some(Note::Undo(undone)) => Action::Undo(undone),
        Some(Note::Redo(redone)) => Action::Redo(redone),
        Some(Note::Purge(_)) => Action::Purge,
        None => plain_action(&ops),
    };
    Ok(HistoryEntry {
        hash: ours(meta.hash),
        actor: Actor::from_bytes(meta.actor.to_bytes()).ok_or(DocumentError::Damaged)?,
        seq: meta.seq,
        stamp: Stamp::from_raw(meta.timestamp).ok_or(DocumentError::Damaged)?,
        dependencies: meta.deps.iter().copied().map(ours).collect(),
        action,
        original: meta.message.as_deref().and_then(rewritten).map(|(rewrite, _)| rewrite.original),
        fields: names.into_iter().collect(),
        ops: ops.len(),
    })
}

/// The changes of these hashes. Extracting one takes a pass over a part of the document, so they come together.
pub(super) fn changes_of(
    automerge: &Automerge,
    hashes: impl IntoIterator<Item = automerge::ChangeHash>,
) -> Result<HashMap<automerge::ChangeHash, automerge::Change>, DocumentError> {
    let changes = automerge.bundle(hashes)?.to_changes()?;
    Ok(changes.into_iter().map(|change| (change.hash(), change)).collect())
}

/// What a change without a note did: the last write of `$deleted` tells, since forced writes come in two.
fn plain_action(ops: &[Op]) -> Action {
    let at_root = |op: &&Op, key: &str| op.obj == ObjectId::Root && matches!(&op.key, Key::Map(name) if name == key);
    if ops.iter().any(|op| at_root(&op, COLLECTION_KEY)) {
        return Action::Create;
    }
    match ops.iter().rfind(|op| at_root(op, DELETED_KEY)).map(|op| &op.action) {
        None => Action::Edit,
        Some(OpType::Put(ScalarValue::Null)) => Action::Restore,
        Some(_) => Action::Delete,
    }
}

/// The changes that are among these heads or before them.
fn ancestry(metas: &[ChangeMetadata<'_>], heads: &Heads) -> HashSet<automerge::ChangeHash> {
    let mut wanted: HashSet<_> = heads.hashes().iter().copied().map(theirs).collect();
    // Dependencies come first, so backwards each change is wanted before what it depends on is looked at.
    for meta in metas.iter().rev() {
        if wanted.contains(&meta.hash) {
            wanted.extend(meta.deps.iter().copied());
        }
    }
    wanted
}

/// All changes, each before those that it depends on; of those that could be next, the latest stamp first.
pub(super) struct NewestFirst<'a, 'm> {
    metas: &'a [ChangeMetadata<'m>],
    by_hash: HashMap<automerge::ChangeHash, usize>,
    /// How many changes that depend on each are still to come.
    dependants: Vec<usize>,
    ready: BinaryHeap<(i64, &'a [u8], u64, usize)>,
}

impl<'a, 'm> NewestFirst<'a, 'm> {
    pub(super) fn new(metas: &'a [ChangeMetadata<'m>]) -> Self {
        let by_hash: HashMap<_, _> = metas.iter().enumerate().map(|(at, meta)| (meta.hash, at)).collect();
        let mut dependants = vec![0; metas.len()];
        for at in metas.iter().flat_map(|meta| &meta.deps).filter_map(|hash| by_hash.get(hash)) {
            dependants[*at] += 1;
        }
        let mut order = Self { metas, by_hash, dependants, ready: BinaryHeap::new() };
        for at in 0..metas.len() {
            if order.dependants[at] == 0 {
                order.push(at);
            }
        }
        order
    }

    fn push(&mut self, at: usize) {
        let meta = &self.metas[at];
        self.ready.push((meta.timestamp, meta.actor.to_bytes(), meta.seq, at));
    }
}

impl<'a, 'm> Iterator for NewestFirst<'a, 'm> {
    type Item = &'a ChangeMetadata<'m>;

    fn next(&mut self) -> Option<Self::Item> {
        let (.., at) = self.ready.pop()?;
        let metas = self.metas;
        for dependency in &metas[at].deps {
            let Some(&before) = self.by_hash.get(dependency) else { continue };
            self.dependants[before] -= 1;
            if self.dependants[before] == 0 {
                self.push(before);
            }
        }
        Some(&metas[at])
    }
}

/// Which field an op belongs to.
struct FieldNames<'a> {
    document: &'a Document,
    collection: &'a Collection,
    /// What is known of objects; each is looked up once.
    names: HashMap<ObjId, Option<String>>,
}

impl FieldNames<'_> {
    /// The name that the op's field is shown under; `None` for what belongs to no field.
    fn of(&mut self, op: &Op) -> Result<Option<String>, DocumentError> {
        match (&op.obj, &op.key) {
            (ObjectId::Root, Key::Map(key)) => Ok(self.shown(key)),
            (ObjectId::Root, Key::Seq(_)) => Ok(None),
            (ObjectId::Id(id), _) => self.around(ObjId::Id(id.counter(), id.actor().clone(), 0)),
        }
    }

    /// The field that an object is in, whether or not it is still visible there.
    fn around(&mut self, object: ObjId) -> Result<Option<String>, DocumentError> {
        if let Some(known) = self.names.get(&object) {
            return Ok(known.clone());
        }
        let outermost = self.document.automerge.parents(&object)?.last();
        let name = outermost.and_then(|parent| match parent.prop {
            Prop::Map(key) => self.shown(&key),
            Prop::Seq(_) => None,
        });
        self.names.insert(object, name.clone());
        Ok(name)
    }

    fn shown(&self, key: &str) -> Option<String> {
        match self.collection.field_at(key) {
            Some((name, _)) => Some(name.to_string()),
            None if key.starts_with('$') => None,
            // As `Document::state` shows it.
            None if self.collection.fields.contains_key(key) => Some(format!("${key}")),
            None => Some(key.to_owned()),
        }
    }
}
