//! The graph of tables: one pass over every table that a live root reaches, each table once however many share it.
//!
//! What can be judged without knowing the path is judged here: entry bits, where leaves point, levels. The pass also
//! makes the judge's own counts: [`Frame::maps`](crate::frames::Frame::maps) of every frame and
//! [`Table::parents`] of every table. The kernel half (slots 256..512 of a root) is not followed.

use ptshare_paging::{ENTRIES, Entry, Level, Pte};
use ptshare_wire::FrameKind;
use ptshare_wire::layout::KERNEL_HALF_SLOT;

use crate::census::Mm;
use crate::frames::{Frames, NO_TABLE, Place};
use crate::history::Memory;
use crate::report::{MmId, Sink};
use crate::rules::{
    census_is_sound, entry_bits_legal, free_frames_unreferenced, hugetlb_leaf_aligned,
    no_user_path_to_kernel, pointers_reach_tables, table_level, user_bit_by_half,
};
use crate::view::PhysView;

/// Ends the list of a table's edges.
pub(crate) const NO_EDGE: u32 = u32::MAX;
/// Most edges kept, for messages; the counts go on.
const EDGES_MAX: usize = 1 << 24;

/// A table that some root reaches.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// Its frame.
    pub(crate) pfn: u64,
    /// Level at which it was first reached.
    pub(crate) level: Level,
    /// First address that it translates, where it was first reached.
    pub(crate) base: u64,
    /// Index of the mm that reached it first.
    pub(crate) mm: u32,
    /// Entries and roots found that point to it.
    pub(crate) parents: u32,
    /// Of these, entries with R/W = 1.
    pub(crate) open_parents: u32,
    /// Its parents, newest first.
    pub(crate) first_edge: u32,
    /// Entries that are not zero, in slots 0..256 of a root and 0..512 of other tables.
    pub(crate) nonzero: u16,
    /// It is a PTE page that belongs to an object, says its metadata.
    pub(crate) object: bool,
    /// Mappings at any address may share it: a PTE page of an object, or a PMD page of a hugetlb object.
    pub(crate) anywhere: bool,
    /// Its words were read and made sense as entries.
    pub(crate) walked: bool,
}

/// An entry or a root that points to a table.
#[derive(Clone, Debug)]
pub(crate) struct Edge {
    /// The entry's word; 0 for a root.
    pub(crate) word: u64,
    /// First address translated through it, where it was first reached.
    pub(crate) va: u64,
    /// Index of the mm whose walk met it.
    pub(crate) mm: u32,
    /// Next edge of the same table, or [`NO_EDGE`].
    next: u32,
}

/// All tables and edges.
#[derive(Default)]
pub(crate) struct Graph {
    pub(crate) tables: Vec<Table>,
    edges: Vec<Edge>,
    /// Some table that is not an object's lies at two addresses: a subtree seen clean in one mm says nothing about aliases in
    /// another.
    pub(crate) aliased: bool,
    pub(crate) entries_walked: u64,
}

impl Graph {
    /// The table in frame `pfn`.
    pub(crate) fn index_of(&self, frames: &Frames, pfn: u64) -> Option<u32> {
        frames.get(pfn).map(|f| f.table).filter(|t| *t != NO_TABLE)
    }

    /// What points to this table.
    pub(crate) fn edges(&self, table: &Table) -> impl Iterator<Item = &Edge> {
        let edge = |at: u32| self.edges.get(at as usize);
        std::iter::successors(edge(table.first_edge), move |e| edge(e.next))
    }
}

/// Where an entry stands, for messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    pub(crate) mm: MmId,
    /// First address that the entry translates.
    pub(crate) va: u64,
    /// Level of its table.
    pub(crate) level: Level,
}

/// Calls `f` with index and word of each entry that is not zero. Most tables are sparse, so eight at a time.
#[inline]
pub(crate) fn each_nonzero(page: &[u64; ENTRIES], limit: usize, mut f: impl FnMut(usize, u64)) {
    for (group, words) in page.as_chunks::<8>().0.iter().enumerate() {
        if group * 8 >= limit {
            return;
        }
        if words.iter().fold(0, |or, w| or | w) != 0 {
            for (i, word) in words.iter().enumerate().filter(|(_, w)| **w != 0) {
                f(group * 8 + i, *word);
            }
        }
    }
}

/// Slots of a table at this level that belong to the user half.
pub(crate) fn user_slots(level: Level) -> usize {
    if level == Level::Pgd { KERNEL_HALF_SLOT } else { ENTRIES }
}

/// The pass.
pub(crate) struct Builder<'a, 'h> {
    pub(crate) view: &'a dyn PhysView,
    pub(crate) mms: &'a [Mm],
    pub(crate) frames: &'a mut Frames,
    pub(crate) sink: &'a mut Sink,
    /// Address bits that exist.
    pub(crate) phys_mask: u64,
    /// Entries that may still be looked at.
    pub(crate) budget: &'a mut u64,
    pub(crate) graph: Graph,
    pub(crate) pending: Vec<u32>,
    /// What the verdict before saw of shared tables.
    pub(crate) memory: Option<Memory<'h>>,
}

impl<'h> Builder<'_, 'h> {
    /// Walks from every root.
    pub(crate) fn run(mut self) -> (Graph, Option<Memory<'h>>) {
        for (i, mm) in self.mms.iter().enumerate() {
            let at = At { mm: mm.id, va: 0, level: Level::Pgd };
            self.reach(at, mm.root, Level::Pgd, 0, i as u32);
            while let Some(table) = self.pending.pop() {
                if *self.budget < ENTRIES as u64 {
                    census_is_sound::budget(mm.id, self.sink);
                    return (self.graph, None);
                }
                *self.budget -= ENTRIES as u64;
                self.scan(table);
            }
        }
        (self.graph, self.memory)
    }

    /// Follows a pointer to a table of `level` in frame `pfn`: an entry (`word`, at `at`) or a root (`word` 0).
    fn reach(&mut self, at: At, pfn: u64, level: Level, word: u64, mm: u32) {
        let frame = match self.frames.place(pfn) {
            Place::Known(frame) if frame.kind() != Some(FrameKind::Kernel) => frame,
            place => return pointers_reach_tables::place(at, word, pfn, place, self.sink),
        };
        pointers_reach_tables::kind(at, word, pfn, &frame, self.sink);
        let open = u32::from(Pte(word).writable());
        let room = self.graph.edges.len() < EDGES_MAX;
        let edge = if room { self.graph.edges.len() as u32 } else { NO_EDGE };
        let Some(table) = self.graph.tables.get_mut(frame.table as usize) else {
            if room {
                self.graph.edges.push(Edge { word, va: at.va, mm, next: NO_EDGE });
            }
            if frame.kind() == Some(FrameKind::Table) && frame.level() != level as u8 {
                table_level::recorded(at, word, pfn, level, &frame, self.sink);
            }
            let index = self.graph.tables.len() as u32;
            self.graph.tables.push(Table {
                pfn,
                level,
                base: at.va,
                mm,
                parents: 1,
                open_parents: open,
                first_edge: edge,
                nonzero: 0,
                object: frame.is_object_table(),
                anywhere: frame.is_object_table() || frame.is_object_pmd(),
                walked: false,
            });
            if let Some(frame) = self.frames.get_mut(pfn) {
                frame.table = index;
            }
            self.pending.push(index);
            return;
        };
        if room {
            self.graph.edges.push(Edge { word, va: at.va, mm, next: table.first_edge });
            table.first_edge = edge;
        }
        table.parents = table.parents.saturating_add(1);
        table.open_parents = table.open_parents.saturating_add(open);
        self.graph.aliased |= table.base != at.va && !table.anywhere;
        if table.level != level {
            table_level::two_levels(at, word, pfn, level, table.level, self.sink);
        }
    }

    /// Looks at every entry of a table.
    fn scan(&mut self, index: u32) {
        let Some(table) = self.graph.tables.get(index as usize) else { return };
        let (pfn, level, base, mm) = (table.pfn, table.level, table.base, table.mm);
        let Some(id) = self.mms.get(mm as usize).map(|m| m.id) else { return };
        let mut page = [0; ENTRIES];
        if !self.view.read_page(pfn, &mut page) {
            return census_is_sound::table_unreadable(At { mm: id, va: base, level }, pfn, self.sink);
        }
        let frame = self.frames.get(pfn).copied();
        let honest = frame.is_some_and(|f| f.kind() == Some(FrameKind::Table));
        if let Some(memory) = &mut self.memory
            && honest
            && frame.is_some_and(|f| f.refs > 1 && !f.is_object_table() && !f.is_object_pmd())
        {
            memory.table(pfn, level, &page);
        }
        if !honest && !self.plausible(&page, level) {
            return;
        }
        self.graph.entries_walked += user_slots(level) as u64;
        let mut nonzero = 0;
        each_nonzero(&page, user_slots(level), |slot, word| {
            nonzero += 1;
            let va = base + ((slot as u64) << level.shift());
            self.entry(At { mm: id, va, level }, word, mm);
        });
        if let Some(table) = self.graph.tables.get_mut(index as usize) {
            (table.nonzero, table.walked) = (nonzero, true);
        }
    }

    /// Could this page, in a frame that does not claim to be a table, be one? Data read as entries would bury the one
    /// finding that matters.
    fn plausible(&self, page: &[u64; ENTRIES], level: Level) -> bool {
        page.iter().take(user_slots(level)).filter(|w| **w != 0).all(|word| {
            let pte = Pte(*word);
            let held = pte.present() || matches!(pte.decode(level), Entry::NoAccess(_));
            held && (pte.has(Pte::USER) || !pte.present())
                && entry_bits_legal::problem(pte, level, self.phys_mask).is_none()
                && self.frames.get(pte.pfn().0).is_some()
        })
    }

    /// One entry that is not zero.
    fn entry(&mut self, at: At, word: u64, mm: u32) {
        entry_bits_legal::entry(at, word, self.phys_mask, self.sink);
        let pte = Pte(word & !(Pte::ADDR & !self.phys_mask));
        if pte.present() && !pte.has(Pte::USER) {
            user_bit_by_half::supervisor(at, word, self.sink);
        }
        match pte.decode(at.level) {
            Entry::Absent | Entry::Marker(_) => {}
            Entry::Table(pfn) => {
                if let Some(below) = at.level.below() {
                    self.reach(at, pfn.0, below, word, mm);
                }
            }
            // A page under PROT_NONE is held like any other, though nobody can reach it.
            Entry::Leaf(pfn) | Entry::NoAccess(pfn) => self.leaf(at, word, pfn.0),
        }
    }

    /// A leaf that maps `pfn`: counts it, and judges what it maps.
    fn leaf(&mut self, at: At, word: u64, pfn: u64) {
        let pages = at.level.entry_bytes() >> 12;
        match self.frames.get_mut(pfn) {
            Some(frame) => {
                frame.maps = frame.maps.saturating_add(1);
                hugetlb_leaf_aligned::leaf(at, word, pfn, frame, self.sink);
                match frame.kind() {
                    Some(FrameKind::Table | FrameKind::Kernel) => {
                        let place = Place::Known(*frame);
                        no_user_path_to_kernel::leaf(at, word, pfn, place, self.sink);
                    }
                    Some(FrameKind::Free) => free_frames_unreferenced::leaf(at, word, pfn, self.sink),
                    _ => {}
                }
            }
            None => match self.frames.place_unknown(pfn) {
                Place::Virgin => return free_frames_unreferenced::virgin(at, word, pfn, self.sink),
                place => return no_user_path_to_kernel::leaf(at, word, pfn, place, self.sink),
            },
        }
        if pages > 1 {
            self.huge_leaf(at, word, pfn, pages);
        }
    }

    /// The frames of a huge leaf after its first.
    fn huge_leaf(&mut self, at: At, word: u64, pfn: u64, pages: u64) {
        if !self.frames.is_managed_run(pfn, pages) {
            return no_user_path_to_kernel::leaf(at, word, pfn, Place::Outside, self.sink);
        }
        if self.frames.get(pfn).is_some_and(|f| f.kind() == Some(FrameKind::Hugetlb)) {
            // The frames behind the head: hugetlb-pool-adds-up.
            return;
        }
        for tail in pfn + 1..pfn + pages {
            match self.frames.get(tail).map(|f| (f.kind(), Place::Known(*f))) {
                Some((Some(FrameKind::Table | FrameKind::Kernel), place)) => {
                    return no_user_path_to_kernel::leaf(at, word, tail, place, self.sink);
                }
                Some((Some(FrameKind::Free), _)) => {
                    return free_frames_unreferenced::leaf(at, word, tail, self.sink);
                }
                Some(_) => {}
                None => return free_frames_unreferenced::virgin(at, word, tail, self.sink),
            }
        }
    }
}
