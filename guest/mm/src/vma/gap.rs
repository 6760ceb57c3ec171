//! Where a new mapping goes when the caller leaves that to us: Linux's top-down placement.
//!
//! The highest gap below `mmap_base` that is large enough is taken, at its upper end; a VMA that grows down keeps its
//! guard gap. When there is none, the lowest gap above a third of the address space is (`vm_unmapped_area`,
//! mm/mmap.c; `arch_get_unmapped_area_topdown`, arch/x86/kernel/sys_x86_64.c).

use super::{MMAP_MIN_ADDR, Vma, VmaSet};
use crate::Env;
use ptshare_paging::{PAGE_BYTES, USER_END};

/// Where bottom-up placement begins: Linux's `TASK_UNMAPPED_BASE`, a third of the user half.
pub(crate) const UNMAPPED_BASE: u64 = (USER_END / 3 + PAGE_BYTES - 1) & !(PAGE_BYTES - 1);
/// The window of MAP_32BIT mappings (arch/x86/kernel/sys_x86_64.c, `find_start_end`).
pub(crate) const LOW_WINDOW: (u64, u64) = (0x4000_0000, 0x8000_0000);

/// What the last search learnt: no gap in `[from, mmap_base)` is larger than `largest`. It saves a long walk where a
/// program maps and maps; it never changes an answer.
#[derive(Default)]
pub(super) struct GapCache {
    /// 0: nothing is known.
    from: u64,
    /// Bytes.
    largest: u64,
}

impl GapCache {
    /// A range has become free: what was known is not any more.
    #[inline]
    pub(super) fn freed(&mut self) {
        self.from = 0;
    }

    /// A range has been filled: gaps only shrink, so what was known holds.
    #[inline]
    pub(super) fn filled(&mut self, _start: u64, _end: u64) {}
}

impl<E: Env> VmaSet<E> {
    /// May `[addr, addr + len)` be mapped with no regard to what is there but the guard gaps?
    fn hint_is_free(&self, addr: u64, len: u64) -> bool {
        let pos = self.seek(addr);
        self.get(pos).is_none_or(|vma| addr + len <= vma.gap_start())
    }

    /// An address for `len` bytes (page-aligned, above 0) with a wish of `hint` (0 for none); `low` for MAP_32BIT.
    /// `None` when no gap is large enough.
    pub(crate) fn place(&mut self, hint: u64, len: u64, low: bool) -> Option<u64> {
        let (floor, ceiling) = if low { LOW_WINDOW } else { (MMAP_MIN_ADDR, USER_END) };
        if len > ceiling {
            return None;
        }
        if hint != 0 {
            let addr = ptshare_paging::page_ceil(hint)?;
            if addr <= ceiling - len && addr >= MMAP_MIN_ADDR && self.hint_is_free(addr, len) {
                return Some(addr);
            }
        }
        if low {
            return self.lowest_gap(floor, ceiling, len);
        }
        let base = self.layout.mmap_base;
        self.highest_gap(base, len).or_else(|| self.lowest_gap(UNMAPPED_BASE, USER_END, len))
    }

    /// The highest gap of `len` bytes below `base`.
    fn highest_gap(&mut self, base: u64, len: u64) -> Option<u64> {
        // `top` is the upper end of the gap under examination.
        let (mut top, mut largest) = if self.gaps.from != 0 && len > self.gaps.largest {
            (self.gaps.from, self.gaps.largest)
        } else {
            (base, 0)
        };
        // The first VMA below `top`; one that reaches over it closes the gap at its own start.
        let mut pos = self.seek(top);
        if let Some(vma) = self.get(pos) {
            top = top.min(vma.gap_start());
        }
        loop {
            let below = self.prev(pos);
            let bottom =
                below.and_then(|p| self.get(p)).map_or(MMAP_MIN_ADDR, |v| v.rec.end.max(MMAP_MIN_ADDR));
            let room = top.saturating_sub(bottom);
            if room >= len {
                let addr = top - len;
                // What lies above `addr` has been seen, and the rest of this gap will be searched next time.
                self.gaps = GapCache { from: top, largest };
                return Some(addr);
            }
            largest = largest.max(room);
            pos = below?;
            top = top.min(self.get(pos).map_or(0, Vma::gap_start));
        }
    }

    /// The lowest gap of `len` bytes in `[floor, ceiling)`.
    fn lowest_gap(&self, floor: u64, ceiling: u64, len: u64) -> Option<u64> {
        let mut bottom = floor;
        for vma in self.iter_from(floor) {
            if vma.gap_start().min(ceiling).saturating_sub(bottom) >= len {
                return Some(bottom);
            }
            bottom = bottom.max(vma.rec.end);
            if bottom >= ceiling {
                return None;
            }
        }
        (ceiling.saturating_sub(bottom) >= len).then_some(bottom)
    }
}
