//! The C functions that SQLite calls, each a thin shell around one of the traits' methods.
//!
//! What holds them together: a file that SQLite has opened is a [`Handle`] in memory of SQLite's, which owns an
//! [`Opened`] from `xOpen` to `xClose`; the registered VFS and its methods live as long as the process. SQLite
//! calls no method of a file after closing it, and never two at once on one file.

mod shared;

use std::any::Any;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::slice;
use std::sync::Arc;

use rusqlite::ffi::{self, sqlite3_file, sqlite3_int64, sqlite3_io_methods, sqlite3_vfs};

use crate::{Code, Lock, OpenOptions, Region, Vfs, VfsFile};

use self::shared::{shm_barrier, shm_lock, shm_map, shm_unmap};

/// What is written replaces nothing beside it, not even in the same sector: what SQLite assumes of disks by default.
const CHARACTERISTICS: c_int = ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE;
/// As SQLite's own VFS for Unix.
const SECTOR_BYTES: c_int = 4_096;
const LONGEST_PATH: c_int = 512;

/// What SQLite knows a file by. `sqlite3_file` comes first: SQLite sees nothing else.
#[repr(C)]
struct Handle<F> {
    base: sqlite3_file,
    opened: *mut Opened<F>,
}

struct Opened<F> {
    file: F,
    /// Kept as long as SQLite may write to them.
    regions: Vec<Arc<Region>>,
}

struct Registered<V> {
    vfs: V,
    methods: sqlite3_io_methods,
    /// Time, sleep and randomness are the default VFS's.
    base: *mut sqlite3_vfs,
}

/// Registers a file system under a name, for as long as the process lives. A database in it is opened as
/// `file:PATH?vfs=NAME`.
///
/// # Errors
/// SQLite's code.
pub fn register<V: Vfs>(name: &str, vfs: V) -> Result<(), Code> {
    let name = CString::new(name).map_err(|_| Code(ffi::SQLITE_MISUSE))?;
    // SAFETY: finding the default VFS has no conditions.
    let base = unsafe { ffi::sqlite3_vfs_find(ptr::null()) };
    if base.is_null() {
        return Err(Code(ffi::SQLITE_ERROR));
    }
    let data = Box::into_raw(Box::new(Registered { vfs, methods: methods::<V>(), base }));
    let registered = Box::into_raw(Box::new(sqlite3_vfs {
        iVersion: 2,
        szOsFile: c_int::try_from(size_of::<Handle<V::File>>()).map_err(|_| Code(ffi::SQLITE_ERROR))?,
        mxPathname: LONGEST_PATH,
        pNext: ptr::null_mut(),
        zName: name.into_raw(),
        pAppData: data.cast(),
        xOpen: Some(open::<V>),
        xDelete: Some(delete::<V>),
        xAccess: Some(access::<V>),
        xFullPathname: Some(full_pathname),
        xDlOpen: None,
        xDlError: None,
        xDlSym: None,
        xDlClose: None,
        xRandomness: Some(randomness::<V>),
        xSleep: Some(sleep::<V>),
        xCurrentTime: Some(current_time::<V>),
        xGetLastError: None,
        xCurrentTimeInt64: Some(current_time_int64::<V>),
        xSetSystemCall: None,
        xGetSystemCall: None,
        xNextSystemCall: None,
    }));
    // SAFETY: the structure and all that it points to are never freed.
    check(unsafe { ffi::sqlite3_vfs_register(registered, 0) })
}

/// Has SQLite keep no statistics of its memory, in the whole process: every allocation takes a lock for them that all
/// threads share. For the beginning of `main`: nothing else may use SQLite meanwhile.
///
/// # Errors
/// SQLite's code, if it has been used already; then nothing changes.
pub fn keep_no_memory_statistics() -> Result<(), Code> {
    // SAFETY: the option takes one integer. That nothing else uses SQLite is what is asked of the caller; whoever has
    // used it before is refused.
    check(unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_MEMSTATUS, 0 as c_int) })
}

fn methods<V: Vfs>() -> sqlite3_io_methods {
    sqlite3_io_methods {
        iVersion: 2,
        xClose: Some(close::<V>),
        xRead: Some(read::<V>),
        xWrite: Some(write::<V>),
        xTruncate: Some(truncate::<V>),
        xSync: Some(sync::<V>),
        xFileSize: Some(file_size::<V>),
        xLock: Some(lock::<V>),
        xUnlock: Some(unlock::<V>),
        xCheckReservedLock: Some(check_reserved_lock::<V>),
        xFileControl: Some(file_control),
        xSectorSize: Some(sector_size),
        xDeviceCharacteristics: Some(device_characteristics),
        xShmMap: Some(shm_map::<V>),
        xShmLock: Some(shm_lock::<V>),
        xShmBarrier: Some(shm_barrier),
        xShmUnmap: Some(shm_unmap::<V>),
        xFetch: None,
        xUnfetch: None,
    }
}

fn check(code: c_int) -> Result<(), Code> {
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(Code(code)) }
}

/// No panic may pass through C.
fn guarded(work: impl FnOnce() -> Result<(), Code>) -> c_int {
    let result: Result<_, Box<dyn Any + Send>> = catch_unwind(AssertUnwindSafe(work));
    match result {
        Ok(Ok(())) => ffi::SQLITE_OK,
        Ok(Err(code)) => code.0,
        Err(_) => ffi::SQLITE_INTERNAL,
    }
}

fn number<A, B: TryFrom<A>>(from: A) -> Result<B, Code> {
    B::try_from(from).map_err(|_| Code(ffi::SQLITE_MISUSE))
}

/// # Safety
/// `vfs` is one that [`register`] has registered for `V`.
unsafe fn registered<'a, V>(vfs: *mut sqlite3_vfs) -> &'a Registered<V> {
    // SAFETY: both are never freed, and only ever shared.
    unsafe { &*(*vfs).pAppData.cast::<Registered<V>>() }
}

/// # Safety
/// `file` was opened by [`open`] for `V` and is not closed; nothing else refers to it during the call.
unsafe fn opened<'a, V: Vfs>(file: *mut sqlite3_file) -> &'a mut Opened<V::File> {
    // SAFETY: such a file is a `Handle`, and owns what it points to.
    unsafe { &mut *(*file.cast::<Handle<V::File>>()).opened }
}

/// # Safety
/// `path` is null, or a string that ends with a zero.
unsafe fn text<'a>(path: *const c_char) -> Result<Option<&'a str>, Code> {
    if path.is_null() {
        return Ok(None);
    }
    // SAFETY: as above; SQLite keeps it as long as the call takes.
    let path = unsafe { CStr::from_ptr(path) };
    path.to_str().map(Some).map_err(|_| Code::CANNOT_OPEN)
}

unsafe extern "C" fn open<V: Vfs>(
    vfs: *mut sqlite3_vfs,
    path: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    guarded(|| {
        // SAFETY: SQLite gives memory of the size that was asked for; without methods it is not closed.
        unsafe { (*file).pMethods = ptr::null() };
        // SAFETY: SQLite calls with what was registered, and with a path or none.
        let (registered, path) = unsafe { (registered::<V>(vfs), text(path)?) };
        let options = OpenOptions {
            create: flags & ffi::SQLITE_OPEN_CREATE != 0,
            exclusive: flags & ffi::SQLITE_OPEN_EXCLUSIVE != 0,
            read_only: flags & ffi::SQLITE_OPEN_READONLY != 0,
        };
        let opened = Opened { file: registered.vfs.open(path, options)?, regions: Vec::new() };
        let handle = Handle {
            base: sqlite3_file { pMethods: &raw const registered.methods },
            opened: Box::into_raw(Box::new(opened)),
        };
        // SAFETY: the memory is large enough and aligned for a handle, and `out_flags` may be written if it is there.
        unsafe {
            file.cast::<Handle<V::File>>().write(handle);
            if !out_flags.is_null() {
                *out_flags = flags;
            }
        }
        Ok(())
    })
}

unsafe extern "C" fn close<V: Vfs>(file: *mut sqlite3_file) -> c_int {
    guarded(|| {
        // SAFETY: the file is open, and this is the last call with it; it gives back what `open` has taken.
        unsafe {
            let handle = &mut *file.cast::<Handle<V::File>>();
            handle.base.pMethods = ptr::null();
            drop(Box::from_raw(handle.opened));
        }
        Ok(())
    })
}

unsafe extern "C" fn read<V: Vfs>(
    file: *mut sqlite3_file,
    buffer: *mut c_void,
    size: c_int,
    at: sqlite3_int64,
) -> c_int {
    guarded(|| {
        // SAFETY: the file is open, and the buffer is as large as SQLite says.
        let (opened, buffer) =
            unsafe { (opened::<V>(file), slice::from_raw_parts_mut(buffer.cast::<u8>(), number(size)?)) };
        let read = opened.file.read(number(at)?, buffer)?;
        let Some(rest) = buffer.get_mut(read..).filter(|rest| !rest.is_empty()) else { return Ok(()) };
        // SQLite relies on the zeros.
        rest.fill(0);
        Err(Code(ffi::SQLITE_IOERR_SHORT_READ))
    })
}

unsafe extern "C" fn write<V: Vfs>(
    file: *mut sqlite3_file,
    buffer: *const c_void,
    size: c_int,
    at: sqlite3_int64,
) -> c_int {
    guarded(|| {
        // SAFETY: as in `read`.
        let (opened, buffer) =
            unsafe { (opened::<V>(file), slice::from_raw_parts(buffer.cast::<u8>(), number(size)?)) };
        opened.file.write(number(at)?, buffer)
    })
}

unsafe extern "C" fn truncate<V: Vfs>(file: *mut sqlite3_file, size: sqlite3_int64) -> c_int {
    // SAFETY: the file is open.
    guarded(|| unsafe { opened::<V>(file) }.file.truncate(number(size)?))
}

unsafe extern "C" fn sync<V: Vfs>(file: *mut sqlite3_file, _flags: c_int) -> c_int {
    // SAFETY: the file is open.
    guarded(|| unsafe { opened::<V>(file) }.file.sync())
}

unsafe extern "C" fn file_size<V: Vfs>(file: *mut sqlite3_file, size: *mut sqlite3_int64) -> c_int {
    guarded(|| {
        // SAFETY: the file is open, and `size` is SQLite's place for the answer.
        unsafe { *size = number(opened::<V>(file).file.size()?)? };
        Ok(())
    })
}

fn level(lock: c_int) -> Result<Lock, Code> {
    Ok(match lock {
        ffi::SQLITE_LOCK_NONE => Lock::None,
        ffi::SQLITE_LOCK_SHARED => Lock::Shared,
        ffi::SQLITE_LOCK_RESERVED => Lock::Reserved,
        ffi::SQLITE_LOCK_PENDING => Lock::Pending,
        ffi::SQLITE_LOCK_EXCLUSIVE => Lock::Exclusive,
        _ => return Err(Code(ffi::SQLITE_MISUSE)),
    })
}

unsafe extern "C" fn lock<V: Vfs>(file: *mut sqlite3_file, lock: c_int) -> c_int {
    // SAFETY: the file is open.
    guarded(|| unsafe { opened::<V>(file) }.file.lock(level(lock)?))
}

unsafe extern "C" fn unlock<V: Vfs>(file: *mut sqlite3_file, lock: c_int) -> c_int {
    // SAFETY: the file is open.
    guarded(|| unsafe { opened::<V>(file) }.file.unlock(level(lock)?))
}

unsafe extern "C" fn check_reserved_lock<V: Vfs>(file: *mut sqlite3_file, answer: *mut c_int) -> c_int {
    guarded(|| {
        // SAFETY: the file is open, and `answer` is SQLite's place for the answer.
        unsafe { *answer = c_int::from(opened::<V>(file).file.is_reserved()?) };
        Ok(())
    })
}

unsafe extern "C" fn file_control(_: *mut sqlite3_file, _: c_int, _: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn sector_size(_: *mut sqlite3_file) -> c_int {
    SECTOR_BYTES
}

unsafe extern "C" fn device_characteristics(_: *mut sqlite3_file) -> c_int {
    CHARACTERISTICS
}

unsafe extern "C" fn delete<V: Vfs>(vfs: *mut sqlite3_vfs, path: *const c_char, sync: c_int) -> c_int {
    guarded(|| {
        // SAFETY: SQLite calls with what was registered, and with a path.
        let (registered, path) = unsafe { (registered::<V>(vfs), text(path)?) };
        registered.vfs.delete(path.ok_or(Code::DELETE)?, sync != 0)
    })
}

unsafe extern "C" fn access<V: Vfs>(
    vfs: *mut sqlite3_vfs,
    path: *const c_char,
    _flags: c_int,
    answer: *mut c_int,
) -> c_int {
    guarded(|| {
        // SAFETY: as in `delete`; `answer` is SQLite's place for the answer.
        unsafe {
            let exists = registered::<V>(vfs).vfs.exists(text(path)?.unwrap_or_default())?;
            *answer = c_int::from(exists);
        }
        Ok(())
    })
}

unsafe extern "C" fn full_pathname(_: *mut sqlite3_vfs, path: *const c_char, size: c_int, out: *mut c_char) -> c_int {
    guarded(|| {
        // SAFETY: SQLite calls with a path.
        let path = unsafe { CStr::from_ptr(path) }.to_bytes_with_nul();
        if path.len() > number(size)? {
            return Err(Code::CANNOT_OPEN);
        }
        // SAFETY: there is room for `size` bytes, and the two do not overlap.
        unsafe { ptr::copy_nonoverlapping(path.as_ptr().cast(), out, path.len()) };
        Ok(())
    })
}

unsafe extern "C" fn randomness<V: Vfs>(vfs: *mut sqlite3_vfs, size: c_int, out: *mut c_char) -> c_int {
    // SAFETY: the default VFS is asked what this one was.
    unsafe {
        let base = registered::<V>(vfs).base;
        (*base).xRandomness.map_or(0, |ask| ask(base, size, out))
    }
}

unsafe extern "C" fn sleep<V: Vfs>(vfs: *mut sqlite3_vfs, micros: c_int) -> c_int {
    // SAFETY: as in `randomness`.
    unsafe {
        let base = registered::<V>(vfs).base;
        (*base).xSleep.map_or(0, |ask| ask(base, micros))
    }
}

unsafe extern "C" fn current_time<V: Vfs>(vfs: *mut sqlite3_vfs, out: *mut f64) -> c_int {
    // SAFETY: as in `randomness`.
    unsafe {
        let base = registered::<V>(vfs).base;
        (*base).xCurrentTime.map_or(ffi::SQLITE_ERROR, |ask| ask(base, out))
    }
}

unsafe extern "C" fn current_time_int64<V: Vfs>(vfs: *mut sqlite3_vfs, out: *mut sqlite3_int64) -> c_int {
    // SAFETY: as in `randomness`.
    unsafe {
        let base = registered::<V>(vfs).base;
        (*base).xCurrentTimeInt64.map_or(ffi::SQLITE_ERROR, |ask| ask(base, out))
    }
}
