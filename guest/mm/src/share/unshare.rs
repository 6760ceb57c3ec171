//! Unsharing: an mm gets a table of its own.

use super::{copy_dense, copy_table, is_dense, is_object_table};
use crate::frame::NoMemory;
use crate::hugetlb::{is_huge, is_object_pmd};
use crate::table::{Entries, alloc_raw_table, alloc_table, lock_table, put_table};
use crate::{Env, FlushRange, Mm};
use core::sync::atomic::Ordering::Relaxed;
use ptshare_mutants::mutant;
use ptshare_paging::{Level, Pfn, Pte, Slot};
use ptshare_wire::frame::{FrameKind, state};

impl<E: Env> Mm<E> {
    /// Makes the table below an entry with R/W = 0 this mm's own, and sets R/W: takes it back if it is its last user
    /// (`reclaims`), copies it otherwise (`unshares`). `parent`, at `level`, is this mm's own; `va` is any address that
    /// the entry translates. `page_table_lock` is held.
    ///
    /// # Errors
    /// [`NoMemory`], with nothing changed.
    pub(crate) fn own_child(&self, parent: Pfn, slot: Slot, level: Level, va: u64) -> Result<Pfn, NoMemory> {
        let env = &self.env;
        let Some(below) = level.below() else { return Err(NoMemory) };
        let entry = env.load(parent, slot);
        let shared = entry.pfn();
        let guard = lock_table(env, shared, below);
        let users = env.meta(shared).refs.load(Relaxed);
        let alone = users == 1 || (mutant!(RECLAIM_WITH_TWO_USERS) && users == 2);
        if alone && !is_object_table(env, shared) {
            // Only a fork of this mm could share it again, and that needs the locks that are held here.
            if !mutant!(RECLAIM_FORGETS_WRITE) {
                env.swap(parent, slot, entry.with(Pte::WRITE));
            }
            env.stats().reclaims.fetch_add(1, Relaxed);
            return Ok(shared);
        }
        let copy = if is_dense(env, shared, below) {
            let copy = alloc_raw_table(env, below)?;
            copy_dense(env, shared, copy, below);
            copy
        } else {
            let copy = alloc_table(env, below)?;
            copy_table(env, shared, copy, below);
            copy
        };
        if mutant!(UNSHARE_TAGS_COPY_AS_DATA) {
            env.meta(copy).state.store(state(FrameKind::Anon, 0, 0), Relaxed);
        }
        if mutant!(TREE_COPY_TAGS_PTE_PAGE) && below != Level::Pte {
            env.meta(copy).state.store(state(FrameKind::Table, Level::Pte as u8, 0), Relaxed);
        }
        if mutant!(UNSHARE_SETS_RESERVED_BIT) && below == Level::Pte && env.load(copy, Slot::new(0)).present()
        {
            env.store(copy, Slot::new(0), env.load(copy, Slot::new(0)).with(1 << 51));
        }
        env.swap(parent, slot, Pte::user_table(copy));
        drop(guard);
        env.stats().unshares.fetch_add(1, Relaxed);
        // A CPU may still walk through the old table, whose next owner may be about to write to it.
        let start = va & !(level.entry_bytes() - 1);
        if !mutant!(UNSHARE_FLUSH_SKIPPED) {
            env.flush(self.rec(), FlushRange::Pages { start, end: start + level.entry_bytes() });
        }
        env.stats().tlb_flushes.fetch_add(1, Relaxed);
        if !mutant!(UNSHARE_KEEPS_COUNT) {
            put_table(env, shared);
        }
        Ok(copy)
    }

    /// Makes every table that translates part of `[start, end)` this mm's own, or leaves it if it is an object's: before a
    /// change of VMAs or of leaves.
    /// `mmap_lock` is held for write.
    ///
    /// # Errors
    /// [`NoMemory`]. Tables unshared so far stay so: it changes nothing that the process can see.
    pub(crate) fn unshare_all(&self, start: u64, end: u64) -> Result<(), NoMemory> {
        if start >= end {
            return Ok(());
        }
        let _upper = self.page_table.lock();
        self.unshare_below(self.root, Level::Pgd, start, end)
    }

    fn unshare_below(&self, table: Pfn, level: Level, start: u64, end: u64) -> Result<(), NoMemory> {
        let Some(below) = level.below() else { return Ok(()) };
        for item in Entries::new(&self.env, table, level, start, end) {
            if is_huge(item.pte) {
                continue;
            }
            if level == Level::Pmd && is_object_table(&self.env, item.pte.pfn()) {
                self.leave_object_table(table, item.slot, item.start);
                continue;
            }
            if level == Level::Pud
                && is_object_pmd(&self.env, item.pte.pfn())
                && self.take_out_object_pmd(table, item.slot, item.start)
            {
                continue;
            }
            let child = if item.pte.writable() {
                item.pte.pfn()
            } else {
                self.own_child(table, item.slot, level, item.start)?
            };
            if below != Level::Pte {
                self.unshare_below(child, below, item.start, item.end)?;
            }
        }
        Ok(())
    }

    /// Makes the tables that translate `[start, end)` and addresses outside it as well this mm's own, or leaves them: before
    /// [`Mm::zap`], which detaches those that lie inside. `mmap_lock` is held for write.
    ///
    /// # Errors
    /// As for [`Mm::unshare_all`].
    pub(crate) fn unshare_edges(&self, start: u64, end: u64) -> Result<(), NoMemory> {
        if start >= end {
            return Ok(());
        }
        let _upper = self.page_table.lock();
        self.unshare_edge(start, start, end)?;
        if mutant!(HOLE_UNSHARES_LEFT_ONLY) {
            return Ok(());
        }
        self.unshare_edge(end - 1, start, end)
    }

    /// Owns the path to `va`, down to where an entry's span lies wholly in the range.
    fn unshare_edge(&self, va: u64, start: u64, end: u64) -> Result<(), NoMemory> {
        let mut table = self.root;
        for level in [Level::Pgd, Level::Pud, Level::Pmd] {
            let slot = level.slot(va);
            let first = va & !(level.entry_bytes() - 1);
            let entry = self.env.load(table, slot);
            if !entry.present() || (start <= first && first + level.entry_bytes() <= end) {
                break;
            }
            if is_huge(entry) {
                break;
            }
            if level == Level::Pmd && is_object_table(&self.env, entry.pfn()) {
                self.leave_object_table(table, slot, va);
                break;
            }
            if level == Level::Pud
                && is_object_pmd(&self.env, entry.pfn())
                && self.take_out_object_pmd(table, slot, va)
            {
                break;
            }
            table = if entry.writable() { entry.pfn() } else { self.own_child(table, slot, level, va)? };
        }
        Ok(())
    }
}
