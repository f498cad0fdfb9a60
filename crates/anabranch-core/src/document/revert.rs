//! Undo and redo: taking back one's own changes, whatever others have written since.
//!
//! No stack is stored. What can be undone is derived from the changes themselves: each undo and redo names the
//! change that it takes back.

mod effects;
mod elements;
mod heirs;
mod inverse;
mod lineage;
mod plan;

use automerge::ChangeMetadata;

use self::inverse::Inverter;
use self::plan::Plan;
use super::contain::contained;
use super::error::{DocumentError, EditError};
use super::history::NewestFirst;
use super::note::Note;
use super::{Document, ours};
use crate::change::Change;
use crate::id::{Actor, ChangeHash};
use crate::schema::Collection;
use crate::stamp::Stamp;

/// How many changes, of which nothing is left to take back, one undo passes over before it gives up. It bounds how
/// long an undo can take.
const MAX_PASSED_OVER: usize = 1_000;

/// One writer's changes that can be taken back, the last of each being the next.
#[derive(Debug, Default)]
struct Stacks {
    done: Vec<ChangeHash>,
    undone: Vec<ChangeHash>,
}

impl Document {
    /// Takes back the last change of the actors that are `mine`, in one change that says so. Taken back again
    /// and again, it goes on to older ones.
    ///
    /// What others have written since, or at the same time, stays: a value that somebody has overwritten is left
    /// alone, as is one beside which others contend; a character that was inserted is deleted wherever it is now, and
    /// one that was deleted comes back where it was. A counter is counted back. Taking back the creation deletes the
    /// entity, unless others have written to it; nor does a deletion come back over what others have written since.
    /// A change of which nothing is left to take back is passed over, as are up to 1,000 in a row.
    ///
    /// Returns that change; nothing if there is nothing to undo.
    ///
    /// # Errors
    /// [`EditError`], such as [`EditError::Rule`] if the entity would break a rule; throw the document away then.
    pub fn undo(
        &mut self,
        collection: &Collection,
        stamp: Stamp,
        mine: &dyn Fn(&Actor, Stamp) -> bool,
    ) -> Result<Vec<Change>, EditError> {
        let done = self.stacks(mine)?.done;
        self.take_back(collection, stamp, mine, done, Note::Undo)
    }

    /// Takes back the last undo of the actors that are `mine`, as long as they have written nothing else since.
    ///
    /// Returns the change that does it; nothing if there is nothing to redo.
    ///
    /// # Errors
    /// As [`Document::undo`].
    pub fn redo(
        &mut self,
        collection: &Collection,
        stamp: Stamp,
        mine: &dyn Fn(&Actor, Stamp) -> bool,
    ) -> Result<Vec<Change>, EditError> {
        let undone = self.stacks(mine)?.undone;
        self.take_back(collection, stamp, mine, undone, Note::Redo)
    }

    fn stacks(&self, mine: &dyn Fn(&Actor, Stamp) -> bool) -> Result<Stacks, DocumentError> {
        self.sound()?;
        contained(|| {
            let metas = self.automerge.get_changes_meta(&[]);
            let mut changes: Vec<_> = metas.iter().filter(|meta| is_own(meta, mine)).collect();
            if changes.iter().all(|meta| meta.actor == changes[0].actor) {
                changes.sort_by_key(|meta| meta.seq);
            } else {
                changes = NewestFirst::new(&metas).filter(|meta| is_own(meta, mine)).collect();
                changes.reverse();
            }
            let mut stacks = Stacks::default();
            for meta in changes {
                stacks.push(ours(meta.hash), meta.message.as_deref().and_then(Note::parse));
            }
            Ok(stacks)
        })?
    }

    /// Takes back the last of some changes of which anything is left.
    fn take_back(
        &mut self,
        collection: &Collection,
        stamp: Stamp,
        mine: &dyn Fn(&Actor, Stamp) -> bool,
        mut changes: Vec<ChangeHash>,
        note: fn(ChangeHash) -> Note,
    ) -> Result<Vec<Change>, EditError> {
        let name = self.collection().ok_or(EditError::NotBorn)?;
        changes.drain(..changes.len().saturating_sub(MAX_PASSED_OVER + 1));
        loop {
            let next = contained(|| {
                let mut inverter = Inverter::new(self, &name, collection, stamp, mine);
                next_plan(&mut inverter, &mut changes)
            })??;
            let Some((hash, plan)) = next else { return Ok(Vec::new()) };
            if let Some(change) = self.transact(stamp, Some(note(hash)), |transaction| plan.write(transaction))? {
                self.check(collection, plan.fields())?;
                return Ok(vec![change]);
            }
        }
    }
}

/// Takes changes from the end, up to one that leaves something to write.
fn next_plan(
    inverter: &mut Inverter<'_>,
    changes: &mut Vec<ChangeHash>,
) -> Result<Option<(ChangeHash, Plan)>, EditError> {
    while let Some(hash) = changes.pop() {
        let plan = inverter.inverse(&hash)?;
        if !plan.is_empty() {
            return Ok(Some((hash, plan)));
        }
    }
    Ok(None)
}

/// Derived actors are nobody's own.
fn is_own(meta: &ChangeMetadata<'_>, mine: &dyn Fn(&Actor, Stamp) -> bool) -> bool {
    let stamp = Stamp::from_raw(meta.timestamp).unwrap_or_default();
    Actor::from_bytes(meta.actor.to_bytes()).is_some_and(|actor| !actor.is_derived() && mine(&actor, stamp))
}

impl Stacks {
    fn push(&mut self, hash: ChangeHash, note: Option<Note>) {
        match note {
            Some(Note::Undo(undone)) => {
                remove_last(&mut self.done, &undone);
                self.undone.push(hash);
            }
            Some(Note::Redo(redone)) => {
                remove_last(&mut self.undone, &redone);
                self.done.push(hash);
            }
            // A marker's document holds nothing else.
            Some(Note::Purge(_)) => {}
            Some(Note::Resolve | Note::Import) | None => {
                self.done.push(hash);
                self.undone.clear();
            }
        }
    }
}

/// What is taken back is mostly the last.
fn remove_last(changes: &mut Vec<ChangeHash>, hash: &ChangeHash) {
    if let Some(at) = changes.iter().rposition(|it| it == hash) {
        changes.remove(at);
    }
}
