//! remap_file_pages(2), as Linux has it since 4.0: not a nonlinear mapping, but an mmap of the same object at another page
//! over the range (mm/mmap.c).

use super::{MapRequest, Mm};
use crate::error::MmError;
use crate::vma::{VM_EXEC, VM_LOCKED, VM_READ, VM_SHARED, VM_WRITE, Vma};
use crate::{Env, VmaSet};
use alloc::sync::Arc;
use ptshare_abi::sys::general as abi;
use ptshare_paging::{PAGE_SHIFT, page_floor};

impl<E: Env> Mm<E> {
    /// Lets `[start, start + size)`, rounded down to pages and part of a shared mapping, show the object from page `pgoff`
    /// on. `prot` must be 0; of `flags` only MAP_NONBLOCK counts.
    ///
    /// # Errors
    /// `Invalid` as remap_file_pages(2) says; otherwise as mmap(2).
    pub fn remap_file_pages(
        &self,
        start: u64,
        size: u64,
        prot: u64,
        pgoff: u64,
        flags: u64,
    ) -> Result<(), MmError> {
        let (start, size) = (page_floor(start), page_floor(size));
        let end = start.checked_add(size).filter(|&end| end > start).ok_or(MmError::Invalid)?;
        if prot != 0 || pgoff.checked_add(size >> PAGE_SHIFT).is_none() {
            return Err(MmError::Invalid);
        }
        let mut change = self.change();
        let vma = change.find(start).filter(|vma| vma.has(VM_SHARED)).ok_or(MmError::Invalid)?;
        if !is_uniform(&change, vma, end) {
            return Err(MmError::Invalid);
        }
        let object = vma.object.clone().ok_or(MmError::Invalid)?;
        let kept = flags & u64::from(abi::MAP_NONBLOCK);
        let locked = if vma.has(VM_LOCKED) { abi::MAP_LOCKED } else { 0 };
        // PROT_READ, PROT_WRITE and PROT_EXEC have the numbers of VM_READ, VM_WRITE and VM_EXEC.
        let mut request = MapRequest::anonymous(size, vma.rec.flags & (VM_READ | VM_WRITE | VM_EXEC));
        request.addr = start;
        request.flags = kept | u64::from(locked | abi::MAP_SHARED | abi::MAP_FIXED | abi::MAP_POPULATE);
        request.object = Some((object, pgoff));
        let placed = self.map_with(&mut change, request)?;
        drop(change);
        self.populate_placed(placed);
        Ok(())
    }
}

/// Do mappings like `vma` reach from there to `end` without a hole?
fn is_uniform<E: Env>(set: &VmaSet<E>, vma: &Vma<E>, end: u64) -> bool {
    let same = |next: &Vma<E>| {
        next.rec.flags == vma.rec.flags
            && match (&next.object, &vma.object) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                _ => false,
            }
    };
    let mut upto = vma.rec.end;
    for next in set.iter_from(upto) {
        if upto >= end {
            break;
        }
        if next.rec.start != upto || !same(next) {
            return false;
        }
        upto = next.rec.end;
    }
    upto >= end
}
