//! What `/proc/PID/status`, `statm` and `smaps` tell of an address space. Resident pages are counted by looking at every
//! entry, so the numbers are exact and the calls are slow.

use super::{Mm, VmaView};
use crate::table::for_entries;
use crate::vma::*;
use crate::{Env, VmaSet};
use core::sync::atomic::Ordering::Relaxed;
use ptshare_mutants::mutant;
use ptshare_paging::{Entry, Level, PAGE_BYTES, PAGE_SHIFT, Pfn, Pte, page_ceil, page_floor};
use ptshare_wire::FrameKind;
use ptshare_wire::frame::FLAG_IN_CACHE;

/// Sizes of an address space, in pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MmUsage {
    /// VmSize: all VMAs.
    pub vm_pages: u64,
    /// VmData: private writable, stacks apart.
    pub data_pages: u64,
    /// VmStk: VMAs that grow down.
    pub stack_pages: u64,
    /// VmExe: the program's code.
    pub exe_pages: u64,
    /// VmLib: other executable VMAs.
    pub lib_pages: u64,
    /// VmLck: VMAs under mlock.
    pub locked_pages: u64,
    /// RssAnon.
    pub rss_anon: u64,
    /// RssFile.
    pub rss_file: u64,
    /// RssShmem.
    pub rss_shmem: u64,
    /// HugetlbPages; no part of the resident set.
    pub hugetlb: u64,
    /// VmPTE: tables of all levels that this mm reaches, shared ones counted too.
    pub table_pages: u64,
    /// What others have of them.
    pub shares: TableShares,
}

/// How an mm's tables are shared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TableShares {
    /// VmPTEShared: tables, in pages, that others use too: somewhere on the way down to them, themselves included, is a
    /// table with several entries that point to it.
    pub shared_pages: u64,
    /// VmPTEProp, in bytes: each table divided equally among the entries that point to it, and each of these parts among
    /// the entries that point to the table which holds that entry, and so on. Over all mms it adds up to the tables that
    /// there are.
    pub proportional: u64,
}

/// PTE pages that [`Mm::resident_estimate`] looks at.
const SAMPLE: u64 = 32;

/// Fixed-point bits of a part of a byte, so that it does not matter in which order the parts are added.
const PART_SHIFT: u32 = 20;

impl MmUsage {
    /// VmRSS.
    pub fn rss_pages(&self) -> u64 {
        self.rss_anon + self.rss_file + self.rss_shmem
    }
}

/// Numbers of one VMA in `/proc/PID/smaps`, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SmapsEntry {
    /// Rss.
    pub rss: u64,
    /// Pss: each page divided by the number of places that map it.
    pub pss: u64,
    /// Shared_Clean.
    pub shared_clean: u64,
    /// Shared_Dirty.
    pub shared_dirty: u64,
    /// Private_Clean.
    pub private_clean: u64,
    /// Private_Dirty.
    pub private_dirty: u64,
    /// Referenced: pages whose entry has the accessed bit.
    pub referenced: u64,
    /// Anonymous.
    pub anonymous: u64,
    /// Shared_Hugetlb.
    pub shared_hugetlb: u64,
    /// Private_Hugetlb.
    pub private_hugetlb: u64,
    /// Locked: the Pss of a VMA under mlock.
    pub locked: u64,
    /// PTEShared: PTE pages (PMD or PUD pages, of huge pages) with a page of this VMA that others use too.
    pub shared_tables: u64,
}

/// Letters of the VmFlags line, in the order of `show_smap_vma_flags` (fs/proc/task_mmu.c).
const LETTERS: [(u64, &str); 24] = [
    (VM_READ, "rd"),
    (VM_WRITE, "wr"),
    (VM_EXEC, "ex"),
    (VM_SHARED, "sh"),
    (VM_MAYREAD, "mr"),
    (VM_MAYWRITE, "mw"),
    (VM_MAYEXEC, "me"),
    (VM_MAYSHARE, "ms"),
    (VM_GROWSDOWN, "gd"),
    (VM_UFFD_MISSING, "um"),
    (VM_UFFD_WP, "uw"),
    (VM_LOCKED, "lo"),
    (VM_SEQ_READ, "sr"),
    (VM_RAND_READ, "rr"),
    (VM_DONTCOPY, "dc"),
    (VM_LOCKONFAULT, "lf"),
    (VM_NORESERVE, "nr"),
    (VM_HUGETLB, "ht"),
    (VM_WIPEONFORK, "wf"),
    (VM_DONTDUMP, "dd"),
    (VM_NOHUGEPAGE, "nh"),
    (VM_DROPPABLE, "dp"),
    (VM_SEALED, "sl"),
    (VM_UFFD_MINOR, "ui"),
];

/// Calls `f` with each two-letter name of the VmFlags line.
pub fn vm_flag_letters(flags: u64, f: &mut dyn FnMut(&'static str)) {
    for (_, letters) in LETTERS.iter().filter(|(bit, _)| flags & bit != 0) {
        f(letters);
    }
}

impl<E: Env> Mm<E> {
    /// Sizes of the address space.
    pub fn usage(&self) -> MmUsage {
        let set = self.vmas.read();
        let _upper = self.page_table.lock();
        let mut usage = self.sizes(&set);
        usage.shares = self.table_shares();
        for vma in set.iter() {
            let huge_frames = vma.huge_size().frames();
            let shmem = vma.object.as_ref().is_some_and(|object| object.is_shmem());
            self.present_in(vma.rec.start, vma.rec.end, &mut |_, pte| match self.kind_of(pte) {
                Some(FrameKind::Anon) => usage.rss_anon += 1,
                Some(FrameKind::Zero) if mutant!(RSS_COUNTS_ZERO_PAGE) => usage.rss_anon += 1,
                Some(FrameKind::Cache) if shmem => usage.rss_shmem += 1,
                Some(FrameKind::Cache) => usage.rss_file += 1,
                Some(FrameKind::Hugetlb) => usage.hugetlb += huge_frames,
                // The zero page does not count, as on Linux.
                _ => {}
            });
        }
        usage
    }

    /// Pages that go when this address space goes: its tables, and the filled entries of each PTE page, divided among its
    /// sharers. For the out-of-memory killer, which has no time for [`Mm::usage`].
    pub fn release_estimate(&self) -> u64 {
        let _set = self.vmas.read();
        let _upper = self.page_table.lock();
        self.rec().table_pages.load(Relaxed) + self.filled_entries()
    }

    /// About how many pages are resident: the filled entries of up to [`SAMPLE`] PTE pages, and as many for each further
    /// table in proportion. Costs no more than a look at each of those, however large the address space is.
    pub fn resident_estimate(&self) -> u64 {
        let _set = self.vmas.read();
        let _upper = self.page_table.lock();
        let (filled, looked) = self.filled_in_first(SAMPLE);
        // Upper tables count as if they were PTE pages: there is one for 512 of those.
        let further =
            if looked < SAMPLE { 0 } else { self.rec().table_pages.load(Relaxed).saturating_sub(looked) };
        filled + further * filled / looked.max(1)
    }

    /// Looks at the upper tables alone. `mmap_lock` is held.
    fn table_shares(&self) -> TableShares {
        let mut shares = TableShares::default();
        self.add_shares(self.root, Level::Pgd, PAGE_BYTES << PART_SHIFT, false, &mut shares);
        shares.proportional >>= PART_SHIFT;
        shares
    }

    /// Adds the table and those below it. `part` is what this mm has of it, in bytes with [`PART_SHIFT`].
    fn add_shares(&self, table: Pfn, level: Level, part: u64, shared: bool, shares: &mut TableShares) {
        shares.proportional += part;
        shares.shared_pages += u64::from(shared);
        let Some(below) = level.below() else { return };
        let entries = self.env.meta(table).aux.load(Relaxed);
        for_entries(&self.env, table, entries, |_, pte| {
            if let Entry::Table(child) = pte.decode(level) {
                let refs = u64::from(self.env.meta(child).refs.load(Relaxed).max(1));
                self.add_shares(child, below, part / refs, shared || refs > 1, shares);
            }
        });
    }

    /// Like [`Mm::usage`] with the resident pages left at 0: costs nothing.
    pub fn usage_sizes(&self) -> MmUsage {
        self.sizes(&self.vmas.read())
    }

    fn sizes(&self, set: &VmaSet<E>) -> MmUsage {
        let (counts, layout) = (set.counts(), &set.layout);
        // As task_mem (fs/proc/task_mmu.c) splits the executable pages.
        let code = page_ceil(layout.end_code).unwrap_or(0).saturating_sub(page_floor(layout.start_code));
        let exe = (code >> PAGE_SHIFT).min(counts.exec);
        MmUsage {
            vm_pages: counts.total,
            data_pages: counts.data,
            stack_pages: counts.stack,
            exe_pages: exe,
            lib_pages: counts.exec - exe,
            locked_pages: counts.locked,
            table_pages: self.rec().table_pages.load(Relaxed),
            ..MmUsage::default()
        }
    }

    /// Calls `f` for each VMA in order with its numbers. `mmap_lock` is held for reading: `f` must not touch user memory.
    pub fn for_each_smap(&self, f: &mut dyn FnMut(&VmaView<'_, E>, &SmapsEntry)) {
        self.for_each_smap_from(0, &mut |_| true, f);
    }

    /// Like [`Mm::for_each_smap`], from the first VMA that ends above `addr`, for as long as `goes_on` says true of the
    /// next VMA, whose pages are not looked at before.
    pub fn for_each_smap_from(
        &self,
        addr: u64,
        goes_on: &mut dyn FnMut(&VmaView<'_, E>) -> bool,
        f: &mut dyn FnMut(&VmaView<'_, E>, &SmapsEntry),
    ) {
        let set = self.vmas.read();
        for vma in set.iter_from(addr) {
            let view = VmaView::new(vma, &set.layout);
            if !goes_on(&view) {
                return;
            }
            f(&view, &self.smap(vma));
        }
    }

    fn smap(&self, vma: &Vma<E>) -> SmapsEntry {
        let _upper = self.page_table.lock();
        let mut entry = SmapsEntry::default();
        if vma.has(VM_HUGETLB) {
            self.smap_huge(vma, &mut entry);
            return entry;
        }
        // How many share the PTE page multiplies into every page below it.
        let (mut span, mut sharers) = (u64::MAX, 1);
        self.present_in(vma.rec.start, vma.rec.end, &mut |va, pte| {
            let start = Level::Pte.span_start(va);
            if start != span {
                span = start;
                sharers = self.leaf_with_sharers(va).map_or(1, |(_, _, sharers)| sharers);
                entry.shared_tables += if sharers > 1 { PAGE_BYTES } else { 0 };
            }
            self.add_page(&mut entry, pte, sharers);
        });
        if vma.has(VM_LOCKED) {
            entry.locked = entry.pss;
        }
        entry
    }

    fn smap_huge(&self, vma: &Vma<E>, entry: &mut SmapsEntry) {
        let (mut span, size) = (u64::MAX, vma.huge_size());
        let mut shared = false;
        self.present_in(vma.rec.start, vma.rec.end, &mut |va, pte| {
            let start = size.level().span_start(va);
            if start != span {
                span = start;
                shared = self.leaf_with_sharers(va).is_some_and(|(_, _, sharers)| sharers > 1);
                entry.shared_tables += if shared { PAGE_BYTES } else { 0 };
            }
            let meta = self.env.meta(pte.pfn());
            let cached = u32::from(meta.state.load(Relaxed) & FLAG_IN_CACHE != 0);
            if shared || meta.refs.load(Relaxed) > 1 + cached {
                entry.shared_hugetlb += size.bytes();
            } else {
                entry.private_hugetlb += size.bytes();
            }
        });
    }

    /// [`Mm::leaf_at`], with the ways from roots to the leaf's table as far as they can be seen from here: the product of
    /// the counts on this mm's way down.
    pub(super) fn leaf_with_sharers(&self, va: u64) -> Option<(Level, Pte, u64)> {
        let mut sharers = 1;
        let (level, pte) = self.leaf_through(va, &mut |table| {
            sharers *= u64::from(self.env.meta(table).refs.load(Relaxed).max(1));
        })?;
        Some((level, pte, sharers))
    }

    fn add_page(&self, entry: &mut SmapsEntry, pte: Pte, sharers: u64) {
        let kind = self.kind_of(pte);
        if !matches!(kind, Some(FrameKind::Anon | FrameKind::Cache)) {
            return;
        }
        let meta = self.env.meta(pte.pfn());
        let cached = meta.state.load(Relaxed) & FLAG_IN_CACHE != 0;
        let held = u64::from(meta.aux.load(Relaxed)) + u64::from(cached);
        let leaves = u64::from(meta.refs.load(Relaxed)).saturating_sub(held).max(1);
        // The other leaves' tables may be shared too; this one's sharers are what can be seen from here.
        let maps = leaves - 1 + sharers.max(1);
        entry.rss += PAGE_BYTES;
        entry.pss += PAGE_BYTES / maps;
        let dirty = pte.has(Pte::DIRTY) || kind == Some(FrameKind::Anon);
        *match (maps > 1, dirty) {
            (true, false) => &mut entry.shared_clean,
            (true, true) => &mut entry.shared_dirty,
            (false, false) => &mut entry.private_clean,
            (false, true) => &mut entry.private_dirty,
        } += PAGE_BYTES;
        if pte.has(Pte::ACCESSED) {
            entry.referenced += PAGE_BYTES;
        }
        if kind == Some(FrameKind::Anon) {
            entry.anonymous += PAGE_BYTES;
        }
    }

    fn kind_of(&self, pte: Pte) -> Option<FrameKind> {
        match pte.decode(Level::Pte) {
            Entry::Leaf(pfn) | Entry::NoAccess(pfn) => {
                FrameKind::from_u8(self.env.meta(pfn).state.load(Relaxed) as u8)
            }
            Entry::Absent | Entry::Marker(_) | Entry::Table(_) => None,
        }
    }
}
