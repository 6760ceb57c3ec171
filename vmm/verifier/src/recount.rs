//! Sums over whole address spaces, and where single frames are mapped: each table is looked at once, and what was found below
//! it is handed on to everybody who shares it.

use std::collections::HashMap;
use std::rc::Rc;

use ptshare_paging::{ENTRIES, Entry, Level, Pte};
use ptshare_wire::FrameKind;
use ptshare_wire::huge::HUGE_SIZES;

use crate::frames::Frames;
use crate::graph::{Graph, each_nonzero, user_slots};
use crate::view::PhysView;

/// Most places remembered in all: guests that map one frame more often than this are not answered in full.
const PLACES_MAX: usize = 1 << 22;

/// What lies below one entry that points to a table, the table included.
#[derive(Clone, Default, Debug)]
pub(crate) struct Below {
    /// Tables, a table met on two ways counted twice.
    pub(crate) tables: u64,
    /// Of these, tables with a table of several parents on the way from here to them.
    pub(crate) tables_shared: u64,
    /// Tables divided among their parents, level by level.
    pub(crate) tables_part: f64,
    /// Pages of 4 KiB: private ones, those of page caches, and parts of hugetlb pages.
    pub(crate) anon: u64,
    pub(crate) object: u64,
    pub(crate) hugetlb: u64,
    /// Leaves that map private hugetlb pages, by size.
    pub(crate) huge_private: [u64; HUGE_SIZES],
    /// Where the frames asked for are mapped: bytes from the start of the table's span, and which of the frames.
    pub(crate) places: Vec<(u64, usize)>,
}

/// The count.
pub(crate) struct Recount<'a> {
    view: &'a dyn PhysView,
    frames: &'a Frames,
    graph: &'a Graph,
    phys_mask: u64,
    /// Frames to look for: pages, or tables.
    wanted: Vec<u64>,
    known: HashMap<u32, Rc<Below>>,
    room: usize,
}

impl<'a> Recount<'a> {
    /// A count that looks for the frames `wanted`.
    pub(crate) fn new(
        view: &'a dyn PhysView,
        frames: &'a Frames,
        graph: &'a Graph,
        phys_mask: u64,
        wanted: Vec<u64>,
    ) -> Recount<'a> {
        Recount { view, frames, graph, phys_mask, wanted, known: HashMap::new(), room: PLACES_MAX }
    }

    /// Were all places found? Not if there were too many.
    pub(crate) fn complete(&self) -> bool {
        self.room > 0
    }

    /// What lies below a root.
    pub(crate) fn root(&mut self, pfn: u64) -> Rc<Below> {
        match self.graph.index_of(self.frames, pfn) {
            Some(index) => self.table(index, Level::Pgd),
            None => Rc::default(),
        }
    }

    /// What lies below the table `index`, reached at `level`. At most four deep.
    fn table(&mut self, index: u32, level: Level) -> Rc<Below> {
        let Some(table) = self.graph.tables.get(index as usize).filter(|t| t.level == level) else {
            return Rc::default();
        };
        if let Some(known) = self.known.get(&index) {
            return known.clone();
        }
        let mut page = [0; ENTRIES];
        let mut below = Below { tables: 1, tables_part: 1.0, ..Below::default() };
        let own = self.wanted.iter().enumerate().filter(|(_, pfn)| **pfn == table.pfn);
        below.places.extend(own.map(|(which, _)| (0, which)));
        if table.walked && self.view.read_page(table.pfn, &mut page) {
            each_nonzero(&page, user_slots(level), |slot, raw| {
                let offset = (slot as u64) << level.shift();
                self.entry(level, offset, Pte(raw & !(Pte::ADDR & !self.phys_mask)), &mut below);
            });
        }
        // What others have too. (A root has one parent: the mm.)
        let parents = table.parents.max(1);
        if parents > 1 {
            below.tables_shared = below.tables;
        }
        below.tables_part /= f64::from(parents);
        let below = Rc::new(below);
        self.known.insert(index, below.clone());
        below
    }

    fn entry(&mut self, level: Level, offset: u64, pte: Pte, sum: &mut Below) {
        match pte.decode(level) {
            Entry::Absent | Entry::Marker(_) => {}
            Entry::Table(pfn) => {
                let child = level.below().zip(self.graph.index_of(self.frames, pfn.0));
                let Some((below, index)) = child else { return };
                let child = self.table(index, below);
                sum.tables = sum.tables.saturating_add(child.tables);
                sum.tables_shared = sum.tables_shared.saturating_add(child.tables_shared);
                sum.tables_part += child.tables_part;
                sum.anon = sum.anon.saturating_add(child.anon);
                sum.object = sum.object.saturating_add(child.object);
                sum.hugetlb = sum.hugetlb.saturating_add(child.hugetlb);
                for (sum, pages) in sum.huge_private.iter_mut().zip(child.huge_private) {
                    *sum = sum.saturating_add(pages);
                }
                let take = child.places.len().min(self.room);
                self.room -= take;
                sum.places.extend(child.places.iter().take(take).map(|(at, which)| (offset + at, *which)));
            }
            Entry::Leaf(pfn) | Entry::NoAccess(pfn) => {
                let pages = level.entry_bytes() >> 12;
                let frame = self.frames.get(pfn.0);
                match frame.and_then(|frame| frame.kind()) {
                    Some(FrameKind::Anon) => sum.anon += 1,
                    Some(FrameKind::Cache) => sum.object += 1,
                    Some(FrameKind::Hugetlb) => {
                        sum.hugetlb += pages;
                        if let Some(frame) = frame.filter(|frame| !frame.in_cache())
                            && let Some(size) = frame.huge_size()
                        {
                            sum.huge_private[size.index()] += 1;
                        }
                    }
                    _ => {}
                }
                for (which, wanted) in self.wanted.iter().enumerate() {
                    let into = wanted.wrapping_sub(pfn.0);
                    if into < pages && self.room > 0 {
                        self.room -= 1;
                        sum.places.push((offset + (into << 12), which));
                    }
                }
            }
        }
    }
}
