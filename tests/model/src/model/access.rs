//! Loads, stores, and what populating does.

use super::*;
use ptshare_mm::vma::{
    STACK_GUARD_BYTES, VM_ACCESS, VM_EXEC, VM_GROWSDOWN, VM_HUGETLB, VM_LOCKONFAULT, VM_MAYSHARE, VM_SHARED,
    VM_WRITE,
};
use ptshare_paging::page_floor;

/// RLIMIT_STACK of all processes.
const STACK_BYTES: u64 = 8 << 20;

/// What an access wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    /// To read.
    Read,
    /// To write.
    Write,
    /// To execute.
    Exec,
}

impl Model {
    /// Makes the access: grows a stack, makes private copies. Gives the words of the page as they are then.
    pub(super) fn access(&mut self, pid: u32, addr: u64, want: Want) -> Result<Words, FaultOutcome> {
        let page = page_floor(addr);
        if self.process(pid).extents.find(page).is_none() {
            self.grow_stack(pid, page)?;
        }
        let extent = self.process(pid).extents.find(page).cloned().ok_or(FaultOutcome::SegvMapErr)?;
        let needed = match want {
            Want::Read => VM_ACCESS,
            Want::Write => VM_WRITE,
            Want::Exec => VM_EXEC,
        };
        if extent.flags & needed == 0 {
            return Err(FaultOutcome::SegvAccErr);
        }
        if extent.has(VM_HUGETLB) {
            return self.access_huge(pid, &extent, page, want);
        }
        let Some((file, index)) = extent.page_at(page) else {
            return Ok(self.process(pid).private.get(&page).copied().unwrap_or_default());
        };
        let shared = extent.flags & (VM_SHARED | VM_MAYSHARE) != 0;
        if let Some(words) = self.process(pid).private.get(&page).filter(|_| !shared) {
            return Ok(*words);
        }
        if !self.files[file].reaches(index) {
            return Err(FaultOutcome::BusAdrErr);
        }
        let words = self.files[file].page(index);
        if !shared && want == Want::Write {
            self.process_mut(pid).private.insert(page, words);
        }
        Ok(words)
    }

    fn access_huge(
        &mut self,
        pid: u32,
        extent: &Extent,
        page: u64,
        want: Want,
    ) -> Result<Words, FaultOutcome> {
        let (file, index) = extent.page_at(page).expect("a hugetlb mapping has a file");
        let unit = page & !(HUGE - 1);
        let shared = extent.flags & (VM_SHARED | VM_MAYSHARE) != 0;
        if !shared && self.process(pid).own_huge.contains(&unit) {
            return Ok(self.process(pid).private.get(&page).copied().unwrap_or_default());
        }
        let number = index / (HUGE / PAGE_BYTES);
        let there = self.files[file].present.contains(&number);
        if !there && !self.files[file].reaches(index) {
            return Err(FaultOutcome::BusAdrErr);
        }
        if shared {
            self.files[file].present.insert(number);
        } else if want == Want::Write || !there {
            self.take_huge(pid, file, unit, number);
            return Ok(self.process(pid).private.get(&page).copied().unwrap_or_default());
        }
        Ok(self.files[file].page(index))
    }

    /// Gives the process a huge page of its own with the content of the file's.
    pub(super) fn take_huge(&mut self, pid: u32, file: usize, unit: u64, number: u64) {
        let first = number * (HUGE / PAGE_BYTES);
        let range = first..first + HUGE / PAGE_BYTES;
        let words: Vec<(u64, Words)> = self.files[file].pages.range(range).map(|(n, w)| (*n, *w)).collect();
        let process = self.process_mut(pid);
        process.own_huge.insert(unit);
        let there = words.into_iter().map(|(n, words)| (unit + (n - first) * PAGE_BYTES, words));
        process.private.extend(there);
    }

    /// Stores a word that the access has been allowed for.
    pub(super) fn put(&mut self, pid: u32, addr: u64, value: u64) {
        let page = page_floor(addr);
        let last = usize::from(addr != page);
        let extent = self.process(pid).extents.find(page).cloned().expect("the store was allowed");
        let words = match extent.page_at(page) {
            Some((file, index)) if extent.flags & (VM_SHARED | VM_MAYSHARE) != 0 => {
                self.files[file].pages.entry(index).or_default()
            }
            _ => self.process_mut(pid).private.entry(page).or_default(),
        };
        words[last] = value;
    }

    fn grow_stack(&mut self, pid: u32, page: u64) -> Result<(), FaultOutcome> {
        let extents = &mut self.process_mut(pid).extents;
        let stack = extents.at_or_after(page).filter(|extent| extent.has(VM_GROWSDOWN)).cloned();
        let stack = stack.ok_or(FaultOutcome::SegvMapErr)?;
        let crowded = extents.below(page).is_some_and(|below| {
            !below.has(VM_GROWSDOWN) && below.flags & VM_ACCESS != 0 && page - below.end < STACK_GUARD_BYTES
        });
        if crowded || stack.end - page > STACK_BYTES {
            return Err(FaultOutcome::SegvMapErr);
        }
        extents.insert(stack.over(page, stack.start));
        Ok(())
    }

    /// MAP_POPULATE and mlock: stops at the first page that cannot be brought in, and says why.
    pub(super) fn populate(&mut self, context: Context<'_>, start: u64, end: u64) -> Result<(), Errno> {
        if context.refused {
            // How far it came is the kernel's to say.
            self.resync(context, start, end);
            return Ok(());
        }
        let mut at = start;
        for part in self.process(context.pid).extents.parts(start, end) {
            if part.start > at {
                return Err(Errno::ENOMEM);
            }
            at = part.end;
            if part.has(VM_LOCKONFAULT) {
                continue;
            }
            if part.flags & VM_ACCESS == 0 {
                return Err(Errno::ENOMEM);
            }
            let write = part.flags & (VM_WRITE | VM_SHARED) == VM_WRITE;
            self.populate_part(context, &part, if write { Want::Write } else { Want::Read })?;
        }
        if at < end { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    /// Brings in the pages of one part of a mapping. EFAULT at the first that cannot be.
    pub(super) fn populate_part(
        &mut self,
        context: Context<'_>,
        part: &Extent,
        want: Want,
    ) -> Result<(), Errno> {
        let huge = part.has(VM_HUGETLB);
        if huge && context.spare_huge() == 0 {
            // The pool may have run dry on the way.
            self.resync(context, part.start, part.end);
            return Ok(());
        }
        let step = if huge { HUGE } else { PAGE_BYTES };
        let mut page = part.start;
        while page < part.end {
            self.access(context.pid, page, want).map_err(|_| Errno::EFAULT)?;
            page = (page & !(step - 1)) + step;
        }
        Ok(())
    }

    /// Takes over from the kernel which pages of the range are copies of files' pages by now.
    pub(super) fn resync(&mut self, context: Context<'_>, start: u64, end: u64) {
        let mm = context.kernel.mm(context.pid);
        for part in self.process(context.pid).extents.parts(start, end) {
            let Some(file) = part.file else { continue };
            let shared = part.flags & (VM_SHARED | VM_MAYSHARE) != 0;
            let step = if part.has(VM_HUGETLB) { HUGE } else { PAGE_BYTES };
            let mut page = part.start & !(step - 1);
            while page < part.end {
                let index = part.page_at(page).map_or(0, |found| found.1);
                let number = index / (HUGE / PAGE_BYTES);
                let private = !shared && super::compare::is_private_page(context.kernel, mm, page);
                match (part.has(VM_HUGETLB), shared) {
                    (true, true) => {
                        let there = super::compare::is_resident(mm, page);
                        if there {
                            self.files[file].present.insert(number);
                        }
                    }
                    (true, false) if private && !self.process(context.pid).own_huge.contains(&page) => {
                        self.take_huge(context.pid, file, page, number);
                    }
                    (false, false) if private && !self.process(context.pid).private.contains_key(&page) => {
                        let words = self.files[file].page(index);
                        self.process_mut(context.pid).private.insert(page, words);
                    }
                    _ => {}
                }
                page += step;
            }
        }
    }
}
