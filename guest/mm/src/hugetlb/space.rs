//! What an mm keeps of its hugetlb mappings, and how their pages move.

use super::{HugeSize, Regions, is_huge};
use crate::error::MmError;
use crate::frame::{get_data, is_private, put_data, put_data_locked};
use crate::table::{add_aux, sub_aux};
use crate::vma::{VM_HUGETLB, VM_MAYSHARE, VM_NORESERVE};
use crate::{Env, FlushBatch, Mm, NoMemory, Vma, VmaSet};
use alloc::vec::Vec;
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
    /// By size. Not inherited by fork: the child takes what is spare, as on Linux.
    reserved: [Lock<Reserved>; HUGE_SIZES],
}

/// Pages (addresses in units of their size) of private mappings.
struct Reserved {
    /// Reserved, and no fault has used it yet.
    open: Regions,
    /// Reserved by mmap once: a page that is given back here is reserved again (Linux: the VMA's `HPAGE_RESV_OWNER`).
    owned: Regions,
}

impl Reserved {
    const fn new() -> Self {
        Reserved { open: Regions::new(), owned: Regions::new() }
    }

    /// Makes sure that the next change needs no memory.
    fn room(&mut self) -> Result<(), NoMemory> {
        self.open.room()?;
        self.owned.room()
    }
}

impl HugeSpace {
    pub(crate) fn new(slot: u32) -> Self {
        let none = || Lock::new(Rank::PageCache, Reserved::new());
        HugeSpace { slot, any: AtomicBool::new(false), reserved: [none(), none()] }
    }

    /// Where the pool notes what is promised to this mm.
    fn book<'a, E: Env>(&self, env: &'a E, size: HugeSize) -> &'a AtomicU64 {
        &env.mm_rec(self.slot).hugetlb_reserved[size.index()]
    }

    fn regions(&self, size: HugeSize) -> &Lock<Reserved> {
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
        reserved.open.add(from, to);
        reserved.owned.add(from, to);
        Ok(())
    }

    /// Uses the reservation of the page at `addr`, if there is one. The caller takes the page from the pool.
    pub(super) fn consume<E: Env>(&self, env: &E, size: HugeSize, addr: u64) -> bool {
        let number = addr >> size.shift();
        let used = self.regions(size).lock().open.remove(number, number + 1);
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
            let (from, to) = (start >> size.shift(), end >> size.shift());
            let mut reserved = self.regions(size).lock();
            let given = reserved.open.remove(from, to);
            reserved.owned.remove(from, to);
            drop(reserved);
            if given > 0 {
                env.allocator().lock().huge_unreserve(env, size, given, self.book(env, size));
            }
        }
    }

    /// Drops a hold on the private page at `addr`, which has left the tables. If that frees it, and mmap had reserved it, it is
    /// reserved again in the same moment, so that nobody else gets it (Linux: `folio_set_hugetlb_restore_reserve` in
    /// `__unmap_hugepage_range`, which leaves surplus pages out as well).
    fn put_back<E: Env>(&self, env: &E, size: HugeSize, addr: u64, pfn: Pfn) {
        let number = addr >> size.shift();
        let mut reserved = self.regions(size).lock();
        let owned = reserved.owned.contains(number) && reserved.room().is_ok();
        let mut allocator = env.allocator().lock();
        let surplus = &env.census().hugetlb[size.index()].surplus;
        let again = owned && surplus.load(Relaxed) == 0;
        if put_data_locked(env, &mut allocator, pfn)
            && again
            && allocator.huge_reserve(env, size, 1, self.book(env, size)).is_ok()
        {
            reserved.open.add(number, number + 1);
        }
    }

    /// Moves what is reserved in `[old, old + len)` to `new`.
    fn shift<E: Env>(&self, env: &E, size: HugeSize, old: u64, new: u64, len_bytes: u64) {
        let number = |bytes: u64| bytes >> size.shift();
        let (from, to, pages) = (number(old), number(new), number(len_bytes));
        let mut reserved = self.regions(size).lock();
        let lost = reserved.open.shift(from, to, pages);
        reserved.owned.shift(from, to, pages);
        drop(reserved);
        if lost > 0 {
            env.allocator().lock().huge_unreserve(env, size, lost, self.book(env, size));
        }
    }
}

/// A private huge page that is being given back.
pub(crate) struct HeldPage {
    size: HugeSize,
    addr: u64,
    pfn: Pfn,
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

    /// Holds the private huge pages in `[start, end)`, whose VMAs give them back: [`Self::put_back_huge`] follows. Inside a
    /// critical section, with `mmap_lock` held for write.
    ///
    /// # Errors
    /// `NoMemory`, with nothing held.
    pub(crate) fn hold_huge(&self, set: &VmaSet<E>, start: u64, end: u64) -> Result<Vec<HeldPage>, MmError> {
        let mut held = Vec::new();
        if !self.huge.any() {
            return Ok(held);
        }
        let ours = |vma: &&Vma<E>| vma.has(VM_HUGETLB) && !vma.has(VM_MAYSHARE) && !vma.has(VM_NORESERVE);
        let _upper = self.page_table.lock();
        for vma in set.iter_range(start, end).filter(ours) {
            let (size, mut at) = (vma.huge_size(), vma.rec.start.max(start));
            while at < vma.rec.end.min(end) {
                let leaf = self.huge_slot(size, at).filter(|(_, _, pte)| is_huge(*pte));
                if let Some(pfn) = leaf.map(|(_, _, pte)| pte.pfn())
                    && is_private(self.env.meta(pfn).state.load(Relaxed))
                {
                    if held.try_reserve(1).is_err() {
                        held.iter().for_each(|page: &HeldPage| put_data(&self.env, page.pfn));
                        return Err(MmError::NoMemory);
                    }
                    get_data(&self.env, pfn);
                    held.push(HeldPage { size, addr: at, pfn });
                }
                at += size.bytes();
            }
        }
        Ok(held)
    }

    /// Lets go of what [`Self::hold_huge`] holds, after the flush. What was reserved is reserved again.
    pub(crate) fn put_back_huge(&self, held: Vec<HeldPage>) {
        for page in held {
            self.huge.put_back(&self.env, page.size, page.addr, page.pfn);
        }
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
