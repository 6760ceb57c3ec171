//! mmap: check, place, make room, insert. The order of the checks is that of `do_mmap` (mm/mmap.c), because programs see
//! it in which error they get.

use super::Mm;
use super::limits::{honours_noreserve, max_map_count};
use crate::error::MmError;
use crate::object::MAX_OBJECT_BYTES;
use crate::vma::*;
use crate::{Env, Object, Vma, VmaSet};
use alloc::sync::Arc;
use ptshare_abi::sys::general as abi;
use ptshare_mutants::mutant;
use ptshare_paging::{PAGE_BYTES, PAGE_SHIFT, USER_END, page_ceil, page_floor};

/// The flags that MAP_SHARED_VALIDATE accepts for a file in memory: `LEGACY_MAP_MASK`, include/linux/mman.h.
const SHARED_VALIDATE_MASK: u64 = (abi::MAP_SHARED_VALIDATE
    | abi::MAP_FIXED
    | abi::MAP_ANONYMOUS
    | abi::MAP_DENYWRITE
    | abi::MAP_EXECUTABLE
    | abi::MAP_UNINITIALIZED
    | abi::MAP_GROWSDOWN
    | abi::MAP_LOCKED
    | abi::MAP_NORESERVE
    | abi::MAP_POPULATE
    | abi::MAP_NONBLOCK
    | abi::MAP_STACK
    | abi::MAP_HUGETLB
    | abi::MAP_32BIT
    | abi::MAP_ABOVE4G
    | abi::MAP_HUGE_2MB
    | abi::MAP_HUGE_1GB) as u64;

/// What mmap is asked for. Numbers are as user mode gave them.
pub struct MapRequest<E: Env> {
    /// Hint, or with MAP_FIXED the address.
    pub addr: u64,
    /// Bytes.
    pub len: u64,
    /// `PROT_*`.
    pub prot: u64,
    /// `MAP_*`.
    pub flags: u64,
    /// The file, and the offset in it in pages; `None` with MAP_ANONYMOUS.
    pub object: Option<(Arc<Object<E>>, u64)>,
    /// The file is open for reading.
    pub file_readable: bool,
    /// The file is open for writing.
    pub file_writable: bool,
}

impl<E: Env> MapRequest<E> {
    /// A request for `len` bytes of private anonymous memory anywhere; change the fields that differ.
    pub fn anonymous(len: u64, prot: u64) -> Self {
        let flags = u64::from(abi::MAP_PRIVATE | abi::MAP_ANONYMOUS);
        MapRequest { addr: 0, len, prot, flags, object: None, file_readable: true, file_writable: true }
    }

    pub(super) fn has(&self, flag: u32) -> bool {
        self.flags & u64::from(flag) != 0
    }

    pub(super) fn is_fixed(&self) -> bool {
        self.has(abi::MAP_FIXED) || self.has(abi::MAP_FIXED_NOREPLACE)
    }
}

/// A mapping just made.
#[derive(Clone, Copy)]
pub(super) struct Placed {
    pub start: u64,
    pub len: u64,
    /// Its pages are to be brought in.
    pub populate: bool,
}

impl<E: Env> Mm<E> {
    /// Maps memory. Gives its address.
    ///
    /// # Errors
    /// As mmap(2). `MmError::NoMemory` leaves everything as it was.
    pub fn mmap(&self, request: MapRequest<E>) -> Result<u64, MmError> {
        let placed = {
            let mut change = self.change();
            self.map_with(&mut change, request)?
        };
        Ok(self.populate_placed(placed))
    }

    /// Brings in the pages of a new mapping that is to have them at once; gives its address. As on Linux the mapping stands
    /// whether or not its pages could be brought in. Hold no lock.
    pub(super) fn populate_placed(&self, placed: Placed) -> u64 {
        if placed.populate {
            let _ = self.populate(placed.start, placed.len);
        }
        placed.start
    }

    /// [`Mm::mmap`] under `mmap_lock`, but for what [`Mm::populate_placed`] does.
    pub(super) fn map_with(&self, change: &mut VmaSet<E>, request: MapRequest<E>) -> Result<Placed, MmError> {
        if request.len == 0 {
            return Err(MmError::Invalid);
        }
        if request.has(abi::MAP_HUGETLB) || request.object.as_ref().is_some_and(|o| o.0.is_huge()) {
            return self.map_huge_with(change, request);
        }
        let len = page_ceil(request.len).ok_or(MmError::NoSpace)?;
        let pgoff = request.object.as_ref().map_or(0, |object| object.1);
        pgoff.checked_add(len >> PAGE_SHIFT).ok_or(MmError::Overflow)?;

        if change.len() > max_map_count() {
            return Err(MmError::Limit);
        }
        let start = place(change, &request, len)?;
        let end = start + len;
        if request.has(abi::MAP_FIXED_NOREPLACE) && change.intersects(start, end) {
            return Err(MmError::Exists);
        }
        let pages = len >> PAGE_SHIFT;
        let flags = vm_flags(change, &request, pages)?;
        let shmem = request.object.is_none() && flags & VM_SHARED != 0;
        let replaced = if change.intersects(start, end) { covered_pages(change, start, end) } else { 0 };
        if !change.may_expand(flags, pages - replaced) || !change.may_commit(flags, pages, shmem) {
            return Err(MmError::Limit);
        }
        let vma = match request.object {
            Some((object, pgoff)) => Vma::of_object(start, end, flags, object, pgoff),
            None if shmem => {
                let object = Object::shared_anonymous(self.env.clone(), len);
                if flags & VM_NORESERVE == 0 {
                    object.promise();
                }
                Vma::of_object(start, end, flags, object, 0)
            }
            None => Vma::anonymous(start, end, flags),
        };
        self.make_room(change, start, end)?;
        change.insert_merged(vma);

        let populate = wants_pages(request.flags);
        Ok(Placed {
            start,
            len,
            populate: flags & VM_LOCKONFAULT == 0 && (populate || flags & VM_LOCKED != 0),
        })
    }

    /// Maps the initial stack: `len_bytes` below `top` (both page-aligned), growing down, with code execution if `exec`.
    ///
    /// # Errors
    /// As mmap(2) with MAP_FIXED_NOREPLACE.
    pub fn map_stack(&self, top: u64, len_bytes: u64, exec: bool) -> Result<(), MmError> {
        let start = top.checked_sub(len_bytes).ok_or(MmError::Invalid)?;
        if start >= top || top > USER_END || !(start | top).is_multiple_of(PAGE_BYTES) {
            return Err(MmError::Invalid);
        }
        let mut change = self.change();
        if change.intersects(start, top) {
            return Err(MmError::Exists);
        }
        let exec = if exec { VM_EXEC } else { 0 };
        let flags = VM_READ | VM_WRITE | exec | VM_MAY | VM_GROWSDOWN | VM_STACK;
        if !change.may_expand(flags, len_bytes >> PAGE_SHIFT) {
            return Err(MmError::Limit);
        }
        self.make_room(&mut change, start, top)?;
        change.insert_merged(Vma::anonymous(start, top, flags));
        Ok(())
    }

    /// Empties `[start, end)` and takes shared tables out from under it, so that a VMA can be put there.
    pub(super) fn make_room(&self, set: &mut VmaSet<E>, start: u64, end: u64) -> Result<(), MmError> {
        if set.intersects(start, end) {
            return self.unmap_range(set, start, end);
        }
        if mutant!(MMAP_INTO_SHARED_TABLE) {
            return Ok(());
        }
        Ok(self.unshare_all(start, end)?)
    }
}

/// Do these `MAP_*` bits ask for the pages at once?
pub(super) fn wants_pages(flags: u64) -> bool {
    flags & u64::from(abi::MAP_POPULATE | abi::MAP_NONBLOCK) == u64::from(abi::MAP_POPULATE)
}

/// Where the mapping goes: `__get_unmapped_area`.
pub(super) fn place<E: Env>(set: &mut VmaSet<E>, request: &MapRequest<E>, len: u64) -> Result<u64, MmError> {
    if len > USER_END {
        return Err(MmError::NoSpace);
    }
    if request.is_fixed() {
        if request.addr > USER_END - len {
            return Err(MmError::NoSpace);
        }
        if !request.addr.is_multiple_of(PAGE_BYTES) {
            return Err(MmError::Invalid);
        }
        if request.addr < MMAP_MIN_ADDR && !set.limits.privileged {
            return Err(MmError::NotPermitted);
        }
        return Ok(request.addr);
    }
    let hint = match page_floor(request.addr) {
        0 => 0,
        // round_hint_to_min.
        hint => hint.max(MMAP_MIN_ADDR),
    };
    set.place(hint, len, request.has(abi::MAP_32BIT)).ok_or(MmError::NoSpace)
}

/// The `VM_*` bits of the new VMA, after the checks that come with them.
pub(super) fn vm_flags<E: Env>(set: &VmaSet<E>, request: &MapRequest<E>, pages: u64) -> Result<u64, MmError> {
    let mut flags = prot_flags(request.prot) | VM_MAY | set.def_flags;
    if request.has(abi::MAP_GROWSDOWN) {
        flags |= VM_GROWSDOWN;
    }
    if request.has(abi::MAP_LOCKED) {
        set.can_lock()?;
        flags |= VM_LOCKED;
    }
    set.may_lock(flags, pages)?;
    if request.has(abi::MAP_STACK) {
        flags |= VM_NOHUGEPAGE;
    }
    if request.has(abi::MAP_NORESERVE) && honours_noreserve() {
        flags |= VM_NORESERVE;
    }
    let kind = (request.flags & u64::from(abi::MAP_TYPE)) as u32;
    match &request.object {
        Some((_, pgoff)) => file_flags(request, kind, *pgoff, pages, flags),
        None => anonymous_flags(request, kind, flags),
    }
}

fn file_flags<E: Env>(
    request: &MapRequest<E>,
    kind: u32,
    pgoff: u64,
    pages: u64,
    mut flags: u64,
) -> Result<u64, MmError> {
    let last = MAX_OBJECT_BYTES >> PAGE_SHIFT;
    if pages > last || pgoff > last - pages {
        return Err(MmError::Overflow);
    }
    match kind {
        abi::MAP_SHARED | abi::MAP_SHARED_VALIDATE => {
            if kind == abi::MAP_SHARED_VALIDATE && request.flags & !SHARED_VALIDATE_MASK != 0 {
                return Err(MmError::NotSupported);
            }
            if flags & VM_WRITE != 0 && !request.file_writable {
                return Err(MmError::AccessDenied);
            }
            flags |= VM_SHARED | VM_MAYSHARE;
            if !request.file_writable {
                flags &= !(VM_MAYWRITE | VM_SHARED);
            }
        }
        abi::MAP_PRIVATE => {}
        _ => return Err(MmError::Invalid),
    }
    if !request.file_readable {
        return Err(MmError::AccessDenied);
    }
    if flags & VM_GROWSDOWN != 0 {
        return Err(MmError::Invalid);
    }
    Ok(flags)
}

fn anonymous_flags<E: Env>(request: &MapRequest<E>, kind: u32, flags: u64) -> Result<u64, MmError> {
    match kind {
        abi::MAP_SHARED if flags & VM_GROWSDOWN != 0 => Err(MmError::Invalid),
        abi::MAP_SHARED => Ok(flags | VM_SHARED | VM_MAYSHARE),
        abi::MAP_DROPPABLE if request.has(abi::MAP_LOCKED) || flags & VM_GROWSDOWN != 0 => {
            Err(MmError::Invalid)
        }
        abi::MAP_DROPPABLE => Ok(flags | VM_DROPPABLE | VM_NORESERVE | VM_WIPEONFORK | VM_DONTDUMP),
        abi::MAP_PRIVATE => Ok(flags),
        _ => Err(MmError::Invalid),
    }
}

/// `PROT_*` as `VM_*`.
pub(super) fn prot_flags(prot: u64) -> u64 {
    // PROT_READ, PROT_WRITE and PROT_EXEC have the numbers of VM_READ, VM_WRITE and VM_EXEC.
    prot & VM_ACCESS
}

/// Pages of `[start, end)` that VMAs cover.
pub(super) fn covered_pages<E: Env>(set: &VmaSet<E>, start: u64, end: u64) -> u64 {
    set.iter_range(start, end)
        .map(|vma| (vma.rec.end.min(end) - vma.rec.start.max(start)) >> PAGE_SHIFT)
        .sum()
}
