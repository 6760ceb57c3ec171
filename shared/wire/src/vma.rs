//! One VMA as the judge sees it. Guest VMAs begin with this record.

/// A virtual memory area: `[start, end)`, one backing, one set of permissions. Plain words, changed only inside a
/// critical section ([`crate::CpuRec::critical`]).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VmaRec {
    /// First byte, page-aligned.
    pub start: u64,
    /// First byte after it, page-aligned, above `start`.
    pub end: u64,
    /// `VM_*` bits.
    pub flags: u64,
    /// Offset of `start` in the object, in pages. For anonymous VMAs `start` in pages when created (as Linux does).
    pub pgoff: u64,
    /// Object id, 0 for anonymous memory.
    pub object: u64,
}

/// Readable now. The bits below 0x100 are Linux's `VM_*` (include/linux/mm.h).
pub const VM_READ: u64 = 0x1;
/// Writable now.
pub const VM_WRITE: u64 = 0x2;
/// Executable now.
pub const VM_EXEC: u64 = 0x4;
/// MAP_SHARED: stores reach the object.
pub const VM_SHARED: u64 = 0x8;
/// mprotect may make it readable.
pub const VM_MAYREAD: u64 = 0x10;
/// mprotect may make it writable.
pub const VM_MAYWRITE: u64 = 0x20;
/// mprotect may make it executable.
pub const VM_MAYEXEC: u64 = 0x40;
/// A shared mapping of a file opened for writing, or writable later.
pub const VM_MAYSHARE: u64 = 0x80;
/// Grows down on faults just below (stack, MAP_GROWSDOWN).
pub const VM_GROWSDOWN: u64 = 0x100;
/// Registered with userfaultfd: absent pages are reported.
pub const VM_UFFD_MISSING: u64 = 0x200;
/// Registered with userfaultfd: writes to pages that it has write-protected are reported.
pub const VM_UFFD_WP: u64 = 0x1000;
/// Locked in memory.
pub const VM_LOCKED: u64 = 0x2000;
/// Not copied by fork (MADV_DONTFORK).
pub const VM_DONTCOPY: u64 = 0x2_0000;
/// MAP_NORESERVE.
pub const VM_NORESERVE: u64 = 0x20_0000;
/// A hugetlb mapping.
pub const VM_HUGETLB: u64 = 0x40_0000;
/// With [`VM_HUGETLB`]: pages of 1 GiB. (No flag of Linux's, which asks the file.)
pub const VM_HUGE_1GB: u64 = 1 << 45;
/// Read as zero in a child (MADV_WIPEONFORK).
pub const VM_WIPEONFORK: u64 = 0x200_0000;
/// The heap (`brk`), for /proc/PID/maps.
pub const VM_HEAP: u64 = 1 << 40;
/// The initial stack, for /proc/PID/maps.
pub const VM_STACK: u64 = 1 << 41;
/// Registered with userfaultfd: pages of the object that are there, but not yet mapped, are reported.
pub const VM_UFFD_MINOR: u64 = 1 << 44;
