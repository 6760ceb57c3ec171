//! fork: a second address space with the same content.

use super::limits::enough_memory;
use crate::{Env, Mm, NoMemory};
use alloc::sync::Arc;
use ptshare_sync::Rank;

/// What fork does with page tables: boot option `sharing=`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sharing {
    /// Copies every level, as an unmodified kernel does: the yardstick.
    None = 0,
    /// Shares PTE pages copy-on-write.
    Pte = 1,
    /// Shares everything below the root copy-on-write.
    Tree = 2,
}

impl<E: Env> Mm<E> {
    /// Makes a child's address space: the same VMAs (without those under MADV_DONTFORK), the same content, and from
    /// then on neither sees the other's private stores. Write-protects this mm's private pages, or the tables that lead
    /// to them. With at most `small_tables` PTE pages in all, PTE pages are copied whatever the mode.
    ///
    /// Takes both `mmap_lock`s for write.
    ///
    /// # Errors
    /// [`NoMemory`]: no mm slot, no frame for a table, no heap; nothing has changed.
    pub fn fork(&self, mode: Sharing, small_tables: u32) -> Result<Arc<Mm<E>>, NoMemory> {
        let child = Mm::of_family(self.env.clone(), self.family)?;
        self.env.critical_enter();
        let result = self.fork_into(&child, mode, small_tables);
        self.env.critical_exit();
        result.map(|()| child)
    }

    fn fork_into(&self, child: &Arc<Mm<E>>, mode: Sharing, small_tables: u32) -> Result<(), NoMemory> {
        let set = self.vmas.write();
        if self.huge.any() {
            child.huge.note();
        }
        let mut child_set = child.vmas.write_as(Rank::MmapChild);
        if !enough_memory(set.counts.committed, set.limits.commit_pages) {
            return Err(NoMemory);
        }
        set.duplicate_for_child(&mut child_set)?;
        child_set.publish(&child.env, child.rec());
        self.copy_tables(&set, child, mode, small_tables)
    }
}
