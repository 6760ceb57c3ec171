//! Copying a table's entries: everything below gets one more reference, and loses R/W on both sides.

use super::is_object_table;
use crate::Env;
use crate::frame::{is_kind, is_private};
use crate::hugetlb::{is_huge, is_object_pmd};
use crate::table::{get_table, holds_frame, next_entry, set_aux};
use core::sync::atomic::Ordering::Relaxed;
use ptshare_mutants::mutant;
use ptshare_paging::{ENTRIES, Level, Pfn, Pte, Slot};
use ptshare_wire::frame::{FLAG_HUGE_LEAVES, FrameKind};

/// Copies the entries `[from, to)` (slot numbers), but at most `entries`, of the table `src` at `level` to the same slots
/// of `dst`, a table that nobody else can reach and whose slots are zero; gives the number copied, for the caller to add
/// to `dst`'s `aux`. The lock of `src` is held.
///
/// The right to write is taken from `src` without a flush: the caller flushes if an entry above `src` has R/W = 1; if
/// none has (the table is shared), no CPU holds a writable translation.
#[inline]
pub(crate) fn copy_entries<E: Env>(
    env: &E,
    (src, dst): (Pfn, Pfn),
    level: Level,
    (from, to): (usize, usize),
    entries: u32,
) -> u32 {
    let (mut at, mut copied) = (from, 0);
    while copied != entries {
        let Some((slot, pte)) = next_entry(env, src, at, to) else { break };
        let copy = match level {
            Level::Pte => copy_small_leaf(env, src, slot, pte),
            _ if is_huge(pte) => copy_leaf(env, src, slot, pte),
            _ => {
                get_table(env, pte.pfn());
                // An object's table is written in place by all.
                let object = match level {
                    Level::Pud => is_object_pmd(env, pte.pfn()),
                    _ => is_object_table(env, pte.pfn()),
                };
                let open = mutant!(TREE_COPY_LEAVES_WRITE) && level != Level::Pmd;
                if object || open { pte } else { protect(env, src, slot, pte) }
            }
        };
        env.store(dst, slot, copy);
        copied += 1;
        at = slot.index() + 1;
    }
    copied
}

/// Copies all entries of a table; see [`copy_entries`]. Sets the copy's `aux`.
#[inline]
pub(crate) fn copy_table<E: Env>(env: &E, src: Pfn, dst: Pfn, level: Level) -> u32 {
    let entries = env.meta(src).aux.load(Relaxed);
    let end = ENTRIES - usize::from(mutant!(COPY_FORGETS_SLOT_511) && level == Level::Pte);
    let copied = copy_entries(env, (src, dst), level, (0, end), entries);
    set_aux(env, dst, copied);
    if level != Level::Pte {
        copy_huge_flag(env, src, dst);
    }
    copied
}

/// A copy of a PMD or PUD page may hold huge leaves if the original may.
pub(crate) fn copy_huge_flag<E: Env>(env: &E, src: Pfn, dst: Pfn) {
    let flag = env.meta(src).state.load(Relaxed) & FLAG_HUGE_LEAVES;
    env.meta(dst).state.fetch_or(flag, Relaxed);
}

/// Counts the frame once more and write-protects it if it is private; gives the entry for the copy.
#[inline]
pub(crate) fn copy_leaf<E: Env>(env: &E, src: Pfn, slot: Slot, pte: Pte) -> Pte {
    if !holds_frame(pte) {
        return pte;
    }
    let meta = env.meta(pte.pfn());
    meta.refs.fetch_add(1, Relaxed);
    if is_private(meta.state.load(Relaxed)) { protect(env, src, slot, pte) } else { pte }
}

/// [`copy_leaf`] of a PTE page, whose private pages are of one kind: the loop that unsharing a table is made of.
#[inline]
fn copy_small_leaf<E: Env>(env: &E, src: Pfn, slot: Slot, pte: Pte) -> Pte {
    if !holds_frame(pte) {
        return pte;
    }
    let meta = env.meta(pte.pfn());
    if !(mutant!(COPY_MISSES_SLOT_0) && slot.index() == 0) {
        let twice = mutant!(COPY_COUNTS_SLOT_511_TWICE) && slot.index() == 511;
        meta.refs.fetch_add(1 + u32::from(twice), Relaxed);
    }
    if is_kind(meta.state.load(Relaxed), FrameKind::Anon) { protect(env, src, slot, pte) } else { pte }
}

/// Clears R/W in the original; gives the entry as it is now.
#[inline]
fn protect<E: Env>(env: &E, src: Pfn, slot: Slot, pte: Pte) -> Pte {
    if mutant!(COPY_PROTECTS_COPY_ONLY) {
        return pte.without(Pte::WRITE);
    }
    if pte.writable() { env.clear_bits(src, slot, Pte::WRITE).without(Pte::WRITE) } else { pte }
}
