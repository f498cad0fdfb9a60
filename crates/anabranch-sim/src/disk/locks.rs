//! Who may read and write: SQLite's locks on a file, and on the memory that its connections share.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use anabranch_vfs::{Code, Lock, Region, SlotLock};

/// An open file.
pub(super) type HandleId = u64;

#[derive(Debug, Default)]
pub(super) struct FileLocks {
    shared: BTreeSet<HandleId>,
    /// Who is about to write, and how close it is to doing so.
    writer: Option<(HandleId, Level)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Reserved,
    Pending,
    Exclusive,
}

impl FileLocks {
    pub(super) fn take(&mut self, who: HandleId, level: Lock) -> Result<(), Code> {
        let other_writer = self.writer.filter(|(writer, _)| *writer != who);
        match level {
            Lock::None => {}
            Lock::Shared => {
                if other_writer.is_some_and(|(_, level)| level >= Level::Pending) {
                    return Err(Code::BUSY);
                }
                self.shared.insert(who);
            }
            _ if other_writer.is_some() => return Err(Code::BUSY),
            Lock::Reserved => self.raise(who, Level::Reserved),
            Lock::Pending => self.raise(who, Level::Pending),
            Lock::Exclusive => {
                self.raise(who, Level::Pending);
                if self.shared.iter().any(|reader| *reader != who) {
                    return Err(Code::BUSY);
                }
                self.raise(who, Level::Exclusive);
            }
        }
        Ok(())
    }

    fn raise(&mut self, who: HandleId, level: Level) {
        let held = self.writer.map_or(level, |(_, held)| held.max(level));
        self.writer = Some((who, held));
    }

    pub(super) fn give_back(&mut self, who: HandleId, level: Lock) {
        if level <= Lock::Shared {
            self.writer = self.writer.filter(|(writer, _)| *writer != who);
        }
        if level == Lock::None {
            self.shared.remove(&who);
        }
    }

    pub(super) const fn is_reserved(&self) -> bool {
        self.writer.is_some()
    }
}

/// The memory that a file's connections share, and the locks on it.
#[derive(Debug, Default)]
pub(super) struct SharedMemory {
    regions: Vec<Arc<Region>>,
    slots: [Slot; 8],
    users: BTreeSet<HandleId>,
}

#[derive(Debug, Default)]
struct Slot {
    shared: BTreeSet<HandleId>,
    owner: Option<HandleId>,
}

impl SharedMemory {
    pub(super) fn map(&mut self, who: HandleId, number: usize, size: usize, make: bool) -> Option<Arc<Region>> {
        self.users.insert(who);
        while make && self.regions.len() <= number {
            self.regions.push(Arc::new(Region::new(size)));
        }
        self.regions.get(number).cloned()
    }

    pub(super) fn lock(&mut self, who: HandleId, slots: Range<usize>, how: SlotLock) -> Result<(), Code> {
        let slots = self.slots.get_mut(slots).ok_or(Code::SHARED_MEMORY)?;
        let in_the_way = |slot: &Slot| match how {
            SlotLock::Release => false,
            SlotLock::Share => slot.owner.is_some_and(|owner| owner != who),
            SlotLock::Own => {
                slot.owner.is_some_and(|owner| owner != who) || slot.shared.iter().any(|other| *other != who)
            }
        };
        if slots.iter().any(in_the_way) {
            return Err(Code::BUSY);
        }
        for slot in slots {
            match how {
                SlotLock::Share => {
                    slot.shared.insert(who);
                }
                SlotLock::Own => slot.owner = Some(who),
                SlotLock::Release => slot.release(who),
            }
        }
        Ok(())
    }

    /// Its last user takes the memory along.
    pub(super) fn leave(&mut self, who: HandleId) {
        self.users.remove(&who);
        self.slots.iter_mut().for_each(|slot| slot.release(who));
        if self.users.is_empty() {
            self.regions.clear();
        }
    }
}

impl Slot {
    fn release(&mut self, who: HandleId) {
        self.shared.remove(&who);
        self.owner = self.owner.filter(|owner| *owner != who);
    }
}
