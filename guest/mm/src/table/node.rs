//! One table: its frame, its count, its lock, its entries.

use crate::Env;
use crate::frame::{NoMemory, Priority, put_data_locked, take};
use crate::hugetlb::{forget, is_huge};
use crate::share::{drop_object_ref, is_object_meta};
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use ptshare_mutants::mutant;
use ptshare_paging::{ENTRIES, Entry, Level, Pfn, Pte, Slot};
use ptshare_sync::{Rank, acquire, release, spin_wait};
use ptshare_wire::FrameMeta;
use ptshare_wire::frame::{FLAG_HUGE_LEAVES, FLAG_OBJECT_PMD, FrameKind, state};

/// A table with at most this many entries is emptied entry by entry when it goes, so that its frame is known to be
/// zero; for more, a clear at its next use costs less (512 steps of a string instruction).
const SPARSE_ENTRIES: u32 = 64;

/// Takes an all-zero table of this level with a count of 1: that of the entry about to point to it.
///
/// # Errors
/// [`NoMemory`].
#[inline]
pub(crate) fn alloc_table<E: Env>(env: &E, level: Level) -> Result<Pfn, NoMemory> {
    let state = state(FrameKind::Table, level as u8, 0);
    let (table, zeroed) = take(env, state, true, Priority::User)?;
    if !zeroed {
        env.zero_table(table);
    }
    count_table(env);
    Ok(table)
}

/// As [`alloc_table`], with any content: the caller fills in all 512 entries.
///
/// # Errors
/// [`NoMemory`].
#[inline]
pub(crate) fn alloc_raw_table<E: Env>(env: &E, level: Level) -> Result<Pfn, NoMemory> {
    let (table, _) = take(env, state(FrameKind::Table, level as u8, 0), false, Priority::User)?;
    count_table(env);
    Ok(table)
}

#[inline]
fn count_table<E: Env>(env: &E) {
    let stats = env.stats();
    let now = stats.tables_now.fetch_add(1, Relaxed) + 1;
    if now > stats.tables_peak.load(Relaxed) {
        stats.tables_peak.store(now, Relaxed);
    }
}

/// Frees a table that nothing points to any more and that holds no references; `zeroed` if all its entries are zero.
#[inline]
pub(crate) fn free_table<E: Env>(env: &E, table: Pfn, zeroed: bool) {
    let meta = env.meta(table);
    meta.refs.store(0, Relaxed);
    env.stats().tables_now.fetch_sub(1, Relaxed);
    env.allocator().lock().free(env, table, 0, zeroed);
}

/// A fresh root: a count of 1 for the mm record that will name it, the kernel half filled in.
///
/// # Errors
/// [`NoMemory`].
pub(crate) fn new_root<E: Env>(env: &E) -> Result<Pfn, NoMemory> {
    let root = alloc_table(env, Level::Pgd)?;
    env.fill_kernel_half(root);
    Ok(root)
}

/// Frees a root whose user half is empty and which no CPU has loaded.
pub(crate) fn free_root<E: Env>(env: &E, root: Pfn) {
    debug_assert!(env.meta(root).aux.load(Relaxed) == 0, "aux-counts-entries: root {:#x} not empty", root.0);
    env.clear_kernel_half(root);
    free_table(env, root, true);
}

/// Counts one more entry that points to this table.
#[inline]
pub(crate) fn get_table<E: Env>(env: &E, table: Pfn) {
    if env.meta(table).refs.fetch_add(1, Relaxed) == 1 {
        note_shared(env);
    }
}

/// Notes that a table's count has gone from 1 to 2.
#[inline]
pub(crate) fn note_shared<E: Env>(env: &E) {
    note_shared_by(env, 1);
}

/// Notes that the counts of so many tables have gone from 1 to 2.
#[inline]
pub(crate) fn note_shared_by<E: Env>(env: &E, tables: u64) {
    let stats = env.stats();
    // Another CPU that saw the 2 may have counted back already: the sum is right in the end, and never above it before.
    let now = stats.tables_shared_now.fetch_add(tables, Relaxed).wrapping_add(tables);
    if now as i64 > stats.tables_shared_peak.load(Relaxed) as i64 {
        stats.tables_shared_peak.store(now, Relaxed);
    }
}

/// Counts one entry less; with the last, drops everything that the table points to, and frees it. Every CPU that may
/// have cached the entry has been flushed. Says whether others still use the table.
#[inline]
pub(crate) fn put_table<E: Env>(env: &E, table: Pfn) -> bool {
    let meta = env.meta(table);
    let before = drop_table_ref(env, table, meta);
    if before == 2 && !mutant!(SHARED_COUNTER_STICKS) {
        env.stats().tables_shared_now.fetch_sub(1, Relaxed);
    }
    let early = mutant!(TABLE_FREED_BEFORE_LAST) && before == 2 && !is_object_meta(meta);
    if before == 1 || early {
        drop_contents(env, table, meta);
    }
    before > 1
}

/// Counts one entry less; gives the count before.
#[inline]
fn drop_table_ref<E: Env>(env: &E, table: Pfn, meta: &FrameMeta) -> u32 {
    let before = if is_object_meta(meta) {
        let before = drop_object_ref(env, table, meta);
        env.stats().object_detaches.fetch_add(u64::from(before > 1), Relaxed);
        before
    } else {
        if mutant!(TABLE_COUNT_NOT_ATOMIC) {
            let before = meta.refs.load(Relaxed);
            dawdle(env, table);
            meta.refs.store(before - 1, Relaxed);
            return before;
        }
        let twice = mutant!(DETACH_COUNTS_TWICE) && meta.refs.load(Relaxed) >= 3;
        meta.refs.fetch_sub(1 + u32::from(twice), AcqRel)
    };
    debug_assert!(before > 0, "table-refs-equal-parents: table {:#x} has no parents", table.0);
    before
}

/// What a mutant does that is wrong for a moment: it makes the moment some milliseconds long where the kernel is interpreted.
/// (Tests under a scheduler have others run at each look.)
#[cold]
pub(crate) fn dawdle<E: Env>(env: &E, pfn: Pfn) {
    let turns = if cfg!(feature = "testing") { 3 } else { 2000 };
    for _ in 0..turns {
        let _ = env.meta(pfn).refs.load(Acquire);
        core::hint::spin_loop();
    }
}

/// Frees a table and the references that its entries hold. At most four deep.
fn drop_contents<E: Env>(env: &E, table: Pfn, meta: &FrameMeta) {
    let entries = meta.aux.load(Relaxed);
    let sparse = entries <= SPARSE_ENTRIES;
    let state = meta.state.load(Relaxed);
    if state & FLAG_OBJECT_PMD != 0 {
        forget(env, table);
    }
    if state & FLAG_HUGE_LEAVES != 0 {
        drop_huge_leaves(env, table, entries);
    }
    if state >> 8 & 0xff == Level::Pte as u32 {
        drop_leaves(env, table, entries, sparse);
    } else {
        // What huge leaves there were are gone.
        drop_children(env, table, meta.aux.load(Relaxed), sparse);
    }
    if mutant!(EMPTY_TABLE_LOST) && state >> 8 & 0xff == Level::Pte as u32 {
        return;
    }
    free_table(env, table, sparse);
}

fn drop_leaves<E: Env>(env: &E, table: Pfn, entries: u32, clear: bool) {
    let mut allocator = env.allocator().lock();
    for_entries(env, table, entries, |slot, pte| {
        if clear {
            env.store(table, slot, Pte::ABSENT);
        }
        // A marker holds nothing.
        if pte.0 & Pte::ADDR != 0 {
            put_data_locked(env, &mut allocator, pte.pfn());
        }
    });
}

/// Drops the huge leaves of a table; entries that point to tables stay.
fn drop_huge_leaves<E: Env>(env: &E, table: Pfn, entries: u32) {
    let mut allocator = env.allocator().lock();
    let mut dropped = 0;
    for_entries(env, table, entries, |slot, pte| {
        if is_huge(pte) {
            env.store(table, slot, Pte::ABSENT);
            if pte.0 & Pte::ADDR != 0 {
                put_data_locked(env, &mut allocator, pte.pfn());
            }
            dropped += 1;
        }
    });
    sub_aux(env, table, dropped);
}

fn drop_children<E: Env>(env: &E, table: Pfn, entries: u32, clear: bool) {
    let (mut detached, mut no_longer_shared) = (0, 0);
    for_entries(env, table, entries, |slot, pte| {
        if clear {
            env.store(table, slot, Pte::ABSENT);
        }
        let meta = env.meta(pte.pfn());
        let before = drop_table_ref(env, pte.pfn(), meta);
        if before == 1 {
            drop_contents(env, pte.pfn(), meta);
        } else {
            detached += 1;
            no_longer_shared += u64::from(before == 2);
        }
    });
    if detached != 0 {
        let stats = env.stats();
        stats.detaches.fetch_add(detached, Relaxed);
        stats.tables_shared_now.fetch_sub(no_longer_shared, Relaxed);
    }
}

/// Calls `f` for the `entries` non-zero entries of a table (of a root: those of the user half), which are all that it
/// has. Stops at the last one without a scan of the rest.
#[inline]
pub(crate) fn for_entries<E: Env>(env: &E, table: Pfn, entries: u32, mut f: impl FnMut(Slot, Pte)) {
    for_entries_while(env, table, entries, |slot, pte| {
        f(slot, pte);
        true
    });
}

/// As [`for_entries`], until `f` says no; says whether it never did.
#[inline]
pub(crate) fn for_entries_while<E: Env>(
    env: &E,
    table: Pfn,
    entries: u32,
    mut f: impl FnMut(Slot, Pte) -> bool,
) -> bool {
    let (mut at, mut left) = (0, entries);
    while left != 0 {
        let Some((slot, pte)) = next_entry(env, table, at, ENTRIES) else { break };
        if !f(slot, pte) {
            return false;
        }
        at = slot.index() + 1;
        left -= 1;
    }
    true
}

/// The first non-zero entry of slots `[from, end)`. Looks at the first slot itself: tables are dense or nearly empty.
#[inline]
pub(crate) fn next_entry<E: Env>(env: &E, table: Pfn, from: usize, end: usize) -> Option<(Slot, Pte)> {
    if from >= end {
        return None;
    }
    let slot = Slot::new(from);
    let pte = env.load(table, slot);
    if pte.0 != 0 { Some((slot, pte)) } else { env.next_nonzero(table, slot.next()?, end) }
}

/// Holds a table's `pte_page_lock`.
pub(crate) struct TableGuard<'a> {
    meta: &'a FrameMeta,
    rank: Rank,
}

/// Takes the `pte_page_lock` of a table at `level`. A table found without a lock that keeps it alive may have been
/// replaced meanwhile: the caller looks at the entry again. (The lock word of a frame that has become something else
/// is never in use, so taking it does no harm.)
#[inline]
pub(crate) fn lock_table<E: Env>(env: &E, table: Pfn, level: Level) -> TableGuard<'_> {
    let rank = match level {
        Level::Pte => Rank::TablePte,
        Level::Pmd => Rank::TablePmd,
        Level::Pud | Level::Pgd => Rank::TablePud,
    };
    acquire(rank);
    let meta = env.meta(table);
    while meta.lock.swap(1, Acquire) != 0 {
        spin_wait();
    }
    TableGuard { meta, rank }
}

impl Drop for TableGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.meta.lock.store(0, Release);
        release(self.rank);
    }
}

/// Sets the number of non-zero entries of a table that nobody else can reach yet.
#[inline]
pub(crate) fn set_aux<E: Env>(env: &E, table: Pfn, entries: u32) {
    env.meta(table).aux.store(entries, Relaxed);
}

/// Notes that `entries` entries of a table became non-zero. The table's lock is held, or nobody else can reach it.
#[inline]
pub(crate) fn add_aux<E: Env>(env: &E, table: Pfn, entries: u32) {
    let aux = &env.meta(table).aux;
    aux.store(aux.load(Relaxed).wrapping_add(entries), Relaxed);
}

/// Notes that `entries` entries of a table became zero; gives what is left. Locking as for [`add_aux`].
#[inline]
pub(crate) fn sub_aux<E: Env>(env: &E, table: Pfn, entries: u32) -> u32 {
    let aux = &env.meta(table).aux;
    let left = aux.load(Relaxed).wrapping_sub(entries);
    aux.store(left, Relaxed);
    left
}

/// Does this leaf-level entry hold a reference on a frame?
#[inline]
pub(crate) fn holds_frame(pte: Pte) -> bool {
    matches!(pte.decode(Level::Pte), Entry::Leaf(_) | Entry::NoAccess(_))
}

/// The non-zero entries of one table that overlap a range of addresses.
pub(crate) struct Entries<'a, E: Env> {
    env: &'a E,
    table: Pfn,
    level: Level,
    start: u64,
    end: u64,
    /// Slot numbers still to look at.
    from: usize,
    to: usize,
}

/// One entry of [`Entries`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item {
    /// Where in the table.
    pub slot: Slot,
    /// The entry.
    pub pte: Pte,
    /// Start of the part of the range that the entry translates.
    pub start: u64,
    /// Its end.
    pub end: u64,
    /// Is that all that the entry translates?
    pub whole: bool,
}

impl<'a, E: Env> Entries<'a, E> {
    /// Entries of `table`, at `level`, that translate addresses of `[start, end)`; the range is not empty and lies
    /// within the table's span.
    #[inline]
    pub fn new(env: &'a E, table: Pfn, level: Level, start: u64, end: u64) -> Self {
        debug_assert!(start < end && end - level.span_start(start) <= level.span_bytes());
        let (from, to) = (level.slot(start).index(), level.slot(end - 1).index() + 1);
        Entries { env, table, level, start, end, from, to }
    }
}

impl<E: Env> Iterator for Entries<'_, E> {
    type Item = Item;

    #[inline]
    fn next(&mut self) -> Option<Item> {
        let (slot, pte) = next_entry(self.env, self.table, self.from, self.to)?;
        self.from = slot.index() + 1;
        let base = self.level.span_start(self.start) + ((slot.index() as u64) << self.level.shift());
        let top = base + self.level.entry_bytes();
        let (start, end) = (base.max(self.start), top.min(self.end));
        Some(Item { slot, pte, start, end, whole: start == base && end == top })
    }
}
