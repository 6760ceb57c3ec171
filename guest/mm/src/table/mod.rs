//! Tables.
use crate::{Env, FaultOutcome, FlushBatch, Mm, NoMemory, VmaSet};
use ptshare_paging::{Pfn, Pte};

/// A fresh root with the kernel half filled in and `refs` 1.
pub(crate) fn new_root<E: Env>(_env: &E) -> Result<Pfn, NoMemory> {
    Err(NoMemory)
}
/// Frees a root whose user half is empty.
pub(crate) fn free_root<E: Env>(_env: &E, _root: Pfn) {}

impl<E: Env> Mm<E> {
    /// A batch for this mm's changes. Spend it with [`FlushBatch::finish`].
    pub(crate) fn batch(&self) -> FlushBatch<'_, E> {
        FlushBatch::new(&self.env, self.env.mm_rec(self.slot))
    }
    pub(crate) fn unshare_edges(&self, _start: u64, _end: u64) -> Result<(), NoMemory> {
        Ok(())
    }
    pub(crate) fn unshare_all(&self, _start: u64, _end: u64) -> Result<(), NoMemory> {
        Ok(())
    }
    pub(crate) fn zap(&self, _start: u64, _end: u64, _batch: &mut FlushBatch<'_, E>) {}
    /// For truncate (`even_cows`) and hole punching: removes leaves from the tables in place, for all sharers. The
    /// caller holds the object's `i_mmap` lock and not this mm's `mmap_lock`; the batch is [`FlushBatch::everyone`].
    pub(crate) fn zap_in_place(
        &self,
        _start: u64,
        _end: u64,
        _even_cows: bool,
        _batch: &mut FlushBatch<'_, E>,
    ) {
    }
    pub(crate) fn protect(&self, _start: u64, _end: u64, _vm_flags: u64, _batch: &mut FlushBatch<'_, E>) {}
    pub(crate) fn move_entries(
        &self,
        _old: u64,
        _new: u64,
        _len: u64,
        _batch: &mut FlushBatch<'_, E>,
    ) -> Result<(), NoMemory> {
        Ok(())
    }
    /// Calls `f(va, entry)` for every non-zero leaf entry (present, or [`ptshare_paging::Entry::NoAccess`]).
    pub(crate) fn present_in(&self, _start: u64, _end: u64, _f: &mut dyn FnMut(u64, Pte)) {}
    /// The frame that `va` maps to, if an access (a write, if `write`) would succeed without a fault.
    pub fn translate(&self, _va: u64, _write: bool) -> Option<Pfn> {
        None
    }
    /// Faults in every page of the range; the caller holds `mmap_lock` (either way) and passes what it guards.
    pub(crate) fn populate_range(
        &self,
        _set: &VmaSet<E>,
        _start: u64,
        _end: u64,
        _write: bool,
    ) -> Result<(), FaultOutcome> {
        Ok(())
    }
    /// Drops every table of the user half (exit, exec). Flush or switch CR3 with the batch.
    pub(crate) fn drop_user_tables(&self, batch: &mut FlushBatch<'_, E>) {
        self.zap(0, 1 << 47, batch)
    }
}
