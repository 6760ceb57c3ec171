//! The sizes of hugetlb pages. Linux keeps a `struct hstate` for each (include/linux/hugetlb.h).

use crate::vma::VM_HUGE_1GB;
use core::sync::atomic::AtomicU64;
use ptshare_paging::{Level, PAGE_SHIFT};

/// A size of hugetlb pages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum HugeSize {
    /// 2 MiB, a leaf in a PMD page; the size where none is named.
    Mib2 = 0,
    /// 1 GiB, a leaf in a PUD page: where the processor has such (CPUID.80000001H:EDX\[26\]).
    Gib1 = 1,
}

/// How many sizes there are.
pub const HUGE_SIZES: usize = 2;

impl HugeSize {
    /// All of them, smallest first: each at its [`HugeSize::index`].
    pub const ALL: [HugeSize; HUGE_SIZES] = [HugeSize::Mib2, HugeSize::Gib1];

    /// Where arrays by size keep it.
    #[inline]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The level of the tables whose leaves map such pages.
    #[inline]
    pub const fn level(self) -> Level {
        match self {
            HugeSize::Mib2 => Level::Pmd,
            HugeSize::Gib1 => Level::Pud,
        }
    }

    /// log2 of the bytes of a page.
    #[inline]
    pub const fn shift(self) -> u32 {
        self.level().shift()
    }

    /// Bytes of a page.
    #[inline]
    pub const fn bytes(self) -> u64 {
        self.level().entry_bytes()
    }

    /// log2 of the frames of a page: what stands in the `state` of its head, where a free block has its order.
    #[inline]
    pub const fn order(self) -> u32 {
        self.shift() - PAGE_SHIFT
    }

    /// Frames of a page.
    #[inline]
    pub const fn frames(self) -> u64 {
        1 << self.order()
    }

    /// The size with pages of `1 << order` frames.
    #[inline]
    pub const fn from_order(order: u32) -> Option<HugeSize> {
        match order {
            9 => Some(HugeSize::Mib2),
            18 => Some(HugeSize::Gib1),
            _ => None,
        }
    }

    /// The size with pages of `1 << shift` bytes, as MAP_HUGE_SHIFT encodes it.
    #[inline]
    pub const fn from_shift(shift: u64) -> Option<HugeSize> {
        match shift {
            21 => Some(HugeSize::Mib2),
            30 => Some(HugeSize::Gib1),
            _ => None,
        }
    }

    /// The size of a hugetlb VMA with these flags.
    #[inline]
    pub const fn of_vma(flags: u64) -> HugeSize {
        if flags & VM_HUGE_1GB != 0 { HugeSize::Gib1 } else { HugeSize::Mib2 }
    }

    /// Rounds bytes up to whole pages; `None` when that overflows.
    #[inline]
    pub const fn ceil(self, bytes: u64) -> Option<u64> {
        bytes.checked_next_multiple_of(self.bytes())
    }

    /// Rounds an address down to its page.
    #[inline]
    pub const fn floor(self, addr: u64) -> u64 {
        addr & !(self.bytes() - 1)
    }

    /// Is this address or length a multiple of the page?
    #[inline]
    pub const fn is_aligned(self, bytes: u64) -> bool {
        bytes & (self.bytes() - 1) == 0
    }
}

/// What the pool of one size has, in its pages: `reserved <= free <= total`, `surplus <= total`,
/// `promised <= reserved`.
#[repr(C)]
#[derive(Default, Debug)]
pub struct HugetlbCounts {
    /// Pages in the pool, in use or not, surplus ones included.
    pub total: AtomicU64,
    /// Of those, free ones.
    pub free: AtomicU64,
    /// Free ones that mappings have reserved and not faulted in yet.
    pub reserved: AtomicU64,
    /// Pages above the pool's persistent size.
    pub surplus: AtomicU64,
    /// Of the reserved pages, those promised to objects; the others are promised to mms.
    pub promised: AtomicU64,
}

impl HugetlbCounts {
    /// An empty pool.
    pub const fn new() -> Self {
        HugetlbCounts {
            total: AtomicU64::new(0),
            free: AtomicU64::new(0),
            reserved: AtomicU64::new(0),
            surplus: AtomicU64::new(0),
            promised: AtomicU64::new(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_known_by_each_of_their_numbers() {
        for (i, size) in HugeSize::ALL.into_iter().enumerate() {
            assert_eq!(size.index(), i);
            assert_eq!(HugeSize::from_order(size.order()), Some(size));
            assert_eq!(HugeSize::from_shift(size.shift().into()), Some(size));
            assert_eq!(size.bytes(), size.frames() * ptshare_paging::PAGE_BYTES);
            assert_eq!(size.ceil(1), Some(size.bytes()));
            assert_eq!(size.floor(size.bytes() * 3 - 1), size.bytes() * 2);
        }
        assert_eq!(HugeSize::Gib1.ceil(u64::MAX), None);
        assert_eq!(HugeSize::from_shift(22), None);
    }
}
