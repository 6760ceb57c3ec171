//! The kernel's way to a process's memory through its tables: for the stack that exec builds, and for other mms
//! (ptrace, process_vm_readv, /proc/PID/mem and cmdline).

use super::{Access, FaultOutcome, Mm};
use crate::Env;
use crate::error::MmError;
use crate::frame::{get_data, put_data};
use crate::hugetlb::head_of;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use ptshare_paging::{PAGE_BYTES, Pfn, is_user_range};

impl<E: Env> Mm<E> {
    /// Copies `out.len()` bytes from user address `va`, faulting pages in.
    ///
    /// # Errors
    /// `Fault` where a user-mode read would end in a signal, `NoMemory`; part of `out` is filled by then.
    pub fn read_user(&self, va: u64, out: &mut [u8]) -> Result<(), MmError> {
        let mut done = 0;
        self.each_page(va, out.len(), false, &mut |pa, len| {
            if let Some(part) = out.get_mut(done..done + len) {
                self.env.read_phys(pa, part);
            }
            done += len;
        })
    }

    /// Copies `data` to user address `va`, faulting pages in as a user-mode write does.
    ///
    /// # Errors
    /// As [`Mm::read_user`]; part of `data` is written by then.
    pub fn write_user(&self, va: u64, data: &[u8]) -> Result<(), MmError> {
        let mut done = 0;
        self.each_page(va, data.len(), true, &mut |pa, len| {
            if let Some(part) = data.get(done..done + len) {
                self.env.write_phys(pa, part);
            }
            done += len;
        })
    }

    /// Calls `f` with the physical address of the byte at `va`, faulting its page in as a user-mode access would. The frame
    /// stays until `f` returns; no lock is held meanwhile.
    ///
    /// # Errors
    /// As [`Mm::read_user`].
    pub fn with_page<T>(&self, va: u64, write: bool, f: impl FnOnce(u64) -> T) -> Result<T, MmError> {
        if !is_user_range(va, 1) {
            return Err(MmError::Fault);
        }
        let pfn = self.held_frame(va, write)?;
        let head = self.counted(pfn);
        let result = f(pfn.pa().0 + va % PAGE_BYTES);
        self.env.critical_enter();
        self.env.meta(head).aux.fetch_sub(1, Relaxed);
        put_data(&self.env, head);
        self.env.critical_exit();
        Ok(result)
    }

    fn each_page(
        &self,
        va: u64,
        len: usize,
        write: bool,
        f: &mut dyn FnMut(u64, usize),
    ) -> Result<(), MmError> {
        if !is_user_range(va, len as u64) {
            return Err(MmError::Fault);
        }
        let (mut at, end) = (va, va + len as u64);
        while at < end {
            let part = (PAGE_BYTES - at % PAGE_BYTES).min(end - at);
            self.with_page(at, write, |pa| f(pa, part as usize))?;
            at += part;
        }
        Ok(())
    }

    /// The frame that carries the counts of the page that `pfn` belongs to.
    fn counted(&self, pfn: Pfn) -> Pfn {
        head_of(&self.env, pfn).map_or(pfn, |(head, _)| head)
    }

    /// The frame that an access to `va` reaches, with a hold on it.
    fn held_frame(&self, va: u64, write: bool) -> Result<Pfn, MmError> {
        loop {
            {
                // The lock keeps the entry from being zapped between the look and the hold.
                let _set = self.vmas.write();
                self.env.critical_enter();
                let found = self.translate(va, write);
                if let Some(pfn) = found {
                    let head = self.counted(pfn);
                    get_data(&self.env, head);
                    self.env.meta(head).aux.fetch_add(1, Relaxed);
                }
                self.env.critical_exit();
                if let Some(pfn) = found {
                    return Ok(pfn);
                }
            }
            match self.fault_from_outside(va, Access { write, exec: false, user: true }) {
                FaultOutcome::Resolved => {}
                FaultOutcome::OutOfMemory => return Err(MmError::NoMemory),
                // Another process's handler is not waited for (Linux: `get_user_pages_remote` without `locked`).
                FaultOutcome::Userfault(ticket) => {
                    self.forget_userfault(va, ticket);
                    return Err(MmError::Fault);
                }
                FaultOutcome::SegvMapErr | FaultOutcome::SegvAccErr | FaultOutcome::BusAdrErr => {
                    return Err(MmError::Fault);
                }
            }
        }
    }

    /// [`Mm::fault`] by a CPU that may run another mm. Meanwhile it is asked to answer this mm's flushes, which the walk
    /// relies on ([`Env::flush_answers`]).
    fn fault_from_outside(&self, va: u64, access: Access) -> FaultOutcome {
        let bit = 1 << self.env.cpu();
        let before = self.rec().cpumask.fetch_or(bit, SeqCst);
        let outcome = self.fault(va, access);
        if before & bit == 0 {
            self.rec().cpumask.fetch_and(!bit, SeqCst);
        }
        outcome
    }
}
