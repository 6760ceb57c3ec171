//! Tables: counted nodes of 512 entries, and the operations on ranges of an mm's tree.
//!
//! ```text
//!  node.rs     one table: allocate, count, lock, drop; the iterator over its entries
//!  path.rs     from the root to one PTE page: translate, build what is missing, own what is shared
//!  zap.rs      entries of a range go; what they held goes to a flush batch
//!  protect.rs  leaves of a range get other rights
//!  moves.rs    mremap: entries of a range go elsewhere
//!  present.rs  look at a range
//! ```
//!
//! Rules that hold whenever no CPU is in a critical section:
//! * `table-refs-equal-parents`: a table's `refs` is the number of entries and roots that point to it.
//! * `shared-table-is-read-only`: where `refs` is above 1, every entry that points to the table has R/W = 0, unless the
//!   table is an object's (`share/object.rs`).
//! * `aux-counts-entries`: a table's `aux` is its number of non-zero entries (of a root: those of the user half).
//!
//! Locks. `page_table_lock` (`Mm::page_table`) guards the entries of the mm's upper tables and the existence of all
//! its tables against everything but faults, which only add; tables go away only under `mmap_lock` held for write, or
//! when all is over. `pte_page_lock` guards a table's entries, and with them its copying.

mod moves;
mod node;
mod path;
mod present;
mod protect;
#[cfg(test)]
mod tests;
mod zap;

pub(crate) use node::{
    Entries, TableGuard, add_aux, alloc_raw_table, alloc_table, dawdle, for_entries, for_entries_while,
    free_root, free_table, get_table, holds_frame, lock_table, new_root, next_entry, note_shared,
    note_shared_by, put_table, set_aux, sub_aux,
};
pub(crate) use protect::{leaf_flags, leaf_with_rights};

use crate::{Env, FlushBatch, Mm};
use core::sync::atomic::Ordering::Relaxed;

impl<E: Env> Mm<E> {
    /// A batch for this mm's changes. Spend it with [`FlushBatch::finish`].
    #[inline]
    pub(crate) fn batch(&self) -> FlushBatch<'_, E> {
        FlushBatch::new(&self.env, self.rec())
    }

    /// Notes that this mm reaches `tables` more tables; negative numbers wrap.
    #[inline]
    pub(crate) fn count_tables(&self, tables: u64) {
        self.rec().table_pages.fetch_add(tables, Relaxed);
    }
}
