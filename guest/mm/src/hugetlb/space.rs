//! What an mm keeps of its hugetlb mappings, and how their pages move.

use super::{HugeSize, Regions, is_huge};
use crate::error::MmError;
use crate::table::{add_aux, sub_aux};
use crate::vma::VM_HUGETLB;
use crate::{Env, FlushBatch, Mm, NoMemory, Vma, VmaSet};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use ptshare_paging::{Level, Pfn, Pte, Slot};
use ptshare_sync::{Lock, Rank};
use ptshare_wire::huge::HUGE_SIZES;

/// The hugetlb side of an mm.
pub(crate) struct HugeSpace {
    /// The mm's slot, whose record shows how many pages are reserved.
    slot: u32,
    /// There are, or were, hugetlb mappings: the checks for them are worth their time.
    any: AtomicBool,
    /// By size: pages (addresses in units of it) of private mappings that mmap has reserved and no fault has used yet. Not
    /// inherited by fork: the child takes what is spare, as on Linux.
    reserved: [Lock<Regions>; HUGE_SIZES],
}

impl HugeSpace {
    pub(crate) fn new(slot: u32) -> Self {
        let none = || Lock::new(Rank::PageCache, Regions::new());
        HugeSpace { slot, any: AtomicBool::new(false), reserved: [none(), none()] }
    }

    /// Where the pool notes what is promised to this mm.
    fn book<'a, E: Env>(&self, env: &'a E, size: HugeSize) -> &'a AtomicU64 {
        &env.mm_rec(self.slot).hugetlb_reserved[size.index()]
    }

    fn regions(&self, size: HugeSize) -> &Lock<Regions> {
        &self.reserved[size.index()]
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
    pub(crate) fn reserve<E: Env>(
        &self,
        env: &E,
        size: HugeSize,
        start: u64,
        end: u64,
    ) -> Result<(), NoMemory> {
        let (from, to) = (start >> size.shift(), end >> size.shift());
        let mut reserved = self.regions(size).lock();
        reserved.room()?;
        env.allocator().lock().huge_reserve(env, size, to - from, self.book(env, size))?;
        reserved.add(from, to);
        Ok(())
    }

    /// Uses the reservation of the page at `addr`, if there is one. The caller takes the page from the pool.
    pub(super) fn consume<E: Env>(&self, env: &E, size: HugeSize, addr: u64) -> bool {
        let number = addr >> size.shift();
        let used = self.regions(size).lock().remove(number, number + 1);
        if used > 1 {
            // No memory to keep the rest on the list.
            env.allocator().lock().huge_unreserve(env, size, used - 1, self.book(env, size));
        }
        used > 0
    }

    /// Gives up what is reserved in `[start, end)`.
    pub(crate) fn release<E: Env>(&self, env: &E, start: u64, end: u64) {
        if !self.any() {
            return;
        }
        // No page is cut: what the ends round down to is reserved nowhere.
        for size in HugeSize::ALL {
            let given = self.regions(size).lock().remove(start >> size.shift(), end >> size.shift());
            if given > 0 {
                env.allocator().lock().huge_unreserve(env, size, given, self.book(env, size));
            }
        }
    }

    /// Moves what is reserved in `[old, old + len)` to `new`.
    fn shift<E: Env>(&self, env: &E, size: HugeSize, old: u64, new: u64, len_bytes: u64) {
        let number = |bytes: u64| bytes >> size.shift();
        let (from, to, pages) = (number(old), number(new), number(len_bytes));
        let mut moved = Regions::new();
        let mut reserved = self.regions(size).lock();
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
            env.allocator().lock().huge_unreserve(env, size, lost, self.book(env, size));
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
            let cut = |vma: &Vma<E>| {
                vma.rec.start < at
                    && vma.has(VM_HUGETLB)
                    && !vma.huge_size().is_aligned(at)
                    && changes(vma.rec.flags)
            };
            !HugeSize::Gib1.is_aligned(at) && set.find(at).is_some_and(cut)
        };
        if cuts(start) || cuts(end) { Err(MmError::Invalid) } else { Ok(()) }
    }

    /// Where MADV_DONTNEED up to `end` stops: in a hugetlb mapping with the last whole huge page
    /// (`madvise_dontneed_free_valid_vma`, mm/madvise.c).
    pub(crate) fn huge_discard_end(&self, set: &VmaSet<E>, end: u64) -> u64 {
        if !self.huge.any() {
            return end;
        }
        let huge = set.find(end).filter(|vma| vma.has(VM_HUGETLB));
        huge.map_or(end, |vma| vma.huge_size().floor(end))
    }

    /// The entry that translates the huge page at `va`, if the tables above it exist.
    fn huge_slot(&self, size: HugeSize, va: u64) -> Option<(Pfn, Slot, Pte)> {
        let mut table = self.root;
        for level in Level::TOP_DOWN.into_iter().take_while(|level| *level > size.level()) {
            let entry = self.env.load(table, level.slot(va));
            if !entry.present() {
                return None;
            }
            table = entry.pfn();
        }
        let slot = size.level().slot(va);
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
        size: HugeSize,
        old: u64,
        new: u64,
        len_bytes: u64,
        batch: &mut FlushBatch<'_, E>,
    ) -> Result<(), NoMemory> {
        self.unshare_all(old, old + len_bytes)?;
        self.unshare_all(new, new + len_bytes)?;
        if size == HugeSize::Gib1 {
            self.clear_way(new, new + len_bytes);
        }
        if let Err(error) = self.prepare_move_huge(size, old, new, len_bytes) {
            self.zap(new, new + len_bytes, batch);
            return Err(error);
        }
        {
            let _upper = self.page_table.lock();
            let mut done = 0;
            while done < len_bytes {
                if let Some((source, slot, _)) = self.huge_slot(size, old + done)
                    && let Ok(target) = self.huge_table(size, None, new + done)
                {
                    let pte = self.env.swap(source, slot, Pte::ABSENT);
                    sub_aux(&self.env, source, 1);
                    self.env.store(target, size.level().slot(new + done), pte);
                    add_aux(&self.env, target, 1);
                    batch.touch(old + done, old + done + size.bytes());
                }
                done += size.bytes();
            }
        }
        // Only empty tables are left there.
        self.zap(old, old + len_bytes, batch);
        self.huge.shift(&self.env, size, old, new, len_bytes);
        Ok(())
    }

    /// Frees the empty tables that a failed operation may have left in `[start, end)`, where nothing is mapped: leaves of
    /// 1 GiB stand where PMD pages would hang. The tables at the edges are this mm's own; `mmap_lock` is held for write.
    pub(crate) fn clear_way(&self, start: u64, end: u64) {
        let mut batch = self.batch();
        self.zap(start, end, &mut batch);
        batch.finish();
    }

    /// Builds the tables that the move needs.
    fn prepare_move_huge(&self, size: HugeSize, old: u64, new: u64, len_bytes: u64) -> Result<(), NoMemory> {
        let _upper = self.page_table.lock();
        let mut done = 0;
        while done < len_bytes {
            if self.huge_slot(size, old + done).is_some_and(|(_, _, pte)| is_huge(pte)) {
                self.huge_table(size, None, new + done)?;
            }
            done += size.bytes();
        }
        Ok(())
    }
}
