//! munmap, and the unmapping inside other calls.

use super::Mm;
use super::limits::max_map_count;
use crate::error::MmError;
use crate::{Env, VmaSet};
use ptshare_mutants::mutant;
use ptshare_paging::{Level, PAGE_BYTES, is_user_range, page_ceil};

impl<E: Env> Mm<E> {
    /// Unmaps `[addr, addr + len)`.
    ///
    /// # Errors
    /// As munmap(2): `Invalid`; `Limit` when a VMA would be split over the limit; `NoMemory`, with nothing changed.
    pub fn munmap(&self, addr: u64, len: u64) -> Result<(), MmError> {
        let len = checked_range(addr, len)?;
        let mut change = self.change();
        self.unmap_range(&mut change, addr, addr + len)
    }

    /// Unmaps `[start, end)`, page-aligned user addresses, in a set whose lock is held for write.
    pub(super) fn unmap_range(&self, set: &mut VmaSet<E>, start: u64, end: u64) -> Result<(), MmError> {
        let Some(first) = set.find_at_or_after(start).filter(|vma| vma.rec.start < end) else {
            return Ok(());
        };
        set.check_unsealed(start, end)?;
        self.check_huge_cut(set, start, end, |_| true)?;
        if first.rec.start < start && end < first.rec.end && set.len() >= max_map_count() {
            return Err(MmError::Limit);
        }
        let forgotten =
            if mutant!(MUNMAP_FORGETS_LAST_PAGE) && end - start > PAGE_BYTES { PAGE_BYTES } else { 0 };
        self.discard(set, start, end - forgotten)?;
        self.huge.release(&self.env, start, end);
        set.remove_range(start, end);
        Ok(())
    }

    /// Removes what is mapped in `[start, end)` from the tables; the VMAs stay. The last step that can fail comes first.
    pub(super) fn discard(&self, set: &VmaSet<E>, start: u64, end: u64) -> Result<(), MmError> {
        let (low, high) = free_surroundings(set, start, end);
        if !mutant!(DISCARD_IN_SHARED_TABLE) {
            self.unshare_edges(low, high)?;
        }
        let mut batch = self.batch();
        self.zap(low, high, &mut batch);
        batch.finish();
        Ok(())
    }
}

/// `[start, end)` widened over unmapped space to the spans of its outermost PTE pages, as far as no other VMA is there.
/// A table that nothing else uses is then wholly inside: a shared one is dropped by its count, not copied first.
fn free_surroundings<E: Env>(set: &VmaSet<E>, start: u64, end: u64) -> (u64, u64) {
    let span = Level::Pte.span_bytes();
    let low = Level::Pte.span_start(start);
    let low = if low == start { start } else { set.last_end_in(low, start) };
    let high = Level::Pte.span_start(end - 1) + span;
    let high = set.find_at_or_after(end).map_or(high, |vma| high.min(vma.rec.start.max(end)));
    (low, high)
}

/// Checks a range as munmap does and gives its length in whole pages.
fn checked_range(addr: u64, len: u64) -> Result<u64, MmError> {
    if !addr.is_multiple_of(PAGE_BYTES) || !is_user_range(addr, len) {
        return Err(MmError::Invalid);
    }
    match page_ceil(len) {
        Some(0) | None => Err(MmError::Invalid),
        Some(len) => Ok(len),
    }
}
