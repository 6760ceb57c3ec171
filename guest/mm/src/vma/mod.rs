//! VMAs: what an address range of a process is backed by, and with which rights.
//!
//! A [`Vma`] begins with the [`VmaRec`] that the judge reads, so the list that the kernel works on *is* the list that the
//! census shows. [`VmaSet`] keeps them sorted, without overlap, and is guarded by the mm's `mmap_lock`.

mod chunk;
mod duplicate;
mod gap;
pub(crate) mod layout;
mod merge;
mod set;
#[cfg(test)]
mod tests;

pub use layout::{Counts, Layout, Limits};
pub(crate) use set::Pos;
pub use set::VmaSet;

use crate::env::Env;
use crate::{Object, Userfault};
use alloc::sync::Arc;
use ptshare_paging::PAGE_SHIFT;
use ptshare_wire::HugeSize;
pub use ptshare_wire::vma::*;

/// MADV_SEQUENTIAL. Like the hints below, kept for `/proc/PID/smaps` only.
pub const VM_SEQ_READ: u64 = 0x8000;
/// MADV_RANDOM.
pub const VM_RAND_READ: u64 = 0x1_0000;
/// MLOCK_ONFAULT, with [`VM_LOCKED`].
pub const VM_LOCKONFAULT: u64 = 0x8_0000;
/// MADV_DONTDUMP.
pub const VM_DONTDUMP: u64 = 0x400_0000;
/// Set by MAP_STACK.
pub const VM_NOHUGEPAGE: u64 = 0x4000_0000;
/// MAP_DROPPABLE.
pub const VM_DROPPABLE: u64 = 1 << 42;

/// mseal: the mapping stays as it is.
pub const VM_SEALED: u64 = 1 << 43;

/// The modes of a userfaultfd registration.
pub const VM_UFFD: u64 = VM_UFFD_MISSING | VM_UFFD_WP | VM_UFFD_MINOR;
/// The rights that are in force.
pub const VM_ACCESS: u64 = VM_READ | VM_WRITE | VM_EXEC;
/// The rights that mprotect may put in force.
pub const VM_MAY: u64 = VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC;
/// Flags that say nothing about what an entry of the range may hold: they may differ between the sharers of a table.
pub const VM_HINTS: u64 = VM_LOCKED
    | VM_LOCKONFAULT
    | VM_SEQ_READ
    | VM_RAND_READ
    | VM_DONTDUMP
    | VM_NOHUGEPAGE
    | VM_SEALED
    | VM_NORESERVE;
/// Most VMAs of one mm: Linux's default of `vm.max_map_count`.
pub const MAX_MAP_COUNT: usize = 65530;
/// Bytes kept free below a VMA that grows down: Linux's default of `stack_guard_gap`, 256 pages.
pub const STACK_GUARD_BYTES: u64 = 256 << PAGE_SHIFT;
/// Lowest address that a process without CAP_SYS_RAWIO may map: `vm.mmap_min_addr`.
pub const MMAP_MIN_ADDR: u64 = 65536;

/// A virtual memory area: the record that the census shows, and the object behind it.
#[repr(C)]
pub struct Vma<E: Env> {
    /// What the judge reads. Changed only through [`VmaSet`], which keeps the counts.
    pub rec: VmaRec,
    /// The object behind it; `None` for private, demand-zero memory.
    pub object: Option<Arc<Object<E>>>,
    /// Who hears of its faults, with [`VM_UFFD`] flags.
    pub uffd: Option<Arc<Userfault<E>>>,
}

impl<E: Env> Default for Vma<E> {
    /// A filler: an empty range.
    fn default() -> Self {
        Vma { rec: VmaRec::default(), object: None, uffd: None }
    }
}

impl<E: Env> Clone for Vma<E> {
    fn clone(&self) -> Self {
        Vma { rec: self.rec, object: self.object.clone(), uffd: self.uffd.clone() }
    }
}

impl<E: Env> Vma<E> {
    /// A VMA of private, demand-zero memory over `[start, end)` (page-aligned bytes).
    pub fn anonymous(start: u64, end: u64, flags: u64) -> Self {
        let rec = VmaRec { start, end, flags, pgoff: start >> PAGE_SHIFT, object: 0 };
        Vma { rec, object: None, uffd: None }
    }

    /// A VMA over `[start, end)` (page-aligned bytes) whose first page is page `pgoff` of `object`.
    pub fn of_object(start: u64, end: u64, flags: u64, object: Arc<Object<E>>, pgoff: u64) -> Self {
        let rec = VmaRec { start, end, flags, pgoff, object: object.id() };
        Vma { rec, object: Some(object), uffd: None }
    }

    /// First byte.
    #[inline]
    pub fn start(&self) -> u64 {
        self.rec.start
    }

    /// First byte after it.
    #[inline]
    pub fn end(&self) -> u64 {
        self.rec.end
    }

    /// `VM_*` bits.
    #[inline]
    pub fn flags(&self) -> u64 {
        self.rec.flags
    }

    /// Are all of these `VM_*` bits set?
    #[inline]
    pub fn has(&self, bits: u64) -> bool {
        self.rec.flags & bits == bits
    }

    /// Must the tables under it be this mm's alone? What userfaultfd has registered for write protection or minor faults
    /// keeps in its entries what concerns one mm only, and so does private memory whose absent pages it reports. (Whether
    /// a shared mapping's page is missing is for its object to say, not for an entry.)
    #[inline]
    pub fn owns_tables(&self) -> bool {
        owns_tables(self.rec.flags)
    }

    /// The page size of a hugetlb mapping.
    #[inline]
    pub fn huge_size(&self) -> HugeSize {
        HugeSize::of_vma(self.rec.flags)
    }

    /// Pages that it covers.
    #[inline]
    pub fn pages(&self) -> u64 {
        (self.rec.end - self.rec.start) >> PAGE_SHIFT
    }

    /// Page number in the object (in anonymous memory: the number that the page keeps for life) of the page at `addr`, an
    /// address of this VMA.
    #[inline]
    pub fn pgoff_of(&self, addr: u64) -> u64 {
        self.rec.pgoff.wrapping_add(addr.wrapping_sub(self.rec.start) >> PAGE_SHIFT)
    }

    /// The address of the page with this number, if it is in this VMA.
    #[inline]
    pub fn address_of(&self, pgoff: u64) -> Option<u64> {
        let pages = pgoff.wrapping_sub(self.rec.pgoff);
        (pages < self.pages()).then(|| self.rec.start + (pages << PAGE_SHIFT))
    }

    /// Is `addr` in it?
    #[inline]
    pub fn contains(&self, addr: u64) -> bool {
        self.rec.start <= addr && addr < self.rec.end
    }

    /// First address that a neighbour below must leave free: the start, less the guard gap of one that grows down.
    #[inline]
    pub fn gap_start(&self) -> u64 {
        if self.rec.flags & VM_GROWSDOWN != 0 {
            self.rec.start.saturating_sub(STACK_GUARD_BYTES)
        } else {
            self.rec.start
        }
    }

    /// This VMA's backing over another range, which lies in this one or extends it.
    pub(crate) fn over(&self, start: u64, end: u64) -> Self {
        let mut part = self.clone();
        part.set_range(start, end);
        part
    }

    /// Moves the ends, keeping each address on its page of the object.
    pub(crate) fn set_range(&mut self, start: u64, end: u64) {
        let first = self.rec.start >> PAGE_SHIFT;
        let pgoff = self.rec.pgoff.wrapping_sub(first).wrapping_add(start >> PAGE_SHIFT);
        self.rec = VmaRec { start, end, pgoff, ..self.rec };
    }
}

/// [`Vma::owns_tables`], from the flags.
#[inline]
pub(crate) const fn owns_tables(flags: u64) -> bool {
    flags & (VM_UFFD_WP | VM_UFFD_MINOR) != 0 || flags & (VM_UFFD_MISSING | VM_SHARED) == VM_UFFD_MISSING
}
