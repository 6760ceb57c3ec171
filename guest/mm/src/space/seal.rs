//! mseal: mappings that can no longer be unmapped, moved, resized or given other rights (mseal(2), mm/mseal.c).

use super::Mm;
use super::limits::max_map_count;
use crate::error::MmError;
use crate::vma::{VM_SEALED, VM_SHARED, VM_WRITE};
use crate::{Env, Vma, VmaSet};
use ptshare_paging::{PAGE_BYTES, page_ceil};

impl<E: Env> Mm<E> {
    /// Seals the mappings of `[addr, addr + len)`, for good.
    ///
    /// # Errors
    /// As mseal(2): `Invalid` for flags, or a range that is not of whole pages; `NotMapped` when it has a hole, with
    /// nothing sealed; `Limit` when VMAs would be split over the limit; `NoMemory`.
    pub fn mseal(&self, addr: u64, len: u64, flags: u64) -> Result<(), MmError> {
        let rounded = page_ceil(len).filter(|&rounded| len == 0 || rounded != 0).ok_or(MmError::Invalid)?;
        let end = addr.checked_add(rounded).ok_or(MmError::Invalid)?;
        if flags != 0 || !addr.is_multiple_of(PAGE_BYTES) {
            return Err(MmError::Invalid);
        }
        if end == addr {
            return Ok(());
        }
        let mut change = self.change();
        let mut at = addr;
        for vma in change.iter_range(addr, end) {
            if vma.rec.start > at {
                break;
            }
            at = vma.rec.end;
        }
        if at < end {
            return Err(MmError::NotMapped);
        }
        if change.len() + 2 > max_map_count() {
            return Err(MmError::Limit);
        }
        let seal = |flags| flags | VM_SEALED;
        self.check_huge_cut(&change, addr, end, |flags| flags & VM_SEALED == 0)?;
        self.prepare_cuts(&change, addr, end, seal)?;
        change.update_flags(addr, end, seal, |_, _, _| {});
        Ok(())
    }
}

impl<E: Env> VmaSet<E> {
    /// May the VMAs of `[start, end)` be changed or unmapped?
    ///
    /// # Errors
    /// `NotPermitted` when one of them is sealed.
    pub(super) fn check_unsealed(&self, start: u64, end: u64) -> Result<(), MmError> {
        match self.iter_range(start, end).any(|vma| vma.has(VM_SEALED)) {
            true => Err(MmError::NotPermitted),
            false => Ok(()),
        }
    }
}

/// Would dropping pages of this VMA change what a sealed mapping shows, though the caller could not write there
/// (`can_madvise_modify`, mm/madvise.c)?
pub(super) fn forbids_discard<E: Env>(vma: &Vma<E>) -> bool {
    vma.rec.flags & (VM_SEALED | VM_SHARED | VM_WRITE) == VM_SEALED
}
