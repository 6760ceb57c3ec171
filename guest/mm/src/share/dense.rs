//! Copying a table most of whose entries are in use: each is counted and write-protected where it is, then the words go
//! over as a block: 18 instructions an entry where [`super::copy_entries`] takes 24 to 26, and no need for an empty copy.

use crate::Env;
use crate::frame::is_kind;
use crate::table::{holds_frame, note_shared_by, set_aux};
use core::sync::atomic::Ordering::Relaxed;
use ptshare_mutants::mutant;
use ptshare_paging::{ENTRIES, Level, Pfn, Pte, Slot};
use ptshare_wire::frame::{FLAG_HUGE_LEAVES, FLAG_OBJECT_PMD, FLAG_OBJECT_TABLE, FrameKind};

/// From so many entries on, a look at all 512 and a copy of all 512 words cost less than a search for each.
const DENSE_ENTRIES: u32 = 96;

/// Is this table, at `level`, better copied by [`copy_dense`]? Its lock is held.
#[inline]
pub(super) fn is_dense<E: Env>(env: &E, table: Pfn, level: Level) -> bool {
    let meta = env.meta(table);
    let huge = level != Level::Pte && meta.state.load(Relaxed) & FLAG_HUGE_LEAVES != 0;
    meta.aux.load(Relaxed) >= DENSE_ENTRIES && !huge
}

/// Makes `dst`, a table whose content may be anything and that nobody else can reach, a copy of the table `src` at
/// `level`, in which there are no huge leaves; see [`super::copy_entries`] for the rights. The lock of `src` is held.
pub(super) fn copy_dense<E: Env>(env: &E, src: Pfn, dst: Pfn, level: Level) {
    if level == Level::Pte {
        hold_leaves(env, src);
    } else {
        hold_tables(env, src);
    }
    env.copy_table(dst, src);
    set_aux(env, dst, env.meta(src).aux.load(Relaxed));
}

/// One more reference on every frame that a PTE page maps; private ones become read-only.
// Not inlined, for the registers: the loops' instructions are what a first write after fork is made of.
#[inline(never)]
fn hold_leaves<E: Env>(env: &E, table: Pfn) {
    for slot in (0..ENTRIES).map(Slot::new) {
        let pte = env.load(table, slot);
        if pte.present() || holds_frame(pte) {
            let meta = env.meta(pte.pfn());
            if !(mutant!(DENSE_COPY_MISSES_SLOT_511) && slot.index() == 511) {
                meta.refs.fetch_add(1, Relaxed);
            }
            if mutant!(DENSE_COPY_LEAVES_WRITE) {
                continue;
            }
            if pte.writable() && is_kind(meta.state.load(Relaxed), FrameKind::Anon) {
                env.clear_bits(table, slot, Pte::WRITE);
            }
        }
    }
}

/// One more reference on every table that an upper table points to; all but objects' become read-only.
#[inline(never)]
fn hold_tables<E: Env>(env: &E, table: Pfn) {
    let mut newly_shared = 0;
    for slot in (0..ENTRIES).map(Slot::new) {
        let pte = env.load(table, slot);
        if pte.0 != 0 {
            let meta = env.meta(pte.pfn());
            newly_shared += u64::from(meta.refs.fetch_add(1, Relaxed) < 2);
            if meta.state.load(Relaxed) & (FLAG_OBJECT_TABLE | FLAG_OBJECT_PMD) == 0 {
                env.clear_bits(table, slot, Pte::WRITE);
            }
        }
    }
    note_shared_by(env, newly_shared);
}
