//! Robust futexes: at a thread's end the locks that it still holds get FUTEX_OWNER_DIED (Linux
//! Documentation/locking/robust-futexes.rst). The list lives in user memory and may be anything.

use super::{Task, futex};
use core::sync::atomic::Ordering::Relaxed;
use ptshare_abi::sys::general as raw;
use ptshare_machine::uaccess::{self, UserFault};

/// Entries looked at, as in Linux (ROBUST_LIST_LIMIT).
const LIMIT: u32 = 2048;
/// Bytes of `struct robust_list_head`.
pub const HEAD_BYTES: u64 = 24;

/// Releases everything on the current task's list, and forgets the list.
pub(super) fn release(task: &Task) {
    let head = task.robust_list.swap(0, Relaxed);
    if head != 0 {
        // A list that cannot be read is the program's own business.
        let _ = walk(task, head);
    }
}

fn walk(task: &Task, head: u64) -> Result<(), UserFault> {
    let [first, offset, pending]: [u64; 3] = uaccess::read(head)?;
    let word = |entry: u64| (entry & !1).wrapping_add(offset);
    let mut entry = first;
    for _ in 0..LIMIT {
        if entry & !1 == head {
            break;
        }
        // The next entry first: the lock may be freed as soon as it is released.
        let next: Result<u64, UserFault> = uaccess::read(entry & !1);
        if entry & !1 != pending & !1 {
            die(task, word(entry), entry & 1 != 0)?;
        }
        entry = next?;
    }
    if pending & !1 != 0 {
        die(task, word(pending), pending & 1 != 0)?;
    }
    Ok(())
}

fn die(task: &Task, at: u64, is_pi: bool) -> Result<(), UserFault> {
    if at & 3 != 0 {
        return Err(UserFault);
    }
    let mut value = uaccess::load_u32(at)?;
    loop {
        if value & raw::FUTEX_TID_MASK != task.tid() {
            return Ok(());
        }
        let new = value & raw::FUTEX_WAITERS | raw::FUTEX_OWNER_DIED;
        let found = uaccess::cmpxchg_u32(at, value, new)?;
        if found == value {
            break;
        }
        value = found;
    }
    if !is_pi && value & raw::FUTEX_WAITERS != 0 {
        let _ = futex::wake(at, 1, u32::MAX, false);
    }
    Ok(())
}
