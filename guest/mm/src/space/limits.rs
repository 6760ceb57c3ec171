//! What an mm may still take: `may_expand_vm`, `mlock_future_ok` and `__vm_enough_memory` of Linux, over the numbers
//! that `mmap_lock` guards; and the system's settings of them.

use crate::error::MmError;
use crate::vma::layout::is_data;
use crate::vma::{VM_HUGETLB, VM_LOCKED, VM_NORESERVE, VM_SHARED, VM_WRITE};
use crate::{Env, VmaSet};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use ptshare_paging::PAGE_SHIFT;

/// vm.max_map_count: most VMAs of one mm.
pub static MAX_MAP_COUNT: AtomicU64 = AtomicU64::new(crate::vma::MAX_MAP_COUNT as u64);
/// vm.overcommit_memory: 0 refuses what memory could never hold, 1 nothing, 2 what exceeds [`commit_limit`].
pub static OVERCOMMIT_MEMORY: AtomicU64 = AtomicU64::new(OVERCOMMIT_GUESS);
/// vm.overcommit_ratio, per cent of memory.
pub static OVERCOMMIT_RATIO: AtomicU64 = AtomicU64::new(50);
/// vm.overcommit_kbytes; 0: the ratio counts.
pub static OVERCOMMIT_KBYTES: AtomicU64 = AtomicU64::new(0);

const OVERCOMMIT_GUESS: u64 = 0;
const OVERCOMMIT_ALWAYS: u64 = 1;
const OVERCOMMIT_NEVER: u64 = 2;

/// Pages promised to everybody (Committed_AS).
static COMMITTED: AtomicU64 = AtomicU64::new(0);

/// Pages promised so far.
pub fn committed_pages() -> u64 {
    COMMITTED.load(Relaxed)
}

/// Changes the promise from `before` pages to `after`.
pub(crate) fn recommit(before: u64, after: u64) {
    COMMITTED.fetch_add(after.wrapping_sub(before), Relaxed);
}

/// The most that mode 2 promises, in pages, where memory in all is `total` pages (huge pages not included): CommitLimit.
pub fn commit_limit(total: u64) -> u64 {
    match OVERCOMMIT_KBYTES.load(Relaxed) {
        0 => total.saturating_mul(OVERCOMMIT_RATIO.load(Relaxed)) / 100,
        kbytes => kbytes / 4,
    }
}

/// Is MAP_NORESERVE heard?
pub(crate) fn honours_noreserve() -> bool {
    OVERCOMMIT_MEMORY.load(Relaxed) != OVERCOMMIT_NEVER
}

/// May `pages` more be promised, where memory in all is `total` pages (`__vm_enough_memory`, mm/util.c)? Linux's reserves
/// for the administrator are not kept.
pub fn enough_memory(pages: u64, total: u64) -> bool {
    match OVERCOMMIT_MEMORY.load(Relaxed) {
        OVERCOMMIT_ALWAYS => true,
        OVERCOMMIT_GUESS => pages <= total,
        _ => committed_pages().saturating_add(pages) <= commit_limit(total),
    }
}

/// Most VMAs of one mm.
pub(crate) fn max_map_count() -> usize {
    MAX_MAP_COUNT.load(Relaxed) as usize
}

/// Does memory with these flags count as promised? Private writable memory does, unless MAP_NORESERVE said otherwise;
/// shared memory is counted with its object.
#[inline]
pub(crate) fn is_committed(flags: u64) -> bool {
    flags & (VM_WRITE | VM_SHARED | VM_NORESERVE | VM_HUGETLB) == VM_WRITE
}

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

    /// May `pages` with these flags be promised? Only private writable memory and shared anonymous memory (`shmem`)
    /// count, and neither under MAP_NORESERVE.
    pub(crate) fn may_commit(&self, flags: u64, pages: u64, shmem: bool) -> bool {
        let accounted = flags & VM_NORESERVE == 0 && (shmem || is_committed(flags));
        !accounted || enough_memory(pages, self.limits.commit_pages)
    }
}
