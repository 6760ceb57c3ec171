//! Looking at a range without changing it.
//!
//! The looker holds `mmap_lock`. That alone keeps the tables only where the mm runs on the looker's own CPU: who frees a table
//! waits for the CPUs that run the mm, and nobody else. A looker from outside (/proc, the reverse map, the out-of-memory killer)
//! holds `page_table_lock` too, under which entries of upper tables change.

use super::node::{Entries, Item, holds_frame};
use crate::frame::is_private;
use crate::hugetlb::is_huge;
use crate::{Env, Mm};
use core::sync::atomic::Ordering::Relaxed;
use ptshare_paging::{Entry, Level, Pfn, Pte, USER_END};

impl<E: Env> Mm<E> {
    /// Calls `f(va, entry)` for every leaf entry that holds a page of `[start, end)` (present, or
    /// [`ptshare_paging::Entry::NoAccess`]), in address order; a huge
    /// leaf, which has [`Pte::HUGE`], once. Absent subtrees cost nothing. The caller holds
    /// `mmap_lock`, so that no table goes away.
    pub(crate) fn present_in(&self, start: u64, end: u64, f: &mut dyn FnMut(u64, Pte)) {
        if start < end {
            self.present_below(self.root, Level::Pgd, start, end, f);
        }
    }

    fn present_below(&self, table: Pfn, level: Level, start: u64, end: u64, f: &mut dyn FnMut(u64, Pte)) {
        for item in Entries::new(&self.env, table, level, start, end) {
            match level.below() {
                Some(_) if is_huge(item.pte) && holds_frame(item.pte) => f(item.start, item.pte),
                Some(_) if is_huge(item.pte) => {}
                Some(below) => self.present_below(item.pte.pfn(), below, item.start, item.end, f),
                None if holds_frame(item.pte) => f(item.start, item.pte),
                None => {}
            }
        }
    }

    /// The leaf that translates `va`, present or held without access, and the level of its table. `mmap_lock` is held.
    pub(crate) fn leaf_at(&self, va: u64) -> Option<(Level, Pte)> {
        self.leaf_through(va, &mut |_| {})
    }

    /// [`Mm::leaf_at`], which calls `on_way` for each table, the root first.
    pub(crate) fn leaf_through(&self, va: u64, on_way: &mut dyn FnMut(Pfn)) -> Option<(Level, Pte)> {
        let mut table = self.root;
        for level in Level::TOP_DOWN {
            on_way(table);
            let pte = self.env.load(table, level.slot(va));
            match pte.decode(level) {
                Entry::Table(below) => table = below,
                Entry::Leaf(_) | Entry::NoAccess(_) => return Some((level, pte)),
                Entry::Absent | Entry::Marker(_) => return None,
            }
        }
        None
    }

    /// Does `[start, end)` hold a private page? Locking as for [`Mm::present_in`].
    pub(crate) fn has_private(&self, start: u64, end: u64) -> bool {
        start < end && self.private_below(self.root, Level::Pgd, start, end)
    }

    fn private_below(&self, table: Pfn, level: Level, start: u64, end: u64) -> bool {
        Entries::new(&self.env, table, level, start, end).any(|item| match item.pte.decode(level) {
            Entry::Table(child) => {
                level.below().is_some_and(|below| self.private_below(child, below, item.start, item.end))
            }
            Entry::Leaf(pfn) | Entry::NoAccess(pfn) => is_private(self.env.meta(pfn).state.load(Relaxed)),
            Entry::Absent | Entry::Marker(_) => false,
        })
    }

    /// PTE pages that translate part of `[start, end)`. Locking as for [`Mm::present_in`].
    pub(crate) fn pte_tables_in(&self, start: u64, end: u64) -> u64 {
        if start < end { self.pte_tables_below(self.root, Level::Pgd, start, end) } else { 0 }
    }

    fn pte_tables_below(&self, table: Pfn, level: Level, start: u64, end: u64) -> u64 {
        let entries = Entries::new(&self.env, table, level, start, end);
        match level.below() {
            Some(below) if level != Level::Pmd => {
                let tables = entries.filter(|item| !is_huge(item.pte));
                tables.map(|item| self.pte_tables_below(item.pte.pfn(), below, item.start, item.end)).sum()
            }
            _ => entries.filter(|item| !is_huge(item.pte)).count() as u64,
        }
    }

    /// Filled entries of all PTE pages, those of a shared one divided among its sharers. Locking as for
    /// [`Mm::present_in`].
    pub(crate) fn filled_entries(&self) -> u64 {
        self.filled_below(self.root, Level::Pgd, 0, USER_END)
    }

    /// Filled entries of the first `most` PTE pages, shared or not, and how many PTE pages that were. Locking as for
    /// [`Mm::present_in`].
    pub(crate) fn filled_in_first(&self, most: u64) -> (u64, u64) {
        let mut found = (0, 0);
        self.filled_in_first_below(self.root, Level::Pgd, (0, USER_END), most, &mut found);
        found
    }

    fn filled_in_first_below(
        &self,
        table: Pfn,
        level: Level,
        (start, end): (u64, u64),
        most: u64,
        found: &mut (u64, u64),
    ) {
        for item in Entries::new(&self.env, table, level, start, end) {
            match level.below() {
                _ if found.1 == most => return,
                Some(_) if is_huge(item.pte) => {}
                Some(Level::Pte) => {
                    let filled = self.env.meta(item.pte.pfn()).aux.load(Relaxed);
                    *found = (found.0 + u64::from(filled), found.1 + 1);
                }
                Some(below) => {
                    self.filled_in_first_below(item.pte.pfn(), below, (item.start, item.end), most, found);
                }
                None => {}
            }
        }
    }

    fn filled_below(&self, table: Pfn, level: Level, start: u64, end: u64) -> u64 {
        let entries = Entries::new(&self.env, table, level, start, end);
        let filled = |item: Item| match level.below() {
            Some(_) if is_huge(item.pte) => 0,
            Some(Level::Pte) => {
                let meta = self.env.meta(item.pte.pfn());
                u64::from(meta.aux.load(Relaxed)) / u64::from(meta.refs.load(Relaxed).max(1))
            }
            Some(below) => self.filled_below(item.pte.pfn(), below, item.start, item.end),
            None => 0,
        };
        entries.map(filled).sum()
    }
}
