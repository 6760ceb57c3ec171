//! What a futex needs to know of an address: the object behind it, where the mapping is shared.

use super::Mm;
use crate::Env;
use ptshare_paging::{PAGE_BYTES, PAGE_SHIFT};
use ptshare_wire::vma::VM_SHARED;

impl<E: Env> Mm<E> {
    /// Object id and byte offset of what a shared mapping shows at `addr`; `None` in private memory and outside of
    /// mappings. Takes `mmap_lock` for reading.
    pub fn shared_object_at(&self, addr: u64) -> Option<(u64, u64)> {
        let set = self.vmas.read();
        let vma = set.find(addr)?;
        let object = vma.object.as_ref()?;
        vma.has(VM_SHARED).then(|| (object.id(), (vma.pgoff_of(addr) << PAGE_SHIFT) + addr % PAGE_BYTES))
    }
}
