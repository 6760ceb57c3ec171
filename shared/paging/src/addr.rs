//! Physical addresses and frame numbers. User virtual addresses stay plain `u64`s, as they arrive from registers.

/// log2 of the page size.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in a base page and in a table.
pub const PAGE_BYTES: u64 = 1 << PAGE_SHIFT;
/// First address past the user half. Linux's `TASK_SIZE_MAX`: one guard page below the canonical hole.
pub const USER_END: u64 = 0x0000_7fff_ffff_f000;

/// A guest-physical byte address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(transparent)]
pub struct Pa(pub u64);

/// A guest-physical page-frame number: an address in units of 4 KiB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(transparent)]
pub struct Pfn(pub u64);

impl Pa {
    /// The frame that holds this byte.
    #[inline]
    pub const fn pfn(self) -> Pfn {
        Pfn(self.0 >> PAGE_SHIFT)
    }
}

impl Pfn {
    /// Address of the frame's first byte.
    #[inline]
    pub const fn pa(self) -> Pa {
        Pa(self.0 << PAGE_SHIFT)
    }

    /// The frame `pages` further up.
    #[inline]
    pub const fn add(self, pages: u64) -> Pfn {
        Pfn(self.0 + pages)
    }
}

/// Rounds an address or a length in bytes down to a page boundary.
#[inline]
pub const fn page_floor(bytes: u64) -> u64 {
    bytes & !(PAGE_BYTES - 1)
}

/// Rounds an address or a length in bytes up to a page boundary; `None` when that overflows.
#[inline]
pub const fn page_ceil(bytes: u64) -> Option<u64> {
    match bytes.checked_add(PAGE_BYTES - 1) {
        Some(sum) => Some(page_floor(sum)),
        None => None,
    }
}

/// Is `[start, start + len)` a range of user addresses (an empty one included)?
#[inline]
pub const fn is_user_range(start: u64, len_bytes: u64) -> bool {
    match start.checked_add(len_bytes) {
        Some(end) => end <= USER_END,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_up_reports_overflow() {
        assert_eq!(page_ceil(1), Some(4096));
        assert_eq!(page_ceil(4096), Some(4096));
        assert_eq!(page_ceil(u64::MAX), None);
    }

    #[test]
    fn user_ranges_end_below_the_guard_page() {
        assert!(is_user_range(0, USER_END));
        assert!(!is_user_range(1, USER_END));
        assert!(!is_user_range(u64::MAX, 2));
    }
}
