//! Record locks and flocks of inodes: the waiting and the releasing; the rules are in `records.rs`.
//!
//! An owner is a file table (POSIX record locks: Linux's `files_struct`) or an open file (flock, OFD locks), as a number
//! that cannot be both: table ids are small, addresses of open files are not.

pub use super::records::{FileLocks, Record};

use super::inode::Inode;
use super::pipe::interrupted;
use crate::syscall::SysErr;
use crate::task::WaitQueue;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use ptshare_abi::Errno;

/// Everybody who waits for any lock: locks are rare, and every release wakes them all.
static WAITERS: WaitQueue = WaitQueue::new();
/// Has any lock ever been set? Spares every close a look.
static ANY: AtomicBool = AtomicBool::new(false);

/// Most record locks on one file: bounds what one program can make the kernel hold.
const RECORDS_MAX: usize = 1024;

fn with<T>(inode: &Inode, f: impl FnOnce(&mut FileLocks) -> T) -> T {
    ANY.store(true, Relaxed);
    let mut slot = inode.locks.lock();
    f(slot.get_or_insert_with(|| Box::new(FileLocks::new())))
}

/// F_GETLK: the lock that keeps `wanted` from being set.
pub fn test(inode: &Inode, wanted: &Record) -> Option<Record> {
    inode.locks.lock().as_ref().and_then(|locks| locks.conflict(wanted))
}

/// F_SETLK and F_SETLKW for a lock.
///
/// # Errors
/// EAGAIN for a conflict unless `wait`; ENOLCK for too many; a signal while it waits.
pub fn set(inode: &Arc<Inode>, wanted: Record, wait: bool) -> Result<(), SysErr> {
    let attempt = || {
        with(inode, |locks| match locks.conflict(&wanted) {
            Some(_) => None,
            None if locks.records() >= RECORDS_MAX => Some(Err(Errno::ENOLCK)),
            None => {
                locks.set(wanted);
                Some(Ok(()))
            }
        })
    };
    let result = match attempt() {
        Some(result) => result,
        None if !wait => Err(Errno::EAGAIN),
        None => WAITERS.wait(None, attempt).map_err(interrupted)?,
    };
    // A write lock turned into a read lock lets others in.
    WAITERS.wake_all();
    Ok(result?)
}

/// F_SETLK with F_UNLCK.
pub fn clear(inode: &Inode, start: u64, end: u64, owner: u64) {
    with(inode, |locks| locks.clear(start, end, owner));
    WAITERS.wake_all();
}

/// flock(2); `exclusive` `None` releases.
///
/// # Errors
/// EAGAIN for a conflict unless `wait`; a signal while it waits.
pub fn flock(inode: &Arc<Inode>, owner: u64, exclusive: Option<bool>, wait: bool) -> Result<(), SysErr> {
    let Some(exclusive) = exclusive else {
        with(inode, |locks| locks.unflock(owner));
        WAITERS.wake_all();
        return Ok(());
    };
    let attempt = || {
        with(inode, |locks| {
            if locks.flock_conflict(owner, exclusive) {
                return None;
            }
            locks.flock(owner, exclusive);
            Some(())
        })
    };
    if attempt().is_none() {
        if !wait {
            return Err(Errno::EAGAIN.into());
        }
        WAITERS.wait(None, attempt).map_err(interrupted)?;
    }
    WAITERS.wake_all();
    Ok(())
}

/// An owner has closed a descriptor of the file.
pub fn release_owner(inode: &Inode, owner: u64) {
    if ANY.load(Relaxed) {
        let had = inode.locks.lock().as_mut().is_some_and(|locks| locks.forget(owner));
        if had {
            WAITERS.wake_all();
        }
    }
}

/// An open file is gone.
pub fn release_file(inode: &Inode, file: u64) {
    release_owner(inode, file);
}
