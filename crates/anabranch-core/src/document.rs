//! An entity's document: the one place that knows Automerge.
//!
//! A [`Document`] is built from changes, edited through [`Edit`]s, merged by [`Document::apply`], and read as
//! a [`State`], which is a pure function of its changes and the schema. Nothing of Automerge shows outside.
//!
//! In the document, registers are scalars at root keys; every container and counter is born in a *genesis
//! change* of its own, the same on every replica, and is addressed by that birth, never by its key.

mod admit;
mod apart;
mod contain;
mod diff;
mod edit;
mod error;
mod explain;
mod genesis;
mod history;
mod import;
mod note;
mod past;
mod plain;
mod prepare;
mod purge;
mod resolve;
mod revert;
mod rewrite;
mod slot;
mod state;
#[cfg(test)]
mod tests;
mod text;
mod value;
mod write;

use std::collections::HashMap;

use automerge::{ActorId, Automerge, ChangeMetadata, LoadOptions, ReadDoc as _, TextEncoding};

use self::admit::{admit, in_order};
pub(crate) use self::contain::contained;
use self::genesis::is_genesis;
use self::past::Past;
use crate::change::Change;
use crate::id::{Actor, ChangeHash, Heads};
use crate::name::CollectionName;
use crate::stamp::Stamp;

pub use diff::{FieldDiff, diff};
pub use edit::{Choice, Edit, Path, Step};
pub use error::{ApplyError, DocumentError, EditError};
pub use explain::Explanation;
pub use history::{Action, HistoryEntry, Page};
pub use plain::{Plain, PlainReader};
pub use resolve::Contender;
pub use rewrite::{Removal, Rewritten};
pub use state::{Breach, Contest, State};
pub use text::TextSplice;
pub(crate) use value::compare;
pub use value::{MAX_DEPTH, canonical_json};

/// The root key that holds the collection's name.
const COLLECTION_KEY: &str = "$collection";
/// The root key that holds the stamp of the deletion; null or absent while the entity is not deleted.
const DELETED_KEY: &str = "$deleted";

/// One entity's document, in memory.
///
/// After an error of [`create`](Self::create), [`edit`](Self::edit), [`delete`](Self::delete),
/// [`restore`](Self::restore) or [`apply`](Self::apply), throw it away and build it again from the change
/// log: it may hold changes that were never returned.
#[derive(Clone, Debug)]
pub struct Document {
    automerge: Automerge,
    /// Who has written which ops.
    past: Past,
    /// The greatest stamp of all changes but geneses.
    updated: Stamp,
    /// The bytes that were read into the document, for [`Document::memory`].
    bytes: usize,
    /// Automerge panicked while it worked on this document.
    poisoned: bool,
}

/// A document in the compact form that compaction keeps, with the heads that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folded {
    /// The folded document, as [`Document::load`] reads it.
    pub bytes: Vec<u8>,
    /// The heads of the document that was folded.
    pub heads: Heads,
}

impl Document {
    /// An empty document; local edits will be `actor`'s.
    #[must_use]
    pub fn new(actor: &Actor) -> Self {
        let automerge = Automerge::new_with_encoding(TextEncoding::UnicodeCodePoint);
        Self {
            automerge: automerge.with_actor(ActorId::from(actor.as_bytes())),
            past: Past::default(),
            updated: Stamp::ZERO,
            bytes: 0,
            poisoned: false,
        }
    }

    /// A document from a [`Folded`] one, or changes, or both. The changes may come in any order, and again.
    ///
    /// This trusts that the bytes are this replica's own; foreign changes go through [`Document::apply`].
    ///
    /// # Errors
    /// [`DocumentError`] if the fold cannot be read or the changes cannot be applied to it.
    pub fn load(actor: &Actor, folded: Option<&[u8]>, changes: Vec<Change>) -> Result<Self, DocumentError> {
        let mut document = Self::new(actor);
        if let Some(folded) = folded {
            document.unfold(actor, folded)?;
        }
        document.merge(&changes, Check::Trusted)?;
        Ok(document)
    }

    /// Later local edits will be this actor's.
    pub fn write_as(&mut self, actor: &Actor) {
        if self.automerge.get_actor().to_bytes() != actor.as_bytes() {
            self.automerge.set_actor(ActorId::from(actor.as_bytes()));
        }
    }

    /// The changes that no other change depends on.
    #[must_use]
    pub fn heads(&self) -> Heads {
        Heads::new(self.automerge.get_heads().into_iter().map(ours).collect())
    }

    /// Whether the change is in the document.
    #[must_use]
    pub fn has(&self, hash: &ChangeHash) -> bool {
        self.automerge.get_change_meta_by_hash(&theirs(*hash)).is_some()
    }

    /// The change of this hash.
    #[must_use]
    pub fn change(&self, hash: &ChangeHash) -> Option<Change> {
        let change = contained(|| self.automerge.get_change_by_hash(&theirs(*hash))).ok()??;
        Change::parse(change.raw_bytes().to_vec()).ok()
    }

    /// The changes of these hashes, in any order; those that the document does not have are left out. That takes a pass
    /// over the document, as [`change`](Self::change) does for one: so many should come together.
    ///
    /// # Errors
    /// [`DocumentError::Poisoned`] or [`DocumentError::Damaged`] if they cannot be extracted.
    pub fn changes(&self, hashes: impl IntoIterator<Item = ChangeHash>) -> Result<Vec<Change>, DocumentError> {
        self.sound()?;
        let known: Vec<_> = hashes.into_iter().filter(|hash| self.has(hash)).map(theirs).collect();
        let changes = contained(|| history::changes_of(&self.automerge, known))??;
        let parse = |change: automerge::Change| Change::parse(change.raw_bytes().to_vec());
        changes.into_values().map(parse).collect::<Result<_, _>>().map_err(|_| DocumentError::Damaged)
    }

    /// The changes that are neither among these heads nor before them, dependencies first. Heads that the
    /// document does not have are ignored.
    ///
    /// # Errors
    /// [`DocumentError::Poisoned`] or [`DocumentError::Damaged`] if the changes cannot be extracted.
    pub fn changes_since(&self, heads: &Heads) -> Result<Vec<Change>, DocumentError> {
        self.sound()?;
        let known: Vec<_> = heads.hashes().iter().filter(|hash| self.has(hash)).map(|hash| theirs(*hash)).collect();
        let changes = contained(|| self.automerge.get_changes(&known))?;
        let parse = |change: automerge::Change| Change::parse(change.raw_bytes().to_vec());
        changes.into_iter().map(parse).collect::<Result<_, _>>().map_err(|_| DocumentError::Damaged)
    }

    /// The entity's collection, once it is known.
    #[must_use]
    pub fn collection(&self) -> Option<CollectionName> {
        let birth = contained(|| self.birth()).ok()?.ok()?;
        birth.map(|(name, _)| name)
    }

    /// Whether the change that creates the entity is in the document.
    #[must_use]
    pub fn is_born(&self) -> bool {
        self.collection().is_some()
    }

    /// Merges foreign changes, in any order; those that the document has already are skipped.
    ///
    /// Returns the hashes of the new ones, each after those it depends on.
    ///
    /// # Errors
    /// [`ApplyError`] says which errors leave the document untouched; after the others it must be thrown away.
    pub fn apply(&mut self, changes: &[Change]) -> Result<Vec<ChangeHash>, ApplyError> {
        if self.poisoned {
            return Err(ApplyError::Poisoned);
        }
        self.merge(changes, Check::Admitted)
    }

    /// The document in its compact form, proven to load back as the same document.
    ///
    /// # Errors
    /// [`DocumentError::FoldDiffers`] if it does not; the document's changes must then be kept as they are.
    pub fn fold(&self) -> Result<Folded, DocumentError> {
        self.sound()?;
        let bytes = contained(|| self.automerge.save())?;
        let heads = self.heads();
        let actor = Actor::from_bytes(self.automerge.get_actor().to_bytes()).ok_or(DocumentError::Damaged)?;
        let back = Self::load(&actor, Some(&bytes), Vec::new())?;
        if back.heads() == heads && back.state(None)? == self.state(None)? {
            Ok(Folded { bytes, heads })
        } else {
            Err(DocumentError::FoldDiffers)
        }
    }

    /// Roughly how many bytes of memory the document holds; cheap enough to ask after every write.
    #[must_use]
    pub fn memory(&self) -> usize {
        // Measured: a document of five fields takes about 19 KB, mostly for its columns' first slabs.
        const EMPTY: usize = 16 << 10;
        const PER_CHANGE: usize = 160;
        const PER_OP: usize = 24;
        let stats = self.automerge.stats();
        let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let graph = count(stats.num_changes).saturating_mul(PER_CHANGE);
        let ops = count(stats.num_ops).saturating_mul(PER_OP);
        EMPTY.saturating_add(graph).saturating_add(ops).saturating_add(self.bytes)
    }

    /// An error if a panic has left the document in an unknown condition.
    const fn sound(&self) -> Result<(), DocumentError> {
        if self.poisoned { Err(DocumentError::Poisoned) } else { Ok(()) }
    }

    fn unfold(&mut self, actor: &Actor, folded: &[u8]) -> Result<(), DocumentError> {
        if folded.is_empty() {
            // Automerge takes no bytes for an empty document; here they are a lost one.
            return Err(DocumentError::Unreadable);
        }
        let options = LoadOptions::new().text_encoding(TextEncoding::UnicodeCodePoint);
        let loaded = contained(|| Automerge::load_with_options(folded, options))?;
        self.automerge = loaded.map_err(|_| DocumentError::Unreadable)?;
        self.automerge.set_actor(ActorId::from(actor.as_bytes()));
        self.bytes = folded.len();
        for meta in self.automerge.get_changes_meta(&[]) {
            self.updated = self.updated.max(written_at(&meta)?);
            self.past.push(meta.actor.to_bytes(), meta.start_op, meta.max_op);
        }
        Ok(())
    }

    fn merge(&mut self, changes: &[Change], check: Check) -> Result<Vec<ChangeHash>, ApplyError> {
        let ordered = in_order(changes, |hash| self.has(hash), &self.past)?;
        if ordered.is_empty() {
            return Ok(Vec::new());
        }
        let parse = |change: &&Change| {
            let parsed = contained(|| automerge::Change::from_bytes(change.bytes().to_vec()));
            parsed.ok().and_then(Result::ok).ok_or(ApplyError::Unreadable(change.hash()))
        };
        let parsed = ordered.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        match check {
            Check::Admitted => admit(&self.automerge, &mut self.past, &ordered)?,
            Check::Trusted => ordered.iter().for_each(|change| self.remember(change)),
        }
        let before = self.automerge.get_heads();
        let applied = contained(|| {
            self.automerge.apply_changes(parsed)?;
            let altered = if check == Check::Admitted { self.altered(&before, &ordered) } else { None };
            Ok::<_, automerge::AutomergeError>(altered)
        });
        // Until the end is known to be good, it is not.
        self.poisoned = true;
        if let Some(altered) = applied?.map_err(|_| ApplyError::Refused)? {
            return Err(ApplyError::Altered(altered));
        }
        for change in &ordered {
            let meta = self.automerge.get_change_meta_by_hash(&theirs(change.hash()));
            let written = meta.as_ref().and_then(|meta| written_at(meta).ok());
            self.updated = self.updated.max(written.ok_or(ApplyError::Altered(change.hash()))?);
            self.bytes = self.bytes.saturating_add(change.bytes().len());
        }
        self.poisoned = false;
        Ok(ordered.iter().map(|change| change.hash()).collect())
    }

    /// Adds a change's ops to the past; it must be its actor's next.
    fn remember(&mut self, change: &Change) {
        self.past.push(change.actor().as_bytes(), change.start_op(), change.max_op());
    }

    /// The first of the changes applied on top of some heads that Automerge does not give back byte for byte.
    /// Most poison shows here.
    fn altered(&self, before: &[automerge::ChangeHash], applied: &[&Change]) -> Option<ChangeHash> {
        // One change is extracted fastest by its hash, many at once.
        let extracted = match applied {
            [only] => self.automerge.get_change_by_hash(&theirs(only.hash())).into_iter().collect(),
            _ => self.automerge.get_changes(before),
        };
        let extracted: HashMap<_, _> = extracted.iter().map(|change| (ours(change.hash()), change)).collect();
        let same = |change: &Change| extracted.get(&change.hash()).is_some_and(|it| it.raw_bytes() == change.bytes());
        applied.iter().find(|change| !same(change)).map(|change| change.hash())
    }
}

/// How much a change is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    /// It has been in this document before.
    Trusted,
    /// It must be admitted, and read back byte for byte.
    Admitted,
}

/// A change's stamp, or zero for a genesis.
fn written_at(meta: &ChangeMetadata<'_>) -> Result<Stamp, DocumentError> {
    let stamp = Stamp::from_raw(meta.timestamp).ok_or(DocumentError::Damaged)?;
    Ok(if is_genesis(meta) { Stamp::ZERO } else { stamp })
}

fn ours(hash: automerge::ChangeHash) -> ChangeHash {
    ChangeHash::from_bytes(hash.0)
}

const fn theirs(hash: ChangeHash) -> automerge::ChangeHash {
    automerge::ChangeHash(*hash.as_bytes())
}
