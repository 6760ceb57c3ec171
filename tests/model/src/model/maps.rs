//! mmap, munmap, brk.

use super::*;
use ptshare_abi::sys::general as abi;
use ptshare_mm::vma::STACK_GUARD_BYTES;
use ptshare_mm::vma::{
    VM_ACCESS, VM_GROWSDOWN, VM_HUGETLB, VM_LOCKED, VM_LOCKONFAULT, VM_MAY, VM_MAYSHARE, VM_NOHUGEPAGE,
    VM_NORESERVE, VM_READ, VM_SHARED, VM_WRITE,
};
use ptshare_paging::{PAGE_SHIFT, USER_END};

/// The arguments of mmap.
#[derive(Clone, Copy)]
pub(super) struct Mmap {
    pub addr: u64,
    pub len: u64,
    pub prot: u64,
    pub flags: u64,
    pub file: Option<(usize, u64)>,
}

impl Mmap {
    fn has(&self, flag: u32) -> bool {
        self.flags & u64::from(flag) != 0
    }

    fn is_fixed(&self) -> bool {
        self.has(abi::MAP_FIXED) || self.has(abi::MAP_FIXED_NOREPLACE)
    }

    fn is_shared(&self) -> bool {
        (self.flags & u64::from(abi::MAP_TYPE)) as u32 == abi::MAP_SHARED
    }

    /// Errors that depend on the arguments and on what is mapped, in the order of `do_mmap`.
    fn refusal(&self, extents: &Extents, huge: bool) -> Option<Errno> {
        let unit = if huge { HUGE } else { PAGE_BYTES };
        if self.len == 0 {
            return Some(Errno::EINVAL);
        }
        if huge && self.is_fixed() && !self.addr.is_multiple_of(unit) {
            return Some(Errno::EINVAL);
        }
        if self.is_fixed() && self.addr > USER_END - self.len {
            return Some(Errno::ENOMEM);
        }
        if self.is_fixed() && !self.addr.is_multiple_of(unit) {
            return Some(Errno::EINVAL);
        }
        if self.has(abi::MAP_FIXED_NOREPLACE) && extents.intersects(self.addr, self.addr + self.len) {
            return Some(Errno::EEXIST);
        }
        let kind = (self.flags & u64::from(abi::MAP_TYPE)) as u32;
        let no_stack = huge || self.file.is_some() || kind == abi::MAP_SHARED;
        if !matches!(kind, abi::MAP_SHARED | abi::MAP_PRIVATE) || (self.has(abi::MAP_GROWSDOWN) && no_stack) {
            return Some(Errno::EINVAL);
        }
        (huge && self.file.is_some_and(|(_, offset)| !offset.is_multiple_of(HUGE))).then_some(Errno::EINVAL)
    }

    fn vm_flags(&self, huge: bool, def_flags: u64) -> u64 {
        let mut flags = self.prot & VM_ACCESS | VM_MAY | def_flags;
        let mut add = |flag, bits| flags |= if self.has(flag) { bits } else { 0 };
        add(abi::MAP_GROWSDOWN, VM_GROWSDOWN);
        add(abi::MAP_LOCKED, VM_LOCKED);
        add(abi::MAP_STACK, VM_NOHUGEPAGE);
        add(abi::MAP_NORESERVE, VM_NORESERVE);
        if self.is_shared() {
            flags |= VM_SHARED | VM_MAYSHARE;
        }
        if huge { flags & !(VM_LOCKED | VM_LOCKONFAULT) | VM_HUGETLB } else { flags }
    }
}

impl Model {
    pub(super) fn mmap(&mut self, context: Context<'_>, mut request: Mmap, answer: Answer) -> Verdict {
        let huge_file = request.file.is_some_and(|(file, _)| self.files[file].huge);
        let huge = request.has(abi::MAP_HUGETLB) || huge_file;
        if request.has(abi::MAP_HUGETLB) && request.file.is_some() && !huge_file {
            return expect(answer, error(Errno::EINVAL), "MAP_HUGETLB of a file without huge pages");
        }
        request.len = request.len.next_multiple_of(if huge { HUGE } else { PAGE_BYTES });
        let Mmap { addr, len, file, .. } = request;
        let process = self.process(context.pid);
        if let Some(errno) = request.refusal(&process.extents, huge) {
            return expect(answer, error(errno), "mmap");
        }
        if request.is_fixed() && self.cuts_huge(context.pid, addr, addr + len) {
            return expect(answer, error(Errno::EINVAL), "mmap over a part of a huge page");
        }
        let Answer::Value(at) = answer else {
            return self.mmap_failed(context, &request, huge, answer);
        };
        if request.is_fixed() && at != addr {
            return Err(format!("MAP_FIXED at {addr:#x} went to {at:#x}"));
        }
        let unit = if huge { HUGE } else { PAGE_BYTES };
        if !at.is_multiple_of(unit) || at == 0 || at + len > USER_END {
            return Err(format!("mmap placed at {at:#x}"));
        }
        if !request.is_fixed() && self.process(context.pid).extents.intersects(at, at + len) {
            return Err(format!("mmap placed at {at:#x}, over a mapping"));
        }
        let def_flags = self.process(context.pid).def_flags;
        let flags = request.vm_flags(huge, def_flags);
        self.unmap(context.pid, at, at + len);
        let (file, first) = match file {
            Some((file, offset)) => (Some(file), offset >> PAGE_SHIFT),
            None if huge || flags & VM_SHARED != 0 => (Some(self.hidden_file(len, huge)), 0),
            None => (None, at >> PAGE_SHIFT),
        };
        if let Some(file) = file.filter(|_| huge && flags & VM_WRITE != 0) {
            let size = &mut self.files[file].size;
            *size = (*size).max((first << PAGE_SHIFT) + len);
        }
        let extent = Extent { start: at, end: at + len, flags, file, first };
        self.process_mut(context.pid).extents.insert(extent);
        // Huge pages are not marked as locked, and come in at once even when they are to be locked on fault.
        let locked = if huge {
            request.has(abi::MAP_LOCKED) || def_flags & VM_LOCKED != 0
        } else {
            flags & (VM_LOCKED | VM_LOCKONFAULT) == VM_LOCKED
        };
        if (request.has(abi::MAP_POPULATE) && flags & VM_LOCKONFAULT == 0) || locked {
            let _ = self.populate(context, at, at + len);
        }
        Ok(())
    }

    /// ENOMEM is right if an allocation was refused, or if the pool could not promise the pages.
    fn mmap_failed(&mut self, context: Context<'_>, request: &Mmap, huge: bool, answer: Answer) -> Verdict {
        let Mmap { addr, len, .. } = *request;
        let promised = huge && !request.has(abi::MAP_NORESERVE);
        let short = promised && context.spare_huge() < len / HUGE;
        if !context.refused && !short {
            return Err(format!("mmap failed: {answer:?}"));
        }
        expect(answer, error(Errno::ENOMEM), "mmap")?;
        // What lay in the way is gone by the time at which the pool is asked.
        if promised && request.is_fixed() && !context.maps(addr, addr + len) {
            self.unmap(context.pid, addr, addr + len);
        }
        Ok(())
    }

    pub(super) fn munmap(&mut self, context: Context<'_>, addr: u64, len: u64, answer: Answer) -> Verdict {
        let len = len.next_multiple_of(PAGE_BYTES);
        if !addr.is_multiple_of(PAGE_BYTES) || len == 0 || addr > USER_END - len {
            return expect(answer, error(Errno::EINVAL), "munmap of nonsense");
        }
        if self.process(context.pid).extents.intersects(addr, addr + len)
            && self.cuts_huge(context.pid, addr, addr + len)
        {
            return expect(answer, error(Errno::EINVAL), "munmap of a part of a huge page");
        }
        if context.refused && answer == error(Errno::ENOMEM) {
            return Ok(());
        }
        expect(answer, value(0), "munmap")?;
        self.unmap(context.pid, addr, addr + len);
        Ok(())
    }

    /// Empties a range.
    pub(super) fn unmap(&mut self, pid: u32, start: u64, end: u64) {
        self.process_mut(pid).extents.remove(start, end);
        self.forget_private(pid, start, end);
    }

    /// Private pages of a range go.
    pub(super) fn forget_private(&mut self, pid: u32, start: u64, end: u64) {
        let process = self.process_mut(pid);
        let pages: Vec<u64> = process.private.range(start..end).map(|(page, _)| *page).collect();
        for page in pages {
            process.private.remove(&page);
        }
        let units: Vec<u64> = process.own_huge.range(start..end).copied().collect();
        for unit in units {
            process.own_huge.remove(&unit);
        }
    }

    /// Does a range begin or end in the middle of a huge page?
    pub(super) fn cuts_huge(&self, pid: u32, start: u64, end: u64) -> bool {
        self.cuts_huge_if(pid, start, end, |_| true)
    }

    /// The same of a change that leaves some mappings as they are.
    pub(super) fn cuts_huge_if(
        &self,
        pid: u32,
        start: u64,
        end: u64,
        changes: impl Fn(&Extent) -> bool,
    ) -> bool {
        let extents = &self.process(pid).extents;
        let cut = |extent: &Extent| extent.has(VM_HUGETLB) && changes(extent);
        [start, end].into_iter().any(|at| !at.is_multiple_of(HUGE) && extents.find(at).is_some_and(cut))
    }

    pub(super) fn brk(&mut self, context: Context<'_>, addr: u64, answer: Answer) -> Verdict {
        let process = self.process(context.pid);
        let before = process.brk;
        let (old, new) = (before.next_multiple_of(PAGE_BYTES), addr.next_multiple_of(PAGE_BYTES));
        if answer == value(before) && addr != before && context.refused {
            return Ok(());
        }
        let next = process.extents.at_or_after(old);
        let gap_start = |extent: &Extent| {
            extent.start - if extent.has(VM_GROWSDOWN) { STACK_GUARD_BYTES.min(extent.start) } else { 0 }
        };
        let refused = if addr < START_BRK {
            true
        } else if new < old {
            // A heap that is gone does not shrink.
            !process.extents.intersects(new, old) || self.cuts_huge(context.pid, new, old)
        } else {
            new > old && next.is_some_and(|extent| new + PAGE_BYTES > gap_start(extent))
        };
        if refused {
            return expect(answer, value(before), "brk that cannot be");
        }
        expect(answer, value(addr), "brk")?;
        self.process_mut(context.pid).brk = addr;
        if new < old {
            self.unmap(context.pid, new, old);
        } else if new > old {
            let flags = VM_READ | VM_WRITE | VM_MAY | self.process(context.pid).def_flags;
            let extent = Extent { start: old, end: new, flags, file: None, first: old >> PAGE_SHIFT };
            self.process_mut(context.pid).extents.insert(extent);
        }
        Ok(())
    }
}
