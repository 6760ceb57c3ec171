//! madvise. What each advice demands and answers is mm/madvise.c's.
//!
//! MADV_FREE discards private pages like MADV_DONTNEED: a later read may see the old content or zeros, and here it is
//! always zeros. Advice on read-ahead and core dumps is noted in the flags and does nothing more.

use super::Mm;
use super::seal::forbids_discard;
use crate::error::MmError;
use crate::vma::*;
use crate::{Env, Object, VmaSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use ptshare_abi::sys::general as abi;
use ptshare_paging::{PAGE_BYTES, USER_END, page_ceil};

/// What to do with each VMA in the range.
enum Work {
    /// Set and clear these flags.
    Flags { set: u64, clear: u64 },
    /// Drop pages: MADV_DONTNEED, of locked memory too if `locked`.
    Discard { locked: bool },
    /// MADV_FREE.
    Free,
    /// MADV_REMOVE.
    Remove,
    /// Nothing, but not on locked memory, nor on huge pages.
    Age,
    /// Nothing.
    Nothing,
    /// MADV_POPULATE_READ, MADV_POPULATE_WRITE.
    Populate { write: bool },
}

impl<E: Env> Mm<E> {
    /// Advises on `[addr, addr + len)`.
    ///
    /// # Errors
    /// As madvise(2). `NotMapped` comes after the mapped parts have been done; another refusal stops at its VMA, with
    /// the VMAs before it done.
    pub fn madvise(&self, addr: u64, len: u64, advice: u64) -> Result<(), MmError> {
        let work = decode(advice)?;
        if !addr.is_multiple_of(PAGE_BYTES) {
            return Err(MmError::Invalid);
        }
        let rounded = page_ceil(len).ok_or(MmError::Invalid)?;
        let end = addr.checked_add(rounded).ok_or(MmError::Invalid)?;
        if end == addr {
            return Ok(());
        }
        match work {
            Work::Populate { write } => self.populate_as(addr, end, write),
            Work::Remove => self.remove(addr, end),
            Work::Flags { set, clear } => self.advise_flags(addr, end, set, clear),
            Work::Discard { locked } => {
                let allowed = |flags, _| locked || flags & (VM_LOCKED | VM_HUGETLB) != VM_LOCKED;
                self.advise_discard(addr, end, &allowed)
            }
            Work::Free => {
                let barred = VM_LOCKED | VM_HUGETLB;
                self.advise_discard(addr, end, &|flags, anonymous| anonymous && flags & barred == 0)
            }
            Work::Age => {
                let set = self.vmas.read();
                walk(&set, addr, end, &mut |vma, _, _| vma.rec.flags & (VM_LOCKED | VM_HUGETLB) == 0)
            }
            Work::Nothing => walk(&self.vmas.read(), addr, end, &mut |_, _, _| true),
        }
    }

    fn advise_flags(&self, start: u64, end: u64, set_bits: u64, clear: u64) -> Result<(), MmError> {
        let mut change = self.change();
        let mut stop = end;
        let discards = set_bits & (VM_DONTCOPY | VM_WIPEONFORK) != 0;
        let mut sealed = false;
        let result = walk(&change, start, end, &mut |vma, from, _| {
            sealed = discards && forbids_discard(vma);
            let fits = !sealed && flag_fits(vma.rec.flags, vma.object.is_some(), set_bits, clear);
            if !fits {
                stop = from;
            }
            fits
        });
        let update = |flags: u64| flags & !clear | set_bits;
        self.check_huge_cut(&change, start, stop, |flags| update(flags) != flags)?;
        for vma in change.iter_range(start, stop) {
            let (old, new) = (vma.rec.flags, update(vma.rec.flags));
            if (old ^ new) & !VM_HINTS != 0 {
                self.unshare_all(vma.rec.start.max(start), vma.rec.end.min(stop))?;
            } else if old != new && vma.has(VM_HUGETLB) {
                // A boundary inside an object's PMD page, whatever the flags say, takes it out.
                self.unshare_edges(vma.rec.start.max(start), vma.rec.end.min(stop))?;
            }
        }
        self.prepare_cuts(&change, start, stop, update)?;
        if start < stop {
            change.update_flags(start, stop, update, |_, _, _| {});
        }
        if sealed { Err(MmError::NotPermitted) } else { result }
    }

    /// Drops the pages of each VMA part for which `allowed(flags, anonymous)`.
    fn advise_discard(
        &self,
        start: u64,
        end: u64,
        allowed: &dyn Fn(u64, bool) -> bool,
    ) -> Result<(), MmError> {
        let change = self.change();
        // What is asked of the rest of a huge page is checked, and not done.
        let mut stop = self.huge_discard_end(&change, end);
        let mut sealed = false;
        let result = walk(&change, start, end, &mut |vma, from, _| {
            sealed = forbids_discard(vma);
            let cut = vma.has(VM_HUGETLB) && !vma.huge_size().is_aligned(from);
            let fits = !sealed && !cut && allowed(vma.rec.flags, vma.object.is_none());
            if !fits {
                stop = from;
            }
            fits
        });
        let stop = stop.min(USER_END);
        if start < stop && change.intersects(start, stop) {
            let held = self.hold_huge(&change, start, stop)?;
            let done = self.discard_parts(&change, start, stop);
            self.put_back_huge(held);
            done?;
        }
        if sealed { Err(MmError::NotPermitted) } else { result }
    }

    /// Drops the pages in `[start, stop)`, where something is mapped.
    fn discard_parts(&self, set: &VmaSet<E>, start: u64, stop: u64) -> Result<(), MmError> {
        // An object's page that userfaultfd has write-protected is so again when it comes back.
        let mut at = start;
        let marked = |vma: &&Vma<E>| vma.has(VM_UFFD_WP) && vma.object.is_some();
        for vma in set.iter_range(start, stop).filter(marked) {
            let (from, upto) = (vma.rec.start.max(start), vma.rec.end.min(stop));
            if at < from {
                self.discard(set, at, from)?;
            }
            self.discard_marked(from, upto)?;
            at = upto;
        }
        if at < stop {
            self.discard(set, at, stop)?;
        }
        Ok(())
    }

    /// MADV_REMOVE: punches the range out of the objects behind it.
    fn remove(&self, start: u64, end: u64) -> Result<(), MmError> {
        let mut holes: Vec<(Arc<Object<E>>, u64, u64)> = Vec::new();
        let mut refusal = None;
        let result = {
            let set = self.vmas.read();
            walk(&set, start, end, &mut |vma, from, upto| {
                let flags = vma.rec.flags;
                refusal = match &vma.object {
                    _ if flags & VM_LOCKED != 0 => Some(MmError::Invalid),
                    None => Some(MmError::Invalid),
                    Some(_) if flags & (VM_SHARED | VM_MAYWRITE) != VM_SHARED | VM_MAYWRITE => {
                        Some(MmError::AccessDenied)
                    }
                    Some(object) => {
                        let off = vma.pgoff_of(from).saturating_mul(PAGE_BYTES);
                        let room = holes.try_reserve(1);
                        if room.is_ok() {
                            holes.push((object.clone(), off, upto - from));
                        }
                        room.err().map(|_| MmError::NoMemory)
                    }
                };
                refusal.is_none()
            })
        };
        // Without `mmap_lock`: hole punching takes it for every mm that maps the object.
        for (object, off, len) in holes {
            object.punch_hole(off, len).map_err(|_| MmError::NoMemory)?;
        }
        refusal.map_or(result, Err)
    }
}

/// Calls `f(vma, from, upto)` for each VMA part in the range until it says no, which is `Invalid`; holes are `NotMapped`,
/// reported at the end.
fn walk<E: Env>(
    set: &VmaSet<E>,
    start: u64,
    end: u64,
    f: &mut dyn FnMut(&Vma<E>, u64, u64) -> bool,
) -> Result<(), MmError> {
    let mut at = start;
    let mut holes = false;
    for vma in set.iter_range(start, end) {
        holes |= vma.rec.start > at;
        let (from, upto) = (vma.rec.start.max(start), vma.rec.end.min(end));
        if !f(vma, from, upto) {
            return Err(MmError::Invalid);
        }
        at = upto;
    }
    if holes || at < end { Err(MmError::NotMapped) } else { Ok(()) }
}

/// May a VMA with these flags get this advice?
fn flag_fits(flags: u64, has_object: bool, set: u64, clear: u64) -> bool {
    if set & VM_WIPEONFORK != 0 {
        return !has_object && flags & VM_SHARED == 0;
    }
    // Droppable memory is wiped and not dumped, whatever anybody advises.
    !(flags & VM_DROPPABLE != 0 && clear & (VM_WIPEONFORK | VM_DONTDUMP) != 0)
}

fn decode(advice: u64) -> Result<Work, MmError> {
    let advice = u32::try_from(advice).map_err(|_| MmError::Invalid)?;
    let reading = VM_RAND_READ | VM_SEQ_READ;
    let flags = |set, clear| Work::Flags { set, clear };
    Ok(match advice {
        abi::MADV_NORMAL => flags(0, reading),
        abi::MADV_RANDOM => flags(VM_RAND_READ, VM_SEQ_READ),
        abi::MADV_SEQUENTIAL => flags(VM_SEQ_READ, VM_RAND_READ),
        abi::MADV_DONTFORK => flags(VM_DONTCOPY, 0),
        abi::MADV_DOFORK => flags(0, VM_DONTCOPY),
        abi::MADV_WIPEONFORK => flags(VM_WIPEONFORK, 0),
        abi::MADV_KEEPONFORK => flags(0, VM_WIPEONFORK),
        abi::MADV_DONTDUMP => flags(VM_DONTDUMP, 0),
        abi::MADV_DODUMP => flags(0, VM_DONTDUMP),
        abi::MADV_DONTNEED => Work::Discard { locked: false },
        abi::MADV_DONTNEED_LOCKED => Work::Discard { locked: true },
        abi::MADV_FREE => Work::Free,
        abi::MADV_REMOVE => Work::Remove,
        abi::MADV_COLD | abi::MADV_PAGEOUT => Work::Age,
        abi::MADV_WILLNEED => Work::Nothing,
        abi::MADV_POPULATE_READ => Work::Populate { write: false },
        abi::MADV_POPULATE_WRITE => Work::Populate { write: true },
        // As a kernel without CONFIG_KSM, CONFIG_TRANSPARENT_HUGEPAGE and CONFIG_MEMORY_FAILURE, before guard regions
        // (6.13): programs that ask for them go on without.
        _ => return Err(MmError::Invalid),
    })
}
