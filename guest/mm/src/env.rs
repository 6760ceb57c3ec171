//! What the core needs of the machine below it: the one trait that the guest and the host-side arena implement.
//!
//! The guest's implementation is a zero-sized type over the linear map; the arena's is an `Arc` around vectors of
//! atomics. Everything above this trait is free of pointers and of `unsafe`.

use crate::frame::Buddy;
use crate::rmap::Mms;
use crate::share::ObjectTables;
use crate::userfault::Ticket;
use ptshare_paging::{Pfn, Pte, Slot};
use ptshare_sync::Lock;
use ptshare_wire::{CensusHeader, FrameMeta, MmRec, Stats};

/// Which translations a flush must remove.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlushRange {
    /// Leaves and paging-structure caches of `[start, end)`.
    Pages {
        /// First address, page-aligned.
        start: u64,
        /// First address after the range, page-aligned.
        end: u64,
    },
    /// Everything of the mm.
    All,
}

/// The machine: table words, page contents, frame metadata, the allocator, TLBs, census records.
pub trait Env: Clone + Send + Sync + 'static {
    /// Reads an entry. The processor may set A and D bits in it at any time.
    fn load(&self, table: Pfn, slot: Slot) -> Pte;
    /// Writes an entry that the processor is not changing: absent before, or in a table that no CPU walks.
    fn store(&self, table: Pfn, slot: Slot, new: Pte);
    /// Exchanges an entry, so that no A or D bit set meanwhile is lost.
    fn swap(&self, table: Pfn, slot: Slot, new: Pte) -> Pte;
    /// Clears bits of an entry atomically; gives the entry before.
    fn clear_bits(&self, table: Pfn, slot: Slot, bits: u64) -> Pte;
    /// The first entry at or after `from`, below slot number `end` (at most 512), that is not all zero. One string
    /// instruction in the guest: far cheaper than a loop of [`Env::load`] where the kernel is interpreted.
    fn next_nonzero(&self, table: Pfn, from: Slot, end: usize) -> Option<(Slot, Pte)>;

    /// Sets `pages` consecutive frames to zero, which no TLB knows: fresh ones.
    fn zero_pages(&self, first: Pfn, pages: u64);
    /// Sets a table to zero, by stores of this CPU. Never by the host: a hypervisor with shadow page tables learns of a
    /// table's changes from the guest's own stores (KVM: `kvm_mmu_track_write`), and would go on using what it derived
    /// from the frame's former life as a table.
    fn zero_table(&self, table: Pfn);
    /// Copies a table's 512 entries, by stores of this CPU for the same reason. Nobody else can reach `dst`.
    fn copy_table(&self, dst: Pfn, src: Pfn);
    /// Copies one frame's 4096 bytes. Data only: see [`Env::zero_table`].
    fn copy_page(&self, dst: Pfn, src: Pfn);
    /// Copies `out.len()` bytes from physical address `pa`; the range may cross frames.
    fn read_phys(&self, pa: u64, out: &mut [u8]);
    /// Copies `data` to physical address `pa`; the range may cross frames.
    fn write_phys(&self, pa: u64, data: &[u8]);
    /// Copies `len_bytes` between physical ranges that do not overlap (in bulk by the host where that pays).
    fn copy_phys(&self, dst_pa: u64, src_pa: u64, len_bytes: u64);

    /// A frame's metadata.
    fn meta(&self, pfn: Pfn) -> &FrameMeta;
    /// The frame allocator.
    fn allocator(&self) -> &Lock<Buddy>;
    /// Asked before each allocation for a process: of a frame, a block, pages of the hugetlb pool. A machine for tests says
    /// no to show what happens then.
    #[inline]
    fn may_allocate(&self) -> bool {
        true
    }
    /// Has the processor pages of 1 GiB (CPUID.80000001H:EDX\[26\])?
    fn has_gib_pages(&self) -> bool;
    /// The PTE pages that objects' mappings share.
    fn object_tables(&self) -> &Lock<ObjectTables>;
    /// All address spaces, for reverse mapping.
    fn mms(&self) -> &Lock<Mms<Self>>;
    /// May mappings of one object share PTE pages (boot option `share_file`)?
    fn share_file(&self) -> bool;

    /// Removes translations from every CPU in `mm.cpumask` before it returns.
    fn flush(&self, mm: &MmRec, range: FlushRange);
    /// Removes every user translation from every CPU before it returns: for changes to an object that any number of
    /// mms map.
    fn flush_everyone(&self);

    /// Number of the calling CPU, below 64.
    fn cpu(&self) -> usize;
    /// How many flushes that other CPUs asked for this CPU has answered. A table is freed only after every CPU that runs
    /// an mm from which it was reachable has answered; so while this number stays the same, every table that this CPU
    /// has reached from the root of the mm that it runs is still a table.
    fn flush_answers(&self) -> u64;

    /// Takes a slot of the mm table and fills nothing in; `None` when all are taken.
    fn take_mm_slot(&self) -> Option<u32>;
    /// Gives a slot back; its record's `root` must be 0.
    fn return_mm_slot(&self, slot: u32);
    /// The record of a slot, as the census shows it.
    fn mm_rec(&self, slot: u32) -> &MmRec;
    /// Fills the kernel half of a fresh root (entries 256..512) from the kernel's own.
    fn fill_kernel_half(&self, root: Pfn);

    /// Empties the kernel half of a root again, so that its frame is all zero.
    fn clear_kernel_half(&self, root: Pfn);

    /// Enters a critical section on this CPU: until the matching [`Env::critical_exit`] the books may not add up.
    fn critical_enter(&self);
    /// Leaves it.
    fn critical_exit(&self);

    /// The head of the census: RAM ranges, free and kernel frame counts, and the counters.
    fn census(&self) -> &CensusHeader;
    /// The counters.
    #[inline]
    fn stats(&self) -> &Stats {
        &self.census().stats
    }
    /// The shared zero page.
    fn zero_page(&self) -> Pfn;
    /// The address at which the kernel reaches `value`, as the census gives it: for VMA chunks. The guest answers with
    /// the address itself; the arena gives something that its own view can translate.
    fn census_va<T>(&self, value: &T) -> u64;
    /// Waits until user mode has dealt with a fault of this task. Called with no lock held.
    ///
    /// False when that cannot be awaited: the task must end. (The arena never waits.)
    fn wait_userfault(&self, ticket: Ticket) -> bool;
    /// A random number for address-space layout.
    fn random(&self) -> u64;
}
