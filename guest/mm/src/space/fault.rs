//! Page faults: the life of an access that the tables did not allow.
//!
//! ```text
//!  find the VMA (mmap_lock, read) -- none: grow the stack, or SEGV_MAPERR
//!  is the access allowed?         -- no: SEGV_ACCERR
//!  walk to the PTE page           -- a table is absent: allocate. A write meets R/W = 0 above: unshare (share/)
//!  lock it, look at the leaf
//!     absent: zero page (read), cleared page (write), page-cache page, private copy of one
//!     there, and the access is allowed: another CPU, or another sharer of the table, was faster
//!     write to a read-only leaf: take the page over if nobody else has it, else copy it
//! ```
//!
//! A read fault on an absent entry of a shared table fills the entry where it is, for all sharers (rule
//! `sharers-agree`); only a write unshares. This is the hottest path of the kernel: it allocates nothing but frames,
//! walks top-down once, and takes `page_table_lock` only to change the upper levels.

use crate::frame::{NoMemory, Priority, alloc_data, get_data, is_kind, put_data, set_owner};
use crate::table::{add_aux, dawdle, leaf_flags, leaf_with_rights};
use crate::userfault::{Spot, Ticket, is_marker};
use crate::vma::VM_UFFD;
use crate::{Env, FlushRange, Mm, Object, ObjectError, Vma, VmaSet};
use core::sync::atomic::Ordering::{Acquire, Relaxed};
use ptshare_mutants::mutant;
use ptshare_paging::{Level, PAGE_BYTES, PAGE_SHIFT, Pfn, Pte, Slot, USER_END, page_floor};
use ptshare_wire::frame::{FrameKind, state};
use ptshare_wire::vma::{VM_EXEC, VM_HUGETLB, VM_READ, VM_SHARED, VM_UFFD_MINOR, VM_UFFD_WP, VM_WRITE};

/// Pages that a read fault on a file maps at most: itself and neighbours that are in the page cache already. A power of
/// two; the window is aligned.
const FAULT_AROUND_PAGES: u64 = 16;

/// What an access wanted, as the page fault's error code says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// A write (bit 1).
    pub write: bool,
    /// An instruction fetch (bit 4).
    pub exec: bool,
    /// From user mode (bit 2), rather than a system call's access to user memory.
    pub user: bool,
}

impl Access {
    /// A user-mode read.
    pub const READ: Access = Access { write: false, exec: false, user: true };
    /// A user-mode write.
    pub const WRITE: Access = Access { write: true, exec: false, user: true };
    /// A user-mode instruction fetch.
    pub const EXEC: Access = Access { write: false, exec: true, user: true };
}

/// How a fault ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultOutcome {
    /// The access is possible now: repeat it.
    Resolved,
    /// SIGSEGV with SEGV_MAPERR: nothing is mapped there.
    SegvMapErr,
    /// SIGSEGV with SEGV_ACCERR: the mapping does not allow the access.
    SegvAccErr,
    /// SIGBUS with BUS_ADRERR: beyond the end of the object.
    BusAdrErr,
    /// No frame is left: somebody must be killed.
    OutOfMemory,
    /// A message has been posted to the userfaultfd of the range: wait for its handler, and repeat the access.
    Userfault(Ticket),
}

impl From<NoMemory> for FaultOutcome {
    fn from(_: NoMemory) -> Self {
        FaultOutcome::OutOfMemory
    }
}

impl<E: Env> Mm<E> {
    /// Handles a page fault at `addr`. Takes `mmap_lock` for read; for write only to grow a stack.
    pub fn fault(&self, addr: u64, access: Access) -> FaultOutcome {
        self.env.stats().page_faults.fetch_add(1, Relaxed);
        if addr >= USER_END {
            return FaultOutcome::SegvMapErr;
        }
        let set = self.vmas.read();
        if let Some(vma) = set.find(addr) {
            return self.fault_in(vma, addr, access);
        }
        drop(set);
        self.fault_below_stack(addr, access)
    }

    /// A fault outside of all VMAs: perhaps a stack grows.
    #[cold]
    #[inline(never)]
    fn fault_below_stack(&self, addr: u64, access: Access) -> FaultOutcome {
        let mut set = self.vmas.write();
        if set.find(addr).is_none()
            && let Err(outcome) = self.grow_down(&mut set, addr)
        {
            return outcome;
        }
        match set.find(addr) {
            Some(vma) => self.fault_in_slow(vma, addr, access),
            None => FaultOutcome::SegvMapErr,
        }
    }

    /// [`Mm::fault_in`] as a function of its own, for callers that are not the hot path.
    #[inline(never)]
    fn fault_in_slow(&self, vma: &Vma<E>, addr: u64, access: Access) -> FaultOutcome {
        self.fault_in(vma, addr, access)
    }

    /// Handles a fault at `addr`, which lies in `vma`. `mmap_lock` is held either way.
    #[inline(always)]
    fn fault_in(&self, vma: &Vma<E>, addr: u64, access: Access) -> FaultOutcome {
        let needed = if access.write {
            VM_WRITE
        } else if access.exec {
            VM_EXEC
        } else {
            VM_READ | VM_WRITE | VM_EXEC
        };
        if vma.rec.flags & needed == 0 {
            return FaultOutcome::SegvAccErr;
        }
        self.env.critical_enter();
        let result = if vma.rec.flags & VM_HUGETLB != 0 {
            self.fault_huge(vma, addr, access)
        } else {
            self.resolve(vma, addr, access)
        };
        self.env.critical_exit();
        match result {
            Ok(()) => FaultOutcome::Resolved,
            Err(outcome) => outcome,
        }
    }

    #[inline(always)]
    fn resolve(&self, vma: &Vma<E>, addr: u64, access: Access) -> Result<(), FaultOutcome> {
        let page = page_floor(addr);
        loop {
            let path = match self.walk(page, access.write) {
                Some(path) => path,
                None => self.build_path(page, access.write, Some(vma))?,
            };
            let Some(guard) = path.lock(&self.env, access.write) else { continue };
            let slot = Level::Pte.slot(page);
            let pte = self.env.load(path.table, slot);
            let _guard = (!mutant!(LEAF_WRITTEN_AFTER_UNLOCK)).then_some(guard);
            if mutant!(LEAF_WRITTEN_AFTER_UNLOCK) {
                dawdle(&self.env, path.table);
            }
            return if pte.0 == 0 {
                if vma.rec.flags & VM_UFFD != 0 {
                    return self.fill_registered(vma, addr, access, (path.table, slot));
                }
                self.fill(vma, page, access, path.table, slot)
            } else if pte.has(Pte::UFFD_WP) {
                self.marked(vma, addr, access, (path.table, slot), pte)
            } else if access.write && pte.present() && !pte.writable() {
                self.write_protected(vma, page, path.table, slot, pte)
            } else {
                self.regrant(vma, path.table, slot, pte, access);
                Ok(())
            };
        }
    }

    /// A fault on an entry that userfaultfd has marked.
    #[inline(never)]
    fn marked(
        &self,
        vma: &Vma<E>,
        addr: u64,
        access: Access,
        (table, slot): (Pfn, Slot),
        pte: Pte,
    ) -> Result<(), FaultOutcome> {
        if is_marker(pte) {
            return self.fill_registered(vma, addr, access, (table, slot));
        }
        let spot = Spot { addr, page: page_floor(addr) };
        let pte = self.report_protected(vma, spot, access, (table, slot), pte)?;
        if access.write && pte.present() && !pte.writable() {
            return self.write_protected(vma, spot.page, table, slot, pte);
        }
        self.regrant(vma, table, slot, pte, access);
        Ok(())
    }

    /// Another CPU or another sharer was faster. Or the leaf lags behind the VMA: give it what the VMA allows. Granting
    /// needs no flush.
    #[inline(never)]
    fn regrant(&self, vma: &Vma<E>, table: Pfn, slot: Slot, pte: Pte, access: Access) {
        if !pte.present() || (access.exec && pte.has(Pte::NO_EXEC)) {
            let rights = leaf_with_rights(&self.env, pte, vma.rec.flags);
            self.env.swap(table, slot, rights.with(Pte::ACCESSED));
        }
    }

    /// Fills an absent entry. The lock of `table` is held.
    #[inline(always)]
    pub(crate) fn fill(
        &self,
        vma: &Vma<E>,
        page: u64,
        access: Access,
        table: Pfn,
        slot: Slot,
    ) -> Result<(), FaultOutcome> {
        let env = &self.env;
        let mut flags = leaf_flags(vma.rec.flags) | Pte::ACCESSED;
        if mutant!(FILL_SETS_GLOBAL) {
            flags |= Pte::GLOBAL;
        }
        let leaf = match &vma.object {
            None if access.write => {
                let pfn = self.alloc_private(vma, page, true)?;
                env.stats().anon_fills.fetch_add(1, Relaxed);
                Pte::new(pfn, flags | Pte::WRITE | Pte::DIRTY)
            }
            None if mutant!(FILL_MAPS_OWN_TABLE) => Pte::new(table, flags),
            None => {
                let zero = env.zero_page();
                get_data(env, zero);
                env.stats().zero_page_fills.fetch_add(1, Relaxed);
                let open = mutant!(FILL_OPENS_ZERO_PAGE) && vma.has(VM_WRITE);
                Pte::new(zero, flags | if open { Pte::WRITE } else { 0 })
            }
            Some(object) => return self.fill_from_object(object, vma, page, access, (table, slot)),
        };
        env.store(table, slot, leaf);
        if !(mutant!(FILL_MISSES_PRESENT_COUNT) && slot.index() == 511) {
            add_aux(env, table, 1);
        }
        Ok(())
    }

    /// A frame for the private page at `page` in `vma`; its content is zero if `zeroed`.
    #[inline(always)]
    pub(crate) fn alloc_private(&self, vma: &Vma<E>, page: u64, zeroed: bool) -> Result<Pfn, NoMemory> {
        let pfn = alloc_data(&self.env, FrameKind::Anon, zeroed, Priority::User)?;
        if mutant!(FILL_TAGS_ANON_AS_CACHE) {
            self.env.meta(pfn).state.store(state(FrameKind::Cache, 0, 0), Relaxed);
        }
        if mutant!(FILL_TAGS_ANON_AS_ZERO) {
            self.env.meta(pfn).state.store(state(FrameKind::Zero, 0, 0), Relaxed);
        }
        let index = if mutant!(PAGE_INDEX_IGNORES_PGOFF) { page >> PAGE_SHIFT } else { vma.pgoff_of(page) };
        set_owner(&self.env, pfn, self.family, index);
        Ok(pfn)
    }

    #[inline(never)]
    fn fill_from_object(
        &self,
        object: &Object<E>,
        vma: &Vma<E>,
        page: u64,
        access: Access,
        (table, slot): (Pfn, Slot),
    ) -> Result<(), FaultOutcome> {
        let env = &self.env;
        let flags = leaf_flags(vma.rec.flags) | Pte::ACCESSED;
        let index = if mutant!(FAULT_IGNORES_PGOFF) && vma.has(VM_SHARED) {
            (page - vma.rec.start) >> PAGE_SHIFT
        } else {
            vma.pgoff_of(page)
        };
        let cached = match object.map_page(index) {
            Ok(pfn) => pfn,
            Err(ObjectError::BeyondEnd) => return Err(FaultOutcome::BusAdrErr),
            Err(ObjectError::NoMemory) => return Err(FaultOutcome::OutOfMemory),
        };
        env.stats().file_fills.fetch_add(1, Relaxed);
        let shared = vma.rec.flags & VM_SHARED != 0;
        let leaf = if shared {
            // All sharers of the table may write to the object: the leaf gets R/W at once.
            let write = if vma.rec.flags & VM_WRITE != 0 { Pte::WRITE } else { 0 };
            Pte::new(cached, flags | write)
        } else if access.write {
            let Ok(own) = self.alloc_private(vma, page, false) else {
                put_data(env, cached);
                return Err(FaultOutcome::OutOfMemory);
            };
            env.copy_page(own, cached);
            put_data(env, cached);
            env.stats().cow_copies.fetch_add(1, Relaxed);
            Pte::new(own, flags | Pte::WRITE | Pte::DIRTY)
        } else {
            let open = mutant!(FILL_OPENS_FILE_PAGE) && vma.has(VM_WRITE);
            Pte::new(cached, flags | if open { Pte::WRITE } else { 0 })
        };
        env.store(table, slot, leaf);
        add_aux(env, table, 1);
        // Around a page whose neighbours are to be reported when touched, nothing is filled in.
        if !access.write && vma.rec.flags & (VM_UFFD_MINOR | VM_UFFD_WP) == 0 {
            self.fault_around(object, vma, page, table);
        }
        Ok(())
    }

    /// Maps neighbours of `page` that are in the page cache already. The lock of `table` is held.
    fn fault_around(&self, object: &Object<E>, vma: &Vma<E>, page: u64, table: Pfn) {
        let window = FAULT_AROUND_PAGES * PAGE_BYTES;
        let first = (page & !(window - 1)).max(vma.rec.start);
        let end = ((page & !(window - 1)) + window).min(vma.rec.end);
        let write =
            if vma.rec.flags & (VM_SHARED | VM_WRITE) == VM_SHARED | VM_WRITE { Pte::WRITE } else { 0 };
        let flags = leaf_flags(vma.rec.flags) | write;
        let mut filled = 0;
        let mut at = first;
        while at < end {
            let slot = Level::Pte.slot(at);
            if self.env.load(table, slot).0 == 0
                && let Some(pfn) = object.map_resident(vma.pgoff_of(at))
            {
                self.env.store(table, slot, Pte::new(pfn, flags));
                filled += 1;
            }
            at += PAGE_BYTES;
        }
        if filled != 0 {
            add_aux(&self.env, table, filled);
            self.env.stats().file_fills.fetch_add(u64::from(filled), Relaxed);
        }
    }

    /// A write to a leaf with R/W = 0 in a VMA that allows it. The lock of `table` is held, and it is this mm's own.
    #[inline(never)]
    fn write_protected(
        &self,
        vma: &Vma<E>,
        page: u64,
        table: Pfn,
        slot: Slot,
        pte: Pte,
    ) -> Result<(), FaultOutcome> {
        let env = &self.env;
        let old = pte.pfn();
        let meta = env.meta(old);
        let state = meta.state.load(Relaxed);
        let granted = Pte::WRITE | Pte::DIRTY | Pte::ACCESSED;
        if vma.rec.flags & VM_SHARED != 0 {
            env.swap(table, slot, pte.with(granted));
            return Ok(());
        }
        // A page with one reference is this leaf's: a second could come only from a copy of this table.
        let users = meta.refs.load(Acquire);
        let alone = users == 1 || (mutant!(COW_TAKES_SHARED_PAGE) && users == 2);
        if is_kind(state, FrameKind::Anon) && alone {
            env.swap(table, slot, pte.with(granted));
            env.stats().cow_reuses.fetch_add(1, Relaxed);
            return Ok(());
        }
        let zero = is_kind(state, FrameKind::Zero);
        let own = self.alloc_private(vma, page, zero)?;
        if zero {
            env.stats().anon_fills.fetch_add(1, Relaxed);
        } else {
            if !mutant!(COW_COPIES_NOTHING) {
                env.copy_page(own, old);
            }
            env.stats().cow_copies.fetch_add(1, Relaxed);
        }
        env.swap(table, slot, Pte::new(own, leaf_flags(vma.rec.flags) | granted));
        // Other threads may still read the old page through their TLBs.
        if !mutant!(COW_FLUSH_SKIPPED) {
            env.flush(self.rec(), FlushRange::Pages { start: page, end: page + PAGE_BYTES });
        }
        env.stats().tlb_flushes.fetch_add(1, Relaxed);
        if !mutant!(COW_KEEPS_REFERENCE) {
            put_data(env, old);
        }
        Ok(())
    }

    /// Faults in every page of `[start, end)` for reading or writing. The caller holds `mmap_lock`, either way, and
    /// passes what it guards.
    ///
    /// # Errors
    /// The first fault that did not resolve; [`FaultOutcome::SegvMapErr`] at a hole. What was filled before stays.
    pub(crate) fn populate_range(
        &self,
        set: &VmaSet<E>,
        start: u64,
        end: u64,
        write: bool,
    ) -> Result<(), FaultOutcome> {
        let access = Access { write, exec: false, user: false };
        let mut at = start;
        while at < end {
            let Some(vma) = set.find(at) else { return Err(FaultOutcome::SegvMapErr) };
            let stop = vma.rec.end.min(end);
            let step = if vma.has(VM_HUGETLB) { vma.huge_size().bytes() } else { PAGE_BYTES };
            while at < stop {
                if self.translate(at, write).is_none() {
                    match self.fault_in_slow(vma, at, access) {
                        FaultOutcome::Resolved => {}
                        outcome => return Err(outcome),
                    }
                }
                at = (at & !(step - 1)) + step;
            }
        }
        Ok(())
    }
}
