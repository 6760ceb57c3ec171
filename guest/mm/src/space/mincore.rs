//! mincore: which pages are in memory.

use super::Mm;
use crate::error::MmError;
use crate::hugetlb::size_of;
use crate::vma::Vma;
use crate::{Env, VmaSet};
use core::sync::atomic::Ordering::Relaxed;
use ptshare_abi::Errno;
use ptshare_paging::{PAGE_BYTES, Pte, is_user_range, page_ceil};

/// Pages looked at with one hold of `mmap_lock`.
const RUN: usize = 256;

impl<E: Env> Mm<E> {
    /// Tells for each page of `[addr, addr + len)` whether it is in memory, 1 or 0, in runs of up to 256 pages. `out` is
    /// called with no lock held, so that it may fault on the user's vector.
    ///
    /// # Errors
    /// As mincore(2): `Invalid` unless `addr` is page-aligned; `NotMapped` at the first hole, after the pages before it
    /// have been told; what `out` says.
    pub fn mincore(
        &self,
        addr: u64,
        len: u64,
        out: &mut dyn FnMut(&[u8]) -> Result<(), Errno>,
    ) -> Result<(), MmError> {
        if !addr.is_multiple_of(PAGE_BYTES) {
            return Err(MmError::Invalid);
        }
        if !is_user_range(addr, len) {
            return Err(MmError::NotMapped);
        }
        let end = addr + page_ceil(len).ok_or(MmError::NotMapped)?;
        let mut at = addr;
        while at < end {
            let mut run = [0_u8; RUN];
            let told = self.residency(at, end, &mut run)?;
            out(run.get(..told).unwrap_or(&[])).map_err(MmError::Caller)?;
            at += told as u64 * PAGE_BYTES;
        }
        Ok(())
    }

    /// Fills `run` from `at` on, up to a hole. Gives the number of pages, above 0.
    fn residency(&self, at: u64, end: u64, run: &mut [u8; RUN]) -> Result<usize, MmError> {
        let set = self.vmas.read();
        let stop = mapped_until(&set, at, end.min(at + RUN as u64 * PAGE_BYTES)).ok_or(MmError::NotMapped)?;
        for vma in set.iter_range(at, stop) {
            self.cached(vma, at, stop, run);
        }
        self.present_in(at, stop, &mut |va, pte| {
            let first = (va.wrapping_sub(at) / PAGE_BYTES) as usize;
            // A huge leaf is told of once, for all that it maps.
            let last = if pte.has(Pte::HUGE) {
                let size = size_of(self.env.meta(pte.pfn()).state.load(Relaxed));
                size.floor(va) + size.bytes()
            } else {
                va + PAGE_BYTES
            };
            let pages = ((last.min(stop) - va) / PAGE_BYTES) as usize;
            if let Some(part) = run.get_mut(first..first + pages) {
                part.fill(1);
            }
        });
        Ok(((stop - at) / PAGE_BYTES) as usize)
    }

    /// Marks the pages of `vma` that its object's cache has.
    fn cached(&self, vma: &Vma<E>, at: u64, stop: u64, run: &mut [u8; RUN]) {
        let Some(object) = &vma.object else { return };
        let (mut va, end) = (vma.rec.start.max(at), vma.rec.end.min(stop));
        while va < end {
            if let Some(byte) = run.get_mut(((va - at) / PAGE_BYTES) as usize) {
                *byte = u8::from(object.resident(vma.pgoff_of(va)));
            }
            va += PAGE_BYTES;
        }
    }
}

/// How far from `start` towards `end` there is no hole; `None` if `start` is in one.
fn mapped_until<E: Env>(set: &VmaSet<E>, start: u64, end: u64) -> Option<u64> {
    let mut at = start;
    for vma in set.iter_range(start, end) {
        if vma.rec.start > at {
            break;
        }
        at = vma.rec.end.min(end);
    }
    (at > start).then_some(at)
}
