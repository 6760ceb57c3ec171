//! The path from the root to one PTE page.

use super::TableGuard;
use super::node::{add_aux, alloc_table, lock_table};
use crate::frame::NoMemory;
use crate::{Env, Mm, Vma};
use ptshare_mutants::mutant;
use ptshare_paging::{Level, Pfn, Pte, Slot};

/// The levels above the PTE page, root first.
pub(crate) const UPPER: [Level; 3] = [Level::Pgd, Level::Pud, Level::Pmd];

/// Where the PTE page that translates an address hangs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PteSlot {
    /// The PMD page.
    pub pmd: Pfn,
    /// Its entry.
    pub pmd_slot: Slot,
    /// The PTE page that the entry points to.
    pub table: Pfn,
    /// [`Env::flush_answers`] before the walk.
    answers: u64,
}

impl PteSlot {
    /// Takes the PTE page's lock. `None` if the entry above no longer leads here, or no longer with R/W = 1 where
    /// `write` asks for that: walk again. So too if this CPU has answered a flush since the walk began, as it does while
    /// it waits for the lock: the tables that it saw may be gone. (A walk without a lock is otherwise safe because
    /// whoever frees a table waits for the answer of each CPU that may be walking through it.)
    #[inline]
    pub fn lock<'a, E: Env>(&self, env: &'a E, write: bool) -> Option<TableGuard<'a>> {
        let guard = lock_table(env, self.table, Level::Pte);
        if env.flush_answers() != self.answers && !mutant!(WALK_IGNORES_ANSWERS) {
            return None;
        }
        let above = env.load(self.pmd, self.pmd_slot);
        let same = above.present() && above.pfn() == self.table && (above.writable() || !write);
        if same { Some(guard) } else { None }
    }
}

impl<E: Env> Mm<E> {
    /// Walks to the PTE page that translates `va`, without a lock: [`PteSlot::lock`] checks again. `None` where a
    /// table is missing, or, if `write`, where an entry on the way has R/W = 0.
    #[inline]
    pub(crate) fn walk(&self, va: u64, write: bool) -> Option<PteSlot> {
        let wanted = Pte::PRESENT | if write { Pte::WRITE } else { 0 };
        let answers = self.env.flush_answers();
        let mut parent = self.root;
        let mut table = self.root;
        for level in UPPER {
            let entry = self.env.load(table, level.slot(va));
            if !entry.has(wanted) {
                return None;
            }
            parent = table;
            table = entry.pfn();
        }
        Some(PteSlot { pmd: parent, pmd_slot: Level::Pmd.slot(va), table, answers })
    }

    /// Builds what [`Mm::walk`] missed: allocates absent tables (the PTE page for a fault in `vma` may be one that other
    /// mappings of its object use), and gives the mm tables of its own ("unshares") wherever something is to change: all of
    /// the path for `write`, the tables above the PTE page otherwise.
    ///
    /// # Errors
    /// [`NoMemory`]. What was built so far stays: it changes nothing that the process can see.
    #[inline(never)]
    pub(crate) fn build_path(&self, va: u64, write: bool, vma: Option<&Vma<E>>) -> Result<PteSlot, NoMemory> {
        let _upper = self.page_table.lock();
        let mut parent = self.root;
        let mut table = self.root;
        for level in UPPER {
            let slot = level.slot(va);
            let entry = self.env.load(table, slot);
            parent = table;
            table = if !entry.present() {
                match vma {
                    Some(vma) if level == Level::Pmd && vma.object.is_some() => {
                        self.add_object_table(table, slot, vma, va)?
                    }
                    _ => self.add_table(table, slot, level)?,
                }
            } else if !entry.writable() && (write || level != Level::Pmd) {
                self.own_child(table, slot, level, va)?
            } else {
                entry.pfn()
            };
        }
        let answers = self.env.flush_answers();
        Ok(PteSlot { pmd: parent, pmd_slot: Level::Pmd.slot(va), table, answers })
    }

    /// Puts a fresh table below an absent entry of a table that this mm alone uses. `page_table_lock` is held.
    pub(crate) fn add_table(&self, parent: Pfn, slot: Slot, level: Level) -> Result<Pfn, NoMemory> {
        let Some(below) = level.below() else { return Err(NoMemory) };
        let table = alloc_table(&self.env, below)?;
        self.env.store(parent, slot, Pte::user_table(table));
        add_aux(&self.env, parent, 1);
        self.count_tables(1);
        Ok(table)
    }

    /// The frame that `va` maps to, if an access (a write, if `write`) would succeed without a fault.
    pub fn translate(&self, va: u64, write: bool) -> Option<Pfn> {
        if va >= ptshare_paging::USER_END {
            return None;
        }
        let wanted = Pte::PRESENT | if write { Pte::WRITE } else { 0 };
        let mut table = self.root;
        for level in Level::TOP_DOWN {
            let entry = self.env.load(table, level.slot(va));
            if !entry.has(wanted) {
                return None;
            }
            if entry.is_leaf(level) {
                return Some(entry.pfn().add((va & (level.entry_bytes() - 1)) >> ptshare_paging::PAGE_SHIFT));
            }
            table = entry.pfn();
        }
        None
    }
}
