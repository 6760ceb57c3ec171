//! mmap of huge pages (Linux: `ksys_mmap_pgoff`, `hugetlbfs_file_mmap`, `hugetlb_get_unmapped_area`).

use super::limits::max_map_count;
use super::map::{Placed, covered_pages, place, vm_flags, wants_pages};
use super::{MapRequest, Mm};
use crate::error::MmError;
use crate::hugetlb::{HugeSize, default_size, has_size};
use crate::vma::*;
use crate::{Env, Object, Vma, VmaSet};
use ptshare_abi::sys::general as abi;
use ptshare_paging::{PAGE_SHIFT, USER_END, page_floor};

impl<E: Env> Mm<E> {
    /// [`Mm::map_with`] with MAP_HUGETLB, or of a hugetlb object.
    ///
    /// # Errors
    /// As mmap(2). `NoMemory` when the pool cannot promise the pages; what lay in the way of MAP_FIXED is unmapped by then.
    pub(super) fn map_huge_with(
        &self,
        change: &mut VmaSet<E>,
        mut request: MapRequest<E>,
    ) -> Result<Placed, MmError> {
        let size = match &request.object {
            // As on Linux the size in the flags does not count for a file.
            Some((object, _)) => object.huge_size(),
            None => match request.flags >> abi::MAP_HUGE_SHIFT & u64::from(abi::MAP_HUGE_MASK) {
                0 => Some(default_size(&self.env)),
                shift => HugeSize::from_shift(shift).filter(|&size| has_size(&self.env, size)),
            },
        };
        let size = size.ok_or(MmError::Invalid)?;
        // A length that wraps is 0 by now on Linux.
        let len = size.ceil(request.len).ok_or(MmError::Invalid)?;
        if len > USER_END {
            return Err(MmError::NoSpace);
        }
        let (object, pgoff) = match request.object.take() {
            Some(found) => found,
            None => (Object::huge_anonymous(self.env.clone(), size, len), 0),
        };
        let pages = len >> PAGE_SHIFT;
        pgoff.checked_add(pages).ok_or(MmError::Overflow)?;
        request.object = Some((object.clone(), pgoff));

        if change.len() > max_map_count() {
            return Err(MmError::Limit);
        }
        let start = place_huge(change, &request, size, len)?;
        let end = start + len;
        if request.has(abi::MAP_FIXED_NOREPLACE) && change.intersects(start, end) {
            return Err(MmError::Exists);
        }
        let kind = VM_HUGETLB | if size == HugeSize::Gib1 { VM_HUGE_1GB } else { 0 };
        let asked = vm_flags(change, &request, pages)?;
        // Huge pages cannot be swapped out, so such a VMA is not marked; what was to be locked is brought in all the same
        // (`do_mmap` goes by the flags asked for), even on MCL_ONFAULT.
        let populate = wants_pages(request.flags) || asked & VM_LOCKED != 0;
        let flags = asked & !(VM_LOCKED | VM_LOCKONFAULT) | kind;
        let replaced = if change.intersects(start, end) { covered_pages(change, start, end) } else { 0 };
        if !change.may_expand(flags, pages - replaced) {
            return Err(MmError::Limit);
        }
        if !pgoff.is_multiple_of(size.frames()) {
            return Err(MmError::Invalid);
        }
        self.make_room(change, start, end)?;
        if size == HugeSize::Gib1 {
            self.clear_way(start, end);
        }
        self.huge.note();
        if flags & VM_NORESERVE == 0 {
            if flags & VM_MAYSHARE != 0 {
                let first = pgoff >> size.order();
                object.reserve_huge(first, first + (len >> size.shift()))?;
            } else {
                self.huge.reserve(&self.env, size, start, end)?;
            }
        }
        if flags & VM_WRITE != 0 {
            object.grow_huge((pgoff + pages) << PAGE_SHIFT);
        }
        change.insert_merged(Vma::of_object(start, end, flags, object, pgoff));
        Ok(Placed { start, len, populate })
    }
}

/// Where the mapping goes: a multiple of its page size.
fn place_huge<E: Env>(
    set: &mut VmaSet<E>,
    request: &MapRequest<E>,
    size: HugeSize,
    len: u64,
) -> Result<u64, MmError> {
    if request.is_fixed() {
        if !size.is_aligned(request.addr) {
            return Err(MmError::Invalid);
        }
        return place(set, request, len);
    }
    let hint = size.ceil(page_floor(request.addr)).unwrap_or(0).max(if request.addr == 0 {
        0
    } else {
        MMAP_MIN_ADDR
    });
    let low = request.has(abi::MAP_32BIT);
    if hint != 0 && set.place(hint, len, low) == Some(hint) {
        return Ok(hint);
    }
    // Room to move up to the next multiple: from the top of the highest gap that is the best place too.
    let slack = size.bytes() - ptshare_paging::PAGE_BYTES;
    let addr = set.place(0, len + slack, low).ok_or(MmError::NoSpace)?;
    size.ceil(addr).ok_or(MmError::NoSpace)
}
