//! Pages of 2 MiB from a pool of their own: Linux's hugetlb.
//!
//! ```text
//!  pool.rs      the pool: persistent and surplus pages, reservations             (under the allocator's lock)
//!  regions.rs   which pages of an object, or of an mm, have been reserved
//!  shared_pmd.rs PMD pages that belong to an object: found, taken over, taken out
//!  fault.rs     faults: fill a PMD entry, copy 2 MiB on a write
//!  space.rs     what mmap, munmap, mremap and their like do differently in these mappings
//!  (object/huge.rs: the object's half, its cache and its reservations)
//! ```
//!
//! **Frames.** A hugetlb page is 512 aligned frames; the metadata of the first speak for all, those of the others are all
//! zero. So nothing here takes time in proportion to 512, but the clearing and copying of the page itself.
//!
//! **Mappings.** A hugetlb VMA (`VM_HUGETLB`) always has an object, begins and ends at multiples of 2 MiB, and is mapped
//! by huge leaves in PMD pages alone. A PMD page with such leaves has `FLAG_HUGE_LEAVES`, so that the paths of ordinary
//! memory need not look at every entry.
//!
//! **Sharing** (Linux: "huge PMD sharing", `want_pmd_share`, `huge_pmd_share`, `huge_pmd_unshare` in mm/hugetlb.c). A
//! shared hugetlb VMA that covers a whole aligned GiB is mapped there by a PMD page that belongs to the object
//! (`FLAG_OBJECT_PMD`); every other VMA with the same rights and the same part of the object over an aligned GiB takes
//! it over at its first fault, at whatever address. Who changes such a VMA takes the table out of its own mm, and refaults.
//!
//! Rule `huge-frames-count-tables`: the head's `refs` counts leaves once a table, not once a process.

mod fault;
mod pool;
#[cfg(test)]
mod random;
mod regions;
mod shared_pmd;
mod space;
#[cfg(test)]
mod tests;

pub use pool::{HugePool, Quota, counts, overcommit, pool_frames, resize, set_overcommit, set_sharing};
pub(crate) use regions::Regions;
pub(crate) use shared_pmd::{forget, is_object_pmd};
pub(crate) use space::HugeSpace;

use ptshare_paging::{Level, Pte};
pub use ptshare_wire::frame::HUGE_FRAMES;

/// Bytes of a hugetlb page.
pub const HUGE_BYTES: u64 = Level::Pmd.entry_bytes();
/// Number of bits to shift an address to get the number of a hugetlb page.
pub const HUGE_SHIFT: u32 = 21;

/// Is this non-zero entry of a PMD page a leaf, in force or held without access?
#[inline]
pub(crate) const fn is_huge(pmd: Pte) -> bool {
    pmd.has(Pte::HUGE)
}

/// Rounds up to whole hugetlb pages; `None` when that overflows.
#[inline]
pub fn huge_ceil(bytes: u64) -> Option<u64> {
    bytes.checked_next_multiple_of(HUGE_BYTES)
}

/// Is this address or length a multiple of 2 MiB?
#[inline]
pub const fn is_huge_aligned(bytes: u64) -> bool {
    bytes.is_multiple_of(HUGE_BYTES)
}
