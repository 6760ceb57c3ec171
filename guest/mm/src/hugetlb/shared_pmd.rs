//! PMD pages that belong to a hugetlb object.
//!
//! All of them hang in one chain under the allocator's lock, each with its key in its own metadata: which huge page of
//! which object its first entry maps, and the rights of the mappings. A search gives a table with a reference taken, or
//! none; a table whose count has gone to 0 is not given out again, and leaves the chain before it is freed. So finding and
//! taking over are one step (Linux had them apart until eb48c0714647), and the count alone says whether a table is shared
//! (Linux inferred it until 3aa4ed8040e1).

use super::HugeSize;
use crate::frame::Buddy;
use crate::table::{note_shared, put_table, sub_aux};
use crate::vma::{VM_ACCESS, VM_HUGETLB, VM_SHARED};
use crate::{Env, FlushRange, Mm, Vma};
use core::sync::atomic::Ordering::{AcqRel, Relaxed};
use ptshare_mutants::mutant;
use ptshare_paging::{Level, Pfn, Pte, Slot};
use ptshare_wire::frame::{FLAG_HUGE_LEAVES, FLAG_OBJECT_PMD, FrameKind, OBJECT_PMD_RIGHTS_SHIFT, state};

/// What a PMD page maps, and for whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Key {
    /// As in `FrameMeta::a`.
    part: u64,
    /// As in `FrameMeta::state`.
    state: u32,
}

/// Is this table of any level a hugetlb object's?
#[inline]
pub(crate) fn is_object_pmd<E: Env>(env: &E, table: Pfn) -> bool {
    env.meta(table).state.load(Relaxed) & FLAG_OBJECT_PMD != 0
}

/// The key of the PMD page over `page` in this VMA; `None` where the article's conditions do not hold: shared, hugetlb,
/// the whole aligned GiB inside the VMA, and no userfaultfd that hears of minor faults or writes.
pub(super) fn key<E: Env>(vma: &Vma<E>, page: u64) -> Option<Key> {
    let start = Level::Pmd.span_start(page);
    let mut end = vma.rec.end;
    if mutant!(PMD_ROUNDS_VMA_END_UP) {
        end = end.next_multiple_of(Level::Pmd.span_bytes());
    }
    let covers = vma.rec.start <= start && start + Level::Pmd.span_bytes() <= end;
    if !covers || !vma.has(VM_HUGETLB | VM_SHARED) || vma.owns_tables() {
        return None;
    }
    let first = vma.pgoff_of(start) >> HugeSize::Mib2.order();
    // Numbers that do not fit the metadata do not come up; a table that is not shared is no mistake.
    let (object, first) = (u32::try_from(vma.rec.object).ok()?, u32::try_from(first).ok()?);
    let rights = (vma.rec.flags & VM_ACCESS) as u32;
    let flags = FLAG_OBJECT_PMD | FLAG_HUGE_LEAVES | rights << OBJECT_PMD_RIGHTS_SHIFT;
    Some(Key {
        part: u64::from(object) << 32 | u64::from(first),
        state: state(FrameKind::Table, Level::Pmd as u8, flags),
    })
}

/// The object's PMD page with this key, with a reference for the entry about to point to it.
pub(super) fn find<E: Env>(env: &E, key: Key) -> Option<Pfn> {
    let allocator = env.allocator().lock();
    if allocator.huge.sharing_off {
        return None;
    }
    let mut at = allocator.huge.tables;
    while at != 0 {
        let meta = env.meta(Pfn(at));
        let same_rights = meta.state.load(Relaxed) == key.state || mutant!(PMD_IGNORES_RIGHTS);
        if meta.a.load(Relaxed) == key.part && same_rights {
            let alive = |refs: u32| (refs > 0 || mutant!(PMD_TAKES_DYING_TABLE)).then(|| refs + 1);
            let Ok(before) = meta.refs.fetch_update(AcqRel, Relaxed, alive) else { return None };
            drop(allocator);
            if before == 1 {
                note_shared(env);
            }
            return Some(Pfn(at));
        }
        at = meta.b.load(Relaxed);
    }
    None
}

/// Makes a fresh PMD page the object's, unless sharing is off.
pub(super) fn register<E: Env>(env: &E, table: Pfn, key: Key) {
    let mut allocator = env.allocator().lock();
    if allocator.huge.sharing_off {
        return;
    }
    let meta = env.meta(table);
    meta.a.store(key.part, Relaxed);
    meta.b.store(allocator.huge.tables, Relaxed);
    meta.state.store(key.state, Relaxed);
    allocator.huge.tables = table.0;
}

/// Takes a table off the chain: its last reference is gone, or its last user makes it an ordinary one.
pub(crate) fn forget<E: Env>(env: &E, table: Pfn) {
    unlink(env, &mut env.allocator().lock(), table);
}

fn unlink<E: Env>(env: &E, allocator: &mut Buddy, table: Pfn) {
    let meta = env.meta(table);
    let next = meta.b.load(Relaxed);
    let mut at = allocator.huge.tables;
    if at == table.0 {
        allocator.huge.tables = next;
    } else {
        while at != 0 {
            let link = &env.meta(Pfn(at)).b;
            at = link.load(Relaxed);
            if at == table.0 {
                link.store(next, Relaxed);
            }
        }
    }
    meta.a.store(0, Relaxed);
    meta.b.store(0, Relaxed);
    meta.state.store(state(FrameKind::Table, Level::Pmd as u8, FLAG_HUGE_LEAVES), Relaxed);
}

impl<E: Env> Mm<E> {
    /// Takes the object's PMD page below an entry of `pud`, a table of this mm's own, out of this mm: before a change of
    /// VMAs or leaves in part of its span. Leaves a hole of 1 GiB for faults to fill again; needs no memory. The last user
    /// keeps the table, which becomes an ordinary one. Says whether the table is gone. `page_table_lock` is held and
    /// `mmap_lock` for write.
    pub(crate) fn take_out_object_pmd(&self, pud: Pfn, slot: Slot, va: u64) -> bool {
        let env = &self.env;
        let table = env.load(pud, slot).pfn();
        {
            let mut allocator = env.allocator().lock();
            if env.meta(table).refs.load(Relaxed) == 1 {
                unlink(env, &mut allocator, table);
                return false;
            }
        }
        env.swap(pud, slot, Pte::ABSENT);
        sub_aux(env, pud, 1);
        self.count_tables(1u64.wrapping_neg());
        env.stats().pmd_detaches.fetch_add(1, Relaxed);
        // The whole span, whatever part of it is about to change.
        let start = Level::Pmd.span_start(va);
        env.flush(self.rec(), FlushRange::Pages { start, end: start + Level::Pmd.span_bytes() });
        env.stats().tlb_flushes.fetch_add(1, Relaxed);
        put_table(env, table);
        true
    }

    /// The table whose entries map huge pages of this size over `page`: this mm's own, or its object's, built or taken over
    /// if there is none. `vma` is the hugetlb VMA whose page is to be filled in; `None` for a table that is to be private.
    /// `page_table_lock` is held.
    ///
    /// # Errors
    /// [`crate::NoMemory`]. What was built so far stays: it changes nothing that the process can see.
    pub(crate) fn huge_table(
        &self,
        size: HugeSize,
        vma: Option<&Vma<E>>,
        page: u64,
    ) -> Result<Pfn, crate::NoMemory> {
        debug_assert!(size.is_aligned(page));
        let pud = self.huge_pud(page)?;
        if size == HugeSize::Gib1 {
            mark_huge(&self.env, pud);
            return Ok(pud);
        }
        self.huge_pmd(pud, vma, page)
    }

    /// This mm's own PUD page over `page`.
    fn huge_pud(&self, page: u64) -> Result<Pfn, crate::NoMemory> {
        let slot = Level::Pgd.slot(page);
        let entry = self.env.load(self.root, slot);
        if !entry.present() {
            self.add_table(self.root, slot, Level::Pgd)
        } else if !entry.writable() {
            self.own_child(self.root, slot, Level::Pgd, page)
        } else {
            Ok(entry.pfn())
        }
    }

    /// The PMD page below `pud`.
    fn huge_pmd(&self, pud: Pfn, vma: Option<&Vma<E>>, page: u64) -> Result<Pfn, crate::NoMemory> {
        let env = &self.env;
        let slot = Level::Pud.slot(page);
        let entry = env.load(pud, slot);
        if entry.present() {
            let pmd =
                if entry.writable() { entry.pfn() } else { self.own_child(pud, slot, Level::Pud, page)? };
            mark_huge(env, pmd);
            return Ok(pmd);
        }
        let key = vma.and_then(|vma| key(vma, page));
        if let Some(table) = key.and_then(|key| find(env, key)) {
            env.store(pud, slot, Pte::user_table(table));
            crate::table::add_aux(env, pud, 1);
            if !mutant!(PMD_TAKEOVER_UNCOUNTED) {
                self.count_tables(1);
            }
            env.stats().pmd_tables_shared.fetch_add(1, Relaxed);
            return Ok(table);
        }
        let pmd = self.add_table(pud, slot, Level::Pud)?;
        env.meta(pmd).state.store(state(FrameKind::Table, Level::Pmd as u8, FLAG_HUGE_LEAVES), Relaxed);
        if let Some(key) = key {
            register(env, pmd, key);
        }
        Ok(pmd)
    }
}

/// Notes that a table may hold huge leaves.
fn mark_huge<E: Env>(env: &E, table: Pfn) {
    let state = &env.meta(table).state;
    state.store(state.load(Relaxed) | FLAG_HUGE_LEAVES, Relaxed);
}
