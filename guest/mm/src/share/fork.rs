//! Fork's half of the tables: the child's tree.
//!
//! Reserve, then commit: all tables that the child can need are allocated before the first entry of the parent changes.
//!
//! | mode | upper levels | PTE pages |
//! |---|---|---|
//! | `None` | copied | copied; those of shared file mappings refault, as on Linux |
//! | `Pte` | copied | shared: R/W cleared in both PMD entries, counted; copied if the mm has few of them |
//! | `Tree` | shared below the root | shared with their parents |
//!
//! PTE pages that translate part of a VMA that the child does not get (MADV_DONTFORK) or gets empty
//! (MADV_WIPEONFORK) cannot be shared (rule `sharers-agree`): the other entries are copied. So are those over memory that is
//! registered with userfaultfd and private, or under its write protection.
//!
//! PTE pages that belong to an object (`share/object.rs`) are used by the child too, R/W as it is; in mode `None` its
//! faults find them.

use super::reserve::Reserve;
use super::{copy_entries, copy_huge_flag, copy_leaf, copy_table, is_object_meta, is_object_table};
use crate::frame::{NoMemory, get_data};
use crate::hugetlb::{is_huge, is_object_pmd};
use crate::table::{
    for_entries, for_entries_while, get_table, lock_table, next_entry, note_shared_by, set_aux,
};
use crate::userfault::unmarked;
use crate::vma::owns_tables;
use crate::{Env, FlushRange, Mm, Sharing, VmaSet};
use core::sync::atomic::Ordering::Relaxed;
use ptshare_mutants::mutant;
use ptshare_paging::{Level, PAGE_SHIFT, Pfn, Pte, Slot};
use ptshare_wire::frame::{FLAG_HUGE_LEAVES, FLAG_OBJECT_PMD, FrameKind, state};
use ptshare_wire::vma::{VM_DONTCOPY, VM_SHARED, VM_UFFD_WP, VM_WIPEONFORK, VM_WRITE};
use ptshare_wire::{VmaRec, stats::Stats};

/// Tables of an mm below the root.
#[derive(Default)]
struct Census {
    upper: u64,
    pte: u64,
}

/// One fork under way.
struct Fork<'a, E: Env> {
    env: &'a E,
    set: &'a VmaSet<E>,
    reserve: Reserve<'a, E>,
    /// Copy PTE pages instead of sharing them.
    eager: bool,
    /// The child finds the tables of objects by itself.
    refault: bool,
    /// There are VMAs whose entries the child does not get.
    special: bool,
    linked: u64,
    copied: u64,
    shared: u64,
    newly_shared: u64,
    /// The reserve was too small: a mistake in the count.
    short: bool,
}

impl<E: Env> Mm<E> {
    /// Gives `child`, whose tree is empty, what a fork gives it of this mm's tables. Write-protects on both sides and
    /// flushes this mm. Both `mmap_lock`s are held for write, `set` is this mm's. The child's VMAs are registered with
    /// their objects already, *behind* this mm's: a truncate that runs at the same time waits for this mm's
    /// `page_table_lock`, or has zapped here before, and then visits the child.
    ///
    /// # Errors
    /// [`NoMemory`]; nothing that this process can see has changed. The child is to be dropped.
    pub(crate) fn copy_tables(
        &self,
        set: &VmaSet<E>,
        child: &Mm<E>,
        mode: Sharing,
        small_tables: u32,
    ) -> Result<(), NoMemory> {
        let upper = self.page_table.lock();
        // Fork in `tree` mode takes the same time at any size: nothing is counted beyond what makes an mm large.
        let enough = if mode == Sharing::Tree { u64::from(small_tables) } else { u64::MAX };
        let census = self.count_below(enough);
        let small = census.pte <= u64::from(small_tables);
        if mode == Sharing::Tree && !small {
            self.share_tree(child);
            drop(upper);
            return trim_child(set, child);
        }
        let eager = small || mode == Sharing::None;
        let special = set.iter().any(|vma| is_special(&vma.rec, eager));
        let mut tables = census.upper;
        if eager {
            tables += census.pte;
        } else if special {
            let skipped = set.iter().filter(|vma| is_special(&vma.rec, eager));
            tables += skipped.map(|vma| self.pte_tables_in(vma.rec.start, vma.rec.end)).sum::<u64>();
        }
        let reserve = Reserve::fill(&self.env, tables)?;
        let mut fork = Fork {
            env: &self.env,
            set,
            reserve,
            eager,
            refault: mode == Sharing::None,
            special,
            linked: 0,
            copied: 0,
            shared: 0,
            newly_shared: 0,
            short: false,
        };
        fork.copy_upper(self.root, child.root, Level::Pgd, 0);
        child.count_tables(fork.linked);
        fork.publish(self.env.stats());
        self.flush_all();
        if fork.short { Err(NoMemory) } else { Ok(()) }
    }

    fn flush_all(&self) {
        if mutant!(FORK_FLUSH_SKIPPED) {
            return;
        }
        self.env.flush(self.rec(), FlushRange::All);
        self.env.stats().tlb_flushes.fetch_add(1, Relaxed);
    }

    /// Counts the tables below the root without a look at PTE pages or the entries of PMD pages. Stops early, with a
    /// part of the count, once there are more than `enough` PTE pages.
    fn count_below(&self, enough: u64) -> Census {
        let mut census = Census::default();
        let entries = |table: Pfn| self.env.meta(table).aux.load(Relaxed);
        for_entries_while(&self.env, self.root, entries(self.root), |_, pud| {
            let pmds = entries(pud.pfn());
            census.upper += 1 + u64::from(pmds);
            for_entries_while(&self.env, pud.pfn(), pmds, |_, pmd| {
                if is_huge(pmd) {
                    census.upper -= 1;
                    return true;
                }
                let state = self.env.meta(pmd.pfn()).state.load(Relaxed);
                if state & FLAG_OBJECT_PMD != 0 {
                    census.upper -= 1;
                } else if state & FLAG_HUGE_LEAVES != 0 {
                    let tables = &mut census.pte;
                    let in_pmd = entries(pmd.pfn());
                    for_entries(&self.env, pmd.pfn(), in_pmd, |_, pte| *tables += u64::from(!is_huge(pte)));
                } else {
                    census.pte += u64::from(entries(pmd.pfn()));
                }
                census.pte <= enough
            })
        });
        census
    }

    /// Shares everything below the root.
    fn share_tree(&self, child: &Mm<E>) {
        let entries = self.env.meta(self.root).aux.load(Relaxed);
        for_entries(&self.env, self.root, entries, |slot, pte| {
            get_table(&self.env, pte.pfn());
            if pte.writable() && !mutant!(TREE_FORK_LEAVES_WRITE) {
                self.env.clear_bits(self.root, slot, Pte::WRITE);
            }
            self.env.store(child.root, slot, pte.without(Pte::WRITE));
        });
        set_aux(&self.env, child.root, entries);
        self.env.stats().fork_tables_shared.fetch_add(entries.into(), Relaxed);
        child.count_tables(self.rec().table_pages.load(Relaxed) - 1);
        self.flush_all();
    }
}

/// Takes out of a child that shares everything what it must not see.
fn trim_child<E: Env>(set: &VmaSet<E>, child: &Mm<E>) -> Result<(), NoMemory> {
    for vma in set.iter().filter(|vma| is_special(&vma.rec, false)) {
        if is_inherited(&vma.rec, false) {
            child.unshare_all(vma.rec.start, vma.rec.end)?;
            child.unmark(vma, vma.rec.start, vma.rec.end);
            continue;
        }
        child.unshare_edges(vma.rec.start, vma.rec.end)?;
        let mut batch = child.batch();
        child.zap(vma.rec.start, vma.rec.end, &mut batch);
        batch.finish();
    }
    Ok(())
}

impl<E: Env> Fork<'_, E> {
    /// Gives the child what is below the table `src` at `level`, the first address of whose span is `base`, in `dst`, an
    /// empty table of the same level; gives the number of its entries.
    fn copy_upper(&mut self, src: Pfn, dst: Pfn, level: Level, base: u64) -> u32 {
        let env = self.env;
        let in_src = env.meta(src).aux.load(Relaxed);
        let entries = if level != Level::Pmd {
            copy_huge_flag(env, src, dst);
            self.copy_children(src, dst, level, base, in_src)
        } else if self.eager || self.special || env.meta(src).state.load(Relaxed) & FLAG_HUGE_LEAVES != 0 {
            copy_huge_flag(env, src, dst);
            self.copy_pte_pages(src, dst, base, in_src)
        } else {
            self.share_pte_pages(src, dst, base, in_src)
        };
        set_aux(env, dst, entries);
        entries
    }

    fn copy_children(&mut self, src: Pfn, dst: Pfn, level: Level, base: u64, in_src: u32) -> u32 {
        let (env, mut entries) = (self.env, 0);
        let Some(below) = level.below() else { return 0 };
        for_entries(env, src, in_src, |slot, pte| {
            let start = base + ((slot.index() as u64) << level.shift());
            if is_huge(pte) {
                entries += self.hand_on_huge((src, dst), slot, pte, start);
                return;
            }
            if level == Level::Pud && is_object_pmd(env, pte.pfn()) {
                if self.set.find(start).is_some_and(|vma| vma.rec.flags & VM_DONTCOPY == 0) {
                    get_table(env, pte.pfn());
                    if mutant!(HUGE_FORK_COUNTS_ENTRIES) {
                        let leaves = env.meta(pte.pfn()).aux.load(Relaxed);
                        for_entries(env, pte.pfn(), leaves, |_, leaf| get_data(env, leaf.pfn()));
                    }
                    env.store(dst, slot, pte);
                    env.stats().pmd_tables_shared.fetch_add(1, Relaxed);
                    self.linked += 1;
                    entries += 1;
                }
                return;
            }
            let Some(child) = self.take(below) else { return };
            if self.copy_upper(pte.pfn(), child, below, start) == 0 {
                self.give_back(child);
            } else {
                env.store(dst, slot, Pte::user_table(child));
                entries += 1;
            }
        });
        entries
    }

    /// Shares all PTE pages below a PMD page: the loop that the time of a fork is made of.
    fn share_pte_pages(&mut self, src: Pfn, dst: Pfn, base: u64, in_src: u32) -> u32 {
        let (env, mut entries, mut newly_shared) = (self.env, 0, 0);
        for_entries(env, src, in_src, |slot, pte| {
            let meta = env.meta(pte.pfn());
            let last = entries + 1 == in_src;
            let counted = u32::from(!(mutant!(FORK_COUNTS_ONE_SHORT) && last));
            newly_shared += u64::from(meta.refs.fetch_add(counted, Relaxed) == 1);
            if mutant!(FORK_TAGS_WRONG_LEVEL) {
                meta.state.store(state(FrameKind::Table, Level::Pmd as u8, 0), Relaxed);
            }
            let open = mutant!(FORK_LEAVES_READ_ONLY_VMAS) && self.is_read_only(slot, base);
            let copy = if pte.writable() && !is_object_meta(meta) && !open {
                if !mutant!(FORK_PROTECTS_CHILD_ONLY) {
                    env.clear_bits(src, slot, Pte::WRITE);
                }
                pte.without(Pte::WRITE)
            } else {
                pte
            };
            // Several tables in a row: not the one that holds the stack.
            let shifted = mutant!(FORK_SHIFTS_LAST_TABLE) && last && in_src > 3;
            env.store(dst, if shifted { slot.next().unwrap_or(slot) } else { slot }, copy);
            entries += 1;
        });
        self.shared += u64::from(entries);
        self.linked += u64::from(entries);
        self.newly_shared += newly_shared;
        entries
    }

    /// Copies PTE pages below a PMD page, or shares those that the child gets whole.
    fn copy_pte_pages(&mut self, src: Pfn, dst: Pfn, base: u64, in_src: u32) -> u32 {
        let (env, mut entries) = (self.env, 0);
        for_entries(env, src, in_src, |slot, pte| {
            let start = base + ((slot.index() as u64) << Level::Pmd.shift());
            if is_huge(pte) {
                entries += self.hand_on_huge((src, dst), slot, pte, start);
                return;
            }
            let split = self.special && self.has_special(start);
            let copy = if is_object_table(env, pte.pfn()) {
                self.share_object_table(pte, start)
            } else if self.eager || split {
                self.copy_leaves(pte.pfn(), start, split).map(Pte::user_table)
            } else {
                get_table(env, pte.pfn());
                env.clear_bits(src, slot, Pte::WRITE);
                self.shared += 1;
                self.linked += 1;
                Some(pte.without(Pte::WRITE))
            };
            if let Some(copy) = copy {
                env.store(dst, slot, copy);
                entries += 1;
            }
        });
        entries
    }

    /// Copies the huge leaf at `start` of the table `src` to the child's `dst`, if the child gets it; gives the number of
    /// entries stored. In a mode that copies, the pages of shared mappings refault.
    fn hand_on_huge(&self, (src, dst): (Pfn, Pfn), slot: Slot, pte: Pte, start: u64) -> u32 {
        if self.has_skipped(start, self.eager) {
            return 0;
        }
        let copy = unmarked(copy_leaf(self.env, src, slot, pte));
        self.env.store(dst, slot, copy);
        u32::from(copy.0 != 0)
    }

    /// The entry for an object's table at `start`, if the child gets it: it lies in one VMA, so all or nothing.
    fn share_object_table(&mut self, pte: Pte, start: u64) -> Option<Pte> {
        if self.refault || (self.special && self.has_skipped(start, false)) {
            return None;
        }
        get_table(self.env, pte.pfn());
        self.shared += 1;
        self.linked += 1;
        Some(pte)
    }

    fn copy_leaves(&mut self, src: Pfn, start: u64, split: bool) -> Option<Pfn> {
        let dst = self.take(Level::Pte)?;
        let guard = lock_table(self.env, src, Level::Pte);
        let entries = if split {
            self.copy_inherited(src, dst, start)
        } else {
            copy_table(self.env, src, dst, Level::Pte)
        };
        drop(guard);
        if entries == 0 {
            self.give_back(dst);
            return None;
        }
        self.copied += 1;
        Some(dst)
    }

    /// Copies the entries that the child gets of the PTE page at `start`.
    fn copy_inherited(&self, src: Pfn, dst: Pfn, start: u64) -> u32 {
        let end = start + Level::Pte.span_bytes();
        let mut entries = 0;
        for vma in self.set.iter_from(start).take_while(|vma| vma.rec.start < end) {
            if is_inherited(&vma.rec, self.eager) {
                let from = (vma.rec.start.max(start) - start) >> PAGE_SHIFT;
                let to = (vma.rec.end.min(end) - start) >> PAGE_SHIFT;
                let slots = (from as usize, to as usize);
                entries += copy_entries(self.env, (src, dst), Level::Pte, slots, u32::MAX);
                if vma.has(VM_UFFD_WP) {
                    entries -= unmark_entries(self.env, dst, slots);
                }
            }
        }
        set_aux(self.env, dst, entries);
        entries
    }

    fn give_back(&mut self, table: Pfn) {
        self.linked -= 1;
        self.reserve.give(table);
    }

    /// Does the PTE page at `start` translate part of a VMA whose entries the child does not get?
    fn has_skipped(&self, start: u64, eager: bool) -> bool {
        let end = start + Level::Pte.span_bytes();
        let mut vmas = self.set.iter_from(start).take_while(|vma| vma.rec.start < end);
        vmas.any(|vma| !is_inherited(&vma.rec, eager))
    }

    /// Does the PTE page at `start` translate part of a VMA for which it cannot be shared?
    fn has_special(&self, start: u64) -> bool {
        let end = start + Level::Pte.span_bytes();
        let mut vmas = self.set.iter_from(start).take_while(|vma| vma.rec.start < end);
        vmas.any(|vma| is_special(&vma.rec, self.eager))
    }

    /// Can the first page below an entry of the PMD page at `base` not be written to?
    fn is_read_only(&self, slot: Slot, base: u64) -> bool {
        let start = base + ((slot.index() as u64) << Level::Pmd.shift());
        self.set.find(start).is_some_and(|vma| vma.rec.flags & VM_WRITE == 0)
    }

    fn take(&mut self, level: Level) -> Option<Pfn> {
        let table = self.reserve.take(level);
        match table {
            Some(_) => self.linked += 1,
            None => self.short = true,
        }
        debug_assert!(table.is_some(), "reserve-then-commit: fork reserved too few tables");
        table
    }

    fn publish(&self, stats: &Stats) {
        stats.fork_tables_copied.fetch_add(self.copied, Relaxed);
        stats.fork_tables_shared.fetch_add(self.shared, Relaxed);
        note_shared_by(self.env, self.newly_shared);
    }
}

/// Takes userfaultfd's marks off the entries `[from, to)` of a table that nobody else can reach; gives the number of entries
/// that were nothing but a mark.
#[cold]
fn unmark_entries<E: Env>(env: &E, table: Pfn, (from, to): (usize, usize)) -> u32 {
    let (mut at, mut gone) = (from, 0);
    while let Some((slot, pte)) = next_entry(env, table, at, to) {
        if pte.has(Pte::UFFD_WP) {
            let plain = unmarked(pte);
            env.store(table, slot, plain);
            gone += u32::from(plain.0 == 0);
        }
        at = slot.index() + 1;
    }
    gone
}

/// Does a child get the entries of this VMA? If PTE pages are copied, those of shared mappings need not be: the object
/// has the pages.
#[inline]
fn is_inherited(vma: &VmaRec, eager: bool) -> bool {
    (vma.flags & (VM_DONTCOPY | VM_WIPEONFORK) == 0 || mutant!(FORK_HANDS_ON_DONTFORK))
        && !((eager || owns_tables(vma.flags)) && vma.flags & VM_SHARED != 0 && vma.object != 0)
}

/// Is the child's part of this VMA's tables not just the parent's? It gets no entries of the VMA, or, where the VMA is
/// registered with a userfaultfd of the parent's, only copies of them.
#[inline]
fn is_special(vma: &VmaRec, eager: bool) -> bool {
    !is_inherited(vma, eager) || owns_tables(vma.flags)
}
