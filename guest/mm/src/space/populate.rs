//! Bringing pages in ahead of use: MAP_POPULATE, mlock, madvise(MADV_POPULATE_*).

use super::{FaultOutcome, Mm};
use crate::Env;
use crate::error::MmError;
use crate::vma::{VM_ACCESS, VM_LOCKONFAULT, VM_READ, VM_SHARED, VM_WRITE};

impl<E: Env> Mm<E> {
    /// Brings in the pages of `[addr, addr + len)` (page-aligned) as `populate_vma_page_range` (mm/gup.c) does: private
    /// writable memory as if written, the rest as if read, and nothing of what is to be locked on fault.
    ///
    /// # Errors
    /// `NotMapped` at the first hole or VMA without rights; `NoMemory`; `Fault` where an access would end in a signal.
    pub fn populate(&self, addr: u64, len: u64) -> Result<(), MmError> {
        self.with_handlers(|| self.populate_now(addr, len))
    }

    /// Runs `attempt` until no page is left that a userfaultfd's handler must bring in.
    fn with_handlers(&self, mut attempt: impl FnMut() -> Result<(), MmError>) -> Result<(), MmError> {
        loop {
            match attempt() {
                Err(MmError::Userfault(ticket)) if self.env.wait_userfault(ticket) => {}
                Err(MmError::Userfault(_)) => return Err(MmError::Fault),
                result => return result,
            }
        }
    }

    fn populate_now(&self, addr: u64, len: u64) -> Result<(), MmError> {
        let end = addr.saturating_add(len);
        let set = self.vmas.read();
        let mut at = addr;
        for vma in set.iter_range(addr, end) {
            if vma.rec.start > at {
                return Err(MmError::NotMapped);
            }
            let upto = vma.rec.end.min(end);
            if vma.has(VM_LOCKONFAULT) {
                at = upto;
                continue;
            }
            if vma.rec.flags & VM_ACCESS == 0 {
                return Err(MmError::NotMapped);
            }
            let write = vma.rec.flags & (VM_WRITE | VM_SHARED) == VM_WRITE;
            self.populate_range(&set, at, upto, write).map_err(populate_error)?;
            at = upto;
        }
        if at < end { Err(MmError::NotMapped) } else { Ok(()) }
    }

    /// MADV_POPULATE_READ and MADV_POPULATE_WRITE (`madvise_populate`, mm/madvise.c).
    pub(super) fn populate_as(&self, start: u64, end: u64, write: bool) -> Result<(), MmError> {
        self.with_handlers(|| self.populate_as_now(start, end, write))
    }

    fn populate_as_now(&self, start: u64, end: u64, write: bool) -> Result<(), MmError> {
        let set = self.vmas.read();
        let wanted = if write { VM_WRITE } else { VM_READ };
        let mut at = start;
        for vma in set.iter_range(start, end) {
            if vma.rec.start > at {
                return Err(MmError::NotMapped);
            }
            if !vma.has(wanted) {
                return Err(MmError::Invalid);
            }
            let upto = vma.rec.end.min(end);
            self.populate_range(&set, at, upto, write).map_err(populate_error)?;
            at = upto;
        }
        if at < end { Err(MmError::NotMapped) } else { Ok(()) }
    }
}

fn populate_error(outcome: FaultOutcome) -> MmError {
    match outcome {
        FaultOutcome::OutOfMemory => MmError::NoMemory,
        FaultOutcome::Userfault(ticket) => MmError::Userfault(ticket),
        FaultOutcome::Resolved
        | FaultOutcome::SegvMapErr
        | FaultOutcome::SegvAccErr
        | FaultOutcome::BusAdrErr => MmError::Fault,
    }
}
