//! Where things lie in an address space, what limits it, and how large it is. Guarded by `mmap_lock`.

use super::{VM_EXEC, VM_GROWSDOWN, VM_LOCKED, VM_SHARED, VM_WRITE};
use crate::space::limits::is_committed;
use ptshare_paging::USER_END;

/// Landmarks of an address space, in bytes, as exec sets them. Linux's `struct mm_struct` has the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// First byte of the program's code.
    pub start_code: u64,
    /// First byte after it.
    pub end_code: u64,
    /// First byte of the program's initialised data.
    pub start_data: u64,
    /// First byte after it.
    pub end_data: u64,
    /// Where the heap begins.
    pub start_brk: u64,
    /// Where the heap ends, as the last successful brk said: not rounded.
    pub brk: u64,
    /// The stack pointer at the program's first instruction.
    pub start_stack: u64,
    /// First byte of the argument strings.
    pub arg_start: u64,
    /// First byte after them.
    pub arg_end: u64,
    /// First byte of the environment strings.
    pub env_start: u64,
    /// First byte after them.
    pub env_end: u64,
    /// mmap places downwards from here.
    pub mmap_base: u64,
}

impl Default for Layout {
    fn default() -> Self {
        Layout {
            start_code: 0,
            end_code: 0,
            start_data: 0,
            end_data: 0,
            start_brk: 0,
            brk: 0,
            start_stack: 0,
            arg_start: 0,
            arg_end: 0,
            env_start: 0,
            env_end: 0,
            // As Linux with the default stack limit of 8 MiB, whose gap is clamped to 128 MiB, and no randomness.
            mmap_base: USER_END - (128 << 20),
        }
    }
}

/// What an mm must not exceed. `u64::MAX` is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// RLIMIT_AS, bytes of address space.
    pub as_bytes: u64,
    /// RLIMIT_DATA, bytes of private writable memory.
    pub data_bytes: u64,
    /// RLIMIT_STACK, bytes that a stack may grow to.
    pub stack_bytes: u64,
    /// RLIMIT_MEMLOCK, bytes of locked memory.
    pub memlock_bytes: u64,
    /// Largest single request that is granted without MAP_NORESERVE, in pages: memory in all, where the overcommit
    /// heuristic of Linux's default mode is wanted.
    pub commit_pages: u64,
    /// The process has CAP_IPC_LOCK and CAP_SYS_RAWIO.
    pub privileged: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            as_bytes: u64::MAX,
            data_bytes: u64::MAX,
            stack_bytes: 8 << 20,
            memlock_bytes: 8 << 20,
            commit_pages: u64::MAX,
            privileged: true,
        }
    }
}

/// Sizes by kind, in pages, as `vm_stat_account` (mm/mmap.c) sorts them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// All VMAs.
    pub total: u64,
    /// Private writable.
    pub data: u64,
    /// Executable and not writable.
    pub exec: u64,
    /// VMAs that grow down.
    pub stack: u64,
    /// VMAs under mlock.
    pub locked: u64,
    /// Promised to it (Committed_AS).
    pub committed: u64,
}

/// Does memory with these flags count as data (RLIMIT_DATA, VmData)?
#[inline]
pub(crate) fn is_data(flags: u64) -> bool {
    flags & (VM_WRITE | VM_SHARED | VM_GROWSDOWN) == VM_WRITE
}

impl Counts {
    /// Adds `pages` with these flags.
    #[inline]
    pub(crate) fn add(&mut self, flags: u64, pages: u64) {
        self.apply(flags, pages);
    }

    /// Takes `pages` with these flags away.
    #[inline]
    pub(crate) fn sub(&mut self, flags: u64, pages: u64) {
        self.apply(flags, pages.wrapping_neg());
    }

    #[inline]
    fn apply(&mut self, flags: u64, pages: u64) {
        self.total = self.total.wrapping_add(pages);
        if flags & VM_LOCKED != 0 {
            self.locked = self.locked.wrapping_add(pages);
        }
        if is_committed(flags) {
            self.committed = self.committed.wrapping_add(pages);
        }
        if flags & (VM_EXEC | VM_WRITE | VM_GROWSDOWN) == VM_EXEC {
            self.exec = self.exec.wrapping_add(pages);
        } else if flags & VM_GROWSDOWN != 0 {
            self.stack = self.stack.wrapping_add(pages);
        } else if is_data(flags) {
            self.data = self.data.wrapping_add(pages);
        }
    }
}
