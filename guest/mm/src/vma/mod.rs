//! VMAs.

use crate::{Env, Object};
use alloc::sync::Arc;
use ptshare_wire::VmaRec;

/// A VMA.
#[repr(C)]
pub struct Vma<E: Env> {
    /// What the judge reads.
    pub rec: VmaRec,
    /// Backing object; `None` for anonymous memory.
    pub object: Option<Arc<Object<E>>>,
}

/// The VMAs of an mm, sorted.
pub struct VmaSet<E: Env> {
    vmas: alloc::vec::Vec<Vma<E>>,
}

impl<E: Env> Vma<E> {
    /// Index in the object of the page at `addr`.
    #[inline]
    pub fn pgoff_of(&self, addr: u64) -> u64 {
        self.rec.pgoff + ((addr - self.rec.start) >> 12)
    }
}

impl<E: Env> VmaSet<E> {
    /// The VMA that contains `addr`.
    pub fn find(&self, addr: u64) -> Option<&Vma<E>> {
        self.find_at_or_after(addr).filter(|v| v.rec.start <= addr)
    }

    /// The first VMA that ends above `addr`.
    pub fn find_at_or_after(&self, addr: u64) -> Option<&Vma<E>> {
        self.vmas.iter().find(|v| v.rec.end > addr)
    }

    /// VMAs in order, from the first that ends above `addr`.
    pub fn iter_from(&self, addr: u64) -> impl Iterator<Item = &Vma<E>> {
        self.vmas.iter().filter(move |v| v.rec.end > addr)
    }
}
