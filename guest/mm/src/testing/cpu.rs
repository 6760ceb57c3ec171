//! Two processors that keep translations for as long as they may: until a flush, or a fault of their own at that
//! address. Every access is made by one of them, and watched by the other, as if a second thread of the process read
//! the same address just before and just after.

use super::Arena;
use crate::{Access, FaultOutcome, FlushRange, Mm};
use core::sync::atomic::Ordering::SeqCst;
use ptshare_paging::{Level, PAGE_BYTES, Pfn, Pte, page_floor};
use std::collections::HashMap;
use std::sync::MutexGuard;

/// What the processors have cached, by processor and root.
#[derive(Default)]
pub(super) struct Tlb {
    /// (CPU, root, page address) -> translation.
    leaves: HashMap<(u8, u64, u64), Cached>,
    /// (CPU, root, address of a 2 MiB span) -> PTE page and whether the entries above allow writes.
    spans: HashMap<(u8, u64, u64), (Pfn, bool)>,
    /// The CPU that makes the next access.
    turn: u8,
}

#[derive(Clone, Copy)]
struct Cached {
    pfn: Pfn,
    write: bool,
    exec: bool,
}

/// Faults in a row at one access after which the core is stuck.
const FAULTS_MAX: usize = 16;

impl Tlb {
    /// Removes what lies in `range`, of the processors and roots that `whose` names.
    pub(super) fn flush_if(&mut self, range: FlushRange, whose: impl Fn(u8, u64) -> bool) {
        let (start, end) = match range {
            FlushRange::All => (0, u64::MAX),
            FlushRange::Pages { start, end } => (start, end),
        };
        assert!(start < end && start % PAGE_BYTES == 0, "an odd range to flush: {start:#x}..{end:#x}");
        self.leaves.retain(|(cpu, owner, page), _| !whose(*cpu, *owner) || *page < start || *page >= end);
        let span = Level::Pte.span_bytes();
        self.spans.retain(|(cpu, owner, at), _| !whose(*cpu, *owner) || at + span <= start || *at >= end);
    }
}

impl Arena {
    pub(super) fn lock_tlb(&self) -> MutexGuard<'_, Tlb> {
        self.0.tlb.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Rule `flush-before-free`: frames that are being filled anew are in no TLB.
    pub(super) fn assert_not_cached(&self, first: Pfn, frames: u64) {
        let tlb = self.lock_tlb();
        let filled = |pfn: Pfn| (first.0..first.0 + frames).contains(&pfn.0);
        let stale = tlb.leaves.iter().find(|(_, cached)| filled(cached.pfn));
        if let Some(((_, root, page), cached)) = stale {
            panic!(
                "flush-before-free: frame {:#x} is reused while root {root:#x} maps {page:#x} to it",
                cached.pfn.0
            );
        }
        let table = tlb.spans.values().find(|span| filled(span.0));
        assert!(table.is_none(), "flush-before-free: table {table:?} is reused");
    }

    /// What processor `cpu` does for one access of user code, without the fault handler. `None`: page fault.
    pub fn translate(&self, cpu: u8, root: Pfn, va: u64, access: Access) -> Option<Pfn> {
        let page = page_floor(va);
        let mut tlb = self.lock_tlb();
        if let Some(hit) = tlb.leaves.get(&(cpu, root.0, page))
            && (!access.write || hit.write)
            && (!access.exec || hit.exec)
        {
            return Some(hit.pfn);
        }
        if let Some(cached) = self.walk_huge(root, va, access) {
            tlb.leaves.insert((cpu, root.0, page), cached);
            return Some(cached.pfn);
        }
        let span = Level::Pte.span_start(va);
        let walked = tlb.spans.get(&(cpu, root.0, span)).copied().or_else(|| self.walk_upper(root, va));
        let found = walked.and_then(|(table, write_above)| {
            tlb.spans.insert((cpu, root.0, span), (table, write_above));
            self.walk_leaf(table, va, write_above, access)
        });
        match found {
            Some(cached) => {
                tlb.leaves.insert((cpu, root.0, page), cached);
            }
            None => {
                tlb.leaves.remove(&(cpu, root.0, page));
                tlb.spans.remove(&(cpu, root.0, span));
            }
        }
        found.map(|cached| cached.pfn)
    }

    fn walk_upper(&self, root: Pfn, va: u64) -> Option<(Pfn, bool)> {
        let (mut table, mut write) = (root, true);
        for level in [Level::Pgd, Level::Pud, Level::Pmd] {
            let slot = level.slot(va);
            let entry = self.peek(table, slot);
            if !entry.has(Pte::PRESENT | Pte::USER) {
                return None;
            }
            self.entry(table, slot).fetch_or(Pte::ACCESSED, SeqCst);
            if entry.is_leaf(level) {
                return None;
            }
            write &= entry.writable();
            table = entry.pfn();
        }
        Some((table, write))
    }

    /// The frame of 4 KiB at `va` inside a huge page.
    fn walk_huge(&self, root: Pfn, va: u64, access: Access) -> Option<Cached> {
        let (mut table, mut write) = (root, true);
        for level in [Level::Pgd, Level::Pud, Level::Pmd] {
            let slot = level.slot(va);
            let entry = self.peek(table, slot);
            if !entry.has(Pte::PRESENT | Pte::USER) {
                return None;
            }
            write &= entry.writable();
            if !entry.is_leaf(level) {
                table = entry.pfn();
                continue;
            }
            let exec = !entry.has(Pte::NO_EXEC);
            if (access.write && !write) || (access.exec && !exec) {
                return None;
            }
            let used = Pte::ACCESSED | if access.write { Pte::DIRTY } else { 0 };
            self.entry(table, slot).fetch_or(used, SeqCst);
            let pfn = entry.pfn().add(va % level.entry_bytes() / PAGE_BYTES);
            return Some(Cached { pfn, write: access.write && write, exec });
        }
        None
    }

    fn walk_leaf(&self, table: Pfn, va: u64, write_above: bool, access: Access) -> Option<Cached> {
        let slot = Level::Pte.slot(va);
        let pte = self.peek(table, slot);
        let write = write_above && pte.writable();
        let exec = !pte.has(Pte::NO_EXEC);
        if !pte.has(Pte::PRESENT | Pte::USER) || (access.write && !write) || (access.exec && !exec) {
            return None;
        }
        let used = Pte::ACCESSED | if access.write { Pte::DIRTY } else { 0 };
        self.entry(table, slot).fetch_or(used, SeqCst);
        Some(Cached { pfn: pte.pfn(), write: access.write && write, exec })
    }

    fn next_cpu(&self) -> u8 {
        let mut tlb = self.lock_tlb();
        tlb.turn ^= 1;
        tlb.turn
    }

    /// One access of user code, with faults.
    ///
    /// # Errors
    /// How the last fault ended, if not with [`FaultOutcome::Resolved`].
    pub fn access(&self, mm: &Mm<Arena>, va: u64, access: Access) -> Result<Pfn, FaultOutcome> {
        if self.is_several() {
            return self.access_as(super::several::cpu() as u8, mm, va, access);
        }
        let cpu = self.next_cpu();
        for _ in 0..FAULTS_MAX {
            let _ = self.translate(1 - cpu, mm.root(), va, Access::READ);
            if let Some(pfn) = self.translate(cpu, mm.root(), va, access) {
                let _ = self.translate(1 - cpu, mm.root(), va, Access::READ);
                return Ok(pfn);
            }
            match mm.fault(va, access) {
                FaultOutcome::Resolved => {}
                outcome => return Err(outcome),
            }
        }
        panic!("{FAULTS_MAX} faults at {va:#x} did not resolve {access:?}");
    }

    /// [`Arena::access`] by one of several processors. Nobody gets a turn between the translation and what the caller
    /// does with it: an instruction is not interrupted.
    fn access_as(&self, cpu: u8, mm: &Mm<Arena>, va: u64, access: Access) -> Result<Pfn, FaultOutcome> {
        for _ in 0..FAULTS_MAX {
            // The interrupt that asks for a flush may come an instruction later than it was sent.
            self.answer_flushes();
            super::several::step();
            let found = self.translate(cpu, mm.root(), va, access);
            self.forget_offline(usize::from(cpu));
            if let Some(pfn) = found {
                return Ok(pfn);
            }
            match mm.fault(va, access) {
                FaultOutcome::Resolved => {}
                outcome => return Err(outcome),
            }
        }
        panic!("{FAULTS_MAX} faults at {va:#x} did not resolve {access:?}");
    }

    /// A user-mode load of the aligned word at `va`.
    ///
    /// # Errors
    /// As for [`Arena::access`].
    pub fn user_load(&self, mm: &Mm<Arena>, va: u64) -> Result<u64, FaultOutcome> {
        let pfn = self.access(mm, va, Access::READ)?;
        Ok(self.word(pfn, (va % PAGE_BYTES / 8) as usize))
    }

    /// A user-mode store to the aligned word at `va`.
    ///
    /// # Errors
    /// As for [`Arena::access`].
    pub fn user_store(&self, mm: &Mm<Arena>, va: u64, value: u64) -> Result<(), FaultOutcome> {
        let pfn = self.access(mm, va, Access::WRITE)?;
        self.page_mut(pfn)[(va % PAGE_BYTES / 8) as usize].store(value, SeqCst);
        Ok(())
    }

    /// Rule `tlb-holds-no-stale-rights`: whatever is cached, a walk would find too.
    ///
    /// # Panics
    /// If something is stale.
    pub fn assert_tlb_coherent(&self) {
        let tlb = self.lock_tlb();
        let live: Vec<u64> = self.0.mms.iter().map(|rec| rec.root.load(SeqCst)).filter(|r| *r != 0).collect();
        for ((_, root, span), (table, write)) in &tlb.spans {
            assert!(live.contains(root), "the TLB knows the dead root {root:#x}");
            let found = self.walk_upper(Pfn(*root), *span);
            let fine = found.is_some_and(|(now, w)| now == *table && (w || !*write));
            assert!(fine, "stale table for {span:#x} of root {root:#x}: {table:?} w={write}, now {found:?}");
        }
        for ((_, root, page), cached) in &tlb.leaves {
            assert!(live.contains(root), "the TLB knows the dead root {root:#x}");
            let access = Access { write: cached.write, exec: false, user: true };
            let small = || {
                let (table, write) = self.walk_upper(Pfn(*root), *page)?;
                self.walk_leaf(table, *page, write, access)
            };
            let found = self.walk_huge(Pfn(*root), *page, access).or_else(small);
            let fine = found.is_some_and(|now| now.pfn == cached.pfn && (now.exec || !cached.exec));
            assert!(fine, "stale translation of {page:#x} in root {root:#x}: {:?}", cached.pfn);
        }
    }
}
