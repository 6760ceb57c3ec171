//! Faults in hugetlb mappings (Linux: `hugetlb_fault`, `hugetlb_no_page`, `hugetlb_wp` in mm/hugetlb.c).
//!
//! `page_table_lock` is held over the whole of a fault, and the table's own lock too, since other mms may fill the same
//! PMD page. No page to be had is SIGBUS, not an out-of-memory kill: nobody's death gives the pool a page.

use super::{HugeSize, is_huge};
use crate::frame::{is_private, put_data, set_owner};
use crate::space::{Access, FaultOutcome};
use crate::table::{add_aux, leaf_flags, leaf_with_rights, lock_table};
use crate::userfault::{Spot, is_marker};
use crate::vma::{VM_MAYSHARE, VM_SHARED, VM_WRITE};
use crate::{Env, FlushRange, Mm, Object, Vma};
use core::sync::atomic::Ordering::{Acquire, Relaxed};
use ptshare_mutants::mutant;
use ptshare_paging::{Pfn, Pte, Slot};

/// Where a leaf goes.
#[derive(Clone, Copy)]
struct Place {
    table: Pfn,
    slot: Slot,
    page: u64,
    size: HugeSize,
}

impl<E: Env> Mm<E> {
    /// Handles a fault at `addr` in the hugetlb mapping `vma`, which allows the access. `mmap_lock` is held either way.
    ///
    /// # Errors
    /// `BusAdrErr` beyond the end of the object and when no huge page is to be had; `OutOfMemory` for want of a table.
    #[inline(never)]
    pub(crate) fn fault_huge(&self, vma: &Vma<E>, addr: u64, access: Access) -> Result<(), FaultOutcome> {
        let env = &self.env;
        env.stats().hugetlb_faults.fetch_add(1, Relaxed);
        let size = vma.huge_size();
        let page = size.floor(addr);
        let Some(object) = &vma.object else { return Err(FaultOutcome::BusAdrErr) };
        let _upper = self.page_table.lock();
        let table = self.huge_table(size, Some(vma), page)?;
        let _guard = lock_table(env, table, size.level());
        let slot = size.level().slot(page);
        let place = Place { table, slot, page, size };
        let mut pte = env.load(table, slot);
        let spot = Spot { addr, page };
        if pte.0 == 0 || is_marker(pte) {
            self.report_absent(vma, spot, access)?;
            // Under a marker as if for reading: the write faults again, and is reported then.
            let marked = pte.0 != 0;
            let access = Access { write: access.write && !marked, ..access };
            let leaf = self.huge_page_for(vma, object, page, access)?;
            let leaf = if marked { leaf.without(Pte::WRITE).with(Pte::UFFD_WP) } else { leaf };
            env.store(table, slot, leaf);
            add_aux(env, table, u32::from(!marked));
            return Ok(());
        }
        debug_assert!(is_huge(pte), "a hugetlb mapping has a table at {page:#x}");
        if pte.has(Pte::UFFD_WP) {
            pte = self.report_protected(vma, spot, access, (table, slot), pte)?;
        }
        if access.write && pte.present() && !pte.writable() {
            return self.write_protected_huge(vma, place, pte);
        }
        // Another mm that shares the table was faster, or the leaf lags behind the VMA.
        if !pte.present() || (access.exec && pte.has(Pte::NO_EXEC)) {
            let rights = leaf_with_rights(env, pte, vma.rec.flags);
            env.swap(table, slot, rights.with(Pte::ACCESSED));
        }
        Ok(())
    }

    /// The leaf for an absent entry.
    fn huge_page_for(
        &self,
        vma: &Vma<E>,
        object: &Object<E>,
        page: u64,
        access: Access,
    ) -> Result<Pte, FaultOutcome> {
        let env = &self.env;
        let flags = leaf_flags(vma.rec.flags) | Pte::ACCESSED | Pte::HUGE;
        let size = vma.huge_size();
        let index = vma.pgoff_of(page) >> size.order();
        if vma.rec.flags & (VM_SHARED | VM_MAYSHARE) != 0 {
            let pfn = object.map_huge(index).map_err(|_| FaultOutcome::BusAdrErr)?;
            let write = if vma.has(VM_SHARED | VM_WRITE) { Pte::WRITE } else { 0 };
            return Ok(Pte::new(pfn, flags | write));
        }
        let cached = object.huge_resident(index).map_err(|_| FaultOutcome::BusAdrErr)?;
        let Some(cached) = cached else {
            let own = self.private_huge(vma, page, true)?;
            env.stats().anon_fills.fetch_add(1, Relaxed);
            let write = if vma.has(VM_WRITE) { Pte::WRITE } else { 0 };
            let dirty = if access.write { Pte::DIRTY } else { 0 };
            let own = if mutant!(HUGE_LEAF_MISALIGNED) { own.add(1) } else { own };
            return Ok(Pte::new(own, flags | write | dirty));
        };
        if !access.write {
            return Ok(Pte::new(cached, flags));
        }
        let own = self.private_huge(vma, page, false);
        if let Ok(own) = own {
            env.copy_phys(own.pa().0, cached.pa().0, size.bytes());
            env.stats().cow_copies.fetch_add(1, Relaxed);
        }
        put_data(env, cached);
        Ok(Pte::new(own?, flags | Pte::WRITE | Pte::DIRTY))
    }

    /// A page of the process's own for `page`: the one that mmap reserved, or a spare one.
    pub(crate) fn private_huge(&self, vma: &Vma<E>, page: u64, zeroed: bool) -> Result<Pfn, FaultOutcome> {
        let env = &self.env;
        let size = vma.huge_size();
        let reserved = self.huge.consume(env, size, page);
        let book = reserved.then(|| &self.rec().hugetlb_reserved[size.index()]);
        let taken = env.allocator().lock().huge_take(env, size, book);
        let (pfn, zero) = taken.ok_or(FaultOutcome::BusAdrErr)?;
        if zeroed && !zero {
            env.zero_pages(pfn, size.frames());
        }
        set_owner(env, pfn, self.family, vma.pgoff_of(page));
        Ok(pfn)
    }

    /// A write to a leaf with R/W = 0 in a mapping that allows it.
    fn write_protected_huge(&self, vma: &Vma<E>, place: Place, pte: Pte) -> Result<(), FaultOutcome> {
        let env = &self.env;
        let Place { table, slot, page, size } = place;
        let old = pte.pfn();
        let meta = env.meta(old);
        let granted = Pte::WRITE | Pte::DIRTY | Pte::ACCESSED;
        if vma.has(VM_SHARED) {
            env.swap(table, slot, pte.with(granted));
            return Ok(());
        }
        if is_private(meta.state.load(Relaxed)) && meta.refs.load(Acquire) == 1 {
            env.swap(table, slot, pte.with(granted));
            env.stats().cow_reuses.fetch_add(1, Relaxed);
            return Ok(());
        }
        let own = self.private_huge(vma, page, false)?;
        env.copy_phys(own.pa().0, old.pa().0, size.bytes());
        env.stats().cow_copies.fetch_add(1, Relaxed);
        env.swap(table, slot, Pte::new(own, leaf_flags(vma.rec.flags) | Pte::HUGE | granted));
        env.flush(self.rec(), FlushRange::Pages { start: page, end: page + size.bytes() });
        env.stats().tlb_flushes.fetch_add(1, Relaxed);
        put_data(env, old);
        Ok(())
    }
}
