//! Looks for victims in an image: every leaf and every pointer to a table on every path, with what belongs to it.

use std::mem::{offset_of, size_of};

use ptshare_paging::{ENTRIES, Entry, Level, Pte};
use ptshare_wire::frame::FRAME_META_BYTES;
use ptshare_wire::layout::LINEAR_BASE;
use ptshare_wire::{FrameKind, MmRec, VmaRec};

use crate::census::{Census, Cpu, Mm};
use crate::frames::{Frame, Frames};
use crate::graph::{Builder, Graph, Table, user_slots};
use crate::report::Sink;
use crate::view::{Image, PhysView};

/// Most entries listed: a few are enough, and captured images are large.
const LISTED_MAX: usize = 400_000;

/// An entry on a path of an mm.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Index of the mm.
    pub(super) mm: usize,
    pub(super) va: u64,
    /// Level of the table that holds it.
    pub(super) level: Level,
    /// That table's frame.
    pub(super) table: u64,
    pub(super) slot: usize,
    pub(super) word: Pte,
    /// R/W = 1 in every entry above it.
    pub(super) open: bool,
    /// Some table on the path, the holder included, has more than one parent.
    pub(super) shared: bool,
}

impl Place {
    /// Guest-physical address of the entry.
    pub(super) fn pa(&self) -> u64 {
        self.table * 4096 + self.slot as u64 * 8
    }

    /// Effective R/W.
    pub(super) fn writable(&self) -> bool {
        self.open && self.word.writable()
    }
}

/// An image taken apart.
pub(super) struct Scout {
    pub(super) census_pa: u64,
    pub(super) census: Census,
    pub(super) cpus: Vec<Cpu>,
    pub(super) mms: Vec<Mm>,
    pub(super) frames: Frames,
    pub(super) graph: Graph,
    /// Present leaves.
    pub(super) leaves: Vec<Place>,
    /// Present entries that point to tables.
    pub(super) pointers: Vec<Place>,
    /// Absent entries of PTE and PMD pages, some for each page.
    pub(super) gaps: Vec<Place>,
}

impl Scout {
    /// Takes `image` apart; `None` if its census is broken.
    pub(super) fn new(image: &Image, census_pa: u64) -> Option<Scout> {
        let mut sink = Sink::new(0);
        let census = Census::read(image, census_pa, &mut sink)?;
        let cpus = census.cpus(image, &mut sink)?;
        let mms = census.mms(image, &mut sink)?;
        let mut frames = Frames::read(image, &census, &mut sink)?;
        let mut budget = u64::MAX;
        let graph = Builder {
            view: image,
            mms: &mms,
            frames: &mut frames,
            sink: &mut sink,
            phys_mask: census.phys_mask(),
            budget: &mut budget,
            graph: Graph::default(),
            pending: Vec::new(),
            memory: None,
        }
        .run()
        .0;
        let mut scout = Scout {
            census_pa,
            census,
            cpus,
            mms,
            frames,
            graph,
            leaves: Vec::new(),
            pointers: Vec::new(),
            gaps: Vec::new(),
        };
        for mm in 0..scout.mms.len() {
            let root = scout.mms[mm].root;
            scout.explore(image, mm, root, Level::Pgd, 0, true, false);
        }
        Some(scout)
    }

    #[allow(clippy::too_many_arguments)]
    fn explore(
        &mut self,
        image: &Image,
        mm: usize,
        table: u64,
        level: Level,
        base: u64,
        open: bool,
        shared: bool,
    ) {
        let shared = shared || self.table(table).is_some_and(|t| t.parents > 1);
        let mut page = [0; ENTRIES];
        if !image.read_page(table, &mut page) || self.leaves.len() + self.pointers.len() > LISTED_MAX {
            return;
        }
        let mut gaps = 0;
        for (slot, word) in page.iter().enumerate().take(user_slots(level)) {
            let va = base + ((slot as u64) << level.shift());
            let place = Place { mm, va, level, table, slot, word: Pte(*word), open, shared };
            match place.word.decode(level) {
                Entry::Absent if level < Level::Pud && gaps < 64 => {
                    // The first gaps behind an entry, and a sample of the rest.
                    if slot > 0 && page[slot - 1] != 0 || slot % 37 == 36 {
                        self.gaps.push(place);
                        gaps += 1;
                    }
                }
                Entry::Leaf(_) => self.leaves.push(place),
                Entry::Table(child) => {
                    self.pointers.push(place);
                    if let Some(below) = level.below() {
                        self.explore(image, mm, child.0, below, va, open && place.word.writable(), shared);
                    }
                }
                Entry::Absent | Entry::Marker(_) | Entry::NoAccess(_) => {}
            }
        }
    }

    /// The table in this frame.
    pub(super) fn table(&self, pfn: u64) -> Option<&Table> {
        self.graph.tables.get(self.graph.index_of(&self.frames, pfn)? as usize)
    }

    /// Metadata and judge's counts of the frame that an entry names.
    pub(super) fn target(&self, place: &Place) -> Option<&Frame> {
        self.frames.get(place.word.pfn().0)
    }

    /// Does the entry name a frame of this kind?
    pub(super) fn maps(&self, place: &Place, kind: FrameKind) -> bool {
        self.target(place).is_some_and(|f| f.kind() == Some(kind))
    }

    /// The VMA over a place, with its index.
    pub(super) fn vma(&self, place: &Place) -> Option<(usize, VmaRec)> {
        let vmas = &self.mms[place.mm].vmas;
        vmas.iter().position(|v| v.start <= place.va && place.va < v.end).map(|i| (i, vmas[i]))
    }

    /// The VMAs over the span of an entry, with their indices.
    pub(super) fn vmas_over(&self, place: &Place) -> impl Iterator<Item = (usize, &VmaRec)> {
        let (start, end) = (place.va, place.va + place.level.entry_bytes());
        self.mms[place.mm].vmas.iter().enumerate().filter(move |(_, v)| v.start < end && start < v.end)
    }

    /// Does a pointer name a table that several mms share copy-on-write?
    pub(super) fn is_cow_shared(&self, pointer: &Place) -> bool {
        self.table(pointer.word.pfn().0).is_some_and(|t| t.parents > 1 && !t.anywhere)
    }

    /// Does the VMA over a place have all bits of `with` and none of `without`?
    pub(super) fn vma_has(&self, place: &Place, with: u64, without: u64) -> bool {
        self.vma(place).is_some_and(|(_, v)| v.flags & with == with && v.flags & without == 0)
    }

    /// Do `[start, end)` of an mm and the span of a shared table overlap?
    pub(super) fn touches_shared(&self, mm: usize, start: u64, end: u64) -> bool {
        self.pointers.iter().any(|p| {
            p.mm == mm
                && p.va < end
                && start < p.va + p.level.entry_bytes()
                && self.table(p.word.pfn().0).is_some_and(|t| t.parents > 1)
        })
    }

    /// Does a pointer name a table that belongs to an object?
    pub(super) fn is_objects(&self, pointer: &Place) -> bool {
        self.table(pointer.word.pfn().0).is_some_and(|t| t.anywhere)
    }

    /// Guest-physical address of a frame's metadata field.
    pub(super) fn meta(&self, pfn: u64, field: usize) -> u64 {
        self.census.frame_array + pfn * FRAME_META_BYTES + field as u64
    }

    /// Guest-physical address of a field of an mm's record.
    pub(super) fn mm_field(&self, mm: usize, field: usize) -> u64 {
        self.census.mm_table + u64::from(self.mms[mm].id.slot) * size_of::<MmRec>() as u64 + field as u64
    }

    /// Guest-physical address of VMA `index` of an mm. Lists are in the linear map.
    pub(super) fn vma_pa(&self, image: &Image, mm: usize, index: usize) -> Option<u64> {
        let word = |pa| image.read_u64(pa);
        let list = word(self.mm_field(mm, offset_of!(MmRec, vma_index)))?.checked_sub(LINEAR_BASE)?;
        let stride = word(self.mm_field(mm, offset_of!(MmRec, vma_stride)))?;
        let mut left = index as u64;
        for i in 0..word(self.mm_field(mm, offset_of!(MmRec, vma_chunks)))? {
            let chunk = word(list + 8 * i)?.checked_sub(LINEAR_BASE)?;
            let len = word(chunk)?;
            if left < len {
                return Some(chunk + 8 + left * stride);
            }
            left -= len;
        }
        None
    }
}
