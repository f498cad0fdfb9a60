//! The memory that the connections to one file share.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{Ordering, fence};

use rusqlite::ffi::{self, sqlite3_file};

use super::{guarded, number, opened};
use crate::{Code, SlotLock, Vfs, VfsFile};

pub(super) unsafe extern "C" fn shm_map<V: Vfs>(
    file: *mut sqlite3_file,
    region: c_int,
    size: c_int,
    extend: c_int,
    address: *mut *mut c_void,
) -> c_int {
    guarded(|| {
        let (region, size): (usize, usize) = (number(region)?, number(size)?);
        // SAFETY: the file is open.
        let opened = unsafe { opened::<V>(file) };
        let found = opened.file.map(region, size, extend != 0)?;
        if found.as_ref().is_some_and(|region| region.bytes() < size) {
            return Err(Code::SHARED_MEMORY);
        }
        let place = found.as_ref().map_or(ptr::null_mut(), |region| region.address());
        opened.regions.extend(found);
        // SAFETY: SQLite's place for the answer. The region is kept until SQLite says that it is done with it.
        unsafe { *address = place };
        Ok(())
    })
}

pub(super) unsafe extern "C" fn shm_lock<V: Vfs>(
    file: *mut sqlite3_file,
    first: c_int,
    count: c_int,
    flags: c_int,
) -> c_int {
    guarded(|| {
        let how = if flags & ffi::SQLITE_SHM_UNLOCK != 0 {
            SlotLock::Release
        } else if flags & ffi::SQLITE_SHM_SHARED != 0 {
            SlotLock::Share
        } else {
            SlotLock::Own
        };
        let first: usize = number(first)?;
        let end = first + number::<_, usize>(count)?;
        // SAFETY: the file is open.
        unsafe { opened::<V>(file) }.file.lock_slots(first..end, how)
    })
}

pub(super) unsafe extern "C" fn shm_barrier(_: *mut sqlite3_file) {
    fence(Ordering::SeqCst);
}

pub(super) unsafe extern "C" fn shm_unmap<V: Vfs>(file: *mut sqlite3_file, delete: c_int) -> c_int {
    guarded(|| {
        // SAFETY: the file is open.
        let opened = unsafe { opened::<V>(file) };
        opened.regions.clear();
        opened.file.unmap(delete != 0)
    })
}
