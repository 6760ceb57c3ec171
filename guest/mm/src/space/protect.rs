//! mprotect: the rights of a range.
//!
//! Taking rights away narrows the leaves at once; granting them leaves private pages as they are where a write must still
//! copy, and lets the fault do it.

use super::Mm;
use super::limits::max_map_count;
use super::map::prot_flags;
use crate::error::MmError;
use crate::vma::layout::is_data;
use crate::vma::{
    VM_ACCESS, VM_GROWSDOWN, VM_HUGETLB, VM_LOCKED, VM_LOCKONFAULT, VM_SEALED, VM_SHARED, VM_WRITE,
};
use crate::{Env, VmaSet};
use alloc::vec::Vec;
use ptshare_abi::sys::general::{PROT_EXEC, PROT_GROWSDOWN, PROT_GROWSUP, PROT_READ, PROT_SEM, PROT_WRITE};
use ptshare_mutants::mutant;
use ptshare_paging::{PAGE_BYTES, PAGE_SHIFT, page_ceil};

impl<E: Env> Mm<E> {
    /// Gives `[addr, addr + len)` the rights `prot`.
    ///
    /// # Errors
    /// As mprotect(2). On `NotMapped`, `AccessDenied` and `Limit` the part before the culprit has its new rights, as on
    /// Linux; on `NoMemory` nothing has changed.
    pub fn mprotect(&self, addr: u64, len: u64, prot: u64) -> Result<(), MmError> {
        let grows_down = prot & u64::from(PROT_GROWSDOWN) != 0;
        let grows_up = prot & u64::from(PROT_GROWSUP) != 0;
        let prot = prot & !u64::from(PROT_GROWSDOWN | PROT_GROWSUP);
        if (grows_down && grows_up) || !addr.is_multiple_of(PAGE_BYTES) {
            return Err(MmError::Invalid);
        }
        if len == 0 {
            return Ok(());
        }
        // PAGE_ALIGN wraps, and so does the sum.
        let len = page_ceil(len).unwrap_or(0);
        let end = addr.wrapping_add(len);
        if end <= addr {
            return Err(MmError::NotMapped);
        }
        if prot & !u64::from(PROT_READ | PROT_WRITE | PROT_EXEC | PROT_SEM) != 0 {
            return Err(MmError::Invalid);
        }

        let mut change = self.change();
        let first =
            change.find_at_or_after(addr).filter(|vma| vma.rec.start < end).ok_or(MmError::NotMapped)?;
        let mut start = addr;
        if grows_down {
            if !first.has(VM_GROWSDOWN) {
                return Err(MmError::Invalid);
            }
            start = first.rec.start;
        } else if first.rec.start > start {
            return Err(MmError::NotMapped);
        } else if grows_up {
            // Nothing grows up on x86.
            return Err(MmError::Invalid);
        }
        let (stop, refusal) = allowed_prefix(&change, start, end, prot_flags(prot));
        let mut writable = Vec::new();
        if start < stop {
            newly_writable(&change, start, stop, prot_flags(prot), &mut writable);
            self.set_access(&mut change, start, stop, prot_flags(prot))?;
        }
        drop(change);
        for (start, end) in writable {
            // As on Linux the rights stand whether or not the pages could be brought in.
            let _ = self.populate(start, end - start);
        }
        refusal.map_or(Ok(()), Err)
    }

    /// Gives the mapped range `[start, end)` the access bits `access`.
    fn set_access(&self, set: &mut VmaSet<E>, start: u64, end: u64, access: u64) -> Result<(), MmError> {
        // Only what really changes leaves the sharing.
        for vma in set.iter_range(start, end) {
            if vma.rec.flags & VM_ACCESS != access && !mutant!(MPROTECT_IN_SHARED_TABLE) {
                let done = self.unshare_all(vma.rec.start.max(start), vma.rec.end.min(end));
                if mutant!(MPROTECT_HALF_DONE) && done.is_err() {
                    break;
                }
                done?;
            }
        }
        let mut batch = self.batch();
        set.update_flags(
            start,
            end,
            |flags| flags & !VM_ACCESS | access,
            |start, end, flags| {
                self.protect(start, end, flags, &mut batch);
            },
        );
        batch.finish();
        Ok(())
    }
}

/// The private locked parts of `[start, end)` that become writable: their pages are copied now (`mprotect_fixup`). Parts for
/// which there is no memory are left to the faults.
fn newly_writable<E: Env>(set: &VmaSet<E>, start: u64, end: u64, access: u64, parts: &mut Vec<(u64, u64)>) {
    let locked = |flags: u64| flags & (VM_WRITE | VM_SHARED | VM_LOCKED | VM_LOCKONFAULT) == VM_LOCKED;
    for vma in set.iter_range(start, end).filter(|vma| access & VM_WRITE != 0 && locked(vma.rec.flags)) {
        if parts.try_reserve(1).is_ok() {
            parts.push((vma.rec.start.max(start), vma.rec.end.min(end)));
        }
    }
}

/// How far from `start` the access bits may be given, and what stops them there.
fn allowed_prefix<E: Env>(set: &VmaSet<E>, start: u64, end: u64, access: u64) -> (u64, Option<MmError>) {
    let mut at = start;
    let mut data = 0;
    for vma in set.iter_range(start, end) {
        if vma.rec.start > at {
            return (at, Some(MmError::NotMapped));
        }
        if vma.has(VM_SEALED) {
            return (at, Some(MmError::NotPermitted));
        }
        let old = vma.rec.flags;
        let new = old & !VM_ACCESS | access;
        // The VM_MAY* bits stand four places above the rights.
        if new & !(new >> 4) & VM_ACCESS != 0 && !mutant!(MPROTECT_IGNORES_MAY) {
            return (at, Some(MmError::AccessDenied));
        }
        let upto = vma.rec.end.min(end);
        if new != old {
            if vma.has(VM_HUGETLB) && !vma.huge_size().is_aligned(at | upto) {
                // A huge page cannot be cut; the VMAs before have their new rights.
                return (at, Some(MmError::Invalid));
            }
            let pages = (upto - at) >> PAGE_SHIFT;
            data += if is_data(new) && !is_data(old) { pages } else { 0 };
            let cut = usize::from(vma.rec.start < at) + usize::from(upto < vma.rec.end);
            let over = new & VM_WRITE != 0
                && ((!set.may_expand(new, data) && set.may_expand(old, data))
                    || (old & VM_WRITE == 0 && !set.may_commit(new, pages, false)));
            if over || (cut > 0 && set.len() + cut > max_map_count() + 1) {
                return (at, Some(MmError::Limit));
            }
        }
        at = upto;
    }
    (at, (at < end).then_some(MmError::NotMapped))
}
