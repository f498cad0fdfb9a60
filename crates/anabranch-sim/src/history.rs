//! What becomes of changes that are taken out of a history: the checkers' own idea of it.
//!
//! What somebody has discarded need not be anywhere. What was written on top of that may be there under another name, as
//! a *form* of what was written, and says the same: every value that was put, and every character and element that was
//! inserted, but for what is inside of something that has gone.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use automerge::Change;
use automerge::legacy::{Key, ObjectId, OpType};

use crate::failure::{Failure, ensure};
use crate::model::{Hash, Item};

/// The root's key that makes an entity.
const CREATION: &str = "$collection";
/// The first byte of the actors of geneses and forms.
const DERIVED: u8 = 0xA7;

/// The changes of a run, and what people have decided about them.
#[derive(Debug, Default)]
pub(crate) struct Histories {
    changes: HashMap<Item, Vec<u8>>,
    /// What each form was written from.
    originals: HashMap<Item, Hash>,
    /// What was given up, and what that was written from.
    discarded: BTreeSet<Item>,
    /// What has been written from again.
    written_again: BTreeSet<Item>,
    /// Clients may fork their own histories, having dropped an entity and made it again.
    pub(crate) may_fork: bool,
}

impl Histories {
    /// A change was written, by a person or in place of another.
    pub(crate) fn note(&mut self, item: &Item, bytes: &[u8]) {
        if self.changes.contains_key(item) {
            return;
        }
        self.changes.insert(item.clone(), bytes.to_vec());
        if let Some(original) = written_from(bytes) {
            self.originals.insert(item.clone(), original);
            self.written_again.insert((item.0.clone(), item.1, original));
        }
    }

    pub(crate) fn note_discarded(&mut self, item: &Item) {
        self.discarded.insert(self.original(item));
        self.discarded.insert(item.clone());
    }

    /// Whether anything was ever given up.
    pub(crate) fn has_discards(&self) -> bool {
        !self.discarded.is_empty()
    }

    /// Whether there may be changes that were written again.
    pub(crate) fn has_forms(&self) -> bool {
        self.has_discards() || self.may_fork
    }

    /// What a change was written from, or the change itself.
    pub(crate) fn original(&self, item: &Item) -> Item {
        self.originals.get(item).map_or_else(|| item.clone(), |hash| (item.0.clone(), item.1, *hash))
    }

    /// These changes, and what they were written from.
    pub(crate) fn with_originals(&self, mut items: BTreeSet<Item>) -> BTreeSet<Item> {
        let originals: Vec<Item> = items.iter().filter(|item| self.originals.contains_key(item)).cloned().collect();
        items.extend(originals.iter().map(|item| self.original(item)));
        items
    }

    /// Whether a change may be gone: it was given up, or had to be written again, or builds on such a one.
    pub(crate) fn may_go(&self, item: &Item) -> bool {
        let goes = |past: &Item| self.discarded.contains(past) || (self.may_fork && self.written_again.contains(past));
        self.has_forms() && self.past(item).iter().any(goes)
    }

    /// Of changes that are gone, what was not given up is there in another form, and that says the same.
    pub(crate) fn check_gone<'a>(
        &self,
        gone: impl IntoIterator<Item = &'a Item>,
        there: &BTreeSet<Item>,
    ) -> Result<(), Failure> {
        let mut forms: HashMap<Item, Vec<&Item>> = HashMap::new();
        for item in there.iter().filter(|item| self.originals.contains_key(item)) {
            forms.entry(self.original(item)).or_default().push(item);
        }
        for item in gone {
            let original = self.original(item);
            if there.contains(&original) || self.discarded.contains(&original) || self.is_unborn(item) {
                continue;
            }
            let mut said: BTreeMap<String, usize> = BTreeMap::new();
            for form in forms.get(&original).into_iter().flatten() {
                self.change(form).iter().flat_map(says).for_each(|it| *said.entry(it).or_default() += 1);
            }
            for it in self.change(&original).or_else(|| self.change(item)).iter().flat_map(says) {
                let left = said.get_mut(&it).filter(|left| **left > 0);
                ensure(left.is_some(), || {
                    format!("a change of entity {} was written again without what it said: {it}", item.1)
                })?;
                left.into_iter().for_each(|left| *left -= 1);
            }
        }
        Ok(())
    }

    /// Each change is there once: as it was written, or in one form.
    pub(crate) fn check_once(&self, there: &BTreeSet<Item>) -> Result<(), Failure> {
        let mut parts = BTreeSet::new();
        for item in there.iter().filter(|item| self.originals.contains_key(item)) {
            let original = self.original(item);
            ensure(!there.contains(&original), || format!("a change of entity {} is there twice", item.1))?;
            let message = self.change(item).and_then(|change| change.message().map(str::to_owned)).unwrap_or_default();
            let name = message.split(' ').nth(1).unwrap_or_default().to_owned();
            ensure(parts.insert((original, name)), || format!("a change of entity {} has two forms", item.1))?;
        }
        Ok(())
    }

    /// What it was written on has lost its creation.
    fn is_unborn(&self, item: &Item) -> bool {
        let past = self.past(item);
        let is_creation = |item: &&Item| self.change(item).is_some_and(|change| creates(&change));
        let (gone, left): (Vec<&Item>, Vec<&Item>) =
            past.iter().filter(is_creation).partition(|item| self.discarded.contains(*item));
        !gone.is_empty() && left.is_empty()
    }

    /// A change with all that it builds on, and what that was written from.
    fn past(&self, item: &Item) -> HashSet<Item> {
        let (mut past, mut open) = (HashSet::new(), vec![item.clone()]);
        while let Some(item) = open.pop() {
            if past.contains(&item) {
                continue;
            }
            let change = self.change(&item);
            let dependencies = change.iter().flat_map(|change| change.deps().iter());
            open.extend(dependencies.map(|hash| (item.0.clone(), item.1, hash.0)));
            open.push(self.original(&item));
            past.insert(item);
        }
        past
    }

    /// Whether the change is the birth of a container or counter.
    pub(crate) fn is_birth(&self, item: &Item) -> bool {
        self.change(item).is_some_and(|change| {
            let derived = change.actor_id().to_bytes().first() == Some(&DERIVED);
            derived && change.deps().is_empty() && change.timestamp() == 0 && !self.originals.contains_key(item)
        })
    }

    fn change(&self, item: &Item) -> Option<Change> {
        Change::from_bytes(self.changes.get(item)?.clone()).ok()
    }
}

/// The change that this one was written from, by what its message says.
pub(crate) fn written_from(bytes: &[u8]) -> Option<Hash> {
    const NOTE: &[u8] = b"$rewrite ";
    bytes.windows(NOTE.len()).position(|part| part == NOTE)?;
    let change = Change::from_bytes(bytes.to_vec()).ok()?;
    let name = change.message()?.strip_prefix("$rewrite ")?.get(..64)?.to_owned();
    let digit = |at: usize| u8::from_str_radix(name.get(at..at + 2)?, 16).ok();
    let bytes: Vec<u8> = (0..64).step_by(2).map_while(digit).collect();
    bytes.try_into().ok()
}

fn creates(change: &Change) -> bool {
    let is_creation = |key: &Key| matches!(key, Key::Map(key) if key == CREATION);
    change.decode().operations.iter().any(|op| op.obj == ObjectId::Root && is_creation(&op.key))
}

/// What a change puts and inserts, if that does not depend on what others have put somewhere.
fn says(change: &Change) -> Vec<String> {
    let change = change.decode();
    let mut own = HashSet::new();
    let mut said = Vec::new();
    for (op, counter) in change.operations.iter().zip(change.start_op.get()..) {
        let place = match &op.obj {
            ObjectId::Root => "the entity".to_owned(),
            ObjectId::Id(id) if id.1 == change.actor_id && own.contains(&id.0) => "something new".to_owned(),
            // A container or counter is its genesis' first op.
            ObjectId::Id(id) if id.0 == 1 && id.1.to_bytes().first() == Some(&DERIVED) => format!("{:?}", id.1),
            ObjectId::Id(_) => continue,
        };
        let made = matches!(op.action, OpType::Put(_) | OpType::Make(_));
        match &op.key {
            _ if !made => continue,
            _ if op.insert => said.push(format!("{:?} in {place}", op.action)),
            Key::Map(key) => said.push(format!("{:?} at {key} of {place}", op.action)),
            Key::Seq(_) => continue,
        }
        own.insert(counter);
    }
    said
}
