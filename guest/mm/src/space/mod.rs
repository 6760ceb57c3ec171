//! Address spaces.

mod fault;
mod fork;

pub use fault::{Access, FaultOutcome};
pub use fork::Sharing;

use crate::{Env, VmaSet};
use ptshare_paging::Pfn;
use ptshare_sync::{Lock, RwLock};

/// An address space: root, VMAs, locks.
pub struct Mm<E: Env> {
    /// The machine.
    pub(crate) env: E,
    /// Slot in the mm table.
    pub(crate) slot: u32,
    /// The PGD.
    pub(crate) root: Pfn,
    /// `mmap_lock`.
    pub(crate) vmas: RwLock<VmaSet<E>>,
    /// `page_table_lock`: the entries of the upper tables.
    pub(crate) page_table: Lock<()>,
}

impl<E: Env> Mm<E> {
    /// Placeholder until space/brk.rs brings the real one.
    pub(crate) fn grow_down(&self, _set: &mut VmaSet<E>, _addr: u64) -> Result<(), FaultOutcome> {
        Err(FaultOutcome::SegvMapErr)
    }
}
