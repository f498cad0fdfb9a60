//! Taking changes out of a history: the others stay, and those that build on what goes are written again.
//!
//! A change is written again op for op, under an actor derived from the new change itself, on top of what stands
//! for its dependencies, and says in its message which change it was; one that is written again once more still
//! names the change that somebody wrote. What comes out follows from the change and
//! from what comes before it, so every replica that takes out the same writes the same bytes.
//!
//! Ops of a later change may name ops that go. What they mean then:
//! - an insertion moves behind the nearest element that stays: the one behind which the missing one was inserted;
//! - a write or deletion at a key of a map replaces whatever is visible there without what goes;
//! - a write to an element replaces what the missing op had replaced;
//! - what happens inside an object, or to an element, that is gone is dropped, and so is an increment of a counter
//!   that is gone; a change of which no op is left is gone, too;
//! - what is left of an entity whose creation goes is dropped.
//!
//! The birth of a container or counter is nobody's edit. It goes only if nothing that stays puts something there.

mod ops;
mod standing;
mod write;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use automerge::ActorId;

use self::ops::Fates;
use self::standing::{Standing, decode};
use self::write::{Names, Writer, actors, creates};
use super::contain::contained;
use super::error::DocumentError;
use super::note::Note;
use super::{Document, ours};
use crate::change::{Change, Rewrite, rewritten};
use crate::id::{Actor, ChangeHash, Heads};

/// What is to be taken out of an entity's history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// Changes that go for good.
    pub discard: BTreeSet<ChangeHash>,
    /// Changes that are written again under a derived actor: their place in their actor's history is another's.
    pub replace: BTreeSet<ChangeHash>,
    /// Changes that go because the change that they were written from is in the document after all, with that one.
    pub instead: BTreeMap<ChangeHash, ChangeHash>,
}

/// A history without what was taken out.
#[derive(Debug)]
pub struct Rewritten {
    /// The document.
    pub document: Document,
    /// Every change that is gone, dependencies first, with what was written in its place: nothing, one change, or
    /// several if it names more writers than one change may.
    pub changes: Vec<(ChangeHash, Vec<Change>)>,
    /// Those of them that were to be kept and could not be written again, because no form of them is admitted.
    pub lost: Vec<ChangeHash>,
}

impl Removal {
    /// Takes changes out for good.
    #[must_use]
    pub fn discarding(changes: impl IntoIterator<Item = ChangeHash>) -> Self {
        Self { discard: changes.into_iter().collect(), ..Self::default() }
    }

    /// Has changes written again.
    #[must_use]
    pub fn replacing(changes: impl IntoIterator<Item = ChangeHash>) -> Self {
        Self { replace: changes.into_iter().collect(), ..Self::default() }
    }

    /// Whether nothing is to be taken out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.discard.is_empty() && self.replace.is_empty() && self.instead.is_empty()
    }

    fn without(&self, kept: &BTreeSet<ChangeHash>) -> Self {
        Self { discard: self.discard.difference(kept).copied().collect(), ..self.clone() }
    }

    fn names(&self, hash: &ChangeHash) -> bool {
        self.discard.contains(hash) || self.replace.contains(hash) || self.instead.contains_key(hash)
    }
}

impl Document {
    /// The document without some of its changes; those that build on them are written again. Changes that the
    /// document does not have are passed over, and so is a discarded birth of a container that later edits need.
    ///
    /// It costs as much as loading the document, and about as much again for each change that is written again as
    /// applying it.
    ///
    /// # Errors
    /// [`DocumentError`] if the document cannot be read.
    pub fn rewrite(&self, removal: &Removal) -> Result<Rewritten, DocumentError> {
        let all = self.changes_since(&Heads::default())?;
        let removal = &removal.without(&needed_births(&all, removal)?);
        let mut gone = BTreeSet::new();
        let (mut kept, mut affected) = (Vec::new(), Vec::new());
        for change in all {
            let hash = change.hash();
            if removal.names(&hash) || change.dependencies().iter().any(|dependency| gone.contains(dependency)) {
                gone.insert(hash);
                affected.push(change);
            } else {
                kept.push(change);
            }
        }
        let document = Self::load(&self.own_actor()?, None, kept)?;
        let mut rewriter = Rewriter {
            history: self,
            gone,
            document,
            fates: Fates::default(),
            forms: HashMap::new(),
            stand_ins: HashMap::new(),
            renamed: HashMap::new(),
            changes: Vec::new(),
            lost: Vec::new(),
        };
        for change in affected {
            rewriter.take(removal, &change)?;
        }
        let Rewriter { document, changes, lost, .. } = rewriter;
        Ok(Rewritten { document, changes, lost })
    }

    /// The change with which an actor's place in the history is taken.
    #[must_use]
    pub fn written_by(&self, actor: &Actor, seq: u64) -> Option<ChangeHash> {
        if self.past.last_seq(actor.as_bytes()) < seq {
            return None;
        }
        let metas = contained(|| self.automerge.get_changes_meta(&[])).ok()?;
        let found = metas.iter().find(|meta| meta.seq == seq && meta.actor.to_bytes() == actor.as_bytes());
        found.map(|meta| ours(meta.hash))
    }

    /// What the document has of each change that was written again, and under which name.
    #[must_use]
    pub fn rewrites(&self) -> HashMap<Rewrite, ChangeHash> {
        let Ok(metas) = contained(|| self.automerge.get_changes_meta(&[])) else { return HashMap::new() };
        let derived = metas.iter().filter(|meta| meta.actor.to_bytes().first() == Some(&Actor::DERIVED));
        let named = derived.filter_map(|meta| Some((rewritten(meta.message.as_deref()?)?.0, ours(meta.hash))));
        named.collect()
    }
}

/// The births that are to be discarded, and that later edits need.
fn needed_births(all: &[Change], removal: &Removal) -> Result<BTreeSet<ChangeHash>, DocumentError> {
    let is_birth = |change: &&Change| {
        change.actor().is_derived() && change.dependencies().is_empty() && change.rewrite_of().is_none()
    };
    let births = all.iter().filter(|change| removal.discard.contains(&change.hash())).filter(is_birth);
    let births: BTreeMap<ActorId, ChangeHash> =
        births.map(|birth| (ActorId::from(birth.actor().as_bytes()), birth.hash())).collect();
    let mut needed = BTreeSet::new();
    if births.is_empty() {
        return Ok(needed);
    }
    let mut is_born = false;
    for change in all.iter().filter(|change| !removal.discard.contains(&change.hash())) {
        let decoded = decode(change)?;
        is_born |= decoded.operations.iter().any(creates);
        needed.extend(decoded.operations.iter().flat_map(actors).filter_map(|actor| births.get(actor)));
    }
    Ok(if is_born { needed } else { BTreeSet::new() })
}

/// A rewrite under way.
struct Rewriter<'a> {
    /// The history as it was.
    history: &'a Document,
    /// All that is gone from it.
    gone: BTreeSet<ChangeHash>,
    /// What stays, and what has been written again so far.
    document: Document,
    /// What became of the ops of changes that are gone.
    fates: Fates,
    /// Forms that stand, with what has not been found in them yet: another form may have come in several parts.
    forms: HashMap<ChangeHash, Standing>,
    /// What stands for a change that is gone, where others depend on it.
    stand_ins: HashMap<ChangeHash, Vec<ChangeHash>>,
    /// Changes that have another name now.
    renamed: HashMap<ChangeHash, ChangeHash>,
    changes: Vec<(ChangeHash, Vec<Change>)>,
    lost: Vec<ChangeHash>,
}

impl Rewriter<'_> {
    fn take(&mut self, removal: &Removal, change: &Change) -> Result<(), DocumentError> {
        let hash = change.hash();
        let decoded = decode(change)?;
        let dependencies = self.dependencies(change);
        let mut stand_in = dependencies.clone();
        let mut made = Vec::new();
        self.look_up_form(removal.instead.get(&hash))?;
        let form = removal.instead.get(&hash).and_then(|form| self.forms.get_mut(form));
        if let Some(standing) = form {
            standing.take(&mut self.fates, &decoded);
            let last = standing.last();
            self.renamed.insert(hash, last);
            stand_in = self.beside(last, dependencies);
        } else if removal.discard.contains(&hash) || removal.instead.contains_key(&hash) {
            self.fates.lose(&decoded);
        } else {
            let (original, said) = self.names(hash, decoded.message.as_deref().unwrap_or_default());
            let names = Names { original, said };
            let writer = Writer::new(&mut self.document, &mut self.fates, &decoded, names, dependencies);
            if let Some(written) = writer.write()? {
                made = written;
            } else {
                self.lost.push(hash);
                self.fates.lose(&decoded);
                self.build_again()?;
            }
            if let Some(last) = made.last() {
                stand_in = vec![last.hash()];
                self.renamed.insert(hash, last.hash());
            }
        }
        self.stand_ins.insert(hash, stand_in);
        self.changes.push((hash, made));
        Ok(())
    }

    fn look_up_form(&mut self, form: Option<&ChangeHash>) -> Result<(), DocumentError> {
        if let Some(form) = form.filter(|form| !self.forms.contains_key(form))
            && let Some(standing) = Standing::of(&self.document, form)?
        {
            self.forms.insert(*form, standing);
        }
        Ok(())
    }

    /// What stands for a change's dependencies.
    fn dependencies(&self, change: &Change) -> Vec<ChangeHash> {
        let mut mapped = BTreeSet::new();
        for dependency in change.dependencies() {
            match self.stand_ins.get(dependency) {
                Some(instead) => mapped.extend(instead.iter().copied()),
                None => drop(mapped.insert(*dependency)),
            }
        }
        mapped.into_iter().collect()
    }

    /// A form that stands, and what the change depended on that the form does not: what builds on the change may name
    /// that.
    fn beside(&self, form: ChangeHash, dependencies: Vec<ChangeHash>) -> Vec<ChangeHash> {
        let lacks = |dependency: &ChangeHash| !self.document.apart(dependency, &form).0.is_empty();
        [form].into_iter().chain(dependencies.into_iter().filter(lacks)).collect()
    }

    /// The original, and what that said of itself.
    fn names(&self, hash: ChangeHash, message: &str) -> (ChangeHash, String) {
        let (original, said) = rewritten(message).map_or((hash, message), |(rewrite, said)| (rewrite.original, said));
        let renamed = |hash: ChangeHash| self.renamed.get(&hash).copied().unwrap_or(hash);
        let said = match Note::parse(said) {
            Some(Note::Undo(hash)) => Note::Undo(renamed(hash)).to_string(),
            Some(Note::Redo(hash)) => Note::Redo(renamed(hash)).to_string(),
            _ => said.to_owned(),
        };
        (original, said)
    }

    /// The document as it was before a change spoilt it.
    fn build_again(&mut self) -> Result<(), DocumentError> {
        let made = self.changes.iter().flat_map(|(_, made)| made).cloned();
        let kept = self.history.changes_since(&Heads::default())?.into_iter();
        let kept = kept.filter(|change| !self.gone.contains(&change.hash()));
        let changes = kept.chain(made).collect();
        self.document = Document::load(&self.document.own_actor()?, None, changes)?;
        Ok(())
    }
}

impl Document {
    fn own_actor(&self) -> Result<Actor, DocumentError> {
        Actor::from_bytes(self.automerge.get_actor().to_bytes()).ok_or(DocumentError::Damaged)
    }
}
