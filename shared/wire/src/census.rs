//! The census: where the judge finds frames, address spaces and CPUs. One header, whose address the guest hands over
//! once ([`crate::hypercall::Op::Census`]) and which stays valid at every instant from then on.

use crate::Stats;
use crate::huge::{HUGE_SIZES, HugetlbCounts};
use core::sync::atomic::{AtomicU32, AtomicU64};

/// [`CensusHeader::magic`]: "ptcensus".
pub const CENSUS_MAGIC: u64 = 0x7375_736e_6563_7470;
/// [`CensusHeader::version`]. Any change of a record's layout changes it.
pub const CENSUS_VERSION: u32 = 5;
/// Most managed RAM ranges.
pub const RAM_RANGES_MAX: usize = 8;
/// Most reserved ranges.
pub const RESERVED_MAX: usize = 8;
/// Slots in the mm table: at most as many address spaces at once.
pub const MM_SLOTS: usize = 32768;
/// Most CPUs.
pub const CPUS_MAX: usize = 64;

/// A range of frames that the allocator manages. Frames from `virgin` on have never been given out: they are free,
/// their content is zero and their metadata is all zero, so neither side needs to look at them.
#[repr(C)]
#[derive(Default, Debug)]
pub struct RamRange {
    /// First frame number.
    pub start: AtomicU64,
    /// First frame number after the range.
    pub end: AtomicU64,
    /// First frame number never handed to a free list; `start <= virgin <= end`.
    pub virgin: AtomicU64,
}

/// Physical memory outside the allocator: no user path may reach it (rule `no-user-path-to-kernel`).
#[repr(C)]
#[derive(Default, Debug)]
pub struct ReservedRange {
    /// First byte.
    pub start: AtomicU64,
    /// First byte after it; 0 for an unused slot.
    pub end: AtomicU64,
}

/// An address space. Lives in the mm table; a slot is free while `root` is 0.
#[repr(C)]
#[derive(Default, Debug)]
pub struct MmRec {
    /// Frame number of the PGD; 0 when the slot is free.
    pub root: AtomicU64,
    /// Process that owns it (the first, where several share it by CLONE_VM), for messages.
    pub pid: AtomicU64,
    /// CPUs (by bit) on which it is loaded in CR3.
    pub cpumask: AtomicU64,
    /// Guest-virtual address of an array of `vma_chunks` pointers to VMA chunks, in address order. See [`VMA_CHUNK`].
    pub vma_index: AtomicU64,
    /// Chunks in that array.
    pub vma_chunks: AtomicU64,
    /// VMAs in all.
    pub vma_count: AtomicU64,
    /// Bytes from one VMA to the next in a chunk; each begins with a [`crate::VmaRec`].
    pub vma_stride: AtomicU64,
    /// PTE, PMD, PUD and PGD pages that this mm reaches, a shared one counted like a private one (VmPTE), in pages.
    pub table_pages: AtomicU64,
    /// Which processes can have private pages in common with it: those that descend by fork, without exec, from the same
    /// address space. See [`crate::FrameMeta`].
    pub family: AtomicU64,
    /// Hugetlb pages that are reserved for its private mappings, by size ([`crate::HugeSize::index`]).
    pub hugetlb_reserved: [AtomicU64; HUGE_SIZES],
}

/// A VMA chunk in guest memory: a `u64` count, then that many VMAs, `vma_stride` bytes apart, the first at byte 8.
/// VMAs are sorted by address, within and across chunks, and no chunk is empty.
pub const VMA_CHUNK: &str = "u64 len; [Vma; len]";
/// Most VMAs in a chunk.
pub const VMA_CHUNK_MAX: usize = 32;

/// What a CPU is doing. A cache line of its own: its CPU writes it at every fault.
#[repr(C, align(64))]
#[derive(Default, Debug)]
pub struct CpuRec {
    /// 1 once the CPU runs.
    pub online: AtomicU32,
    /// Depth of critical sections: above 0 while this CPU changes tables, frames or VMAs and the books may not add up.
    pub critical: AtomicU32,
    /// Slot of the mm whose root it has loaded, plus 1; 0 for the kernel's own root.
    pub mm_slot: AtomicU64,
    /// Process it runs, 0 for none (idle).
    pub pid: AtomicU64,
    /// What it spins for: see [`crate::Wait`].
    pub waits_for: AtomicU64,
}

/// The head of the census.
#[repr(C)]
#[derive(Default, Debug)]
pub struct CensusHeader {
    /// [`CENSUS_MAGIC`].
    pub magic: AtomicU64,
    /// [`CENSUS_VERSION`].
    pub version: AtomicU32,
    /// Bytes of this header.
    pub header_bytes: AtomicU32,
    /// Managed RAM.
    pub ram: [RamRange; RAM_RANGES_MAX],
    /// Ranges of RAM outside the allocator: kernel image, boot tables, frame array, mm table, initramfs.
    pub reserved: [ReservedRange; RESERVED_MAX],
    /// Guest-physical address of the frame array; entry `pfn` describes frame `pfn`.
    pub frame_array: AtomicU64,
    /// Frames that the array describes.
    pub frames: AtomicU64,
    /// Frames on free lists (virgin frames not counted).
    pub free_frames: AtomicU64,
    /// Frames of kind Kernel that the kernel believes it holds.
    pub kernel_frames: AtomicU64,
    /// Guest-physical address of the mm table: `MM_SLOTS` times [`MmRec`].
    pub mm_table: AtomicU64,
    /// No slot at or above this has ever been used.
    pub mm_high: AtomicU64,
    /// Guest-physical address of the CPU table: `CPUS_MAX` times [`CpuRec`].
    pub cpu_table: AtomicU64,
    /// CPUs started.
    pub cpus: AtomicU64,
    /// Frame number of the kernel's own root: the template of every mm's kernel half.
    pub kernel_root: AtomicU64,
    /// Frame number of the zero page.
    pub zero_page: AtomicU64,
    /// `sharing=`: 0 none, 1 pte, 2 tree.
    pub sharing: AtomicU64,
    /// Object table (later): guest-physical address, 0 while there is none.
    pub object_table: AtomicU64,
    /// Object slots ever used.
    pub object_high: AtomicU64,
    /// The hugetlb pools, by size ([`crate::HugeSize::index`]).
    pub hugetlb: [HugetlbCounts; HUGE_SIZES],
    /// Guest-physical address of [`crate::Answers`].
    pub answers: AtomicU64,
    /// Counters.
    pub stats: Stats,
}
