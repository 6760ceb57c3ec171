//! A quick check of the core's own rules, for tests. (The judge of the real guest is another crate, written apart.)

use super::{Arena, RAM_START};
use crate::hugetlb::{HUGE_FRAMES, head_state, size_of};
use crate::rmap::for_each_mapping;
use crate::share::{ObjectKey, is_object_table};
use crate::userfault::is_marker;
use crate::vma::{VM_EXEC, VM_HINTS, VM_HUGETLB, VM_READ, VM_SHARED, VM_UFFD_MISSING, VM_UFFD_WP, VM_WRITE};
use crate::{Env, Mm};
use core::sync::atomic::Ordering::Relaxed;
use ptshare_paging::{ENTRIES, Entry, Level, PAGE_BYTES, Pfn, Pte, Slot};
use ptshare_wire::frame::{
    FLAG_HEAD, FLAG_IN_CACHE, FLAG_OBJECT_PMD, FLAG_OBJECT_TABLE, FLAG_POOL_FREE, FLAG_ZEROED, FrameKind,
};
use ptshare_wire::huge::HUGE_SIZES;
use std::collections::{BTreeMap, HashMap};

/// Audits in which every frame's reverse map is checked once.
const RMAP_TURNS: u64 = 8;
/// In pages of 1 GiB one frame of so many is ever asked for.
const GIB_TURNS: u64 = 8192;
/// First address past the user half of the root.
const USER_HALF_END: u64 = 1 << 47;

#[derive(Default)]
struct Seen {
    /// Entries and roots that point to a table, and how many of them have R/W = 1.
    tables: HashMap<u64, (u32, u32)>,
    /// Leaf entries that map a frame, once a table.
    data: HashMap<u64, u32>,
}

impl Arena {
    /// Checks frames, tables, leaves, counts and the TLB. `mms` are all that exist.
    ///
    /// # Panics
    /// At the first broken rule, naming it.
    pub fn audit(&self, mms: &[&Mm<Arena>]) {
        assert_eq!(self.0.cpu.critical.load(Relaxed), 0, "a critical section was not left");
        let mut seen = Seen::default();
        for mm in mms {
            seen.tables.entry(mm.root().0).or_default().0 += 1;
            self.visit(mm.root(), Level::Pgd, &mut seen);
            let tables = self.visit_mm(mm, mm.root(), Level::Pgd, 0);
            assert_eq!(
                mm.rec().table_pages.load(Relaxed),
                tables,
                "table_pages of the mm at {:?}",
                mm.root()
            );
        }
        self.check_frames(&seen);
        for (i, pool) in self.0.header.hugetlb.iter().enumerate() {
            let promised: u64 = mms.iter().map(|mm| mm.rec().hugetlb_reserved[i].load(Relaxed)).sum();
            assert_eq!(
                pool.reserved.load(Relaxed),
                promised + pool.promised.load(Relaxed),
                "hugetlb-reservations-backed, size {i}"
            );
        }
        self.check_reverse_map(mms);
        self.assert_tlb_coherent();
    }

    fn slots(level: Level) -> usize {
        if level == Level::Pgd { ENTRIES / 2 } else { ENTRIES }
    }

    /// Visits each table once, whoever shares it.
    fn visit(&self, table: Pfn, level: Level, seen: &mut Seen) {
        let mut nonzero = 0;
        for i in 0..Self::slots(level) {
            let pte = self.load(table, Slot::new(i));
            nonzero += u32::from(pte.0 != 0);
            match pte.decode(level) {
                Entry::Absent => {}
                Entry::Marker(pte) => assert!(is_marker(pte), "an unknown marker {pte} in {table:?}"),
                Entry::NoAccess(pfn) | Entry::Leaf(pfn) => {
                    let state = self.meta(pfn).state.load(Relaxed);
                    let huge = state as u8 == FrameKind::Hugetlb as u8;
                    let leaf_level = if huge { size_of(state).level() } else { Level::Pte };
                    assert_eq!(level, leaf_level, "{pte} maps a page of another size");
                    *seen.data.entry(pfn.0).or_default() += 1;
                }
                Entry::Table(child) => {
                    let parents = seen.tables.entry(child.0).or_default();
                    parents.0 += 1;
                    parents.1 += u32::from(pte.writable());
                    if parents.0 == 1 {
                        self.visit(child, level.below().expect("not a leaf level"), seen);
                    }
                }
            }
        }
        let meta = self.meta(table);
        assert_eq!(meta.aux.load(Relaxed), nonzero, "aux-counts-entries: {table:?} at {level:?}");
        assert_eq!(
            meta.state.load(Relaxed) & 0xffff,
            FrameKind::Table as u32 | (level as u32) << 8,
            "state of {table:?}"
        );
        assert_eq!(meta.lock.load(Relaxed), 0, "lock of {table:?} still held");
    }

    /// Visits the tree as the mm sees it; gives the number of its tables.
    fn visit_mm(&self, mm: &Mm<Arena>, table: Pfn, level: Level, base: u64) -> u64 {
        let mut tables = 1;
        for i in 0..Self::slots(level) {
            let (pte, va) = (self.load(table, Slot::new(i)), base + ((i as u64) << level.shift()));
            match (pte.decode(level), level.below()) {
                (Entry::Table(child), Some(below)) => {
                    self.check_owner(mm, va, level, child);
                    if is_object_table(self, child) {
                        self.check_object_table(mm, va, pte);
                    }
                    tables += self.visit_mm(mm, child, below, va);
                }
                (Entry::Absent, _) => {}
                _ => self.check_leaf(mm, va, pte),
            }
        }
        tables
    }

    /// A table over memory whose entries a userfaultfd relies on has no other user.
    fn check_owner(&self, mm: &Mm<Arena>, va: u64, level: Level, table: Pfn) {
        if self.meta(table).refs.load(Relaxed) > 1 {
            let set = mm.vmas.read();
            let owner = set.iter_range(va, va + level.entry_bytes()).find(|vma| vma.owns_tables());
            assert!(owner.is_none(), "userfaultfd-owns-tables: {table:?} at {va:#x}");
        }
    }

    /// The entry for an object's table at `va` and the VMA there.
    fn check_object_table(&self, mm: &Mm<Arena>, va: u64, pte: Pte) {
        let (set, meta) = (mm.vmas.read(), self.meta(pte.pfn()));
        let Some(vma) = set.find(va) else { panic!("object-table-in-vma: {va:#x}") };
        let (flags, end) = (vma.rec.flags, va + Level::Pte.span_bytes());
        assert!(end <= vma.rec.end, "object-table-in-vma: {va:#x} is cut at {:#x}", vma.rec.end);
        assert!(flags & VM_SHARED != 0 || flags & VM_WRITE == 0, "object table below a writable private VMA");
        let place = (meta.a.load(Relaxed), meta.b.load(Relaxed));
        assert_eq!(place, (vma.rec.object, vma.pgoff_of(va)), "what the object table at {va:#x} maps");
        assert_eq!(pte.writable(), flags & VM_WRITE != 0, "object-shared-tables-uniform: {pte} at {va:#x}");
        let key = ObjectKey { object: place.0, pgoff: place.1, flags: flags & !(VM_HINTS | VM_UFFD_MISSING) };
        let listed = self.object_tables().lock().find(&key);
        assert_eq!(listed, Some(pte.pfn()), "the object table at {va:#x} is listed");
    }

    fn check_leaf(&self, mm: &Mm<Arena>, va: u64, pte: Pte) {
        let set = mm.vmas.read();
        let Some(vma) = set.find(va) else { panic!("leaf-in-vma: {pte} at {va:#x}") };
        let flags = vma.rec.flags;
        if pte.has(Pte::UFFD_WP) {
            assert!(flags & VM_UFFD_WP != 0 && !pte.writable(), "userfaultfd-owns-tables: {pte} at {va:#x}");
        }
        if matches!(pte.decode(Level::Pte), Entry::Marker(_)) {
            return;
        }
        let meta = self.meta(pte.pfn());
        let state = meta.state.load(Relaxed);
        let kind = FrameKind::from_u8(state as u8);
        if crate::frame::is_private(state) {
            let owner = (meta.a.load(Relaxed), meta.b.load(Relaxed));
            assert_eq!(owner, (mm.family, vma.pgoff_of(va)), "reverse-map-equals-walk: {pte} at {va:#x}");
        }
        if !pte.present() {
            return;
        }
        let accessible = flags & (VM_READ | VM_WRITE | VM_EXEC) != 0;
        let fine = accessible
            && pte.has(Pte::USER)
            && (!pte.writable() || flags & VM_WRITE != 0)
            && (pte.has(Pte::NO_EXEC) || flags & VM_EXEC != 0);
        assert!(fine, "leaf-within-vma-rights: {pte} at {va:#x}, vma flags {flags:#x}");
        let shared = flags & VM_SHARED != 0;
        let private = crate::frame::is_private(state);
        let right_kind = match kind {
            Some(FrameKind::Anon) => !shared,
            Some(FrameKind::Zero) => !pte.writable() && vma.object.is_none(),
            Some(FrameKind::Cache) => vma.object.is_some() && (shared || !pte.writable()),
            Some(FrameKind::Hugetlb) => {
                flags & VM_HUGETLB != 0
                    && vma.huge_size() == size_of(state)
                    && (shared || private || !pte.writable())
            }
            _ => false,
        };
        assert!(right_kind, "leaf at {va:#x} maps a frame of kind {kind:?}: {pte}, vma flags {flags:#x}");
        let private = crate::frame::is_private(state) && pte.writable();
        let refs = self.meta(pte.pfn()).refs.load(Relaxed);
        assert!(!private || refs == 1, "private-shared-page-is-read-only: {pte} at {va:#x} has refs {refs}");
    }

    fn check_frames(&self, seen: &Seen) {
        let range = &self.0.header.ram[0];
        let (virgin, end) = (range.virgin.load(Relaxed), range.end.load(Relaxed));
        let (mut free, mut kernel, mut tables, mut shared) = (0, 0, 0, 0);
        let mut listed = 0;
        let (mut huge, mut huge_free) = ([0; HUGE_SIZES], [0; HUGE_SIZES]);
        let mut at = RAM_START;
        while at < virgin {
            let meta = self.meta(Pfn(at));
            let (refs, state) = (meta.refs.load(Relaxed), meta.state.load(Relaxed));
            let parents = seen.tables.get(&at).copied().unwrap_or_default();
            let leaves = seen.data.get(&at).copied().unwrap_or(0);
            let kind = FrameKind::from_u8(state as u8).expect("a known kind");
            if kind != FrameKind::Table {
                assert_eq!(parents.0, 0, "an entry points to frame {at:#x} of kind {kind:?} as to a table");
            }
            match kind {
                FrameKind::Free => {
                    let pages = self.check_free(at, state, refs + leaves);
                    free += pages;
                    at += pages - 1;
                }
                FrameKind::Table => {
                    assert_eq!(refs, parents.0, "table-refs-equal-parents: {at:#x}");
                    let objects = state & FLAG_OBJECT_TABLE != 0;
                    let huge_objects = state & FLAG_OBJECT_PMD != 0;
                    listed += usize::from(objects);
                    assert!(
                        refs == 1 || parents.1 == 0 || objects || huge_objects,
                        "shared-table-is-read-only: {at:#x}"
                    );
                    let uniform = parents.1 == 0 || parents.1 == parents.0;
                    assert!(!objects || uniform, "object-shared-tables-uniform: {at:#x}");
                    tables += 1;
                    shared += u64::from(refs > 1);
                }
                FrameKind::Anon | FrameKind::Cache | FrameKind::Zero => {
                    let cached = u32::from(state & FLAG_IN_CACHE != 0);
                    let expected = leaves + cached + meta.aux.load(Relaxed);
                    assert_eq!(refs, expected, "page-refs-equal-leaves: {kind:?} {at:#x}");
                    assert!(refs > 0 || kind == FrameKind::Zero, "frame {at:#x} of kind {kind:?} is lost");
                }
                FrameKind::Kernel => kernel += 1,
                FrameKind::Hugetlb => {
                    let size = size_of(state);
                    assert_eq!(state & 0xffff, head_state(size, 0), "hugetlb page {at:#x} is of no size");
                    assert_eq!(at % size.frames(), 0, "hugetlb page {at:#x} is not aligned");
                    let cached = u32::from(state & FLAG_IN_CACHE != 0);
                    let pool_free = state & FLAG_POOL_FREE != 0;
                    let expected = leaves + cached + meta.aux.load(Relaxed);
                    assert_eq!(refs, expected, "page-refs-equal-leaves: hugetlb {at:#x}");
                    assert_eq!(pool_free, refs == 0, "hugetlb page {at:#x} has refs {refs}");
                    huge[size.index()] += 1;
                    huge_free[size.index()] += u64::from(pool_free);
                    at += size.frames() - 1;
                }
            }
            at += 1;
        }
        for at in virgin..end {
            let meta = self.meta(Pfn(at));
            let words = [&meta.refs, &meta.state, &meta.lock, &meta.aux].map(|word| word.load(Relaxed));
            assert_eq!(words, [0; 4], "virgin frame {at:#x}");
            assert!(self.is_zero(at), "virgin frame {at:#x} is not zero");
        }
        let header = &self.0.header;
        for (i, pool) in header.hugetlb.iter().enumerate() {
            assert_eq!(pool.total.load(Relaxed), huge[i], "hugetlb total, size {i}");
            assert_eq!(pool.free.load(Relaxed), huge_free[i], "hugetlb free, size {i}");
            assert!(pool.reserved.load(Relaxed) <= huge_free[i], "hugetlb reserved, size {i}");
            assert!(pool.surplus.load(Relaxed) <= huge[i], "hugetlb surplus, size {i}");
        }
        assert_eq!(header.free_frames.load(Relaxed), free, "free_frames");
        assert_eq!(self.free_frames(), free + end - virgin, "frames-add-up");
        assert_eq!(header.kernel_frames.load(Relaxed), kernel, "kernel_frames");
        assert_eq!(self.object_tables().lock().len(), listed, "objects' tables and those listed");
        assert_eq!(header.stats.tables_now.load(Relaxed), tables, "tables_now");
        assert_eq!(header.stats.tables_shared_now.load(Relaxed), shared, "tables_shared_now");
    }

    /// Compares the reverse map of every page with the walk: of some pages, others each time.
    fn check_reverse_map(&self, mms: &[&Mm<Arena>]) {
        let turn = self.0.audits.fetch_add(1, Relaxed) % RMAP_TURNS;
        let asked = |pfn: u64, frames: u64| {
            let thin = if frames > HUGE_FRAMES { GIB_TURNS } else { RMAP_TURNS };
            pfn % thin == turn
        };
        let mut walk: BTreeMap<u64, Vec<(u32, u64)>> = BTreeMap::new();
        for mm in mms {
            let _set = mm.vmas.read();
            mm.present_in(0, USER_HALF_END, &mut |va, pte| {
                // A huge page is every frame of it.
                let state = self.meta(pte.pfn()).state.load(Relaxed);
                let frames = if pte.has(Pte::HUGE) { size_of(state).frames() } else { 1 };
                for pfn in (0..frames).filter(|i| asked(pte.pfn().0 + i, frames)) {
                    let place = (mm.slot, va + pfn * PAGE_BYTES);
                    walk.entry(pte.pfn().0 + pfn).or_default().push(place);
                }
            });
        }
        let range = &self.0.header.ram[0];
        let mut frames = 1;
        for at in RAM_START..range.virgin.load(Relaxed) {
            let state = self.meta_of(Pfn(at)).state.load(Relaxed);
            match FrameKind::from_u8(state as u8) {
                Some(FrameKind::Hugetlb) => frames = size_of(state).frames(),
                Some(FrameKind::Free) if state == 0 => {}
                _ => frames = 1,
            }
            if !asked(at, frames) {
                continue;
            }
            let mut found = Vec::new();
            let result = for_each_mapping(self, Pfn(at), &mut |mm, va| found.push((mm.slot, va)));
            if result.is_ok() {
                found.sort_unstable();
                let mut expected = walk.remove(&at).unwrap_or_default();
                expected.sort_unstable();
                assert_eq!(found, expected, "reverse-map-equals-walk: frame {at:#x}");
            }
        }
        walk.remove(&self.zero_page().0);
        assert!(walk.is_empty(), "reverse-map-equals-walk: nothing said of {walk:x?}");
    }

    /// Checks a free block; gives its frames.
    fn check_free(&self, at: u64, state: u32, refs: u32) -> u64 {
        assert!(state & FLAG_HEAD != 0, "frame {at:#x} is free but on no list");
        assert_eq!(refs, 0, "free frame {at:#x} is referenced");
        let pages = 1 << (state >> 8 & 0xff);
        assert_eq!(at % pages, 0, "free block {at:#x} is not aligned");
        for inside in at + 1..at + pages {
            let meta = self.meta(Pfn(inside));
            assert_eq!(
                (meta.state.load(Relaxed), meta.refs.load(Relaxed)),
                (0, 0),
                "inside of free block {at:#x}"
            );
        }
        let zeroed = (at..at + pages).all(|pfn| self.is_zero(pfn));
        assert!(state & FLAG_ZEROED == 0 || zeroed, "free block {at:#x} is not zero");
        pages
    }

    fn is_zero(&self, pfn: u64) -> bool {
        self.page(Pfn(pfn)).is_none_or(|page| page.iter().all(|word| word.load(Relaxed) == 0))
    }

    /// What the process can see of its memory: VMAs, and the content of each page that is there.
    pub fn digest(&self, mm: &Mm<Arena>) -> BTreeMap<u64, Vec<u64>> {
        let set = mm.vmas.read();
        let mut digest = BTreeMap::new();
        for vma in set.iter() {
            digest.insert(vma.rec.start + 1, vec![vma.rec.end, vma.rec.flags, vma.rec.pgoff, vma.rec.object]);
            mm.present_in(vma.rec.start, vma.rec.end, &mut |va, pte| {
                digest.insert(va, (0..ENTRIES).map(|i| self.word(pte.pfn(), i)).collect());
            });
        }
        digest
    }
}
