//! Entries go; what they held goes to a flush batch.

use super::node::{Entries, Item, for_entries, holds_frame, lock_table, sub_aux};
use crate::frame::is_private;
use crate::hugetlb::{is_huge, is_object_pmd};
use crate::userfault::mark_of;
use crate::{Env, FlushBatch, Mm};
use core::sync::atomic::Ordering::Relaxed;
use ptshare_mutants::mutant;
use ptshare_paging::{Level, Pfn, Pte};
use ptshare_wire::frame::FLAG_HUGE_LEAVES;

/// First address past the user half of the root.
pub(crate) const USER_HALF_END: u64 = 1 << 47;

impl<E: Env> Mm<E> {
    /// Removes every leaf of `[start, end)`. A table whose whole span goes is unlinked without a look inside: if others
    /// use it too, that detaches it; if not, its content goes with it when the batch is finished. Tables that become
    /// empty go as well. Never fails: the caller has unshared the tables at the edges ([`Mm::unshare_edges`]) and holds
    /// `mmap_lock` for write.
    pub(crate) fn zap(&self, start: u64, end: u64, batch: &mut FlushBatch<'_, E>) {
        if start < end {
            let _upper = self.page_table.lock();
            self.zap_table(self.root, Level::Pgd, start, end, batch);
        }
    }

    /// Drops every table of the user half (exit, exec). The root stays, empty.
    pub(crate) fn drop_user_tables(&self, batch: &mut FlushBatch<'_, E>) {
        self.zap(0, USER_HALF_END, batch);
    }

    fn zap_table(&self, table: Pfn, level: Level, start: u64, end: u64, batch: &mut FlushBatch<'_, E>) {
        let Some(below) = level.below() else {
            self.zap_leaves(table, start, end, batch);
            return;
        };
        for item in Entries::new(&self.env, table, level, start, end) {
            let child = item.pte.pfn();
            // Whoever cuts a hugetlb mapping has checked that no page is cut.
            let leaf = is_huge(item.pte);
            if !item.whole && !leaf {
                debug_assert!(item.pte.writable(), "unshare-before-change: {:#x} at {level:?}", item.start);
                self.zap_table(child, below, item.start, item.end, batch);
                if self.env.meta(child).aux.load(Relaxed) != 0 {
                    continue;
                }
            }
            self.env.swap(table, item.slot, Pte::ABSENT);
            sub_aux(&self.env, table, 1);
            if !leaf && !mutant!(ZAP_LEAVES_TABLE_PAGES) {
                self.count_tables(self.tables_in(child, below).wrapping_neg());
            }
            if level == Level::Pud && !leaf && is_object_pmd(&self.env, child) && self.is_shared(child) {
                self.env.stats().pmd_detaches.fetch_add(1, Relaxed);
            }
            if !mutant!(ZAP_FLUSH_SKIPPED) {
                batch.touch(item.start, item.end);
            }
            if !leaf || holds_frame(item.pte) {
                batch.add(child);
            }
        }
    }

    fn zap_leaves(&self, table: Pfn, start: u64, end: u64, batch: &mut FlushBatch<'_, E>) {
        let _guard = lock_table(&self.env, table, Level::Pte);
        let mut removed = 0;
        for item in Entries::new(&self.env, table, Level::Pte, start, end) {
            let old = self.env.swap(table, item.slot, Pte::ABSENT);
            removed += 1;
            // Before `add`: it may flush.
            if !mutant!(ZAP_FLUSH_SKIPPED) {
                batch.touch(item.start, item.end);
            }
            if holds_frame(old) && !(mutant!(ZAP_KEEPS_REFERENCE) && item.end == end) {
                batch.add(old.pfn());
            }
        }
        sub_aux(&self.env, table, removed - u32::from(mutant!(ZAP_COUNTS_ONE_LESS) && removed > 1));
    }

    fn is_shared(&self, table: Pfn) -> bool {
        self.env.meta(table).refs.load(Relaxed) > 1
    }

    /// Tables in the subtree of `table`, itself included.
    fn tables_in(&self, table: Pfn, level: Level) -> u64 {
        match level {
            Level::Pte => 1,
            Level::Pmd if self.env.meta(table).state.load(Relaxed) & FLAG_HUGE_LEAVES != 0 => {
                let mut tables = 1;
                let entries = self.env.meta(table).aux.load(Relaxed);
                for_entries(&self.env, table, entries, |_, pte| tables += u64::from(!is_huge(pte)));
                tables
            }
            Level::Pmd => 1 + u64::from(self.env.meta(table).aux.load(Relaxed)),
            Level::Pud | Level::Pgd => {
                let start = level.span_start(0);
                let below = if level == Level::Pud { Level::Pmd } else { Level::Pud };
                Entries::new(&self.env, table, level, start, start + level.span_bytes())
                    .filter(|item| !is_huge(item.pte))
                    .map(|item| self.tables_in(item.pte.pfn(), below))
                    .sum::<u64>()
                    + 1
            }
        }
    }

    /// For truncate (`even_cows`) and hole punching: removes the leaves of `[start, end)` from the tables where they
    /// are, for all sharers at once, since they all map the object here; private copies only if `even_cows`. Tables stay.
    /// The caller holds the object's `i_mmap` lock and not this mm's `mmap_lock`, visits all mms that map the object, and
    /// finishes the batch, one of [`FlushBatch::everyone`], after the last.
    pub(crate) fn zap_in_place(&self, start: u64, end: u64, even_cows: bool, batch: &mut FlushBatch<'_, E>) {
        if start < end {
            let _upper = self.page_table.lock();
            self.zap_table_in_place(self.root, Level::Pgd, (start, end), even_cows, batch);
        }
    }

    fn zap_table_in_place(
        &self,
        table: Pfn,
        level: Level,
        (start, end): (u64, u64),
        even_cows: bool,
        batch: &mut FlushBatch<'_, E>,
    ) {
        if let Some(below) = level.below() {
            for item in Entries::new(&self.env, table, level, start, end) {
                let part = (item.start, item.end);
                if mutant!(TRUNCATE_SKIPS_A_TABLE) && level == Level::Pmd && item.slot.index() == 2 {
                    continue;
                }
                if is_huge(item.pte) {
                    let _guard = lock_table(&self.env, table, level);
                    self.zap_leaf_in_place(table, &item, even_cows, batch);
                    continue;
                }
                self.zap_table_in_place(item.pte.pfn(), below, part, even_cows, batch);
            }
            return;
        }
        let _guard = lock_table(&self.env, table, Level::Pte);
        for item in Entries::new(&self.env, table, level, start, end) {
            self.zap_leaf_in_place(table, &item, even_cows, batch);
        }
    }

    fn zap_leaf_in_place(&self, table: Pfn, item: &Item, even_cows: bool, batch: &mut FlushBatch<'_, E>) {
        let state = self.env.meta(item.pte.pfn()).state.load(Relaxed);
        if holds_frame(item.pte) && (even_cows || !is_private(state)) {
            // What userfaultfd has write-protected is so again when the object has a page there.
            let left = mark_of(item.pte);
            let old = self.env.swap(table, item.slot, left);
            sub_aux(&self.env, table, u32::from(left.0 == 0));
            batch.touch(item.start, item.end);
            batch.add(old.pfn());
        }
    }
}
