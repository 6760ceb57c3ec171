//! UFFDIO_WRITEPROTECT (Linux: `mwriteprotect_range` in mm/userfaultfd.c, `change_protection` with MM_CP_UFFD_WP).
//!
//! A leaf under write protection has `Pte::UFFD_WP` and R/W = 0. Where there is no page yet, memory of objects gets a
//! marker, so that the page is protected when a fault brings it in; anonymous memory does with
//! UFFD_FEATURE_WP_UNPOPULATED.

use super::Userfault;
use crate::error::MmError;
use crate::hugetlb::{HUGE_BYTES, HugeSize, is_huge};
use crate::table::{Entries, add_aux, holds_frame, leaf_with_rights, lock_table, sub_aux};
use crate::vma::{VM_HUGETLB, VM_UFFD_WP};
use crate::{Env, Mm, NoMemory, Vma};
use ptshare_abi::sys::general as abi;
use ptshare_paging::{Level, PAGE_BYTES, Pfn, Pte, Slot};

/// Does this entry only say that its page is to be write-protected?
#[inline]
pub(crate) const fn is_marker(pte: Pte) -> bool {
    pte.has(Pte::UFFD_WP) && pte.without(Pte::HUGE).0 == Pte::UFFD_WP
}

/// What stays of an entry whose page goes, but not its range: the mark, if it has one.
#[inline]
pub(crate) const fn mark_of(pte: Pte) -> Pte {
    if pte.has(Pte::UFFD_WP) { Pte(pte.0 & (Pte::UFFD_WP | Pte::HUGE)) } else { Pte::ABSENT }
}

/// What a fork's child gets of an entry: no mark, and nothing at all of a marker.
#[inline]
pub(crate) const fn unmarked(pte: Pte) -> Pte {
    if is_marker(pte) { Pte::ABSENT } else { pte.without(Pte::UFFD_WP) }
}

impl<E: Env> Userfault<E> {
    /// Write-protects the pages of `[start, end)`, page-aligned user addresses, or (`protect` false) takes that back.
    /// The caller wakes the threads, after [`Userfault::wake`].
    ///
    /// # Errors
    /// As UFFDIO_WRITEPROTECT: `NotRegistered` at the first mapping that is not registered for it, with those before it
    /// done.
    pub fn write_protect(&self, start: u64, end: u64, protect: bool) -> Result<(), MmError> {
        let mm = self.mm()?;
        let change = mm.change();
        let unpopulated = self.has(abi::UFFD_FEATURE_WP_UNPOPULATED);
        let mut result = Err(MmError::NotRegistered);
        for vma in change.iter_range(start, end) {
            if !vma.has(VM_UFFD_WP) {
                return Err(MmError::NotRegistered);
            }
            if vma.has(VM_HUGETLB) && !HugeSize::Mib2.is_aligned(start | end) {
                return Err(MmError::Invalid);
            }
            let (from, upto) = (vma.rec.start.max(start), vma.rec.end.min(end));
            mm.unshare_all(from, upto)?;
            if protect {
                mm.mark(vma, from, upto, vma.object.is_some() || unpopulated)?;
            } else {
                mm.unmark(vma, from, upto);
            }
            result = Ok(());
        }
        result
    }
}

impl<E: Env> Mm<E> {
    /// Write-protects `[start, end)` of a registered VMA, whose tables are this mm's own, with markers where there is no
    /// page if `absent`. `mmap_lock` is held for write.
    fn mark(&self, vma: &Vma<E>, start: u64, end: u64, absent: bool) -> Result<(), NoMemory> {
        let mut batch = self.batch();
        let result = if absent { self.mark_absent(vma, start, end) } else { Ok(()) };
        if result.is_ok() {
            self.each_leaf(start, end, &mut |table, slot, (at, next), pte| {
                if holds_frame(pte) && !pte.has(Pte::UFFD_WP) {
                    let old = self.env.swap(table, slot, pte.without(Pte::WRITE).with(Pte::UFFD_WP));
                    self.keep_used(table, slot, old, pte);
                    if old.present() && old.writable() {
                        batch.touch(at, next);
                    }
                }
            });
        }
        batch.finish();
        result
    }

    /// Marks the entries of `[start, end)` that are absent.
    fn mark_absent(&self, vma: &Vma<E>, start: u64, end: u64) -> Result<(), NoMemory> {
        if vma.has(VM_HUGETLB) {
            return self.mark_absent_huge(vma, start, end);
        }
        let mut at = start;
        while at < end {
            let upto = (Level::Pte.span_start(at) + Level::Pte.span_bytes()).min(end);
            let path = match self.walk(at, true) {
                Some(path) => path,
                None => self.build_path(at, true, None)?,
            };
            let _guard = lock_table(&self.env, path.table, Level::Pte);
            let mut marked = 0;
            while at < upto {
                let slot = Level::Pte.slot(at);
                if self.env.load(path.table, slot).0 == 0 {
                    self.env.store(path.table, slot, Pte(Pte::UFFD_WP));
                    marked += 1;
                }
                at += PAGE_BYTES;
            }
            add_aux(&self.env, path.table, marked);
        }
        Ok(())
    }

    fn mark_absent_huge(&self, vma: &Vma<E>, start: u64, end: u64) -> Result<(), NoMemory> {
        let _upper = self.page_table.lock();
        let mut at = start;
        while at < end {
            let pmd = self.huge_table(HugeSize::Mib2, Some(vma), at)?;
            let _guard = lock_table(&self.env, pmd, Level::Pmd);
            let slot = Level::Pmd.slot(at);
            if self.env.load(pmd, slot).0 == 0 {
                self.env.store(pmd, slot, Pte(Pte::UFFD_WP | Pte::HUGE));
                add_aux(&self.env, pmd, 1);
            }
            at += HUGE_BYTES;
        }
        Ok(())
    }

    /// Takes the marks off `[start, end)` of a VMA, whose tables are this mm's own: leaves get the rights that the VMA
    /// gives, markers go. `mmap_lock` is held for write.
    pub(crate) fn unmark(&self, vma: &Vma<E>, start: u64, end: u64) {
        if !vma.has(VM_UFFD_WP) {
            return;
        }
        let flags = vma.rec.flags;
        self.each_leaf(start, end, &mut |table, slot, _, pte| {
            if is_marker(pte) {
                self.env.store(table, slot, Pte::ABSENT);
                sub_aux(&self.env, table, 1);
            } else if pte.has(Pte::UFFD_WP) {
                let plain = leaf_with_rights(&self.env, pte.without(Pte::UFFD_WP), flags);
                let old = self.env.swap(table, slot, plain);
                self.keep_used(table, slot, old, plain);
            }
        });
    }

    /// Drops the pages of `[start, end)` of a VMA under write protection, and keeps the marks (`zap_install_uffd_wp_if_needed`,
    /// mm/memory.c). `mmap_lock` is held for write.
    ///
    /// # Errors
    /// [`NoMemory`], with nothing changed that the process can see.
    pub(crate) fn discard_marked(&self, start: u64, end: u64) -> Result<(), NoMemory> {
        self.unshare_all(start, end)?;
        let mut batch = self.batch();
        self.each_leaf(start, end, &mut |table, slot, (at, next), pte| {
            if holds_frame(pte) {
                let left = mark_of(pte);
                let old = self.env.swap(table, slot, left);
                sub_aux(&self.env, table, u32::from(left.0 == 0));
                batch.touch(at, next);
                batch.add(old.pfn());
            }
        });
        batch.finish();
        Ok(())
    }

    /// Keeps A and D that the processor has set since `pte` was loaded.
    fn keep_used(&self, table: Pfn, slot: Slot, old: Pte, pte: Pte) {
        let late = old.0 & !pte.0 & (Pte::ACCESSED | Pte::DIRTY);
        if late != 0 {
            let now = self.env.load(table, slot);
            self.env.swap(table, slot, now.with(late));
        }
    }

    /// Calls `f(table, slot, (start, end), entry)` for each non-zero leaf entry of `[start, end)`, with its table's lock held.
    fn each_leaf(&self, start: u64, end: u64, f: &mut dyn FnMut(Pfn, Slot, (u64, u64), Pte)) {
        if start < end {
            let _upper = self.page_table.lock();
            self.each_leaf_below(self.root, Level::Pgd, start, end, f);
        }
    }

    fn each_leaf_below(
        &self,
        table: Pfn,
        level: Level,
        start: u64,
        end: u64,
        f: &mut dyn FnMut(Pfn, Slot, (u64, u64), Pte),
    ) {
        let _guard = (level == Level::Pte).then(|| lock_table(&self.env, table, level));
        for item in Entries::new(&self.env, table, level, start, end) {
            match level.below() {
                Some(_) if is_huge(item.pte) => {
                    let _guard = lock_table(&self.env, table, level);
                    f(table, item.slot, (item.start, item.end), item.pte);
                }
                Some(below) => self.each_leaf_below(item.pte.pfn(), below, item.start, item.end, f),
                None => f(table, item.slot, (item.start, item.end), item.pte),
            }
        }
    }
}
