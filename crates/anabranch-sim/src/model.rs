//! The checkers' own simple idea of what is true: sets of changes, and who promised what.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anabranch_core::sync::LogRow;
use anabranch_core::wire::{Answer, Envelope};
use anabranch_core::{CollectionName, EntityId, SpaceName};
use sha2::{Digest as _, Sha256};

use crate::failure::{Failure, ensure};
use crate::file::is_marker;
use crate::history::Histories;
use crate::hostile::name_of;

/// A change's hash, computed here.
pub(crate) type Hash = [u8; 32];
/// A change is unique per space, entity and hash.
pub(crate) type Item = (SpaceName, EntityId, Hash);

/// The hash of a change chunk: over all of it after magic and checksum.
pub(crate) fn hash_of(change: &[u8]) -> Hash {
    Sha256::digest(change.get(8..).unwrap_or_default()).into()
}

/// What one local write did, as far as the checkers follow it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Effect {
    /// Added to the entity's counter.
    pub(crate) increment: i64,
    /// Characters inserted into its text.
    pub(crate) characters: usize,
    /// Elements inserted into its list.
    pub(crate) elements: usize,
}

/// What is known to be true.
#[derive(Debug, Default)]
pub(crate) struct Model {
    /// Every change whose write was reported as committed, with what it did.
    pub(crate) written: BTreeMap<Item, Effect>,
    /// Changes that the server has said it has.
    pub(crate) acknowledged: BTreeSet<Item>,
    /// What each change that was ever pushed has named as its parent, if anything: not every wish for order can be met.
    parents: HashMap<Item, BTreeSet<Option<EntityId>>>,
    /// Changes that were ever stored in a server's log.
    stored: BTreeSet<Item>,
    /// Entities that a server has ever agreed to purge.
    purged: BTreeSet<(SpaceName, EntityId)>,
    /// Changes that intruders have made.
    pub(crate) forged: BTreeSet<Item>,
    /// Changes that went down with the only disks that held them.
    pub(crate) lost: BTreeSet<Item>,
    /// The collections of entities, in fleets with subsets.
    pub(crate) collections: HashMap<(SpaceName, EntityId), CollectionName>,
    /// What becomes of what is taken out.
    pub(crate) histories: Histories,
}

impl Model {
    pub(crate) fn note_stored(&mut self, space: &SpaceName, rows: &[LogRow], added: usize) {
        for row in &rows[rows.len() - added..] {
            self.stored.insert((space.clone(), row.offered.entity, hash_of(row.offered.change.bytes())));
            if is_marker(row.offered.change.bytes()) {
                self.purged.insert((space.clone(), row.offered.entity));
            }
        }
    }

    /// Whether a server has ever agreed to purge the entity of a change.
    pub(crate) fn was_purged(&self, item: &Item) -> bool {
        self.purged.contains(&(item.0.clone(), item.1))
    }

    pub(crate) fn was_stored(&self, item: &Item) -> bool {
        self.stored.contains(item)
    }

    /// A push says which entities must be in the log first.
    pub(crate) fn note_parents(&mut self, space: &SpaceName, changes: &[Envelope]) {
        for envelope in changes {
            let parent = envelope.parent.filter(|parent| *parent != envelope.entity);
            let item = (space.clone(), envelope.entity, hash_of(&envelope.change));
            self.parents.entry(item).or_default().insert(parent);
        }
    }

    pub(crate) fn note_answers(
        &mut self,
        space: &SpaceName,
        names: &[(EntityId, Hash)],
        answers: &[Answer],
    ) -> Result<(), Failure> {
        ensure(names.len() == answers.len(), || "a push was answered with the wrong number of answers".to_owned())?;
        for ((entity, hash), answer) in names.iter().zip(answers) {
            if matches!(answer, Answer::Accepted { .. } | Answer::Duplicate { .. }) {
                self.acknowledged.insert((space.clone(), *entity, *hash));
            }
        }
        Ok(())
    }

    /// Whether one of those who have pushed a change has named no parent, or one that fits.
    pub(crate) fn has_parent(&self, item: &Item, mut fits: impl FnMut(&EntityId) -> bool) -> bool {
        let mut fits = |parent: &Option<EntityId>| parent.as_ref().is_none_or(&mut fits);
        self.parents.get(item).is_none_or(|parents| parents.iter().any(&mut fits))
    }

    pub(crate) fn note_forged(&mut self, space: &SpaceName, forged: &Envelope) {
        self.forged.insert(name_of(space, forged));
    }

    pub(crate) fn is_forged(&self, item: &Item) -> bool {
        self.forged.contains(item)
    }

    /// Whatever is fed to a client was stored in just this space.
    pub(crate) fn check_feed(&self, space: &SpaceName, changes: &[Envelope]) -> Result<(), Failure> {
        changes.iter().try_for_each(|envelope| {
            let item = (space.clone(), envelope.entity, hash_of(&envelope.change));
            ensure(self.stored.contains(&item), || {
                format!("a change of entity {} was fed to space {space}, where it was never stored", envelope.entity)
            })
        })
    }

    /// The server's disk was replaced by one that holds just this.
    pub(crate) fn server_holds_only(&mut self, held: &BTreeSet<Item>) {
        self.acknowledged.retain(|item| held.contains(item));
    }
}
