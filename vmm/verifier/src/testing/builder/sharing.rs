//! Sharing in the image: objects' tables, fork, unsharing, copies on write.

use super::*;

impl Builder {
    /// Lets `user` point at the PTE page that `owner` has over `at`, over its own address `va`; R/W = 1 in both.
    pub fn share_object_table(&mut self, owner: MmIndex, at: u64, user: MmIndex, va: u64) {
        let shared = self.table(owner, at, Level::Pte);
        let above = self.table(owner, at, Level::Pmd);
        let entry = self.load(above, Level::Pmd.slot(at));
        let pmd = self.table(user, va, Level::Pmd);
        self.store(pmd, Level::Pmd.slot(va), entry);
        self.meta(shared, |m| m.refs += 1);
        self.spaces[user.0].table_pages += 1;
    }

    /// Makes the PTE page of `mm` over `va` its object's: that of the VMA there, whose rights decide on R/W above.
    pub fn own_by_object(&mut self, mm: MmIndex, va: u64) {
        let table = self.table(mm, va, Level::Pte);
        let pmd = self.table(mm, va, Level::Pmd);
        let vma = self.spaces[mm.0].vmas.iter().find(|v| v.start <= va && va < v.end);
        let vma = *vma.expect("a VMA over the table");
        self.meta(table, |m| {
            m.state |= FLAG_OBJECT_TABLE;
            (m.a, m.b) = (vma.object, vma.pgoff + ((va - vma.start) >> 12));
        });
        if vma.flags & VM_WRITE == 0 {
            self.store(pmd, Level::Pmd.slot(va), Pte::user_table(Pfn(table)).without(Pte::WRITE));
        }
    }

    /// Forks `parent`: upper tables are copied, PTE pages shared with R/W = 0 in both PMD entries.
    pub fn fork(&mut self, parent: MmIndex, pid: u64) -> MmIndex {
        let child = self.mm(pid);
        self.spaces[child.0].family = self.spaces[parent.0].family;
        self.spaces[child.0].vmas = self.spaces[parent.0].vmas.clone();
        let root = self.spaces[parent.0].root;
        self.fork_table(root, Level::Pgd, 0, child);
        child
    }

    fn fork_table(&mut self, table: u64, level: Level, base: u64, child: MmIndex) {
        let slots = if level == Level::Pgd { KERNEL_HALF_SLOT } else { 512 };
        for slot in (0..slots).map(Slot::new) {
            let pte = self.load(table, slot);
            let va = base + ((slot.index() as u64) << level.shift());
            if !pte.present() {
                continue;
            }
            let own = self.table(child, va, level);
            if pte.is_leaf(level) {
                self.store(own, slot, pte);
                self.meta(pte.pfn().0, |m| m.refs += 1);
            } else if level == Level::Pmd {
                let read_only = pte.without(Pte::WRITE);
                self.store(table, slot, read_only);
                self.store(own, slot, read_only);
                self.meta(pte.pfn().0, |m| m.refs += 1);
                self.spaces[child.0].table_pages += 1;
            } else if let Some(below) = level.below() {
                self.fork_table(pte.pfn().0, below, va, child);
            }
        }
    }

    /// Gives `mm` a PTE page of its own over `va` in place of a shared one.
    pub fn unshare(&mut self, mm: MmIndex, va: u64) {
        let pmd = self.table(mm, va, Level::Pmd);
        let old = self.table(mm, va, Level::Pte);
        let new = self.new_table(Level::Pte);
        let base = Level::Pte.span_start(va);
        for slot in (0..512).map(Slot::new) {
            let at = base + slot.index() as u64 * PAGE_BYTES;
            let mut pte = self.load(old, slot);
            if pte.0 == 0 {
                continue;
            }
            if !self.spaces[mm.0].vmas.iter().any(|v| v.start <= at && at < v.end && v.flags & VM_SHARED != 0)
            {
                pte = pte.without(Pte::WRITE);
                self.store(old, slot, pte);
            }
            self.store(new, slot, pte);
            self.meta(pte.pfn().0, |m| m.refs += 1);
        }
        self.meta(old, |m| m.refs -= 1);
        self.store(pmd, Level::Pmd.slot(va), Pte::user_table(Pfn(new)));
    }

    /// Answers a write to the page at `va`: a copy with R/W = 1 in an unshared table.
    pub fn cow(&mut self, mm: MmIndex, va: u64) {
        let table = self.table(mm, va, Level::Pte);
        let old = self.load(table, Level::Pte.slot(va));
        let copy = self.private_frame(mm, va);
        self.meta(old.pfn().0, |m| m.refs -= 1);
        let flags = old.0 & !Pte::ADDR | Pte::WRITE | Pte::DIRTY;
        self.store(table, Level::Pte.slot(va), Pte::new(Pfn(copy), flags));
        self.meta(copy, |m| m.refs += 1);
    }

    /// The frame that `mm` maps at `va` with a small leaf.
    pub fn frame_at(&mut self, mm: MmIndex, va: u64) -> u64 {
        let table = self.table(mm, va, Level::Pte);
        self.load(table, Level::Pte.slot(va)).pfn().0
    }
}
