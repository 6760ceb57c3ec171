//! Rights of leaves, from the VMA's flags.

use super::node::{Entries, Item, holds_frame, lock_table};
use crate::frame::{is_kind, is_private};
use crate::hugetlb::is_huge;
use crate::{Env, FlushBatch, Mm};
use core::sync::atomic::Ordering::Relaxed;
use ptshare_mutants::mutant;
use ptshare_paging::{Entry, Level, Pfn, Pte};
use ptshare_wire::frame::FrameKind;
use ptshare_wire::vma::{VM_EXEC, VM_READ, VM_SHARED, VM_WRITE};

/// Bits that an mprotect or a fault may change in a leaf.
const RIGHTS: u64 = Pte::PRESENT | Pte::WRITE | Pte::USER | Pte::NO_EXEC | Pte::PROT_NONE;

/// The flag bits of a leaf in a VMA with these flags, R/W = 0 still: [`Pte::PROT_NONE`] alone where nothing is allowed.
#[inline]
pub(crate) const fn leaf_flags(vm_flags: u64) -> u64 {
    if vm_flags & (VM_READ | VM_WRITE | VM_EXEC) == 0 {
        Pte::PROT_NONE
    } else if vm_flags & VM_EXEC == 0 {
        Pte::PRESENT | Pte::USER | Pte::NO_EXEC
    } else {
        Pte::PRESENT | Pte::USER
    }
}

/// The leaf `pte` with the rights that a VMA with these flags gives. R/W only where a write needs nothing else:
/// an object's page in a shared mapping, or a private page with no other reference (rule `private-shared-page-is-
/// read-only`); what is left out, a write fault grants.
pub(crate) fn leaf_with_rights<E: Env>(env: &E, pte: Pte, vm_flags: u64) -> Pte {
    let meta = env.meta(pte.pfn());
    let state = meta.state.load(Relaxed);
    let mut flags = leaf_flags(vm_flags);
    let writable = vm_flags & VM_WRITE != 0
        && !pte.has(Pte::UFFD_WP)
        && if is_private(state) {
            meta.refs.load(Relaxed) == 1 || mutant!(MPROTECT_GRANTS_SHARED_PAGE)
        } else {
            vm_flags & VM_SHARED != 0 && !is_kind(state, FrameKind::Zero)
        };
    if writable {
        flags |= Pte::WRITE;
    }
    pte.without(RIGHTS).with(flags)
}

/// Does `new` take a right away that `old` gave?
#[inline]
pub(crate) const fn takes_rights(old: Pte, new: Pte) -> bool {
    let lost = old.0 & !new.0 & (Pte::PRESENT | Pte::WRITE | Pte::USER);
    old.present() && (lost != 0 || (new.has(Pte::NO_EXEC) && !old.has(Pte::NO_EXEC)))
}

impl<E: Env> Mm<E> {
    /// Gives every leaf of `[start, end)` the rights of `vm_flags`. The caller has unshared all tables of the range
    /// ([`Mm::unshare_all`]) and holds `mmap_lock` for write.
    pub(crate) fn protect(&self, start: u64, end: u64, vm_flags: u64, batch: &mut FlushBatch<'_, E>) {
        if start < end {
            let _upper = self.page_table.lock();
            self.protect_table(self.root, Level::Pgd, (start, end), vm_flags, batch);
        }
    }

    fn protect_table(
        &self,
        table: Pfn,
        level: Level,
        (start, end): (u64, u64),
        vm_flags: u64,
        batch: &mut FlushBatch<'_, E>,
    ) {
        if let Some(below) = level.below() {
            for item in Entries::new(&self.env, table, level, start, end) {
                if is_huge(item.pte) {
                    let _guard = lock_table(&self.env, table, level);
                    if holds_frame(item.pte) {
                        self.protect_leaf(table, &item, vm_flags, batch);
                    }
                    continue;
                }
                debug_assert!(item.pte.writable(), "unshare-before-change: {:#x} at {level:?}", item.start);
                self.protect_table(item.pte.pfn(), below, (item.start, item.end), vm_flags, batch);
            }
            return;
        }
        let _guard = lock_table(&self.env, table, Level::Pte);
        for item in Entries::new(&self.env, table, level, start, end) {
            if matches!(item.pte.decode(level), Entry::Leaf(_) | Entry::NoAccess(_)) {
                self.protect_leaf(table, &item, vm_flags, batch);
            }
        }
    }

    #[inline]
    fn protect_leaf(&self, table: Pfn, item: &Item, vm_flags: u64, batch: &mut FlushBatch<'_, E>) {
        let mut new = leaf_with_rights(&self.env, item.pte, vm_flags);
        if mutant!(MPROTECT_LEAVES_WRITE) && new.present() {
            new = new.with(item.pte.0 & Pte::WRITE);
        }
        if mutant!(MPROTECT_LOSES_NX) {
            new = new.without(Pte::NO_EXEC);
        }
        if mutant!(MPROTECT_LOSES_USER) {
            new = new.without(Pte::USER);
        }
        if mutant!(PROT_NONE_STAYS_PRESENT) && item.pte.present() {
            new = new.without(Pte::PROT_NONE).with(Pte::PRESENT | Pte::USER);
        }
        if new == item.pte {
            return;
        }
        let old = self.env.swap(table, item.slot, new);
        // The processor may have set A or D since the load: keep them.
        let late = old.0 & !new.0 & (Pte::ACCESSED | Pte::DIRTY);
        if late != 0 {
            self.env.swap(table, item.slot, new.with(late));
        }
        if takes_rights(old, new) && !mutant!(MPROTECT_FLUSH_SKIPPED) {
            batch.touch(item.start, item.end);
        }
    }
}
