//! What an mm keeps of its hugetlb mappings, and how their pages move.

use super::{HUGE_BYTES, HUGE_SHIFT, Regions, is_huge, is_huge_aligned};
use crate::error::MmError;
use crate::table::{add_aux, sub_aux};
use crate::vma::VM_HUGETLB;
use crate::{Env, FlushBatch, Mm, NoMemory, Vma, VmaSet};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use ptshare_paging::{Level, Pfn, Pte, Slot};
use ptshare_sync::{Lock, Rank};

/// The hugetlb side of an mm.
pub(crate) struct HugeSpace {
    /// The mm's slot, whose record shows how many pages are reserved.
    slot: u32,
    /// There are, or were, hugetlb mappings: the checks for them are worth their time.
    any: AtomicBool,
    /// Pages (address >> 21) of private mappings that mmap has reserved and no fault has used yet. Not inherited by fork:
    /// the child takes what is spare, as on Linux.
    reserved: Lock<Regions>,
}

impl HugeSpace {
    pub(crate) fn new(slot: u32) -> Self {
        let reserved = Lock::new(Rank::PageCache, Regions::new());
        HugeSpace { slot, any: AtomicBool::new(false), reserved }
    }

    /// Where the pool notes what is promised to this mm.
    fn book<'a, E: Env>(&self, env: &'a E) -> &'a AtomicU64 {
        &env.mm_rec(self.slot).hugetlb_reserved
    }

    /// Have there been hugetlb mappings?
    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.any.load(Relaxed)
    }

    /// Notes that there are.
    pub(crate) fn note(&self) {
        self.any.store(true, Relaxed);
    }

    /// Reserves pages for the private mapping `[start, end)`.
    ///
    /// # Errors
    /// [`NoMemory`] when the pool cannot promise them.
    pub(crate) fn reserve<E: Env>(&self, env: &E, start: u64, end: u64) -> Result<(), NoMemory> {
        let (from, to) = (start >> HUGE_SHIFT, end >> HUGE_SHIFT);
        let mut reserved = self.reserved.lock();
        reserved.room()?;
        env.allocator().lock().huge_reserve(env, to - from, self.book(env))?;
        reserved.add(from, to);
        Ok(())
    }

    /// Uses the reservation of a page, if there is one. The caller takes the page from the pool.
    pub(super) fn consume<E: Env>(&self, env: &E, number: u64) -> bool {
        let used = self.reserved.lock().remove(number, number + 1);
        if used > 1 {
            // No memory to keep the rest on the list.
            env.allocator().lock().huge_unreserve(env, used - 1, self.book(env));
        }
        used > 0
    }

    /// Gives up what is reserved in `[start, end)`.
    pub(crate) fn release<E: Env>(&self, env: &E, start: u64, end: u64) {
        if !self.any() {
            return;
        }
        let given = self.reserved.lock().remove(start >> HUGE_SHIFT, end >> HUGE_SHIFT);
        if given > 0 {
            env.allocator().lock().huge_unreserve(env, given, self.book(env));
        }
    }

    /// Moves what is reserved in `[old, old + len)` to `new`.
    fn shift<E: Env>(&self, env: &E, old: u64, new: u64, len_bytes: u64) {
        let (from, to, pages) = (old >> HUGE_SHIFT, new >> HUGE_SHIFT, len_bytes >> HUGE_SHIFT);
        let mut moved = Regions::new();
        let mut reserved = self.reserved.lock();
        let mut lost = 0;
        reserved.each(from, from + pages, |a, b| {
            if moved.room().is_ok() {
                moved.add(a - from + to, b - from + to);
            } else {
                lost += b - a;
            }
        });
        lost += reserved.remove(from, from + pages).saturating_sub(moved.len() + lost);
        moved.each(0, u64::MAX, |a, b| {
            if reserved.room().is_ok() {
                reserved.add(a, b);
            } else {
                lost += b - a;
            }
        });
        drop(reserved);
        if lost > 0 {
            env.allocator().lock().huge_unreserve(env, lost, self.book(env));
        }
    }
}

impl<E: Env> Mm<E> {
    /// May a change of VMAs begin at `start` and end at `end`? Not in the middle of a huge page
    /// (`hugetlb_vm_op_split`, mm/hugetlb.c).
    ///
    /// # Errors
    /// `Invalid`.
    #[inline]
    pub(crate) fn check_huge_cut(
        &self,
        set: &VmaSet<E>,
        start: u64,
        end: u64,
        changes: impl Fn(u64) -> bool,
    ) -> Result<(), MmError> {
        if !self.huge.any() {
            return Ok(());
        }
        let cuts = |at: u64| {
            let cut = |vma: &Vma<E>| vma.rec.start < at && vma.has(VM_HUGETLB) && changes(vma.rec.flags);
            !is_huge_aligned(at) && set.find(at).is_some_and(cut)
        };
        if cuts(start) || cuts(end) { Err(MmError::Invalid) } else { Ok(()) }
    }

    /// Where MADV_DONTNEED up to `end` stops: in a hugetlb mapping with the last whole huge page
    /// (`madvise_dontneed_free_valid_vma`, mm/madvise.c).
    pub(crate) fn huge_discard_end(&self, set: &VmaSet<E>, end: u64) -> u64 {
        let huge = |at: u64| set.find(at).is_some_and(|vma| vma.has(VM_HUGETLB));
        if self.huge.any() && !is_huge_aligned(end) && huge(end) { end & !(HUGE_BYTES - 1) } else { end }
    }

    /// The entry of a PMD page that translates the huge page at `va`, if the tables above it exist.
    fn huge_slot(&self, va: u64) -> Option<(Pfn, Slot, Pte)> {
        let mut table = self.root;
        for level in [Level::Pgd, Level::Pud] {
            let entry = self.env.load(table, level.slot(va));
            if !entry.present() {
                return None;
            }
            table = entry.pfn();
        }
        let slot = Level::Pmd.slot(va);
        let pte = self.env.load(table, slot);
        (pte.0 != 0).then_some((table, slot, pte))
    }

    /// Moves every huge leaf of `[old, old + len)` to the same place in `[new, new + len)`, which holds none; what
    /// belongs to an object's PMD page refaults there. All aligned to huge pages; the ranges do not overlap. `mmap_lock`
    /// is held for write.
    ///
    /// # Errors
    /// [`NoMemory`], with every leaf where it was.
    pub(crate) fn move_huge(
        &self,
        old: u64,
        new: u64,
        len_bytes: u64,
        batch: &mut FlushBatch<'_, E>,
    ) -> Result<(), NoMemory> {
        self.unshare_all(old, old + len_bytes)?;
        self.unshare_all(new, new + len_bytes)?;
        if let Err(error) = self.prepare_move_huge(old, new, len_bytes) {
            self.zap(new, new + len_bytes, batch);
            return Err(error);
        }
        {
            let _upper = self.page_table.lock();
            let mut done = 0;
            while done < len_bytes {
                if let Some((source, slot, _)) = self.huge_slot(old + done)
                    && let Ok(target) = self.huge_pmd(None, new + done)
                {
                    let pte = self.env.swap(source, slot, Pte::ABSENT);
                    sub_aux(&self.env, source, 1);
                    self.env.store(target, Level::Pmd.slot(new + done), pte);
                    add_aux(&self.env, target, 1);
                    batch.touch(old + done, old + done + HUGE_BYTES);
                }
                done += HUGE_BYTES;
            }
        }
        // Only empty tables are left there.
        self.zap(old, old + len_bytes, batch);
        self.huge.shift(&self.env, old, new, len_bytes);
        Ok(())
    }

    /// Builds the PMD pages that the move needs.
    fn prepare_move_huge(&self, old: u64, new: u64, len_bytes: u64) -> Result<(), NoMemory> {
        let _upper = self.page_table.lock();
        let mut done = 0;
        while done < len_bytes {
            if self.huge_slot(old + done).is_some_and(|(_, _, pte)| is_huge(pte)) {
                self.huge_pmd(None, new + done)?;
            }
            done += HUGE_BYTES;
        }
        Ok(())
    }
}
