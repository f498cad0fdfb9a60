//! SQLite's interface to the file system (its *VFS*) as safe traits: [`Vfs`] opens, and [`VfsFile`] reads, writes,
//! syncs and locks.
//!
//! The tests put a disk behind it that remembers what was synced and what was not, and that fails when it is told
//! to. This is the one crate of the workspace with unsafe code, and nothing but tests depends on it.

mod binding;
mod region;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use rusqlite::ffi;

pub use binding::{keep_no_memory_statistics, register};
pub use region::Region;

/// An error code of SQLite's.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(i32);

impl Code {
    /// Somebody else holds the lock.
    pub const BUSY: Self = Self(ffi::SQLITE_BUSY);
    /// There is no such file.
    pub const CANNOT_OPEN: Self = Self(ffi::SQLITE_CANTOPEN);
    /// The disk is full.
    pub const FULL: Self = Self(ffi::SQLITE_FULL);
    /// There is no such file to delete.
    pub const DELETE_NOTHING: Self = Self(ffi::SQLITE_IOERR_DELETE_NOENT);
    /// Deleting failed.
    pub const DELETE: Self = Self(ffi::SQLITE_IOERR_DELETE);
    /// Syncing failed.
    pub const SYNC: Self = Self(ffi::SQLITE_IOERR_FSYNC);
    /// Reading failed.
    pub const READ: Self = Self(ffi::SQLITE_IOERR_READ);
    /// Shared memory cannot be had.
    pub const SHARED_MEMORY: Self = Self(ffi::SQLITE_IOERR_SHMMAP);
    /// The file's size cannot be told.
    pub const SIZE: Self = Self(ffi::SQLITE_IOERR_FSTAT);
    /// Truncating failed.
    pub const TRUNCATE: Self = Self(ffi::SQLITE_IOERR_TRUNCATE);
    /// Writing failed.
    pub const WRITE: Self = Self(ffi::SQLITE_IOERR_WRITE);
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Code({}: {})", self.0, ffi::code_to_str(self.0))
    }
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// It is made if it is not there.
    pub create: bool,
    /// It must not be there.
    pub exclusive: bool,
    /// Nobody writes to it.
    pub read_only: bool,
}

/// The locks on a database file, each above the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lock {
    /// None.
    None,
    /// To read; many may.
    Shared,
    /// To write soon; one may, beside readers.
    Reserved,
    /// To write at once; no new readers come.
    Pending,
    /// To write; alone.
    Exclusive,
}

/// A change of the locks on shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotLock {
    /// Take, as one of many.
    Share,
    /// Take, alone.
    Own,
    /// Give back what was taken.
    Release,
}

/// A file system.
pub trait Vfs: Send + Sync + 'static {
    /// An open file.
    type File: VfsFile;

    /// Opens a file; one without a path is temporary.
    ///
    /// # Errors
    /// The code that SQLite is given.
    fn open(&self, path: Option<&str>, options: OpenOptions) -> Result<Self::File, Code>;

    /// Deletes a file; if `sync`, that is on the disk when it returns.
    ///
    /// # Errors
    /// The code that SQLite is given.
    fn delete(&self, path: &str, sync: bool) -> Result<(), Code>;

    /// Whether there is such a file.
    ///
    /// # Errors
    /// The code that SQLite is given.
    fn exists(&self, path: &str) -> Result<bool, Code>;
}

/// An open file, closed when it is dropped. Every error is the code that SQLite is given.
pub trait VfsFile: Send + 'static {
    /// Reads, and returns how much there was.
    ///
    /// # Errors
    /// See [`VfsFile`].
    fn read(&mut self, at: u64, buffer: &mut [u8]) -> Result<usize, Code>;
    /// Writes all of it.
    ///
    /// # Errors
    /// See [`VfsFile`].
    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), Code>;
    /// Makes it this long.
    ///
    /// # Errors
    /// See [`VfsFile`].
    fn truncate(&mut self, size: u64) -> Result<(), Code>;
    /// Returns when all that was written is on the disk.
    ///
    /// # Errors
    /// See [`VfsFile`].
    fn sync(&mut self) -> Result<(), Code>;
    /// How long it is.
    ///
    /// # Errors
    /// See [`VfsFile`].
    fn size(&mut self) -> Result<u64, Code>;
    /// Takes a lock above the one held.
    ///
    /// # Errors
    /// [`Code::BUSY`] if somebody else is in the way.
    fn lock(&mut self, level: Lock) -> Result<(), Code>;
    /// Goes back to a lower lock.
    ///
    /// # Errors
    /// See [`VfsFile`].
    fn unlock(&mut self, level: Lock) -> Result<(), Code>;
    /// Whether anybody is about to write.
    ///
    /// # Errors
    /// See [`VfsFile`].
    fn is_reserved(&mut self) -> Result<bool, Code>;
    /// A region of the memory that all who have opened this file share. `None` if it is not there and is not to be
    /// made.
    ///
    /// # Errors
    /// See [`VfsFile`].
    fn map(&mut self, number: usize, size: usize, make: bool) -> Result<Option<Arc<Region>>, Code>;
    /// Changes locks on that memory.
    ///
    /// # Errors
    /// [`Code::BUSY`] if somebody else is in the way.
    fn lock_slots(&mut self, slots: Range<usize>, how: SlotLock) -> Result<(), Code>;
    /// Is done with that memory; if `delete`, so is everybody.
    ///
    /// # Errors
    /// See [`VfsFile`].
    fn unmap(&mut self, delete: bool) -> Result<(), Code>;
}
