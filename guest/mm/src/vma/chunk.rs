//! A run of up to 32 VMAs in one piece of memory, laid out as `ptshare_wire::census` says: the judge reads it.

use super::Vma;
use crate::env::Env;
use alloc::boxed::Box;
use ptshare_wire::census::VMA_CHUNK_MAX;

/// `u64 len; [Vma; len]`, sorted by address. Beyond `len` there are fillers.
#[repr(C)]
pub(super) struct Chunk<E: Env> {
    len: u64,
    vmas: [Vma<E>; VMA_CHUNK_MAX],
}

// A VMA's record stands at byte 8 of the chunk and then every `size_of::<Vma>()` bytes: the census depends on it.
const _: () = assert!(core::mem::size_of::<ptshare_wire::VmaRec>() == 40);

impl<E: Env> Chunk<E> {
    /// A chunk of nothing. Never left in an index that way.
    pub(super) fn empty() -> Box<Self> {
        Box::new(Chunk { len: 0, vmas: core::array::from_fn(|_| Vma::default()) })
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.len as usize >= VMA_CHUNK_MAX
    }

    /// The VMAs in use.
    #[inline]
    pub(super) fn vmas(&self) -> &[Vma<E>] {
        &self.vmas[..(self.len as usize).min(VMA_CHUNK_MAX)]
    }

    /// The VMAs in use. The caller keeps them sorted.
    #[inline]
    pub(super) fn vmas_mut(&mut self) -> &mut [Vma<E>] {
        &mut self.vmas[..(self.len as usize).min(VMA_CHUNK_MAX)]
    }

    /// Puts `vma` at `slot`, moving those from there on up by one. The chunk is not full.
    pub(super) fn insert(&mut self, slot: usize, vma: Vma<E>) {
        debug_assert!(!self.is_full() && slot <= self.len());
        let len = self.len();
        self.len += 1;
        self.vmas[len] = vma;
        self.vmas[slot..=len].rotate_right(1);
    }

    /// Takes the VMA at `slot` out.
    pub(super) fn remove(&mut self, slot: usize) -> Vma<E> {
        let len = self.len();
        debug_assert!(slot < len);
        self.vmas[slot..len].rotate_left(1);
        self.len -= 1;
        core::mem::take(&mut self.vmas[len - 1])
    }

    /// Moves the VMAs from `slot` on to the end of `to`, which has room for them.
    pub(super) fn move_tail(&mut self, slot: usize, to: &mut Self) {
        let len = self.len();
        for i in slot..len {
            let vma = core::mem::take(&mut self.vmas[i]);
            let at = to.len();
            to.vmas[at] = vma;
            to.len += 1;
        }
        self.len = slot as u64;
    }
}
