//! The child's VMAs at fork.

use super::{VM_DONTCOPY, VM_LOCKED, VM_LOCKONFAULT, VM_UFFD, VmaSet};
use crate::{Env, NoMemory};

impl<E: Env> VmaSet<E> {
    /// Fills `child`, an empty set, with what a child gets of these VMAs: all but those under VM_DONTCOPY, none locked
    /// and none under a userfaultfd, each registered with its object. The layout and the limits go along. The caller holds both `mmap_lock`s for
    /// write, is inside a critical section, and registers before it copies any table: truncate relies on that.
    ///
    /// # Errors
    /// `NoMemory`, with `child` empty.
    pub(crate) fn duplicate_for_child(&self, child: &mut VmaSet<E>) -> Result<(), NoMemory> {
        debug_assert!(child.is_empty());
        child.reserve_chunks(self.len() / ptshare_wire::census::VMA_CHUNK_MAX + 1)?;
        child.layout = self.layout;
        child.limits = self.limits;
        for vma in self.iter().filter(|vma| vma.rec.flags & VM_DONTCOPY == 0) {
            let mut copy = vma.clone();
            copy.rec.flags &= !(VM_LOCKED | VM_LOCKONFAULT | VM_UFFD);
            copy.uffd = None;
            child.push(copy);
        }
        Ok(())
    }
}
