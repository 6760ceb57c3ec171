//! msync. Every object lives in memory, so there is nothing to write back: only the checks remain.

use super::Mm;
use crate::Env;
use crate::error::MmError;
use crate::vma::VM_LOCKED;
use ptshare_abi::sys::general::{MS_ASYNC, MS_INVALIDATE, MS_SYNC};
use ptshare_paging::{PAGE_BYTES, page_ceil};

impl<E: Env> Mm<E> {
    /// Brings the objects behind `[addr, addr + len)` up to date, which they are.
    ///
    /// # Errors
    /// As msync(2): `Invalid`, `NotMapped` (holes), `Busy` (MS_INVALIDATE on locked memory).
    pub fn msync(&self, addr: u64, len: u64, flags: u64) -> Result<(), MmError> {
        let has = |flag: u32| flags & u64::from(flag) != 0;
        if flags & !u64::from(MS_ASYNC | MS_INVALIDATE | MS_SYNC) != 0
            || !addr.is_multiple_of(PAGE_BYTES)
            || (has(MS_ASYNC) && has(MS_SYNC))
        {
            return Err(MmError::Invalid);
        }
        // PAGE_ALIGN wraps to 0.
        let end = addr.checked_add(page_ceil(len).unwrap_or(0)).ok_or(MmError::NotMapped)?;
        let set = self.vmas.read();
        let mut at = addr;
        let mut holes = false;
        for vma in set.iter_range(addr, end) {
            holes |= vma.rec.start > at;
            if has(MS_INVALIDATE) && vma.has(VM_LOCKED) {
                return Err(MmError::Busy);
            }
            at = vma.rec.end.min(end);
        }
        if holes || at < end { Err(MmError::NotMapped) } else { Ok(()) }
    }
}
