//! Memory that connections share.

use std::ffi::c_void;
use std::sync::atomic::AtomicU64;

/// A region of memory that SQLite's connections to one file share. Nothing in Rust reads it.
#[derive(Debug)]
pub struct Region(Box<[AtomicU64]>);

impl Region {
    /// A region of zeros, of at least `bytes`.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self((0..bytes.div_ceil(size_of::<u64>())).map(|_| AtomicU64::new(0)).collect())
    }

    /// Where it is. Writing there is sound through `&self`: atomics are cells.
    pub(crate) fn address(&self) -> *mut c_void {
        self.0.as_ptr().cast_mut().cast()
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.0)
    }
}
