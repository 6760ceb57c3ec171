//! mremap: shrink, grow in place, move, duplicate. The checks and their order are those of mm/mremap.c.

use super::Mm;
use super::limits::max_map_count;
use crate::error::MmError;
use crate::hugetlb::HugeSize;
use crate::vma::{
    VM_HUGETLB, VM_LOCKED, VM_LOCKONFAULT, VM_MAYSHARE, VM_SEALED, VM_SHARED, VM_UFFD, VM_UFFD_WP, Vma,
};
use crate::{Env, VmaSet};
use ptshare_abi::sys::general::{MREMAP_DONTUNMAP, MREMAP_FIXED, MREMAP_MAYMOVE};
use ptshare_paging::{PAGE_BYTES, PAGE_SHIFT, USER_END, is_user_range, page_ceil};

/// A request after its first checks. Lengths are whole pages, in bytes.
#[derive(Clone, Copy)]
struct Remap {
    old: u64,
    old_len: u64,
    new_len: u64,
    may_move: bool,
    fixed: Option<u64>,
    hint: u64,
    dont_unmap: bool,
}

impl Remap {
    /// The checks that need no look at the VMAs (`check_mremap_params`).
    fn is_sensible(&self) -> bool {
        if self.new_len == 0 || self.new_len > USER_END {
            return false;
        }
        if self.fixed.is_none() && !self.dont_unmap {
            return true;
        }
        let target = self.fixed.unwrap_or(self.hint);
        // Sums wrap as they do in Linux; a length that makes them wrap is refused for its own sake later.
        let apart =
            self.old.wrapping_add(self.old_len) <= target || target.wrapping_add(self.new_len) <= self.old;
        target <= USER_END - self.new_len
            && target.is_multiple_of(PAGE_BYTES)
            && self.may_move
            && (!self.dont_unmap || self.old_len == self.new_len)
            && apart
    }
}

impl Remap {
    /// A hugetlb mapping moves and shrinks by whole huge pages, and does not grow (`mremap`, mm/mremap.c).
    fn fit_huge(&mut self, size: HugeSize, new_addr: u64) -> Result<(), MmError> {
        self.old_len = size.ceil(self.old_len).ok_or(MmError::Invalid)?;
        self.new_len = size.ceil(self.new_len).ok_or(MmError::Invalid)?;
        let aligned = size.is_aligned(self.old) && size.is_aligned(new_addr);
        if !aligned || self.new_len > self.old_len || self.dont_unmap {
            return Err(MmError::Invalid);
        }
        Ok(())
    }
}

impl<E: Env> Mm<E> {
    /// Resizes or moves the mapping at `old`. Gives its new address.
    ///
    /// # Errors
    /// As mremap(2). `NoMemory` leaves the old mapping as it was (with MREMAP_FIXED the target may be unmapped).
    pub fn mremap(
        &self,
        old: u64,
        old_len: u64,
        new_len: u64,
        flags: u64,
        new_addr: u64,
    ) -> Result<u64, MmError> {
        let has = |flag: u32| flags & u64::from(flag) != 0;
        let known = u64::from(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP);
        let mut request = Remap {
            old,
            // PAGE_ALIGN wraps to 0.
            old_len: page_ceil(old_len).unwrap_or(0),
            new_len: page_ceil(new_len).unwrap_or(0),
            may_move: has(MREMAP_MAYMOVE),
            fixed: has(MREMAP_FIXED).then_some(new_addr),
            hint: if has(MREMAP_DONTUNMAP) { new_addr } else { 0 },
            dont_unmap: has(MREMAP_DONTUNMAP),
        };
        if flags & !known != 0 || !old.is_multiple_of(PAGE_BYTES) || !request.is_sensible() {
            return Err(MmError::Invalid);
        }

        let mut change = self.change();
        let has_target = request.fixed.is_some() || request.dont_unmap;
        if has_target && change.len() + 5 >= max_map_count() {
            return Err(MmError::Limit);
        }
        let vma = change.find(old).ok_or(MmError::BadRange)?;
        if request.fixed.is_some() && request.old_len == request.new_len {
            return self.move_all(&mut change, request);
        }
        if vma.has(VM_SEALED) {
            return Err(MmError::NotPermitted);
        }
        if vma.has(VM_HUGETLB) {
            request.fit_huge(vma.huge_size(), new_addr)?;
        }
        let (addr, populate) = if has_target {
            self.remap_to(&mut change, request)?
        } else {
            self.remap_anywhere(&mut change, request)?
        };
        drop(change);
        if let Some((start, len)) = populate {
            let _ = self.populate(start, len);
        }
        Ok(addr)
    }

    fn remap_anywhere(&self, set: &mut VmaSet<E>, r: Remap) -> Result<(u64, Option<(u64, u64)>), MmError> {
        if r.old_len >= r.new_len {
            if r.old_len > r.new_len {
                let (start, end) = (r.old + r.new_len, r.old.saturating_add(r.old_len));
                if end > USER_END {
                    return Err(MmError::Invalid);
                }
                self.unmap_range(set, start, end)?;
            }
            return Ok((r.old, None));
        }
        let vma = resizable(set, &r)?;
        let grown = r.old + r.new_len;
        if vma.rec.end == r.old + r.old_len && is_user_range(r.old, r.new_len) {
            let end = vma.rec.end;
            let locked = vma.has(VM_LOCKED) && !vma.has(VM_LOCKONFAULT);
            if !set.intersects(end, grown) {
                self.unshare_all(end, grown)?;
                let pos = set.seek(r.old);
                let start = set.get(pos).map_or(r.old, |vma| vma.rec.start);
                set.set_range(pos, start, grown);
                set.merge_range(grown, grown);
                return Ok((r.old, locked.then_some((end, grown - end))));
            }
        }
        if !r.may_move {
            return Err(MmError::NoSpace);
        }
        let target = set.place(0, r.new_len, false).ok_or(MmError::NoSpace)?;
        self.move_vma(set, &r, target)
    }

    fn remap_to(&self, set: &mut VmaSet<E>, mut r: Remap) -> Result<(u64, Option<(u64, u64)>), MmError> {
        // Before anything is unmapped; and again after it, for the target may be part of the same VMA.
        let shrunk = Remap { old_len: r.old_len.min(r.new_len), ..r };
        resizable(set, &shrunk)?;
        if let Some(target) = r.fixed {
            if target < crate::vma::MMAP_MIN_ADDR && !set.limits.privileged {
                return Err(MmError::NotPermitted);
            }
            self.unmap_range(set, target, target + r.new_len)?;
            // A length that wraps has not been seen to reach over the target.
            set.find(r.old).ok_or(MmError::BadRange)?;
        }
        if r.old_len > r.new_len {
            let end = r.old.saturating_add(r.old_len);
            if end > USER_END {
                return Err(MmError::Invalid);
            }
            self.unmap_range(set, r.old + r.new_len, end)?;
            r.old_len = r.new_len;
        }
        let flags = resizable(set, &r)?.rec.flags;
        if r.dont_unmap && !set.may_expand(flags, r.old_len >> PAGE_SHIFT) {
            return Err(MmError::Limit);
        }
        let target = match r.fixed {
            Some(target) => target,
            None => set.place(r.hint, r.new_len, false).ok_or(MmError::NoSpace)?,
        };
        self.move_vma(set, &r, target)
    }

    /// Moves whatever VMAs are in the range, with the holes between them, to `r.fixed`; there must be one at its start
    /// (`remap_move`, since Linux 6.17). Nothing grows, so nothing has to be populated. A failure leaves the VMAs before it
    /// moved, as on Linux.
    fn move_all(&self, set: &mut VmaSet<E>, r: Remap) -> Result<u64, MmError> {
        let target = r.fixed.ok_or(MmError::Invalid)?;
        // `is_sensible` has seen that the target's end is in the address space; the source's may wrap.
        let end = r.old.saturating_add(r.old_len);
        let (mut at, mut result) = (r.old, None);
        while at < end {
            let Some(vma) = set.find_at_or_after(at).filter(|vma| vma.rec.start < end) else { break };
            if vma.has(VM_SEALED) {
                return Err(MmError::NotPermitted);
            }
            let (start, stop) = (vma.rec.start.max(at), vma.rec.end.min(end));
            let len = stop - start;
            let to = target + (start - r.old);
            // Segments go alone (`vma_multi_allowed`).
            let alone = !vma.has(VM_HUGETLB) && vma.object.as_ref().is_some_and(|object| object.is_segment());
            if alone && (result.is_some() || vma.rec.end < end) {
                return Err(MmError::BadRange);
            }
            let mut part = Remap { old: start, old_len: len, new_len: len, fixed: Some(to), ..r };
            if vma.has(VM_HUGETLB) {
                part.fit_huge(vma.huge_size(), to)?;
            }
            let (addr, _) = self.remap_to(set, part)?;
            result.get_or_insert(addr);
            at = stop;
        }
        result.ok_or(MmError::BadRange)
    }

    /// Moves `r.old_len` bytes of one VMA to the free range at `target`, grown to `r.new_len`. Gives the new address, and
    /// what there must be populated because it is locked.
    fn move_vma(
        &self,
        set: &mut VmaSet<E>,
        r: &Remap,
        target: u64,
    ) -> Result<(u64, Option<(u64, u64)>), MmError> {
        if set.len() + 3 >= max_map_count() {
            return Err(MmError::Limit);
        }
        let source = set.find(r.old).ok_or(MmError::BadRange)?;
        let flags = source.rec.flags;
        let whole = (source.rec.start, source.rec.end);
        // What moves is registered with a userfaultfd no longer (`mremap_userfaultfd_prep`, fs/userfaultfd.c).
        let marked = (flags & VM_UFFD_WP != 0).then(|| source.over(target, target + r.old_len));
        let kept = flags & !VM_UFFD;
        let moved = match &source.object {
            Some(object) => {
                let pgoff = source.pgoff_of(r.old);
                Vma::of_object(target, target + r.new_len, kept, object.clone(), pgoff)
            }
            None => {
                let mut moved = Vma::anonymous(target, target + r.new_len, kept);
                // Pages keep their numbers. Without any the mapping is like a fresh one, and merges like one (Linux:
                // `copy_vma`).
                if self.has_private(whole.0, whole.1) {
                    moved.rec.pgoff = source.pgoff_of(r.old);
                }
                moved
            }
        };
        self.unshare_all(target, target + r.new_len)?;
        if r.old_len > 0 {
            let mut batch = self.batch();
            let result = if flags & VM_HUGETLB != 0 {
                self.move_huge(HugeSize::of_vma(flags), r.old, target, r.old_len, &mut batch)
            } else {
                self.move_entries(r.old, target, r.old_len, &mut batch)
            };
            batch.finish();
            result?;
            if let Some(marked) = marked {
                self.unmark(&marked, target, target + r.old_len);
            }
            if !r.dont_unmap {
                set.remove_range(r.old, r.old + r.old_len);
            } else if flags & VM_LOCKED != 0 {
                // Of the whole VMA, not only of what has moved.
                let locked = VM_LOCKED | VM_LOCKONFAULT;
                set.update_flags(whole.0, whole.1, |flags| flags & !locked, |_, _, _| {});
            }
        }
        set.insert_merged(moved);
        let locked = flags & (VM_LOCKED | VM_LOCKONFAULT) == VM_LOCKED && r.new_len > r.old_len;
        Ok((target, locked.then_some((target + r.old_len, r.new_len - r.old_len))))
    }
}

/// The VMA at `r.old`, if it may be resized so: `vma_to_resize`.
fn resizable<'a, E: Env>(set: &'a VmaSet<E>, r: &Remap) -> Result<&'a Vma<E>, MmError> {
    let vma = set.find(r.old).ok_or(MmError::BadRange)?;
    if r.old_len == 0 && vma.rec.flags & (VM_SHARED | VM_MAYSHARE) == 0 {
        return Err(MmError::Invalid);
    }
    if r.old_len > vma.rec.end - r.old {
        return Err(MmError::BadRange);
    }
    if r.new_len == r.old_len {
        return Ok(vma);
    }
    let grown = r.new_len.saturating_sub(r.old_len) >> PAGE_SHIFT;
    vma.pgoff_of(r.old).checked_add(r.new_len >> PAGE_SHIFT).ok_or(MmError::Invalid)?;
    set.may_lock(vma.rec.flags, grown)?;
    if !set.may_expand(vma.rec.flags, grown) || !set.may_commit(vma.rec.flags, grown, false) {
        return Err(MmError::Limit);
    }
    Ok(vma)
}
