//! Address spaces: one file for each operation on them, each an `impl Mm` block.
//!
//! An operation that changes the list of VMAs goes: check everything; take tables out of sharing (the last step that can
//! fail); remove or narrow entries; change the list; flush; publish. [`Change`] holds the lock and the critical section
//! meanwhile.
//!
//! **sharers-agree**: all sharers of a COW-shared table have the same VMAs over its span, hints ([`crate::vma::VM_HINTS`])
//! apart. So whoever changes a VMA first takes the tables under it out of the sharing, by copying them
//! ([`Mm::unshare_all`], which leaves an object's tables instead) or, where the whole span of a table is discarded, by
//! dropping them ([`Mm::unshare_edges`], then [`Mm::zap`]).

mod access;
mod advise;
mod brk;
mod fault;
mod file_pages;
mod fork;
mod huge;
pub mod limits;
mod lock;
mod map;
mod maps;
mod mincore;
mod msync;
mod pagemap;
mod populate;
mod protect;
mod remap;
mod seal;
mod shared_key;
#[cfg(test)]
mod tests;
mod unmap;
mod usage;

pub use fault::{Access, FaultOutcome};
pub use fork::Sharing;
pub use map::MapRequest;
pub use maps::VmaView;
pub use pagemap::PageView;
pub use usage::{MmUsage, SmapsEntry, TableShares, vm_flag_letters};

use crate::hugetlb::HugeSpace;
use crate::table::{free_root, new_root};
use crate::vma::{Layout, Limits};
use crate::{Env, NoMemory, VmaSet, rmap};
use alloc::sync::Arc;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::Ordering::Relaxed;
use ptshare_mutants::mutant;
use ptshare_paging::Pfn;
use ptshare_sync::{Lock, Rank, RwLock, WriteGuard};
use ptshare_wire::MmRec;

/// An address space: root, VMAs, locks.
pub struct Mm<E: Env> {
    /// The machine.
    pub(crate) env: E,
    /// Slot in the mm table.
    pub(crate) slot: u32,
    /// The PGD.
    pub(crate) root: Pfn,
    /// Whose private pages it can have: as in its record. See [`crate::rmap`].
    pub(crate) family: u64,
    /// `mmap_lock`.
    pub(crate) vmas: RwLock<VmaSet<E>>,
    /// `page_table_lock`: the entries of the upper tables.
    pub(crate) page_table: Lock<()>,
    /// What it keeps of its hugetlb mappings.
    pub(crate) huge: HugeSpace,
}

impl<E: Env> Mm<E> {
    /// An address space with nothing in its user half.
    ///
    /// # Errors
    /// When there is no frame for the root, or no slot in the mm table.
    pub fn new(env: E) -> Result<Arc<Self>, NoMemory> {
        Mm::of_family(env, rmap::new_family())
    }

    /// [`Mm::new`], for a child by fork: it may get private pages of the family.
    pub(crate) fn of_family(env: E, family: u64) -> Result<Arc<Self>, NoMemory> {
        let critical = Critical::enter(&env);
        let slot = env.take_mm_slot().ok_or(NoMemory)?;
        let root = match new_root(&env) {
            Ok(root) => root,
            Err(error) => {
                env.return_mm_slot(slot);
                return Err(error);
            }
        };
        let mm = Arc::new_cyclic(|this| Mm {
            env: env.clone(),
            slot,
            root,
            family,
            vmas: RwLock::new(Rank::Mmap, VmaSet::new(this.clone(), slot)),
            page_table: Lock::new(Rank::PageTable, ()),
            huge: HugeSpace::new(slot),
        });
        let rec = env.mm_rec(slot);
        rec.pid.store(0, Relaxed);
        rec.cpumask.store(0, Relaxed);
        rec.table_pages.store(1, Relaxed);
        rec.family.store(family, Relaxed);
        rec.hugetlb_reserved.iter().for_each(|pages| pages.store(0, Relaxed));
        rec.vma_index.store(0, Relaxed);
        rec.vma_chunks.store(0, Relaxed);
        rec.vma_count.store(0, Relaxed);
        rec.root.store(root.0, Relaxed);
        // From here on the mm's own drop undoes it all.
        env.mms().lock().add(slot, &mm)?;
        drop(critical);
        Ok(mm)
    }

    /// The frame to load into CR3.
    #[inline]
    pub fn root(&self) -> Pfn {
        self.root
    }

    /// Slot in the mm table.
    #[inline]
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// The record that the census shows.
    #[inline]
    pub fn rec(&self) -> &MmRec {
        self.env.mm_rec(self.slot)
    }

    /// The machine below.
    #[inline]
    pub fn env(&self) -> &E {
        &self.env
    }

    /// Drops every mapping. The layout and the limits stay.
    pub fn clear(&self) {
        let mut change = self.change();
        let mut batch = self.batch();
        self.drop_user_tables(&mut batch);
        batch.finish();
        self.huge.release(&self.env, 0, u64::MAX);
        change.clear();
        change.def_flags = 0;
    }

    /// Where things lie.
    pub fn layout(&self) -> Layout {
        self.vmas.read().layout
    }

    /// Says where things lie, for exec.
    pub fn set_layout(&self, layout: Layout) {
        self.vmas.write().set_layout(layout);
    }

    /// What the mm must not exceed.
    pub fn limits(&self) -> Limits {
        self.vmas.read().limits
    }

    /// Says what the mm must not exceed. What it has already stays.
    pub fn set_limits(&self, limits: Limits) {
        self.vmas.write().limits = limits;
    }

    /// Begins a change of the VMAs.
    pub(crate) fn change(&self) -> Change<'_, E> {
        let set = self.vmas.write();
        Change { critical: Critical::enter(&self.env), set, mm: self }
    }
}

impl<E: Env> Drop for Mm<E> {
    fn drop(&mut self) {
        let env = self.env.clone();
        let critical = Critical::enter(&env);
        let listed = env.mms().lock().remove(self.slot);
        drop(listed);
        let mut batch = self.batch();
        self.drop_user_tables(&mut batch);
        batch.finish();
        self.huge.release(&env, 0, u64::MAX);
        self.vmas.get_mut().clear();
        let rec = self.rec();
        self.vmas_published_empty(rec);
        if !mutant!(EXIT_KEEPS_ROOT) {
            rec.root.store(0, Relaxed);
        }
        rec.table_pages.store(0, Relaxed);
        free_root(&env, self.root);
        env.return_mm_slot(self.slot);
        drop(critical);
    }
}

impl<E: Env> Mm<E> {
    fn vmas_published_empty(&self, rec: &MmRec) {
        rec.vma_index.store(0, Relaxed);
        rec.vma_chunks.store(0, Relaxed);
        rec.vma_count.store(0, Relaxed);
    }
}

/// A critical section of this CPU, ended by drop.
pub(crate) struct Critical<'a, E: Env>(&'a E);

impl<'a, E: Env> Critical<'a, E> {
    pub(crate) fn enter(env: &'a E) -> Self {
        env.critical_enter();
        Critical(env)
    }
}

impl<E: Env> Drop for Critical<'_, E> {
    fn drop(&mut self) {
        self.0.critical_exit();
    }
}

/// `mmap_lock` held for write inside a critical section; publishes the list when it ends.
pub(crate) struct Change<'a, E: Env> {
    // Fields drop in this order: the section ends before the lock is free.
    #[expect(dead_code, reason = "held for its drop")]
    critical: Critical<'a, E>,
    set: WriteGuard<'a, VmaSet<E>>,
    mm: &'a Mm<E>,
}

impl<E: Env> Drop for Change<'_, E> {
    fn drop(&mut self) {
        self.set.publish(&self.mm.env, self.mm.rec());
    }
}

impl<E: Env> Deref for Change<'_, E> {
    type Target = VmaSet<E>;
    #[inline]
    fn deref(&self) -> &VmaSet<E> {
        &self.set
    }
}

impl<E: Env> DerefMut for Change<'_, E> {
    #[inline]
    fn deref_mut(&mut self) -> &mut VmaSet<E> {
        &mut self.set
    }
}
