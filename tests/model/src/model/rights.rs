//! mprotect, and the mlock family.

use super::*;
use ptshare_abi::sys::general as abi;
use ptshare_mm::vma::{VM_ACCESS, VM_GROWSDOWN, VM_HUGETLB, VM_LOCKED, VM_LOCKONFAULT, VM_SHARED, VM_WRITE};
use ptshare_paging::page_floor;

const LOCK_BITS: u64 = VM_LOCKED | VM_LOCKONFAULT;

fn with_lock(extent: &Extent, bits: u64) -> u64 {
    if extent.has(VM_HUGETLB) { extent.flags } else { extent.flags & !LOCK_BITS | bits }
}

impl Model {
    pub(super) fn mprotect(
        &mut self,
        context: Context<'_>,
        addr: u64,
        len: u64,
        prot: u64,
        answer: Answer,
    ) -> Verdict {
        let down = prot & u64::from(abi::PROT_GROWSDOWN) != 0;
        let access = prot & !u64::from(abi::PROT_GROWSDOWN);
        if !addr.is_multiple_of(PAGE_BYTES) {
            return expect(answer, error(Errno::EINVAL), "mprotect of nonsense");
        }
        if len == 0 {
            return expect(answer, value(0), "mprotect of nothing");
        }
        if access & !VM_ACCESS != 0 {
            return expect(answer, error(Errno::EINVAL), "mprotect with unknown bits");
        }
        let end = addr + len.next_multiple_of(PAGE_BYTES);
        let extents = &self.process(context.pid).extents;
        let mut start = addr;
        let first = extents.at_or_after(addr).filter(|extent| extent.start < end);
        match first {
            None => return expect(answer, error(Errno::ENOMEM), "mprotect of a hole"),
            Some(first) if down && !first.has(VM_GROWSDOWN) => {
                return expect(answer, error(Errno::EINVAL), "mprotect of no stack");
            }
            Some(first) if down => start = first.start,
            Some(first) if first.start > addr => {
                return expect(answer, error(Errno::ENOMEM), "mprotect from a hole");
            }
            Some(_) => {}
        }
        let hole = extents.first_hole(start, end);
        let update = |extent: &Extent| extent.flags & !VM_ACCESS | access;
        // A huge page cannot be cut; what lies before it gets its rights.
        let uncut = |part: &Extent| part.start.is_multiple_of(HUGE) && part.end.is_multiple_of(HUGE);
        let parts = extents.parts(start, hole);
        let cut = parts.iter().find(|p| p.has(VM_HUGETLB) && !uncut(p) && update(p) != p.flags);
        let cut = cut.map(|part| part.start);
        let stop = cut.unwrap_or(hole);
        // Locked private memory that becomes writable is copied at once.
        let locked = |p: &&Extent| {
            p.flags & (VM_WRITE | VM_SHARED | VM_LOCKED | VM_LOCKONFAULT) == VM_LOCKED && p.start < stop
        };
        let copied: Vec<Extent> =
            parts.iter().filter(locked).filter(|_| access & VM_WRITE != 0).cloned().collect();
        if context.refused && answer == error(Errno::ENOMEM) {
            // Refused, or the hole after all: the kernel's mappings tell.
            let mut done = true;
            context.kernel.mm(context.pid).for_each_vma(&mut |vma| {
                if vma.start < stop && start < vma.end {
                    done &= vma.flags & VM_ACCESS == access;
                }
            });
            if !done {
                return Ok(());
            }
        } else {
            let short = if stop < end { error(Errno::ENOMEM) } else { value(0) };
            expect(answer, cut.map_or(short, |_| error(Errno::EINVAL)), "mprotect")?;
        }
        self.process_mut(context.pid).extents.update(start, stop, update);
        for part in copied {
            let _ = self.populate(context, part.start, part.end);
        }
        Ok(())
    }

    pub(super) fn mlock(
        &mut self,
        context: Context<'_>,
        (addr, len, flags): (u64, u64, u64),
        answer: Answer,
    ) -> Verdict {
        if flags & !u64::from(abi::MLOCK_ONFAULT) != 0 {
            return expect(answer, error(Errno::EINVAL), "mlock2 with unknown flags");
        }
        let bits = if flags == 0 { VM_LOCKED } else { LOCK_BITS };
        let (start, end) = touched(addr, len);
        if !self.lock(context.pid, start, end, bits) {
            return expect(answer, error(Errno::ENOMEM), "mlock over a hole");
        }
        let wanted = match self.populate(context, start, end) {
            Ok(()) if context.refused && answer == error(Errno::EAGAIN) => answer,
            // Nothing that populating met says how it ended when memory was short, or the pool empty.
            Ok(()) if (context.refused || context.spare_huge() == 0) && answer == error(Errno::ENOMEM) => {
                answer
            }
            Ok(()) => value(0),
            Err(_) => error(Errno::ENOMEM),
        };
        expect(answer, wanted, "mlock")
    }

    pub(super) fn munlock(&mut self, context: Context<'_>, addr: u64, len: u64, answer: Answer) -> Verdict {
        let (start, end) = touched(addr, len);
        let whole = self.lock(context.pid, start, end, 0);
        expect(answer, if whole { value(0) } else { error(Errno::ENOMEM) }, "munlock")
    }

    /// Gives lock bits up to the first hole; is there none?
    fn lock(&mut self, pid: u32, start: u64, end: u64, bits: u64) -> bool {
        let extents = &mut self.process_mut(pid).extents;
        let stop = extents.first_hole(start, end);
        extents.update(start, stop, |extent| with_lock(extent, bits));
        stop >= end
    }

    pub(super) fn mlockall(&mut self, context: Context<'_>, flags: u64, answer: Answer) -> Verdict {
        let has = |flag: u32| flags & u64::from(flag) != 0;
        if flags == 0 || flags == u64::from(abi::MCL_ONFAULT) {
            return expect(answer, error(Errno::EINVAL), "mlockall of nothing");
        }
        expect(answer, value(0), "mlockall")?;
        let bits = if has(abi::MCL_ONFAULT) { LOCK_BITS } else { VM_LOCKED };
        let process = self.process_mut(context.pid);
        process.def_flags = if has(abi::MCL_FUTURE) { bits } else { 0 };
        if !has(abi::MCL_CURRENT) {
            return Ok(());
        }
        process.extents.update(0, u64::MAX, |extent| with_lock(extent, bits));
        if !has(abi::MCL_ONFAULT) {
            let all: Vec<Extent> = self.process(context.pid).extents.iter().cloned().collect();
            for extent in all {
                let _ = self.populate(context, extent.start, extent.end);
            }
        }
        Ok(())
    }

    pub(super) fn munlockall(&mut self, context: Context<'_>, answer: Answer) -> Verdict {
        let process = self.process_mut(context.pid);
        process.def_flags = 0;
        process.extents.update(0, u64::MAX, |extent| with_lock(extent, 0));
        expect(answer, value(0), "munlockall")
    }
}

fn touched(addr: u64, len: u64) -> (u64, u64) {
    let start = page_floor(addr);
    (start, start + (len + addr % PAGE_BYTES).next_multiple_of(PAGE_BYTES))
}
