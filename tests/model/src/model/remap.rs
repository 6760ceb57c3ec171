//! mremap.

use super::*;
use ptshare_abi::sys::general as abi;
use ptshare_mm::vma::{VM_HUGETLB, VM_LOCKED, VM_LOCKONFAULT, VM_MAYSHARE, VM_SHARED};
use ptshare_paging::{PAGE_SHIFT, USER_END};

/// The arguments of mremap; lengths are whole pages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mremap {
    pub old: u64,
    pub old_len: u64,
    pub new_len: u64,
    pub flags: u64,
    pub new_addr: u64,
}

impl Mremap {
    fn has(&self, flag: u32) -> bool {
        self.flags & u64::from(flag) != 0
    }

    fn is_nonsense(&self) -> bool {
        let placed = self.has(abi::MREMAP_FIXED) || self.has(abi::MREMAP_DONTUNMAP);
        let target = self.new_addr;
        let apart = self.old + self.old_len <= target || target + self.new_len <= self.old;
        !self.old.is_multiple_of(PAGE_BYTES)
            || self.new_len == 0
            || (placed
                && (target > USER_END - self.new_len
                    || !target.is_multiple_of(PAGE_BYTES)
                    || !self.has(abi::MREMAP_MAYMOVE)
                    || (self.has(abi::MREMAP_DONTUNMAP) && self.old_len != self.new_len)
                    || !apart))
    }
}

/// The number that the page moved from `from` to `to` has now: its old one, or where it is now if the mapping had no pages
/// (`known` says that it had), as Linux's `copy_vma` has it.
fn moved_number(
    context: Context<'_>,
    source: &Extent,
    from: u64,
    to: u64,
    known: bool,
) -> Result<u64, String> {
    let (kept, fresh) = (source.number_at(from), to >> PAGE_SHIFT);
    let vmas = context.kernel.vmas(context.pid);
    let vma = vmas.iter().find(|vma| vma.start <= to && to < vma.end);
    let vma = vma.ok_or_else(|| format!("mremap left nothing at {to:#x}"))?;
    let number = vma.pgoff + ((to - vma.start) >> PAGE_SHIFT);
    if number == kept || (number == fresh && !known) {
        Ok(number)
    } else {
        Err(format!("the page at {to:#x} has number {number:#x} after mremap, not {kept:#x} or {fresh:#x}"))
    }
}

/// What `vma_to_resize` says.
fn resizable(extents: &Extents, r: &Mremap) -> Option<Errno> {
    let Some(extent) = extents.find(r.old) else { return Some(Errno::EFAULT) };
    if r.old_len == 0 && extent.flags & (VM_SHARED | VM_MAYSHARE) == 0 {
        return Some(Errno::EINVAL);
    }
    (r.old_len > extent.end - r.old).then_some(Errno::EFAULT)
}

impl Model {
    pub(super) fn mremap(&mut self, context: Context<'_>, mut r: Mremap, answer: Answer) -> Verdict {
        r.old_len = r.old_len.next_multiple_of(PAGE_BYTES);
        r.new_len = r.new_len.next_multiple_of(PAGE_BYTES);
        if r.is_nonsense() {
            return expect(answer, error(Errno::EINVAL), "mremap of nonsense");
        }
        let Some(extent) = self.process(context.pid).extents.find(r.old).cloned() else {
            return expect(answer, error(Errno::EFAULT), "mremap of nothing");
        };
        if r.has(abi::MREMAP_FIXED) && r.old_len == r.new_len {
            return self.move_all(context, r, answer);
        }
        if extent.has(VM_HUGETLB) {
            r.old_len = r.old_len.next_multiple_of(HUGE);
            r.new_len = r.new_len.next_multiple_of(HUGE);
            let aligned = r.old.is_multiple_of(HUGE) && r.new_addr.is_multiple_of(HUGE);
            if !aligned || r.new_len > r.old_len || r.has(abi::MREMAP_DONTUNMAP) {
                return expect(answer, error(Errno::EINVAL), "mremap of huge pages");
            }
        }
        if r.has(abi::MREMAP_FIXED) || r.has(abi::MREMAP_DONTUNMAP) {
            self.remap_to(context, r, answer)
        } else {
            self.remap_anywhere(context, r, &extent, answer)
        }
    }

    /// Every mapping in the range moves, with the holes between them, until one cannot.
    fn move_all(&mut self, context: Context<'_>, r: Mremap, answer: Answer) -> Verdict {
        let parts = self.process(context.pid).extents.parts(r.old, r.old + r.old_len);
        let alone = parts.len() == 1;
        for part in parts {
            let (len, to) = (part.end - part.start, r.new_addr + (part.start - r.old));
            // The length is rounded up to whole huge pages.
            let len = if part.has(VM_HUGETLB) { len.next_multiple_of(HUGE) } else { len };
            let aligned = part.start.is_multiple_of(HUGE) && to.is_multiple_of(HUGE);
            if part.has(VM_HUGETLB) && (!aligned || r.has(abi::MREMAP_DONTUNMAP)) {
                return expect(answer, error(Errno::EINVAL), "moving huge pages");
            }
            let moved = Mremap { old: part.start, old_len: len, new_len: len, new_addr: to, ..r };
            let said = if alone { answer } else { value(to) };
            let cut = self.cuts_huge(context.pid, to, to + len);
            if cut && self.process(context.pid).extents.intersects(to, to + len) {
                return expect(answer, error(Errno::EINVAL), "moving over a part of a huge page");
            }
            self.remap_to(context, moved, said)?;
        }
        if alone { Ok(()) } else { expect(answer, value(r.new_addr), "moving mappings") }
    }

    fn remap_anywhere(
        &mut self,
        context: Context<'_>,
        r: Mremap,
        extent: &Extent,
        answer: Answer,
    ) -> Verdict {
        let pid = context.pid;
        let refused = context.refused && answer == error(Errno::ENOMEM);
        if r.old_len >= r.new_len {
            let (start, end) = (r.old + r.new_len, r.old + r.old_len);
            if start < end
                && self.process(pid).extents.intersects(start, end)
                && self.cuts_huge(pid, start, end)
            {
                return expect(answer, error(Errno::EINVAL), "shrinking by a part of a huge page");
            }
            if refused {
                return Ok(());
            }
            expect(answer, value(r.old), "shrinking")?;
            self.unmap(pid, start, end);
            return Ok(());
        }
        if let Some(errno) = resizable(&self.process(pid).extents, &r) {
            return expect(answer, error(errno), "growing");
        }
        if refused {
            return Ok(());
        }
        let end = r.old + r.old_len;
        let grown = r.old + r.new_len;
        if extent.end == end && !self.process(pid).extents.intersects(end, grown) {
            expect(answer, value(r.old), "growing in place")?;
            self.process_mut(pid).extents.insert(extent.over(end, grown));
            if extent.flags & (VM_LOCKED | VM_LOCKONFAULT) == VM_LOCKED {
                let _ = self.populate(context, end, grown);
            }
            return Ok(());
        }
        if !r.has(abi::MREMAP_MAYMOVE) {
            return expect(answer, error(Errno::ENOMEM), "growing without room");
        }
        self.moved(context, r, answer)
    }

    fn remap_to(&mut self, context: Context<'_>, mut r: Mremap, answer: Answer) -> Verdict {
        let pid = context.pid;
        let shrunk = Mremap { old_len: r.old_len.min(r.new_len), ..r };
        if let Some(errno) = resizable(&self.process(pid).extents, &shrunk) {
            return expect(answer, error(errno), "mremap to a place");
        }
        let fixed = r.has(abi::MREMAP_FIXED);
        let (target, target_end) = (r.new_addr, r.new_addr + r.new_len);
        if fixed
            && self.process(pid).extents.intersects(target, target_end)
            && self.cuts_huge(pid, target, target_end)
        {
            return expect(answer, error(Errno::EINVAL), "moving over a part of a huge page");
        }
        if context.refused && answer == error(Errno::ENOMEM) {
            // The target may have gone by then, and what was to be cut off.
            if fixed && !context.maps(target, target_end) {
                self.unmap(pid, target, target_end);
            }
            let (tail, end) = (r.old + r.new_len, r.old + r.old_len);
            if tail < end && !context.maps(tail, end) {
                self.unmap(pid, tail, end);
            }
            return Ok(());
        }
        if fixed {
            self.unmap(pid, target, target_end);
        }
        if r.old_len > r.new_len {
            let (start, end) = (r.old + r.new_len, r.old + r.old_len);
            if self.process(pid).extents.intersects(start, end) && self.cuts_huge(pid, start, end) {
                return expect(answer, error(Errno::EINVAL), "cutting off a part of a huge page");
            }
            self.unmap(pid, start, end);
            r.old_len = r.new_len;
        }
        if let Some(errno) = resizable(&self.process(pid).extents, &r) {
            return expect(answer, error(errno), "mremap to a place");
        }
        if fixed {
            expect(answer, value(target), "mremap to a place")?;
        }
        self.moved(context, r, answer)
    }

    /// The mapping has moved to where the kernel says.
    fn moved(&mut self, context: Context<'_>, r: Mremap, answer: Answer) -> Verdict {
        let Answer::Value(to) = answer else { return Err(format!("mremap failed: {answer:?}")) };
        let pid = context.pid;
        let process = self.process_mut(pid);
        if process.extents.intersects(to, to + r.new_len) {
            return Err(format!("mremap moved to {to:#x}, over a mapping"));
        }
        let source = process.extents.find(r.old).cloned().expect("it has been found before");
        let (from, end) = (r.old, r.old + r.old_len);
        let known: Vec<u64> = process.private.range(source.start..source.end).map(|(at, _)| *at).collect();
        let pages: Vec<(u64, Words)> = process.private.range(from..end).map(|(a, w)| (*a, *w)).collect();
        let units: Vec<u64> = process.own_huge.range(from..end).copied().collect();
        if r.has(abi::MREMAP_DONTUNMAP) {
            self.forget_private(pid, from, end);
            if source.has(VM_LOCKED) && r.old_len > 0 {
                let locks = VM_LOCKED | VM_LOCKONFAULT;
                let unlock = |extent: &Extent| extent.flags & !locks;
                self.process_mut(pid).extents.update(source.start, source.end, unlock);
            }
        } else {
            self.unmap(pid, from, end);
        }
        let process = self.process_mut(pid);
        process.private.extend(pages.into_iter().map(|(at, words)| (at - from + to, words)));
        process.own_huge.extend(units.into_iter().map(|at| at - from + to));
        let first = match source.file {
            Some(_) => source.number_at(from),
            None => moved_number(context, &source, from, to, !known.is_empty())?,
        };
        let extent = Extent { start: to, end: to + r.new_len, first, ..source.clone() };
        self.process_mut(pid).extents.insert(extent);
        if source.flags & (VM_LOCKED | VM_LOCKONFAULT) == VM_LOCKED && r.new_len > r.old_len {
            let _ = self.populate(context, to + r.old_len, to + r.new_len);
        }
        Ok(())
    }
}
