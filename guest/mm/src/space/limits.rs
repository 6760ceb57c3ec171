//! What an mm may still take: `may_expand_vm`, `mlock_future_ok` and `__vm_enough_memory` of Linux, over the numbers
//! that `mmap_lock` guards.

use crate::error::MmError;
use crate::vma::layout::is_data;
use crate::vma::{VM_LOCKED, VM_NORESERVE, VM_SHARED, VM_WRITE};
use crate::{Env, VmaSet};
use ptshare_paging::PAGE_SHIFT;

impl<E: Env> VmaSet<E> {
    /// May it grow by `pages` with these flags (RLIMIT_AS, RLIMIT_DATA)?
    pub(crate) fn may_expand(&self, flags: u64, pages: u64) -> bool {
        let limits = &self.limits;
        self.counts.total.saturating_add(pages) <= limits.as_bytes >> PAGE_SHIFT
            && (!is_data(flags) || self.counts.data.saturating_add(pages) <= limits.data_bytes >> PAGE_SHIFT)
    }

    /// May `pages` more be locked, if the flags say that they are?
    pub(crate) fn may_lock(&self, flags: u64, pages: u64) -> Result<(), MmError> {
        if flags & VM_LOCKED == 0
            || self.limits.privileged
            || self.counts.locked.saturating_add(pages) <= self.limits.memlock_bytes >> PAGE_SHIFT
        {
            return Ok(());
        }
        Err(MmError::LockLimit)
    }

    /// Is locking memory allowed at all?
    pub(crate) fn can_lock(&self) -> Result<(), MmError> {
        if self.limits.privileged || self.limits.memlock_bytes > 0 {
            Ok(())
        } else {
            Err(MmError::NotPermitted)
        }
    }

    /// Is a request for `pages` with these flags one that memory could ever satisfy? Only private writable memory and
    /// shared anonymous memory (`shmem`) count, and neither under MAP_NORESERVE.
    pub(crate) fn may_commit(&self, flags: u64, pages: u64, shmem: bool) -> bool {
        let accounted = flags & VM_NORESERVE == 0 && (shmem || flags & (VM_SHARED | VM_WRITE) == VM_WRITE);
        !accounted || pages <= self.limits.commit_pages
    }
}
