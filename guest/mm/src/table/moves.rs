//! mremap: entries of one range move to another.

use super::node::{Entries, add_aux, get_table, lock_table, put_table, sub_aux};
use crate::frame::NoMemory;
use crate::{Env, FlushBatch, Mm};
use core::sync::atomic::Ordering::Relaxed;
use ptshare_mutants::mutant;
use ptshare_paging::{Level, PAGE_BYTES, Pte};

/// Bytes that one PTE page translates.
const SPAN: u64 = Level::Pte.span_bytes();

impl<E: Env> Mm<E> {
    /// Moves every leaf of `[old, old + len)` to the same place in `[new, new + len)`, which holds none. Where both
    /// cover the whole span of a PTE page at the same alignment, the page moves with its entry. All page-aligned; the
    /// ranges do not overlap. `mmap_lock` is held for write.
    ///
    /// # Errors
    /// [`NoMemory`], with every leaf where it was.
    pub(crate) fn move_entries(
        &self,
        old: u64,
        new: u64,
        len_bytes: u64,
        batch: &mut FlushBatch<'_, E>,
    ) -> Result<(), NoMemory> {
        self.unshare_all(old, old + len_bytes)?;
        self.unshare_all(new, new + len_bytes)?;
        if let Err(error) = self.prepare_move(old, new, len_bytes) {
            self.prune(new, new + len_bytes, batch);
            return Err(error);
        }
        let mut done = 0;
        while done < len_bytes {
            let (from, to) = (old + done, new + done);
            let step = step_bytes(from, to, len_bytes - done);
            if step == SPAN && self.move_table(from, to) {
                // The target too: a CPU may have cached the way to the empty table, which is about to go.
                if !mutant!(MREMAP_FLUSH_SKIPPED) {
                    batch.touch(from, from + step);
                    batch.touch(to, to + step);
                }
            } else {
                self.move_leaves(from, to, step, batch);
            }
            done += step;
        }
        self.prune(old, old + len_bytes, batch);
        self.prune(new, new + len_bytes, batch);
        Ok(())
    }

    /// Allocates the tables that the move will need.
    fn prepare_move(&self, old: u64, new: u64, len_bytes: u64) -> Result<(), NoMemory> {
        let mut done = 0;
        while done < len_bytes {
            let (from, to) = (old + done, new + done);
            let step = step_bytes(from, to, len_bytes - done);
            if self.walk(from, false).is_some() {
                self.build_path(to, true, None)?;
            }
            done += step;
        }
        Ok(())
    }

    /// Moves a whole PTE page. Not if there is none, or the place is taken by more than an empty table.
    fn move_table(&self, from: u64, to: u64) -> bool {
        let _upper = self.page_table.lock();
        let (Some(source), Some(target)) = (self.walk(from, true), self.walk(to, true)) else { return false };
        if self.env.meta(target.table).aux.load(Relaxed) != 0 {
            return false;
        }
        if mutant!(MREMAP_KEEPS_SOURCE) {
            get_table(&self.env, source.table);
            let empty = self.env.swap(target.pmd, target.pmd_slot, Pte::user_table(source.table));
            put_table(&self.env, empty.pfn());
            return true;
        }
        // The empty table takes the source's place, and goes when that range is pruned.
        let moved = self.env.swap(source.pmd, source.pmd_slot, Pte::user_table(target.table));
        self.env.swap(target.pmd, target.pmd_slot, moved);
        true
    }

    fn move_leaves(&self, from: u64, to: u64, step: u64, batch: &mut FlushBatch<'_, E>) {
        let _upper = self.page_table.lock();
        let Some(source) = self.walk(from, true) else { return };
        let Some(target) = self.walk(to, true) else { return };
        let mut moved = 0;
        for item in Entries::new(&self.env, source.table, Level::Pte, from, from + step) {
            let pte = {
                let _guard = lock_table(&self.env, source.table, Level::Pte);
                self.env.swap(source.table, item.slot, Pte::ABSENT)
            };
            let shift = if mutant!(MREMAP_WRONG_DELTA) { PAGE_BYTES } else { 0 };
            let place = Level::Pte.slot(to + (item.start - from) + shift);
            let _guard = lock_table(&self.env, target.table, Level::Pte);
            self.env.store(target.table, place, pte);
            moved += 1;
        }
        if moved != 0 {
            sub_aux(&self.env, source.table, moved);
            add_aux(&self.env, target.table, moved);
            if !mutant!(MREMAP_FLUSH_SKIPPED) {
                batch.touch(from, from + step);
            }
        }
    }

    /// Frees the empty tables of a range.
    fn prune(&self, start: u64, end: u64, batch: &mut FlushBatch<'_, E>) {
        let mut at = start;
        while at < end {
            let next = (Level::Pte.span_start(at) + SPAN).min(end);
            if let Some(path) = self.walk(at, true)
                && self.env.meta(path.table).aux.load(Relaxed) == 0
            {
                self.zap(Level::Pte.span_start(at), Level::Pte.span_start(at) + SPAN, batch);
            }
            at = next;
        }
    }
}

/// Bytes from here to the nearest end of a PTE page's span, in the source or in the target.
fn step_bytes(from: u64, to: u64, left: u64) -> u64 {
    left.min(SPAN - from % SPAN).min(SPAN - to % SPAN)
}
