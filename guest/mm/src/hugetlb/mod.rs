//! Pages of 2 MiB and of 1 GiB from pools of their own: Linux's hugetlb. A [`HugeSize`] says which, as an `hstate` does there.
//!
//! ```text
//!  cmdline.rs   the pools that the command line asks for
//!  pool.rs      the pools: persistent and surplus pages, reservations            (under the allocator's lock)
//!  regions.rs   which pages of an object, or of an mm, have been reserved
//!  shared_pmd.rs PMD pages that belong to an object: found, taken over, taken out
//!  fault.rs     faults: fill an entry, copy a huge page on a write
//!  space.rs     what mmap, munmap, mremap and their like do differently in these mappings
//!  (object/huge.rs: the object's half, its cache and its reservations)
//! ```
//!
//! **Frames.** A hugetlb page is 512 or 262144 aligned frames; the metadata of the first speak for all, the others are in
//! state 0. So nothing here takes time in proportion to that number, but the clearing and copying of the page itself, and
//! the making and giving back of 1 GiB, which are 512 blocks to the allocator.
//!
//! **Mappings.** A hugetlb VMA (`VM_HUGETLB`) always has an object, begins and ends at multiples of its page size (1 GiB with
//! `VM_HUGE_1GB`), and is mapped by huge leaves alone: in PMD pages those of 2 MiB, in PUD pages those of 1 GiB. A table
//! with such leaves has `FLAG_HUGE_LEAVES`, so that the paths of ordinary memory need not look at every entry.
//!
//! **Sharing** (Linux: "huge PMD sharing", `want_pmd_share`, `huge_pmd_share`, `huge_pmd_unshare` in mm/hugetlb.c). A
//! shared hugetlb VMA that covers a whole aligned GiB is mapped there by a PMD page that belongs to the object
//! (`FLAG_OBJECT_PMD`); every other VMA with the same rights and the same part of the object over an aligned GiB takes
//! it over at its first fault, at whatever address. Who changes such a VMA takes the table out of its own mm, and refaults.
//! Of pages of 1 GiB there is no table to share: their leaves lie in PUD pages, as one mm's or, after a fork in mode `tree`,
//! shared for copy on write.
//!
//! Rule `huge-frames-count-tables`: the head's `refs` counts leaves once a table, not once a process.

mod cmdline;
mod fault;
#[cfg(test)]
mod gib;
mod pool;
#[cfg(test)]
mod random;
mod regions;
mod shared_pmd;
mod space;
#[cfg(test)]
mod tests;

pub use cmdline::{PoolOptions, memparse};
pub use pool::{
    HugePools, NoSurplus, Quota, counts, default_size, has_size, overcommit, pool_frames, resize,
    set_default_size, set_overcommit, set_sharing,
};
pub(crate) use regions::Regions;
pub(crate) use shared_pmd::{forget, is_object_pmd};
pub(crate) use space::HugeSpace;

use crate::Env;
use core::sync::atomic::Ordering::Relaxed;
use ptshare_paging::{Pfn, Pte};
pub use ptshare_wire::HugeSize;
use ptshare_wire::frame::{FrameKind, state};
use ptshare_wire::huge::HUGE_SIZES;

/// Bytes of a page of 2 MiB.
pub const HUGE_BYTES: u64 = HugeSize::Mib2.bytes();
/// Frames of such a page.
pub const HUGE_FRAMES: u64 = HugeSize::Mib2.frames();

/// Is this non-zero entry of a table above the PTE pages a leaf, in force or held without access?
#[inline]
pub(crate) const fn is_huge(upper: Pte) -> bool {
    upper.has(Pte::HUGE)
}

/// The size of the hugetlb page whose head has this `state`.
#[inline]
pub(crate) const fn size_of(state: u32) -> HugeSize {
    match HugeSize::from_order(state >> 8 & 0xff) {
        Some(size) => size,
        None => HugeSize::Mib2,
    }
}

/// The `state` of a hugetlb page's head.
#[inline]
pub(crate) const fn head_state(size: HugeSize, flags: u32) -> u32 {
    state(FrameKind::Hugetlb, size.order() as u8, flags)
}

/// The head of the hugetlb page that the frame is part of, and the page's size; `None` for any other frame.
pub fn head_of<E: Env>(env: &E, pfn: Pfn) -> Option<(Pfn, HugeSize)> {
    HugeSize::ALL.into_iter().find_map(|size| {
        let head = Pfn(pfn.0 & !(size.frames() - 1));
        let state = env.meta(head).state.load(Relaxed);
        (state & 0xffff == head_state(size, 0)).then_some((head, size))
    })
}
