//! A disk in memory that SQLite writes to: it logs every write and sync, and it fails when it is told to.
//!
//! From the log follow all states in which a power loss may leave the disk: see [`crash`](crate::crash).

mod locks;
mod vfs;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use anabranch_vfs::Code;
use rusqlite::Connection;

use self::locks::{FileLocks, SharedMemory};
use crate::failure::{Failure, broken};

/// The name under which SQLite knows these disks.
const VFS: &str = "anabranch-disk";

/// What stands before the name of a file in whose accesses nothing fails.
pub(crate) const UNHURT: &str = "unhurt/";

/// A file apart from its name, which it may lose.
pub(crate) type Inode = u64;

/// Files by name, as they are on a disk that nobody uses.
pub(crate) type Files = BTreeMap<String, Arc<Vec<u8>>>;

/// What was done to a disk.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Create {
        inode: Inode,
        name: String,
    },
    /// The name is gone; if `sync`, also after a power loss.
    Delete {
        name: String,
        sync: bool,
    },
    Write {
        inode: Inode,
        at: usize,
        bytes: Arc<[u8]>,
    },
    Truncate {
        inode: Inode,
        size: usize,
    },
    Sync {
        inode: Inode,
    },
    /// A sync has failed: what was to reach the disk with it never will, and no later sync tells.
    SyncFailed {
        inode: Inode,
    },
    /// Everything that was reported as done up to here must survive.
    Promise {
        /// The digest of what the file shows to those who have it open; all that is on the disk, if not given.
        shown: Option<[u8; 32]>,
    },
}

/// What can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading.
    Read,
    /// Writing; a half of it is done.
    Write,
    /// Writing that needs room.
    Room,
    /// Syncing; what was written since the last sync does not reach the disk.
    Sync,
    /// Getting memory that connections share.
    Memory,
}

/// From the access with this number on (the first is 0), it fails: once, or until [`Disk::mend`].
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// What fails.
    pub access: Access,
    /// The number of the first that does.
    pub at: u64,
    /// All that follow fail as well.
    pub lasting: bool,
}

/// Syncs that do nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Skipped {
    /// Those of write-ahead logs.
    Logs,
    /// Those of all others.
    Files,
}

/// A disk. Clones are the same disk.
#[derive(Clone)]
pub struct Disk {
    number: u64,
    state: Arc<Mutex<State>>,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("number", &self.number).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    names: BTreeMap<String, Inode>,
    inodes: BTreeMap<Inode, Contents>,
    next: u64,
    log: Vec<Event>,
    recording: bool,
    skipped: Option<Skipped>,
    fault: Option<Fault>,
    /// How many accesses there were since the fault was set.
    accesses: BTreeMap<u8, u64>,
    struck: u64,
}

#[derive(Default)]
struct Contents {
    bytes: Arc<Vec<u8>>,
    /// Temporary files are not on the record.
    named: bool,
    handles: usize,
    locks: FileLocks,
    memory: SharedMemory,
}

static DISKS: LazyLock<Mutex<BTreeMap<u64, Weak<Mutex<State>>>>> = LazyLock::new(Mutex::default);
static NEXT: AtomicU64 = AtomicU64::new(0);

impl Disk {
    /// An empty disk. With `recording`, it logs what is done to it.
    ///
    /// # Errors
    /// If SQLite does not take it.
    pub fn new(recording: bool) -> Result<Self, Failure> {
        Self::holding(&Files::new(), recording)
    }

    /// A disk with these files on it.
    pub(crate) fn holding(files: &Files, recording: bool) -> Result<Self, Failure> {
        static REGISTERED: LazyLock<Result<(), Code>> = LazyLock::new(|| anabranch_vfs::register(VFS, vfs::Disks));
        REGISTERED.map_err(|code| Failure::new(format!("registering the disks: {code:?}")))?;
        let mut state = State { recording, ..State::default() };
        for (name, bytes) in files {
            let inode = state.inode(true);
            state.names.insert(name.clone(), inode);
            if let Some(contents) = state.inodes.get_mut(&inode) {
                contents.bytes = Arc::clone(bytes);
            }
            state.record(Event::Create { inode, name: name.clone() });
            state.record(Event::Write { inode, at: 0, bytes: bytes.as_slice().into() });
            state.record(Event::Sync { inode });
        }
        state.record(Event::Promise { shown: None });
        let (number, state) = (NEXT.fetch_add(1, Ordering::Relaxed), Arc::new(Mutex::new(state)));
        let mut disks = DISKS.lock().unwrap_or_else(PoisonError::into_inner);
        disks.retain(|_, disk| disk.strong_count() > 0);
        disks.insert(number, Arc::downgrade(&state));
        Ok(Self { number, state })
    }

    /// How SQLite opens a file of this disk.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        format!("file:/{}/{name}?vfs={VFS}", self.number).into()
    }

    /// A plain connection to a file of this disk.
    pub(crate) fn connect(&self, name: &str) -> Result<Connection, Failure> {
        Connection::open(self.path(name)).map_err(broken("opening a file on a disk"))
    }

    /// As [`Disk::connect`], for a look at the file in which nothing fails and which is not counted.
    pub(crate) fn connect_unhurt(&self, name: &str) -> Result<Connection, Failure> {
        Connection::open(self.path(&format!("{UNHURT}{name}"))).map_err(broken("looking at a file on a disk"))
    }

    /// Sets what fails from now on; accesses are counted from here.
    pub fn fail(&self, fault: Fault) {
        let mut state = self.lock();
        state.fault = Some(fault);
        state.accesses.clear();
        state.struck = 0;
    }

    /// Nothing fails any more. Returns how often something did.
    pub fn mend(&self) -> u64 {
        let mut state = self.lock();
        state.fault = None;
        std::mem::take(&mut state.struck)
    }

    /// Whether anything has failed since the fault was set.
    pub(crate) fn has_struck(&self) -> bool {
        self.lock().struck > 0
    }

    /// All that was reported as done is promised.
    pub(crate) fn promise(&self, shown: [u8; 32]) {
        self.lock().record(Event::Promise { shown: Some(shown) });
    }

    /// From now on, these syncs do nothing: a planted bug.
    pub(crate) fn skip(&self, skipped: Skipped) {
        self.lock().skipped = Some(skipped);
    }

    /// What is on it now.
    pub(crate) fn files(&self) -> Files {
        let state = self.lock();
        let contents = |inode: &Inode| state.inodes.get(inode).map(|contents| Arc::clone(&contents.bytes));
        state.names.iter().filter_map(|(name, inode)| Some((name.clone(), contents(inode)?))).collect()
    }

    /// The log, which begins with the files that were there and a promise of them.
    pub(crate) fn log(&self) -> Vec<Event> {
        self.lock().log.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Access {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Room, Self::Write, Self::Sync, Self::Memory, Self::Read];
}

impl State {
    fn inode(&mut self, named: bool) -> Inode {
        self.next += 1;
        self.inodes.insert(self.next, Contents { named, ..Contents::default() });
        self.next
    }

    fn record(&mut self, event: Event) {
        if self.recording {
            self.log.push(event);
        }
    }

    /// Counts an access, and says whether it fails.
    fn fails(&mut self, access: Access) -> bool {
        let Some(fault) = self.fault.filter(|fault| fault.access == access) else { return false };
        let count = self.accesses.entry(access as u8).or_default();
        let number = *count;
        *count += 1;
        let fails = if fault.lasting { number >= fault.at } else { number == fault.at };
        self.struck += u64::from(fails);
        fails
    }

    /// Nobody has this file open any more.
    fn release(&mut self, inode: Inode) {
        let named = self.names.values().any(|other| *other == inode);
        if let Some(contents) = self.inodes.get_mut(&inode) {
            contents.handles = contents.handles.saturating_sub(1);
            if contents.handles == 0 && !named {
                self.inodes.remove(&inode);
            }
        }
    }
}
