//! Object sharing: all mappings of one part of an object, with equal rights, use one PTE page.
//!
//! ```text
//!   mm A: VMA at 0x1000_0000, page 512 of object 7 --PMD entry, R/W = 1 if the VMA is writable--+
//!                                                                                             +--> PTE page
//!   mm B: VMA at 0x7f00_0020_0000, the same page   --PMD entry, the same R/W -----------------+    FLAG_OBJECT_TABLE
//! ```
//!
//! Where a PTE page is about to be allocated, for a span that lies inside one VMA that is shared or cannot be written to
//! ([`Mm::object_key`]), the one that another mapping uses already is taken instead. The virtual address does not
//! matter: a PTE page knows only the position inside its span. From then on a fault in one mm serves all, and needs no
//! lookup: all its leaves map the object's own pages, and nobody has anything private in it.
//!
//! Such a table is never copied. An mm that changes something about its VMA *leaves* the table
//! ([`Mm::leave_object_table`]): its entry is cleared, and later faults look for a table anew. The last user keeps the
//! table instead, as an ordinary one of its own.
//!
//! `FLAG_OBJECT_TABLE` is set while the table is in the registry; whoever holds a reference sees it stable, because only
//! the last user clears it.

use super::registry::ObjectKey;
use crate::frame::NoMemory;
use crate::table::{add_aux, alloc_table, dawdle, free_table, get_table, put_table, sub_aux};
use crate::vma::{VM_HINTS, VM_HUGETLB, VM_SHARED, VM_UFFD_MISSING, VM_WRITE};
use crate::{Env, FlushRange, Mm, Vma};
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use ptshare_mutants::mutant;
use ptshare_paging::{Level, PAGE_BYTES, Pfn, Pte, Slot};
use ptshare_wire::FrameMeta;
use ptshare_wire::frame::{FLAG_OBJECT_TABLE, FrameKind, state};

/// Does this table, on which the caller holds a reference, belong to an object?
#[inline]
pub(crate) fn is_object_table<E: Env>(env: &E, table: Pfn) -> bool {
    is_object_meta(env.meta(table))
}

/// [`is_object_table`], from the metadata.
#[inline]
pub(crate) fn is_object_meta(meta: &FrameMeta) -> bool {
    meta.state.load(Relaxed) & FLAG_OBJECT_TABLE != 0
}

/// Counts one entry less that points to an object's table; gives the count before. With the last the table leaves the
/// registry, so that nobody can find it any more.
#[cold]
pub(crate) fn drop_object_ref<E: Env>(env: &E, table: Pfn, meta: &FrameMeta) -> u32 {
    let mut tables = env.object_tables().lock();
    let before = meta.refs.fetch_sub(1, AcqRel);
    if before == 1 {
        if !mutant!(OBJECT_DEAD_TABLE_LISTED) {
            tables.remove(meta.a.load(Relaxed), meta.b.load(Relaxed), table);
        }
        meta.state.store(plain(), Relaxed);
    }
    before
}

/// Makes an object's table an ordinary one if the caller holds the only reference.
pub(crate) fn disown<E: Env>(env: &E, table: Pfn) -> bool {
    let meta = env.meta(table);
    let early = mutant!(OBJECT_LEFT_UNLOCKED) && meta.refs.load(Acquire) == 1;
    if early {
        dawdle(env, table);
    }
    let mut tables = env.object_tables().lock();
    let alone = meta.refs.load(Acquire) == 1 || early;
    if alone {
        if !mutant!(OBJECT_DEAD_TABLE_LISTED) {
            tables.remove(meta.a.load(Relaxed), meta.b.load(Relaxed), table);
        }
        meta.state.store(plain(), Relaxed);
    }
    alone
}

const fn plain() -> u32 {
    state(FrameKind::Table, Level::Pte as u8, 0)
}

impl<E: Env> Mm<E> {
    /// What a PTE page for `va`, an address of `vma`, would map, if it may be shared with other mappings: the VMA covers
    /// its whole span, and no private page can be in it: it is shared, or not writable. (A private VMA that becomes
    /// writable leaves its tables first; one that was written to keeps those that it has.)
    fn object_key(&self, vma: &Vma<E>, va: u64) -> Option<ObjectKey> {
        let object = vma.object.as_ref()?;
        let span = Level::Pte.span_start(va);
        // Missing pages are the object's: whether one is reported, each mapping decides at its own fault.
        let mut flags = vma.rec.flags & !(VM_HINTS | VM_UFFD_MISSING);
        let (mut start, mut end) = (vma.rec.start, vma.rec.end);
        if mutant!(OBJECT_BORDER_PAGE) {
            end += PAGE_BYTES;
        }
        if mutant!(OBJECT_BORDER_SPAN) {
            start = Level::Pte.span_start(start);
        }
        let covered = start <= span && span + Level::Pte.span_bytes() <= end;
        let pure = flags & VM_SHARED != 0 || flags & VM_WRITE == 0 || mutant!(OBJECT_KEY_TAKES_PRIVATE);
        if mutant!(OBJECT_KEY_IGNORES_RIGHTS) {
            flags &= !VM_WRITE;
        }
        let pgoff = if mutant!(OBJECT_KEY_IGNORES_PGOFF) {
            span.wrapping_sub(vma.rec.start) / PAGE_BYTES
        } else {
            vma.pgoff_of(span)
        };
        if !covered || !pure || flags & VM_HUGETLB != 0 || vma.owns_tables() || !self.env.share_file() {
            return None;
        }
        Some(ObjectKey { object: object.id(), pgoff, flags })
    }

    /// Puts a PTE page below the absent entry `slot` of `parent`, a PMD page of this mm's own, for `va` in `vma`, which
    /// maps an object: one that other mappings use, or a fresh one for others to find. `page_table_lock` is held.
    ///
    /// # Errors
    /// [`NoMemory`].
    #[inline(never)]
    pub(crate) fn add_object_table(
        &self,
        parent: Pfn,
        slot: Slot,
        vma: &Vma<E>,
        va: u64,
    ) -> Result<Pfn, NoMemory> {
        let env = &self.env;
        let Some(key) = self.object_key(vma, va) else { return self.add_table(parent, slot, Level::Pmd) };
        let table = match take(env, &key) {
            Some(table) => table,
            None => publish(env, key, alloc_table(env, Level::Pte)?),
        };
        let entry = Pte::user_table(table);
        // Nobody may write through this table, now or after a later change of the VMA: that leaves it first.
        let read_only =
            key.flags & VM_WRITE == 0 && is_object_table(env, table) && !mutant!(OBJECT_READ_ONLY_OPEN);
        env.store(parent, slot, if read_only { entry.without(Pte::WRITE) } else { entry });
        add_aux(env, parent, 1);
        if !(mutant!(OBJECT_TAKEOVER_UNCOUNTED) && env.meta(table).refs.load(Relaxed) > 1) {
            self.count_tables(1);
        }
        Ok(table)
    }

    /// Ends this mm's use of the object's table below `slot` of `parent`, a PMD page of this mm's own; `va` is any address
    /// that it translates. The last user keeps it, as a table of its own; otherwise the entry is absent now.
    /// `page_table_lock` is held, and `mmap_lock` for write.
    pub(crate) fn leave_object_table(&self, parent: Pfn, slot: Slot, va: u64) {
        let env = &self.env;
        let entry = env.load(parent, slot);
        let table = entry.pfn();
        if disown(env, table) {
            if !entry.writable() {
                env.swap(parent, slot, entry.with(Pte::WRITE));
            }
            return;
        }
        env.swap(parent, slot, Pte::ABSENT);
        sub_aux(env, parent, 1);
        self.count_tables(1u64.wrapping_neg());
        let start = Level::Pte.span_start(va);
        // All of its span goes, whatever part is to change.
        env.flush(self.rec(), FlushRange::Pages { start, end: start + Level::Pte.span_bytes() });
        let stats = env.stats();
        stats.tlb_flushes.fetch_add(1, Relaxed);
        stats.detaches.fetch_add(u64::from(put_table(env, table)), Relaxed);
    }

    /// Before a VMA is cut at `addr`: the halves have no table in common with other mappings. `mmap_lock` is held for
    /// write.
    ///
    /// # Errors
    /// [`NoMemory`], with nothing changed that the process can see.
    pub(crate) fn leave_objects_at(&self, addr: u64) -> Result<(), NoMemory> {
        if addr == Level::Pte.span_start(addr) {
            return Ok(());
        }
        match self.walk(addr, false) {
            Some(path) if is_object_table(&self.env, path.table) => self.unshare_edges(addr, addr + 1),
            _ => Ok(()),
        }
    }
}

/// A listed table with one more reference: that of the entry about to point to it.
fn take<E: Env>(env: &E, key: &ObjectKey) -> Option<Pfn> {
    let tables = env.object_tables().lock();
    let table = tables.find(key)?;
    let _tables = (!mutant!(OBJECT_FOUND_UNLOCKED)).then_some(tables);
    if mutant!(OBJECT_FOUND_UNLOCKED) {
        dawdle(env, table);
    }
    get_table(env, table);
    if mutant!(OBJECT_TAKEOVER_COUNTS_TWICE) {
        get_table(env, table);
    }
    env.stats().object_tables_shared.fetch_add(1, Relaxed);
    Some(table)
}

/// Lists a fresh table, unless another CPU was faster: then that one's, with a reference. If the registry cannot grow the
/// table stays an ordinary one.
fn publish<E: Env>(env: &E, key: ObjectKey, fresh: Pfn) -> Pfn {
    let mut tables = env.object_tables().lock();
    if let Some(other) = tables.find(&key) {
        get_table(env, other);
        drop(tables);
        free_table(env, fresh, true);
        env.stats().object_tables_shared.fetch_add(1, Relaxed);
        return other;
    }
    if tables.insert(key, fresh).is_ok() {
        let meta = env.meta(fresh);
        meta.a.store(key.object, Relaxed);
        meta.b.store(key.pgoff, Relaxed);
        meta.state.store(plain() | FLAG_OBJECT_TABLE, Relaxed);
    }
    fresh
}
