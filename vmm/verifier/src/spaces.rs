//! The second walk: every address space path by path, with the rights that the path grants and the VMA that covers each
//! leaf.
//!
//! A table with one parent is met once. A shared table is met once for each sharer; what its subtree showed under the
//! same rights, at the same address, in front of the same VMAs holds for the next sharer too, so a subtree found clean is
//! not walked again ([`Shared::clean`]). That keeps the cost of verifying n forked processes at one walk, not n. An object's
//! table may lie at any address: what it shows depends on its place in the object alone.

use std::collections::HashSet;

use ptshare_paging::{ENTRIES, Entry, Level, Pte};
use ptshare_wire::VmaRec;
use ptshare_wire::vma::{
    VM_EXEC, VM_GROWSDOWN, VM_HUGE_1GB, VM_HUGETLB, VM_MAYEXEC, VM_MAYREAD, VM_MAYSHARE, VM_MAYWRITE,
    VM_READ, VM_SHARED, VM_WRITE,
};

use crate::census::Mm;
use crate::frames::Frames;
use crate::graph::{At, Graph, each_nonzero, user_slots};
use crate::report::Sink;
use crate::rules::{
    census_is_sound, cow_shared_closed_for_later, cow_shared_entries_read_only, file_page_at_its_offset,
    file_page_not_writable_privately, frame_fits_vma, hugetlb_pmd_fits_object, mapped_file_page_in_cache,
    mm_table_pages, no_entry_outside_vma, object_shared_tables_uniform, object_table_keeps_place,
    object_table_spans_one_vma, private_page_shared_not_writable, prot_none_closed, reverse_map_equals_walk,
    rights_within_vma, sharers_agree, sharers_at_one_address, table_once_in_mm, userfaultfd_owns_tables,
    zero_page_not_writable,
};
use crate::view::PhysView;

/// What a path allows so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Rights {
    /// P set at every level.
    pub(crate) access: bool,
    /// R/W set at every level.
    pub(crate) write: bool,
    /// XD set at no level.
    pub(crate) exec: bool,
}

impl Rights {
    /// Before the root: whatever the entries leave.
    const ALL: Rights = Rights { access: true, write: true, exec: true };
    /// A page held without access.
    const NONE: Rights = Rights { access: false, write: false, exec: false };

    /// After one more entry. SDM 3A, "Determination of Access Rights".
    fn through(self, pte: Pte) -> Rights {
        Rights { write: self.write && pte.writable(), exec: self.exec && !pte.has(Pte::NO_EXEC), ..self }
    }
}

/// A VMA, or the part of it that a table's span covers, relative to the span. Neighbours that one VMA could be are one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Clip {
    /// First byte from the start of the span.
    pub(crate) start: u64,
    /// First byte after it.
    pub(crate) end: u64,
    /// Those of [`TABLE_FLAGS`].
    pub(crate) flags: u64,
    /// Page of the object at `start`; of anonymous memory, the index that the reverse map goes by.
    pub(crate) pgoff: u64,
    pub(crate) object: u64,
}

/// Flags that decide what a fault puts into a table, what a leaf may allow, and what a later mprotect may make of it.
/// Sharers may differ in the rest: hints, and VM_LOCKED, which fork does not hand on (mlock(2)).
const TABLE_FLAGS: u64 = VM_READ
    | VM_WRITE
    | VM_EXEC
    | VM_SHARED
    | VM_MAYREAD
    | VM_MAYWRITE
    | VM_MAYEXEC
    | VM_MAYSHARE
    | VM_GROWSDOWN
    | VM_HUGETLB
    | VM_HUGE_1GB;

/// The VMAs over `[base, base + span)`. `vmas` are in order.
pub(crate) fn clip(vmas: &[VmaRec], base: u64, span: u64) -> Vec<Clip> {
    Clips::new(vmas, base, span).collect()
}

/// Are these the VMAs over `[base, base + span)`? [`clip`] without a list.
fn same(vmas: &[VmaRec], base: u64, span: u64, clips: &[Clip]) -> bool {
    Clips::new(vmas, base, span).eq(clips.iter().cloned())
}

/// [`clip`], one at a time.
struct Clips<'a> {
    vmas: std::slice::Iter<'a, VmaRec>,
    base: u64,
    end: u64,
    pending: Option<Clip>,
}

impl<'a> Clips<'a> {
    fn new(vmas: &'a [VmaRec], base: u64, span: u64) -> Clips<'a> {
        let first = vmas.partition_point(|v| v.end <= base);
        let vmas = vmas.get(first..).unwrap_or_default().iter();
        let mut clips = Clips { vmas, base, end: base + span, pending: None };
        clips.pending = clips.one();
        clips
    }

    /// The part of the next VMA.
    fn one(&mut self) -> Option<Clip> {
        let vma = self.vmas.next().filter(|v| v.start < self.end)?;
        let start = vma.start.max(self.base);
        Some(Clip {
            start: start - self.base,
            end: vma.end.min(self.end) - self.base,
            flags: vma.flags & TABLE_FLAGS,
            pgoff: vma.pgoff.wrapping_add((start - vma.start) >> 12),
            object: vma.object,
        })
    }
}

impl Iterator for Clips<'_> {
    type Item = Clip;

    fn next(&mut self) -> Option<Clip> {
        let mut clip = self.pending.take()?;
        while let Some(next) = self.one() {
            let joins = clip.end == next.start
                && clip.flags == next.flags
                && clip.object == next.object
                && clip.pgoff.wrapping_add((clip.end - clip.start) >> 12) == next.pgoff;
            if !joins {
                self.pending = Some(next);
                break;
            }
            clip.end = next.end;
        }
        Some(clip)
    }
}

/// What the first sharer of a table showed.
pub(crate) struct Shared {
    /// Index of that mm.
    pub(crate) mm: u32,
    /// Where the table lies in it.
    pub(crate) base: u64,
    /// Its VMAs over the span.
    pub(crate) clips: Vec<Clip>,
    /// Rights under which the subtree was found clean in an mm of a family, with the number of tables in it.
    clean: Vec<((Rights, u64), u64)>,
}

/// The walk.
pub(crate) struct Walker<'a> {
    pub(crate) view: &'a dyn PhysView,
    pub(crate) mms: &'a [Mm],
    pub(crate) frames: &'a Frames,
    pub(crate) graph: &'a Graph,
    pub(crate) sink: &'a mut Sink,
    phys_mask: u64,
    budget: &'a mut u64,
    entries_walked: u64,
    shared: Vec<Option<Shared>>,
    /// Tables of objects judged already.
    objects_seen: HashSet<u32>,
    /// For each table, the mm (index + 1) that met it last.
    met_by: Vec<u32>,
}

impl<'a> Walker<'a> {
    /// A walk over everything in `graph`.
    pub(crate) fn new(
        view: &'a dyn PhysView,
        mms: &'a [Mm],
        frames: &'a Frames,
        graph: &'a Graph,
        sink: &'a mut Sink,
        phys_mask: u64,
        budget: &'a mut u64,
    ) -> Walker<'a> {
        Walker {
            view,
            mms,
            frames,
            graph,
            sink,
            phys_mask,
            budget,
            entries_walked: 0,
            shared: std::iter::repeat_with(|| None).take(graph.tables.len()).collect(),
            objects_seen: HashSet::new(),
            met_by: vec![0; graph.tables.len()],
        }
    }

    /// Walks every mm; gives the number of entries looked at.
    pub(crate) fn run(mut self) -> u64 {
        for (i, mm) in self.mms.iter().enumerate() {
            let Some(root) = self.graph.index_of(self.frames, mm.root) else { continue };
            match self.table(i as u32, root, Level::Pgd, 0, Rights::ALL) {
                Some(tables) => mm_table_pages::mm(mm, tables, self.sink),
                None => return self.entries_walked,
            }
        }
        self.entries_walked
    }

    /// Walks the table `index` of mm `m`, which translates from `base` on with `rights`, and gives the number of tables
    /// in the subtree. `None` once the budget is spent. Depth at most 4.
    fn table(&mut self, m: u32, index: u32, level: Level, base: u64, rights: Rights) -> Option<u64> {
        let (Some(table), Some(mm)) = (self.graph.tables.get(index as usize), self.mms.get(m as usize))
        else {
            return Some(0);
        };
        // A table met at a level that is not its own was reported when the graph was made.
        if table.level != level {
            return Some(0);
        }
        if let Some(met) = self.met_by.get_mut(index as usize) {
            let by = std::mem::replace(met, m + 1);
            // Two VMAs may show the same part of an object, or a subtree that does be met twice.
            if by == m + 1 && !table.anywhere {
                table_once_in_mm::again(At { mm: mm.id, va: base, level }, table, self.sink);
                return Some(0);
            }
        }
        // One for the visit; a scan costs a table's worth more.
        self.spend(1, mm)?;
        let before = self.sink.total();
        let shared = table.parents > 1 && mm.vmas_sound && level != Level::Pgd;
        let agrees = shared && self.meet_sharers(m, index, level, base);
        if agrees
            && !self.graph.aliased
            && let Some(seen) = self.shared.get(index as usize).and_then(Option::as_ref)
            && let Some((_, tables)) = seen.clean.iter().find(|(key, _)| *key == (rights, mm.family))
        {
            return Some(*tables);
        }
        self.spend(ENTRIES as u64, mm)?;
        let tables = self.entries(m, index, level, base, rights)?;
        if agrees
            && self.sink.total() == before
            && let Some(seen) = self.shared.get_mut(index as usize).and_then(Option::as_mut)
        {
            seen.clean.push(((rights, mm.family), tables));
        }
        Some(tables)
    }

    /// Takes from the budget; `None`, with a finding, once it does not suffice.
    fn spend(&mut self, entries: u64, mm: &Mm) -> Option<()> {
        match self.budget.checked_sub(entries) {
            Some(left) => *self.budget = left,
            None => {
                census_is_sound::budget(mm.id, self.sink);
                return None;
            }
        }
        Some(())
    }

    /// Compares this mm's view of a shared table with the first sharer's; true if there is nothing between them.
    fn meet_sharers(&mut self, m: u32, index: u32, level: Level, base: u64) -> bool {
        let Some(mm) = self.mms.get(m as usize) else { return false };
        if let Some(table) = self.graph.tables.get(index as usize) {
            let at = At { mm: mm.id, va: base, level };
            userfaultfd_owns_tables::shared(at, table, &mm.vmas, level.span_bytes(), self.sink);
        }
        let Some(first) = self.shared.get_mut(index as usize) else { return false };
        match first {
            None => {
                let clips = clip_of(mm, level, base);
                *first = Some(Shared { mm: m, base, clips, clean: Vec::new() });
                true
            }
            Some(first) if first.base == base && same(&mm.vmas, base, level.span_bytes(), &first.clips) => {
                true
            }
            Some(first) => {
                let clips = clip_of(mm, level, base);
                let with = self.mms.get(first.mm as usize).map(|mm| mm.id);
                let before = self.sink.total();
                let Some(table) = self.graph.tables.get(index as usize) else { return false };
                let at = At { mm: mm.id, va: base, level };
                if first.base == base || table.anywhere || hugetlb_pmd_fits_object::shared(&clips) {
                    sharers_agree::table(at, table, &clips, first, with, self.sink);
                } else {
                    sharers_at_one_address::table(at, table, first.base, with, self.sink);
                }
                self.sink.total() == before && (first.base == base || table.anywhere)
            }
        }
    }

    /// The entries of a table: leaves are judged, tables below are walked.
    fn entries(&mut self, m: u32, index: u32, level: Level, base: u64, rights: Rights) -> Option<u64> {
        let (Some(table), Some(mm)) = (self.graph.tables.get(index as usize), self.mms.get(m as usize))
        else {
            return Some(0);
        };
        let mut page = [0; ENTRIES];
        if !table.walked || !self.view.read_page(table.pfn, &mut page) {
            return Some(1);
        }
        let slots = user_slots(level);
        self.entries_walked += slots as u64;
        let mut cursor = mm.vmas.partition_point(|v| v.end <= base);
        let mut tables = 1;
        let mut spent = false;
        each_nonzero(&page, slots, |slot, raw| {
            let pte = Pte(raw & !(Pte::ADDR & !self.phys_mask));
            let at = At { mm: mm.id, va: base + ((slot as u64) << level.shift()), level };
            match pte.decode(level) {
                Entry::Absent => {}
                Entry::Marker(_) if mm.vmas_sound => {
                    let vma = mm.vmas.get(mm.vmas.partition_point(|v| v.end <= at.va));
                    userfaultfd_owns_tables::entry(at, raw, vma, self.sink);
                }
                Entry::Marker(_) => {}
                Entry::Table(pfn) => {
                    let below = level.below().zip(self.graph.index_of(self.frames, pfn.0));
                    let Some((below, child)) = below.filter(|_| !spent) else { return };
                    self.pointer(m, child, below, at, raw);
                    match self.table(m, child, below, at.va, rights.through(pte)) {
                        Some(n) => tables += n,
                        None => spent = true,
                    }
                }
                Entry::Leaf(pfn) | Entry::NoAccess(pfn) if mm.vmas_sound => {
                    while mm.vmas.get(cursor).is_some_and(|v| v.end <= at.va) {
                        cursor += 1;
                    }
                    let rights = if pte.present() { rights.through(pte) } else { Rights::NONE };
                    userfaultfd_owns_tables::entry(at, raw, mm.vmas.get(cursor), self.sink);
                    self.leaf(mm, cursor, at, raw, (pfn.0, !table.anywhere), rights);
                    if table.object
                        && let Some(frame) = self.frames.get(pfn.0)
                    {
                        object_shared_tables_uniform::leaf(at, raw, pfn.0, frame, self.sink);
                    }
                }
                Entry::Leaf(_) | Entry::NoAccess(_) => {}
            }
        });
        (!spent).then_some(tables)
    }

    /// A pointer to a table: what it may allow if the table is shared, or an object's.
    fn pointer(&mut self, m: u32, child: u32, below: Level, at: At, word: u64) {
        let (Some(table), Some(mm)) = (self.graph.tables.get(child as usize), self.mms.get(m as usize))
        else {
            return;
        };
        let frame = self.frames.get(table.pfn);
        // By the flag or by the VMAs: a wrong flag is for its own rule to report.
        let huge_objects = below == Level::Pmd
            && (frame.is_some_and(|frame| frame.is_object_pmd())
                || mm.vmas_sound
                    && table.parents > 1
                    && hugetlb_pmd_fits_object::shared(&clip_of(mm, below, at.va)));
        if below == Level::Pmd
            && mm.vmas_sound
            && let Some(frame) = frame
            && (huge_objects || table.parents > 1)
        {
            let key = || self.frames.key(table.pfn).map(|key| key.0);
            let clips = clip_of(mm, below, at.va);
            hugetlb_pmd_fits_object::pointer(at, word, table, frame, key, &clips, self.sink);
        }
        if table.level != below || !mm.vmas_sound {
            return;
        }
        if table.object {
            let clips = clip_of(mm, below, at.va);
            let key = self.frames.key(table.pfn);
            if let Some(over) = object_table_spans_one_vma::place(at, word, table, &clips, self.sink) {
                object_table_keeps_place::place(at, word, table, over, key, self.sink);
                object_shared_tables_uniform::place(at, word, table, over, self.sink);
            }
            if self.objects_seen.insert(child) {
                object_shared_tables_uniform::pointer(at, word, table, self.sink);
            }
        } else if table.parents > 1 && Pte(word).writable() && !huge_objects {
            if clip_of(mm, below, at.va).iter().any(|c| c.flags & VM_WRITE != 0) {
                cow_shared_entries_read_only::pointer(at, word, table, self.sink);
            } else {
                cow_shared_closed_for_later::pointer(at, word, table, self.sink);
            }
        }
    }

    /// A leaf and the mm's VMAs over it, from number `cursor` on. `private`: its table may hold private pages.
    fn leaf(
        &mut self,
        mm: &Mm,
        cursor: usize,
        at: At,
        word: u64,
        (pfn, private): (u64, bool),
        rights: Rights,
    ) {
        let end = at.va + at.level.entry_bytes();
        let mut covered = at.va;
        for vma in mm.vmas.iter().skip(cursor).take_while(|v| v.start < end) {
            if vma.start > covered {
                break;
            }
            rights_within_vma::leaf(at, word, rights, vma, self.sink);
            if rights.access {
                prot_none_closed::leaf(at, word, vma, self.sink);
            }
            if let Some(frame) = self.frames.get(pfn) {
                let index = (covered - at.va) >> 12;
                if rights.write {
                    private_page_shared_not_writable::leaf(at, word, pfn, frame, self.sink);
                    zero_page_not_writable::leaf(at, word, pfn, frame, self.sink);
                    file_page_not_writable_privately::leaf(at, word, pfn, frame, vma, self.sink);
                }
                if frame_fits_vma::leaf(at, word, pfn, frame, vma, self.sink) {
                    let key = Some(frame.key);
                    file_page_at_its_offset::leaf(at, word, (pfn, index), vma, key, self.sink);
                    mapped_file_page_in_cache::leaf(at, word, pfn, frame, vma, self.sink);
                }
                if private {
                    reverse_map_equals_walk::leaf(at, word, (pfn, index), frame, (mm, vma), self.sink);
                }
            }
            covered = vma.end;
        }
        if covered < end {
            no_entry_outside_vma::leaf(at, word, covered, self.sink);
        }
    }
}

/// The VMAs of an mm over a table's span.
fn clip_of(mm: &Mm, level: Level, base: u64) -> Vec<Clip> {
    clip(&mm.vmas, base, level.span_bytes())
}
