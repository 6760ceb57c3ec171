//! The mlock family. Nothing is ever paged out, so a lock is a flag, a limit, and pages brought in.

use super::Mm;
use super::limits::max_map_count;
use super::map::covered_pages;
use crate::error::MmError;
use crate::vma::{VM_DROPPABLE, VM_HUGETLB, VM_LOCKED, VM_LOCKONFAULT};
use crate::{Env, VmaSet};
use ptshare_abi::sys::general::{MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT, MLOCK_ONFAULT};
use ptshare_paging::{PAGE_BYTES, PAGE_SHIFT, page_ceil, page_floor};

const LOCK_BITS: u64 = VM_LOCKED | VM_LOCKONFAULT;

impl<E: Env> Mm<E> {
    /// Locks the pages of `[addr, addr + len)`: mlock2, and mlock with `flags` 0.
    ///
    /// # Errors
    /// As mlock2(2). As on Linux the part before a hole stays locked, and so does everything when bringing the pages in
    /// fails (ENOMEM for inaccessible pages, EAGAIN for want of memory).
    pub fn mlock(&self, addr: u64, len: u64, flags: u64) -> Result<(), MmError> {
        if flags & !u64::from(MLOCK_ONFAULT) != 0 {
            return Err(MmError::Invalid);
        }
        let bits = if flags == 0 { VM_LOCKED } else { LOCK_BITS };
        let (start, end) = rounded(addr, len)?;
        {
            let mut change = self.change();
            change.can_lock()?;
            let pages = (end - start) >> PAGE_SHIFT;
            if change.may_lock(VM_LOCKED, pages).is_err() {
                // Pages that are locked already do not count twice.
                let held = locked_pages(&change, start, end);
                change.may_lock(VM_LOCKED, pages - held).map_err(|_| MmError::Limit)?;
            }
            self.set_lock(&mut change, start, end, bits)?;
        }
        self.populate(start, end - start).map_err(lock_populate_error)
    }

    /// Unlocks the pages of `[addr, addr + len)`.
    ///
    /// # Errors
    /// As munlock(2).
    pub fn munlock(&self, addr: u64, len: u64) -> Result<(), MmError> {
        let (start, end) = rounded(addr, len)?;
        self.set_lock(&mut self.change(), start, end, 0)
    }

    /// Locks everything that is mapped (MCL_CURRENT), will be (MCL_FUTURE), or both.
    ///
    /// # Errors
    /// As mlockall(2).
    pub fn mlockall(&self, flags: u64) -> Result<(), MmError> {
        let has = |flag: u32| flags & u64::from(flag) != 0;
        let known = u64::from(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT);
        if flags == 0 || flags & !known != 0 || flags == u64::from(MCL_ONFAULT) {
            return Err(MmError::Invalid);
        }
        let bits = if has(MCL_ONFAULT) { LOCK_BITS } else { VM_LOCKED };
        {
            let mut change = self.change();
            change.can_lock()?;
            let limits = change.limits;
            if has(MCL_CURRENT)
                && !limits.privileged
                && change.counts.total > limits.memlock_bytes >> PAGE_SHIFT
            {
                return Err(MmError::Limit);
            }
            change.def_flags = if has(MCL_FUTURE) { bits } else { 0 };
            if !has(MCL_CURRENT) {
                return Ok(());
            }
            change.update_flags(0, u64::MAX, with_lock(bits), |_, _, _| {});
        }
        if !has(MCL_ONFAULT) {
            self.populate_all();
        }
        Ok(())
    }

    /// Unlocks everything, now and for the future.
    pub fn munlockall(&self) {
        let mut change = self.change();
        change.def_flags = 0;
        change.update_flags(0, u64::MAX, with_lock(0), |_, _, _| {});
    }

    /// Brings in what can be brought in; errors are nobody's business (`mm_populate` in mlockall ignores them).
    fn populate_all(&self) {
        let mut at = 0;
        loop {
            let next = {
                let set = self.vmas.read();
                set.find_at_or_after(at).map(|vma| (vma.rec.start, vma.rec.end))
            };
            let Some((start, end)) = next else { return };
            let _ = self.populate(start, end - start);
            at = end;
        }
    }
}

/// Flags with these lock bits. Droppable memory is never locked, and hugetlb memory always is in effect.
fn with_lock(bits: u64) -> impl Fn(u64) -> u64 {
    move |flags| if flags & (VM_DROPPABLE | VM_HUGETLB) != 0 { flags } else { flags & !LOCK_BITS | bits }
}

/// The pages that `[addr, addr + len)` touches. `Invalid` when the range wraps; the length itself may wrap, as on Linux.
fn rounded(addr: u64, len: u64) -> Result<(u64, u64), MmError> {
    let start = page_floor(addr);
    let len = page_ceil(len.wrapping_add(addr % PAGE_BYTES)).unwrap_or(0);
    let end = start.checked_add(len).ok_or(MmError::Invalid)?;
    Ok((start, end))
}

fn locked_pages<E: Env>(set: &VmaSet<E>, start: u64, end: u64) -> u64 {
    let parts = set.iter_range(start, end).filter(|vma| vma.has(VM_LOCKED));
    parts.map(|vma| (vma.rec.end.min(end) - vma.rec.start.max(start)) >> PAGE_SHIFT).sum()
}

impl<E: Env> Mm<E> {
    /// Gives the mapped part at the beginning of `[start, end)` these lock bits (`apply_vma_lock_flags`, mm/mlock.c).
    fn set_lock(&self, set: &mut VmaSet<E>, start: u64, end: u64, bits: u64) -> Result<(), MmError> {
        if start == end {
            return Ok(());
        }
        if set.len() + 2 > max_map_count() {
            return Err(MmError::Limit);
        }
        let mut stop = start;
        for vma in set.iter_range(start, end) {
            if vma.rec.start > stop {
                break;
            }
            stop = vma.rec.end.min(end);
        }
        self.prepare_cuts(set, start, stop, with_lock(bits))?;
        if start < stop {
            set.update_flags(start, stop, with_lock(bits), |_, _, _| {});
        }
        debug_assert!(covered_pages(set, start, stop) == (stop - start) >> PAGE_SHIFT);
        if stop < end { Err(MmError::NotMapped) } else { Ok(()) }
    }

    /// Before [`VmaSet::update_flags`] with `f`: leaves the objects' tables in the middle of which it will cut a VMA at
    /// `start` or at `end`. Changes of hints only come here without [`Mm::unshare_all`].
    ///
    /// # Errors
    /// `NoMemory`, with nothing changed that the process can see.
    pub(super) fn prepare_cuts(
        &self,
        set: &VmaSet<E>,
        start: u64,
        end: u64,
        f: impl Fn(u64) -> u64,
    ) -> Result<(), MmError> {
        for addr in [start, end] {
            let cut = set.find(addr).filter(|vma| vma.rec.start < addr && vma.object.is_some());
            if start < end && cut.is_some_and(|vma| f(vma.rec.flags) != vma.rec.flags) {
                self.leave_objects_at(addr)?;
            }
        }
        Ok(())
    }
}

/// What mlock answers when pages cannot be brought in (`__mlock_posix_error_return`, mm/mlock.c).
fn lock_populate_error(error: MmError) -> MmError {
    match error {
        MmError::NoMemory => MmError::LockLimit,
        MmError::Fault => MmError::NotMapped,
        other => other,
    }
}
