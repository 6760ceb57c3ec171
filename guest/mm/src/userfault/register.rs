//! UFFDIO_REGISTER, UFFDIO_UNREGISTER, and the end of a userfaultfd.

use super::Userfault;
use crate::error::MmError;
use crate::hugetlb::HugeSize;
use crate::vma::*;
use crate::{Env, Mm, VmaSet};
use alloc::sync::Arc;
use core::ptr;
use ptshare_mutants::mutant;

/// What UFFDIO_REGISTER has registered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Registered {
    /// There are hugetlb mappings in the range, for which there is no UFFDIO_ZEROPAGE.
    pub huge: bool,
}

impl<E: Env> Userfault<E> {
    /// Registers the mappings in `[start, end)`, page-aligned user addresses, in these modes (`VM_UFFD_*`), instead of
    /// those they had.
    ///
    /// # Errors
    /// As UFFDIO_REGISTER; with `NoMemory` part of the range may be registered.
    pub fn register(self: &Arc<Self>, start: u64, end: u64, modes: u64) -> Result<Registered, MmError> {
        // ENOMEM, where other calls say ESRCH.
        let mm = self.mm().map_err(|_| MmError::NoMemory)?;
        let mut change = mm.change();
        let registered = self.check_range(&change, start, end, modes)?;
        if change.len() + 2 > MAX_MAP_COUNT {
            return Err(MmError::Limit);
        }
        let stale = |vma: &Vma<E>| !self.owns(vma) || vma.rec.flags & VM_UFFD != modes;
        for vma in change.iter_range(start, end).filter(|vma| stale(vma)) {
            if !mutant!(UFFD_REGISTER_SHARES) {
                mm.unshare_all(vma.rec.start.max(start), vma.rec.end.min(end))?;
            }
        }
        if mutant!(UFFD_MARKS_LATER) {
            drop(change);
            change = mm.change();
        }
        if modes & VM_UFFD_WP == 0 {
            mm.unmark_range(&change, start, end);
        }
        change.set_userfault(start, end, Some(self), |vma| {
            stale(vma).then_some(vma.rec.flags & !VM_UFFD | modes)
        });
        Ok(registered)
    }

    /// The checks of `userfaultfd_register` (fs/userfaultfd.c), in its order.
    fn check_range(&self, set: &VmaSet<E>, start: u64, end: u64, modes: u64) -> Result<Registered, MmError> {
        let first = set.find_at_or_after(start).filter(|vma| vma.rec.start < end).ok_or(MmError::Invalid)?;
        if first.has(VM_HUGETLB) && !HugeSize::Mib2.is_aligned(start) {
            return Err(MmError::Invalid);
        }
        let mut huge = false;
        for vma in set.iter_range(start, end) {
            if !fits(vma, modes) {
                return Err(MmError::Invalid);
            }
            // What is filled in here is written to a file's pages.
            if !vma.has(VM_MAYWRITE) {
                return Err(MmError::NotPermitted);
            }
            if vma.has(VM_HUGETLB) && end <= vma.rec.end && !HugeSize::Mib2.is_aligned(end) {
                return Err(MmError::Invalid);
            }
            if vma.uffd.as_ref().is_some_and(|other| !ptr::eq(&**other, self) && !other.is_closed()) {
                return Err(MmError::Busy);
            }
            huge |= vma.has(VM_HUGETLB);
        }
        Ok(Registered { huge })
    }

    fn owns(&self, vma: &Vma<E>) -> bool {
        vma.uffd.as_ref().is_some_and(|uffd| ptr::eq(&**uffd, self))
    }

    /// Takes back the registration of what is registered in `[start, end)`, page-aligned user addresses, and ends the wait
    /// of the faults there. The caller wakes the threads.
    ///
    /// # Errors
    /// As UFFDIO_UNREGISTER.
    pub fn unregister(&self, start: u64, end: u64) -> Result<(), MmError> {
        let mm = self.mm().map_err(|_| MmError::NoMemory)?;
        let mut change = mm.change();
        let first =
            change.find_at_or_after(start).filter(|vma| vma.rec.start < end).ok_or(MmError::Invalid)?;
        if first.has(VM_HUGETLB) && !HugeSize::Mib2.is_aligned(start) {
            return Err(MmError::Invalid);
        }
        if !change.iter_range(start, end).all(|vma| fits(vma, 0)) {
            return Err(MmError::Invalid);
        }
        mm.check_huge_cut(&change, start, end, |flags| flags & VM_UFFD != 0)?;
        if change.len() + 2 > MAX_MAP_COUNT {
            return Err(MmError::Limit);
        }
        mm.end_registration(&mut change, start, end, |_| true)?;
        drop(change);
        self.wake(start, end - start);
        Ok(())
    }
}

/// Can memory like this be registered in these modes (`vma_can_userfault`, include/linux/userfaultfd_k.h)? Memory of
/// processes, shared memory and tmpfs, and hugetlb with pages of 2 MiB; minor faults there are only where there is an object.
fn fits<E: Env>(vma: &Vma<E>, modes: u64) -> bool {
    if vma.has(VM_DROPPABLE) || vma.has(VM_HUGE_1GB) {
        return false;
    }
    match &vma.object {
        None => modes & VM_UFFD_MINOR == 0,
        Some(object) => object.is_shmem(),
    }
}

impl<E: Env> Mm<E> {
    /// Takes back the registrations in `[start, end)` that `theirs` names.
    ///
    /// # Errors
    /// `NoMemory`, with nothing changed that the process can see.
    fn end_registration(
        &self,
        set: &mut VmaSet<E>,
        start: u64,
        end: u64,
        theirs: impl Fn(&Vma<E>) -> bool,
    ) -> Result<(), MmError> {
        let ends = |vma: &Vma<E>| vma.uffd.is_some() && theirs(vma);
        for vma in set.iter_range(start, end).filter(|vma| ends(vma)) {
            self.unshare_all(vma.rec.start.max(start), vma.rec.end.min(end))?;
        }
        for vma in set.iter_range(start, end).filter(|vma| ends(vma)) {
            self.unmark(vma, vma.rec.start.max(start), vma.rec.end.min(end));
        }
        set.set_userfault(start, end, None, |vma| ends(vma).then_some(vma.rec.flags & !VM_UFFD));
        Ok(())
    }

    /// Takes off the marks of write protection in `[start, end)`, the tables of which are this mm's own.
    fn unmark_range(&self, set: &VmaSet<E>, start: u64, end: u64) {
        for vma in set.iter_range(start, end) {
            self.unmark(vma, vma.rec.start.max(start), vma.rec.end.min(end));
        }
    }

    /// For [`Userfault::close`]. A mapping for which there is no memory keeps the registration, which then has no effect.
    pub(super) fn release_userfault(&self, uffd: &Userfault<E>) {
        let mut change = self.change();
        let theirs = |vma: &Vma<E>| uffd.owns(vma);
        let mut at = 0;
        loop {
            let next = change.iter_from(at).find(|vma| theirs(vma)).map(|vma| (vma.rec.start, vma.rec.end));
            let Some((start, end)) = next else { return };
            let _ = self.end_registration(&mut change, start, end, theirs);
            at = end;
        }
    }
}
