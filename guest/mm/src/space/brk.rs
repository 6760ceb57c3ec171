//! brk, and the growth of stacks.

use super::limits::max_map_count;
use super::{Critical, FaultOutcome, Mm};
use crate::error::MmError;
use crate::vma::{
    MMAP_MIN_ADDR, STACK_GUARD_BYTES, VM_ACCESS, VM_GROWSDOWN, VM_LOCKED, VM_LOCKONFAULT, VM_MAY, VM_READ,
    VM_WRITE, Vma,
};
use crate::{Env, VmaSet};
use ptshare_mutants::mutant;
use ptshare_paging::{PAGE_BYTES, PAGE_SHIFT, USER_END, page_ceil, page_floor};

impl<E: Env> Mm<E> {
    /// Moves the end of the heap to `brk` if that can be done. Gives the end of the heap, moved or not, as brk(2) does.
    pub fn brk(&self, brk: u64) -> u64 {
        let mut change = self.change();
        let before = change.layout.brk;
        let locked = match self.try_brk(&mut change, brk) {
            Ok(locked) => locked,
            Err(_) => return before,
        };
        change.layout.brk = brk;
        drop(change);
        if let Some((start, end)) = locked {
            let _ = self.populate(start, end - start);
        }
        brk
    }

    /// The range to populate on success.
    fn try_brk(&self, set: &mut VmaSet<E>, brk: u64) -> Result<Option<(u64, u64)>, MmError> {
        let layout = set.layout;
        if brk < layout.start_brk || brk > USER_END {
            return Err(MmError::Invalid);
        }
        let data = (brk - layout.start_brk).saturating_add(layout.end_data.saturating_sub(layout.start_data));
        if set.limits.data_bytes != u64::MAX && data > set.limits.data_bytes {
            return Err(MmError::Limit);
        }
        let new_end = page_ceil(brk).ok_or(MmError::NoSpace)?;
        let old_end = page_ceil(layout.brk).ok_or(MmError::NoSpace)?;
        if new_end == old_end {
            return Ok(None);
        }
        if brk <= layout.brk {
            // A heap that has been unmapped or moved away does not shrink (`brk`, mm/mmap.c).
            if !set.intersects(new_end, old_end) {
                return Err(MmError::NotMapped);
            }
            return self.unmap_range(set, new_end, old_end).map(|()| None);
        }
        let pages = (new_end - old_end) >> PAGE_SHIFT;
        let flags = VM_READ | VM_WRITE | VM_MAY | set.def_flags;
        set.may_lock(flags, pages)?;
        // A page is left free below the neighbour, beyond its guard gap.
        if set.find_at_or_after(old_end).is_some_and(|next| new_end + PAGE_BYTES > next.gap_start()) {
            return Err(MmError::NoSpace);
        }
        if !set.may_expand(flags, pages)
            || !set.may_commit(flags, pages, false)
            || set.len() > max_map_count()
        {
            return Err(MmError::Limit);
        }
        if !mutant!(BRK_INTO_SHARED_TABLE) {
            self.unshare_all(old_end, new_end)?;
        }
        set.insert_merged(Vma::anonymous(old_end, new_end, flags));
        Ok((flags & (VM_LOCKED | VM_LOCKONFAULT) == VM_LOCKED).then_some((old_end, new_end)))
    }

    /// Lets the stack above `addr` grow down to it. The caller holds `mmap_lock` for write and has found no VMA at
    /// `addr`. The conditions are those of `expand_downwards` (mm/vma.c).
    ///
    /// # Errors
    /// `SegvMapErr` when nothing there grows, or may not grow so far; `OutOfMemory`.
    pub(crate) fn grow_down(&self, set: &mut VmaSet<E>, addr: u64) -> Result<(), FaultOutcome> {
        let addr = page_floor(addr);
        let pos = set.seek(addr);
        let Some(vma) = set.get(pos).filter(|vma| vma.has(VM_GROWSDOWN)) else {
            return Err(FaultOutcome::SegvMapErr);
        };
        let (start, end, flags) = (vma.rec.start, vma.rec.end, vma.rec.flags);
        if addr >= start {
            return Ok(());
        }
        let crowded = set.prev(pos).and_then(|below| set.get(below)).is_some_and(|below| {
            !below.has(VM_GROWSDOWN)
                && below.rec.flags & VM_ACCESS != 0
                && addr - below.rec.end < STACK_GUARD_BYTES
        });
        let pages = (start - addr) >> PAGE_SHIFT;
        if addr < MMAP_MIN_ADDR
            || crowded
            || end - addr > set.limits.stack_bytes
            || !set.may_expand(flags, pages)
            || set.may_lock(flags, pages).is_err()
        {
            return Err(FaultOutcome::SegvMapErr);
        }
        let _critical = Critical::enter(&self.env);
        self.unshare_all(addr, start).map_err(|_| FaultOutcome::OutOfMemory)?;
        set.set_range(pos, addr, end);
        set.merge_range(addr, addr);
        set.publish(&self.env, self.rec());
        Ok(())
    }
}
