//! The disks as SQLite sees them: `/NUMBER/NAME` is a file of the disk with this number.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anabranch_vfs::{Code, Lock, OpenOptions, Region, SlotLock, Vfs, VfsFile};

use super::locks::HandleId;
use super::{Access, Contents, DISKS, Event, Inode, Skipped, State, UNHURT};

/// All disks.
#[derive(Debug)]
pub(super) struct Disks;

/// An open file.
pub(super) struct File {
    disk: Arc<Mutex<State>>,
    inode: Inode,
    id: HandleId,
    is_log: bool,
    /// Nothing fails.
    unhurt: bool,
}

/// A disk, and the name of a file on it.
type Found<'a> = (Arc<Mutex<State>>, &'a str);

fn find(path: &str) -> Option<Found<'_>> {
    let (number, name) = path.strip_prefix('/')?.split_once('/')?;
    let disks = DISKS.lock().unwrap_or_else(PoisonError::into_inner);
    Some((disks.get(&number.parse().ok()?)?.upgrade()?, name.strip_prefix(UNHURT).unwrap_or(name)))
}

fn lock(disk: &Mutex<State>) -> MutexGuard<'_, State> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Vfs for Disks {
    type File = File;

    fn open(&self, path: Option<&str>, options: OpenOptions) -> Result<File, Code> {
        let Some(path) = path else {
            let disk = Arc::default();
            let inode = lock(&disk).inode(false);
            return Ok(File { disk, inode, id: 0, is_log: false, unhurt: true });
        };
        let (disk, name) = find(path).ok_or(Code::CANNOT_OPEN)?;
        let mut state = lock(&disk);
        let inode = match state.names.get(name).copied() {
            Some(_) if options.exclusive => return Err(Code::CANNOT_OPEN),
            Some(inode) => inode,
            None if options.create => {
                let inode = state.inode(true);
                state.names.insert(name.to_owned(), inode);
                state.record(Event::Create { inode, name: name.to_owned() });
                inode
            }
            None => return Err(Code::CANNOT_OPEN),
        };
        state.next += 1;
        let id = state.next;
        if let Some(contents) = state.inodes.get_mut(&inode) {
            contents.handles += 1;
        }
        drop(state);
        Ok(File { disk, inode, id, is_log: name.ends_with("-wal"), unhurt: path.contains(UNHURT) })
    }

    fn delete(&self, path: &str, sync: bool) -> Result<(), Code> {
        let (disk, name) = find(path).ok_or(Code::DELETE)?;
        let mut state = lock(&disk);
        let inode = state.names.remove(name).ok_or(Code::DELETE_NOTHING)?;
        if state.inodes.get(&inode).is_some_and(|contents| contents.handles == 0) {
            state.inodes.remove(&inode);
        }
        state.record(Event::Delete { name: name.to_owned(), sync });
        Ok(())
    }

    fn exists(&self, path: &str) -> Result<bool, Code> {
        let Some((disk, name)) = find(path) else { return Ok(false) };
        let state = lock(&disk);
        // An empty file is as good as none, also to SQLite's own VFS.
        let contents = state.names.get(name).and_then(|inode| state.inodes.get(inode));
        Ok(contents.is_some_and(|contents| !contents.bytes.is_empty()))
    }
}

impl File {
    fn with<T>(&self, code: Code, work: impl FnOnce(&mut Contents) -> T) -> Result<T, Code> {
        lock(&self.disk).inodes.get_mut(&self.inode).map(work).ok_or(code)
    }

    fn fails(&self, state: &mut State, access: Access) -> bool {
        !self.unhurt && state.fails(access)
    }

    /// Writes without asking.
    fn put(state: &mut State, inode: Inode, at: usize, bytes: &[u8]) -> Result<(), Code> {
        let contents = state.inodes.get_mut(&inode).ok_or(Code::WRITE)?;
        let named = contents.named;
        let all = Arc::make_mut(&mut contents.bytes);
        let end = at.checked_add(bytes.len()).ok_or(Code::WRITE)?;
        if all.len() < end {
            all.resize(end, 0);
        }
        all[at..end].copy_from_slice(bytes);
        if named {
            state.record(Event::Write { inode, at, bytes: bytes.into() });
        }
        Ok(())
    }
}

impl VfsFile for File {
    fn read(&mut self, at: u64, buffer: &mut [u8]) -> Result<usize, Code> {
        let at = usize::try_from(at).map_err(|_| Code::READ)?;
        if self.fails(&mut lock(&self.disk), Access::Read) {
            return Err(Code::READ);
        }
        self.with(Code::READ, |contents| {
            let there = contents.bytes.get(at..).unwrap_or_default();
            let size = there.len().min(buffer.len());
            buffer[..size].copy_from_slice(&there[..size]);
            size
        })
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), Code> {
        let at = usize::try_from(at).map_err(|_| Code::WRITE)?;
        let mut state = lock(&self.disk);
        let size = state.inodes.get(&self.inode).map_or(0, |contents| contents.bytes.len());
        let needs_room = at.saturating_add(bytes.len()) > size;
        if needs_room && self.fails(&mut state, Access::Room) {
            return Err(Code::FULL);
        }
        if self.fails(&mut state, Access::Write) {
            Self::put(&mut state, self.inode, at, &bytes[..bytes.len() / 2])?;
            return Err(Code::WRITE);
        }
        Self::put(&mut state, self.inode, at, bytes)
    }

    fn truncate(&mut self, size: u64) -> Result<(), Code> {
        let size = usize::try_from(size).map_err(|_| Code::TRUNCATE)?;
        let mut state = lock(&self.disk);
        if self.fails(&mut state, Access::Write) {
            return Err(Code::TRUNCATE);
        }
        let contents = state.inodes.get_mut(&self.inode).ok_or(Code::TRUNCATE)?;
        Arc::make_mut(&mut contents.bytes).resize(size, 0);
        if contents.named {
            state.record(Event::Truncate { inode: self.inode, size });
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Code> {
        let mut state = lock(&self.disk);
        let named = state.inodes.get(&self.inode).is_some_and(|contents| contents.named);
        if self.fails(&mut state, Access::Sync) {
            if named {
                state.record(Event::SyncFailed { inode: self.inode });
            }
            return Err(Code::SYNC);
        }
        let kind = if self.is_log { Skipped::Logs } else { Skipped::Files };
        if named && state.skipped != Some(kind) {
            state.record(Event::Sync { inode: self.inode });
        }
        Ok(())
    }

    fn size(&mut self) -> Result<u64, Code> {
        let size = self.with(Code::SIZE, |contents| contents.bytes.len())?;
        u64::try_from(size).map_err(|_| Code::SIZE)
    }

    fn lock(&mut self, level: Lock) -> Result<(), Code> {
        self.with(Code::READ, |contents| contents.locks.take(self.id, level))?
    }

    fn unlock(&mut self, level: Lock) -> Result<(), Code> {
        self.with(Code::READ, |contents| contents.locks.give_back(self.id, level))
    }

    fn is_reserved(&mut self) -> Result<bool, Code> {
        self.with(Code::READ, |contents| contents.locks.is_reserved())
    }

    fn map(&mut self, number: usize, size: usize, make: bool) -> Result<Option<Arc<Region>>, Code> {
        if self.fails(&mut lock(&self.disk), Access::Memory) {
            return Err(Code::SHARED_MEMORY);
        }
        self.with(Code::SHARED_MEMORY, |contents| contents.memory.map(self.id, number, size, make))
    }

    fn lock_slots(&mut self, slots: Range<usize>, how: SlotLock) -> Result<(), Code> {
        self.with(Code::SHARED_MEMORY, |contents| contents.memory.lock(self.id, slots, how))?
    }

    fn unmap(&mut self, _delete: bool) -> Result<(), Code> {
        self.with(Code::SHARED_MEMORY, |contents| contents.memory.leave(self.id))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let mut state = lock(&self.disk);
        if let Some(contents) = state.inodes.get_mut(&self.inode) {
            contents.locks.give_back(self.id, Lock::None);
            contents.memory.leave(self.id);
        }
        state.release(self.inode);
    }
}
