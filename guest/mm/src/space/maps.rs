//! What `/proc/PID/maps` shows, line by line.

use super::Mm;
use crate::vma::{Layout, VM_EXEC, VM_GROWSDOWN, VM_MAYSHARE, VM_READ, VM_WRITE, Vma};
use crate::{Env, Object};
use alloc::sync::Arc;
use ptshare_paging::PAGE_SHIFT;

/// One VMA, as `/proc/PID/maps` has it.
pub struct VmaView<'a, E: Env> {
    /// First byte.
    pub start: u64,
    /// First byte after it.
    pub end: u64,
    /// `VM_*` bits.
    pub flags: u64,
    /// Offset in the object, in bytes; 0 for anonymous memory.
    pub offset: u64,
    /// Device number; 0 for anonymous memory.
    pub dev: u64,
    /// Inode number; 0 for anonymous memory.
    pub ino: u64,
    /// The object; its path is in its info.
    pub object: Option<&'a Arc<Object<E>>>,
    /// `[heap]` or `[stack]`, for anonymous memory.
    pub name: &'static str,
}

impl<'a, E: Env> VmaView<'a, E> {
    pub(super) fn new(vma: &'a Vma<E>, layout: &Layout) -> Self {
        let info = vma.object.as_ref().map(|object| object.info());
        VmaView {
            start: vma.rec.start,
            end: vma.rec.end,
            flags: vma.rec.flags,
            offset: if info.is_some() { vma.rec.pgoff << PAGE_SHIFT } else { 0 },
            dev: info.map_or(0, |info| info.dev),
            ino: info.map_or(0, |info| info.ino),
            object: vma.object.as_ref(),
            name: if info.is_some() { "" } else { name(vma, layout) },
        }
    }

    /// The four letters of the rights column: `rwxp`.
    pub fn rights(&self) -> [u8; 4] {
        let bit = |flag, letter| if self.flags & flag != 0 { letter } else { b'-' };
        let kind = if self.flags & VM_MAYSHARE != 0 { b's' } else { b'p' };
        [bit(VM_READ, b'r'), bit(VM_WRITE, b'w'), bit(VM_EXEC, b'x'), kind]
    }
}

/// As `vma_is_initial_heap` and `vma_is_initial_stack` (include/linux/mm.h) decide.
fn name<E: Env>(vma: &Vma<E>, layout: &Layout) -> &'static str {
    if vma.rec.start < layout.brk && vma.rec.end > layout.start_brk {
        "[heap]"
    } else if vma.has(VM_GROWSDOWN)
        && vma.rec.start <= layout.start_stack
        && vma.rec.end >= layout.start_stack
        && layout.start_stack != 0
    {
        "[stack]"
    } else {
        ""
    }
}

impl<E: Env> Mm<E> {
    /// Calls `f` for each VMA in order, with `mmap_lock` held for reading: `f` must not touch user memory.
    pub fn for_each_vma(&self, f: &mut dyn FnMut(&VmaView<'_, E>)) {
        self.for_each_vma_from(0, &mut |view| {
            f(view);
            true
        });
    }

    /// Like [`Mm::for_each_vma`], from the first VMA that ends above `addr`, for as long as `f` says true: lets a reader
    /// of a long file take it in pieces.
    pub fn for_each_vma_from(&self, addr: u64, f: &mut dyn FnMut(&VmaView<'_, E>) -> bool) {
        let set = self.vmas.read();
        for vma in set.iter_from(addr) {
            if !f(&VmaView::new(vma, &set.layout)) {
                return;
            }
        }
    }

    /// VMAs in all.
    pub fn vma_count(&self) -> usize {
        self.vmas.read().len()
    }
}
