//! Which fault becomes a message (Linux: the callers of `handle_userfault`, fs/userfaultfd.c).
//!
//! | mode | memory | fault |
//! |---|---|---|
//! | missing | anonymous, private hugetlb | no entry |
//! | missing | of an object | no entry, and the object has no such page |
//! | minor | of an object | no entry, and the object has the page |
//! | wp | all | a write to an entry with `Pte::UFFD_WP` |

use super::{Ticket, is_marker};
use crate::space::{Access, FaultOutcome};
use crate::table::{leaf_with_rights, sub_aux};
use crate::vma::{VM_UFFD_MINOR, VM_UFFD_MISSING, VM_UFFD_WP, VM_WRITE};
use crate::{Env, Mm, ObjectError, Vma};
use ptshare_abi::sys::general as abi;
use ptshare_paging::{Pfn, Pte, Slot, page_floor};

/// An address, and the page that it lies in.
#[derive(Clone, Copy)]
pub(crate) struct Spot {
    pub addr: u64,
    pub page: u64,
}

impl<E: Env> Mm<E> {
    /// Fills an entry that holds no page, in a registered VMA, unless user mode is to do that. The lock of `table` is held.
    ///
    /// # Errors
    /// `Userfault` when it is; otherwise as for any fault.
    #[inline(never)]
    pub(crate) fn fill_registered(
        &self,
        vma: &Vma<E>,
        addr: u64,
        access: Access,
        (table, slot): (Pfn, Slot),
    ) -> Result<(), FaultOutcome> {
        let spot = Spot { addr, page: page_floor(addr) };
        self.report_absent(vma, spot, access)?;
        if !is_marker(self.env.load(table, slot)) {
            return self.fill(vma, spot.page, access, table, slot);
        }
        // Filled in as if for reading, and without R/W for a moment either: the write faults again, and is reported then.
        let mut protected = vma.clone();
        protected.rec.flags &= !VM_WRITE;
        self.fill(&protected, spot.page, Access { write: false, ..access }, table, slot)?;
        sub_aux(&self.env, table, 1);
        let leaf = self.env.load(table, slot);
        self.env.swap(table, slot, leaf.with(Pte::UFFD_WP));
        Ok(())
    }

    /// Reports a fault on an entry that holds no page.
    ///
    /// # Errors
    /// What the fault comes to, if user mode is to resolve it, or the page lies beyond the end of its object.
    pub(crate) fn report_absent(&self, vma: &Vma<E>, spot: Spot, access: Access) -> Result<(), FaultOutcome> {
        let Some(uffd) = &vma.uffd else { return Ok(()) };
        let there = match &vma.object {
            None => false,
            Some(object) => match object.has_page(vma.pgoff_of(spot.page)) {
                Ok(there) => there,
                Err(ObjectError::BeyondEnd) => return Err(FaultOutcome::BusAdrErr),
                Err(ObjectError::NoMemory) => return Err(FaultOutcome::OutOfMemory),
            },
        };
        let (mode, mut flags) =
            if there { (VM_UFFD_MINOR, abi::UFFD_PAGEFAULT_FLAG_MINOR) } else { (VM_UFFD_MISSING, 0) };
        if !vma.has(mode) {
            return Ok(());
        }
        if access.write {
            flags |= abi::UFFD_PAGEFAULT_FLAG_WRITE;
        }
        match uffd.post(spot.addr, spot.page, flags, access.user) {
            Some(outcome) => Err(outcome),
            None => Ok(()),
        }
    }

    /// A fault on an entry with [`Pte::UFFD_WP`]. Gives the entry if the fault goes on as any other: with the mark
    /// taken off where nobody listens to it. The lock of `table`, at whatever level, is held.
    ///
    /// # Errors
    /// What the fault comes to, if user mode is to resolve it.
    pub(crate) fn report_protected(
        &self,
        vma: &Vma<E>,
        spot: Spot,
        access: Access,
        (table, slot): (Pfn, Slot),
        pte: Pte,
    ) -> Result<Pte, FaultOutcome> {
        if !access.write || !pte.present() {
            return Ok(pte);
        }
        let flags = abi::UFFD_PAGEFAULT_FLAG_WP | abi::UFFD_PAGEFAULT_FLAG_WRITE;
        if vma.has(VM_UFFD_WP)
            && let Some(uffd) = &vma.uffd
            && let Some(outcome) = uffd.post(spot.addr, spot.page, flags, access.user)
        {
            return Err(outcome);
        }
        let plain = leaf_with_rights(&self.env, pte.without(Pte::UFFD_WP), vma.rec.flags);
        self.env.swap(table, slot, plain);
        Ok(plain)
    }
}

impl<E: Env> Mm<E> {
    /// Takes back the message of a fault at `addr` that nobody will wait for.
    pub(crate) fn forget_userfault(&self, addr: u64, ticket: Ticket) {
        let set = self.vmas.read();
        let uffd = set.find(addr).and_then(|vma| vma.uffd.as_ref());
        if let Some(uffd) = uffd.filter(|uffd| uffd.id() == ticket.context) {
            uffd.withdraw(ticket.number);
        }
    }
}
