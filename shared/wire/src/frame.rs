//! Per-frame metadata, Linux's `struct page`: one [`FrameMeta`] for each 4 KiB of physical address space.
//!
//! The array needs no initialisation: all zero means *free, never used, content zero*.

use core::sync::atomic::{AtomicU32, AtomicU64};

/// State of a frame. One frame has exactly one (rule `frame-has-one-state`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum FrameKind {
    /// In the allocator. Referenced by nothing.
    Free = 0,
    /// A page-table page at any level; `refs` counts the entries and CR3 roots that point to it.
    Table = 1,
    /// Private memory of processes: anonymous pages and private copies of file pages.
    Anon = 2,
    /// In an object's page cache (or just removed from it and still mapped).
    Cache = 3,
    /// The head of a hugetlb page of some [`crate::HugeSize`], aligned to its size. It alone carries a state and the counts;
    /// the frames after it are in state 0, like those inside a free block.
    Hugetlb = 4,
    /// Kernel memory: heap, stacks, per-CPU areas, pipe buffers. `refs` is unused and 0.
    Kernel = 5,
    /// The shared zero page (one frame).
    Zero = 6,
}

impl FrameKind {
    /// From the low byte of [`FrameMeta::state`].
    #[inline]
    pub const fn from_u8(n: u8) -> Option<FrameKind> {
        Some(match n {
            0 => FrameKind::Free,
            1 => FrameKind::Table,
            2 => FrameKind::Anon,
            3 => FrameKind::Cache,
            4 => FrameKind::Hugetlb,
            5 => FrameKind::Kernel,
            6 => FrameKind::Zero,
            _ => return None,
        })
    }
}

/// Metadata of one frame: 32 bytes.
///
/// **The count rule.** A table's `refs` is the number of entries and CR3 roots that point to it, nothing else. A data
/// frame's `refs` is the number of leaf entries that map it, counted once a *table* (not once a process), plus 1 while
/// it is in a page cache ([`FLAG_IN_CACHE`]), plus `holds`.
#[repr(C)]
#[derive(Default, Debug)]
pub struct FrameMeta {
    /// The reference count; see the count rule.
    pub refs: AtomicU32,
    /// Bits 7:0 [`FrameKind`]; 15:8 level of a table, or order of the head of a free block or a hugetlb page; 31:16
    /// `FLAG_*`.
    pub state: AtomicU32,
    /// `pte_page_lock` of a table (0 free, 1 held).
    pub lock: AtomicU32,
    /// Data frames: transient kernel holds that `refs` includes. Tables: number of non-zero entries.
    pub aux: AtomicU32,
    /// Free block head: PFN of the next head on its list (0 ends it). Cache, and tables with [`FLAG_OBJECT_TABLE`]: object
    /// id. Private pages (Anon, and Hugetlb heads in use without [`FLAG_IN_CACHE`]): [`crate::MmRec::family`] of every
    /// mm that may map it.
    pub a: AtomicU64,
    /// Free block head: PFN of the previous head (0: first). Cache: index in the object, in pages. Tables with
    /// [`FLAG_OBJECT_TABLE`]: index of the page that slot 0 maps. Private pages: the index that it has in every VMA that
    /// maps it: `pgoff` of the VMA plus pages from its start (Linux: `linear_page_index`).
    pub b: AtomicU64,
}

/// Bytes of one [`FrameMeta`].
pub const FRAME_META_BYTES: u64 = 32;
const _: () = assert!(core::mem::size_of::<FrameMeta>() as u64 == FRAME_META_BYTES);

/// `state` flag of a free frame: first frame of a free block, on a free list.
pub const FLAG_HEAD: u32 = 1 << 16;
/// `state` flag of a free block's head: every byte of the block is known to be zero.
pub const FLAG_ZEROED: u32 = 1 << 17;
/// `state` flag of a [`FrameKind::Cache`] frame: the page cache holds one reference.
pub const FLAG_IN_CACHE: u32 = 1 << 18;

/// `state` flag of a PTE page that belongs to an object: any number of mappings of its pages `b` to `b + 511`, with equal
/// rights and at any address, may share it, and every entry that points to it has R/W = 1 if those mappings are shared and
/// writable, 0 if not. It is never copied on write. (A table without the flag is one mm's, or shared copy-on-write.)
pub const FLAG_OBJECT_TABLE: u32 = 1 << 19;
/// `state` flag of a [`FrameKind::Hugetlb`] head: in the pool, free; `refs` is 0, `a` links the free pages. With
/// [`FLAG_ZEROED`] the page's content is zero.
pub const FLAG_POOL_FREE: u32 = 1 << 24;
/// `state` flag of a PMD or PUD page: it holds or has held huge leaves.
pub const FLAG_HUGE_LEAVES: u32 = 1 << 25;
/// `state` flag of a PMD page: it maps 1 GiB of one hugetlb object for every process that maps that part of the object
/// with these rights. `a` is the object's id times 2^32 plus the number of the first huge page in the object, `b` links
/// such tables; VM_READ, VM_WRITE and VM_EXEC of the mappings stand at [`OBJECT_PMD_RIGHTS_SHIFT`]. Entries that point to
/// it have R/W = 1: the rights are in the leaves.
pub const FLAG_OBJECT_PMD: u32 = 1 << 26;
/// Where the rights of the mappings stand in the `state` of a table with [`FLAG_OBJECT_PMD`]: three bits.
pub const OBJECT_PMD_RIGHTS_SHIFT: u32 = 27;

/// Packs a `state` word.
#[inline]
pub const fn state(kind: FrameKind, level_or_order: u8, flags: u32) -> u32 {
    kind as u32 | (level_or_order as u32) << 8 | flags
}
