//! The frame array below the virgin marks, copied into dense vectors, with the judge's own counts beside the guest's.

use ptshare_wire::frame::{FLAG_HEAD, FLAG_IN_CACHE, FLAG_OBJECT_PMD, FLAG_OBJECT_TABLE, FRAME_META_BYTES};
use ptshare_wire::{FrameKind, FrameMeta, HugeSize};
use std::fmt;
use std::mem::offset_of;

use crate::census::Census;
use crate::report::{Finding, Sink};
use crate::rules::census_is_sound;
use crate::view::PhysView;

/// Metadata read in one call, in frames.
const BATCH: u64 = 2048;

/// [`Frame::table`] of a frame that is no table of the graph.
pub(crate) const NO_TABLE: u32 = u32::MAX;

/// One frame: what the guest says, and what the walk found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    /// [`FrameMeta::refs`].
    pub(crate) refs: u32,
    /// [`FrameMeta::state`].
    pub(crate) state: u32,
    /// [`FrameMeta::aux`].
    pub(crate) aux: u32,
    /// Leaf entries found that map it, each table counted once.
    pub(crate) maps: u32,
    /// Index in the graph's tables, or [`NO_TABLE`].
    pub(crate) table: u32,
    /// [`FrameMeta::a`] and [`FrameMeta::b`].
    pub(crate) key: (u64, u64),
}

impl Frame {
    /// The kind in `state`.
    pub(crate) fn kind(&self) -> Option<FrameKind> {
        FrameKind::from_u8(self.state as u8)
    }

    /// The kind in words, or its number if there is no such kind.
    pub(crate) fn kind_name(&self) -> String {
        self.kind().map_or_else(|| format!("kind {}", self.state & 0xff), |kind| format!("kind {kind:?}"))
    }

    /// Level of a table, order of a free block or a hugetlb page.
    pub(crate) fn level(&self) -> u8 {
        (self.state >> 8) as u8
    }

    /// The size of the hugetlb page of which this is the head; `None` for any other frame, and for a head of no size.
    pub(crate) fn huge_size(&self) -> Option<HugeSize> {
        (self.kind() == Some(FrameKind::Hugetlb)).then(|| HugeSize::from_order(self.level().into()))?
    }

    /// Is this the first frame of a free block?
    pub(crate) fn is_head(&self) -> bool {
        self.state & FLAG_HEAD != 0
    }

    /// Does a page cache hold a reference?
    pub(crate) fn in_cache(&self) -> bool {
        self.state & FLAG_IN_CACHE != 0
    }

    /// Is it a table that belongs to an object?
    pub(crate) fn is_object_table(&self) -> bool {
        self.kind() == Some(FrameKind::Table) && self.state & FLAG_OBJECT_TABLE != 0
    }

    /// Is it a PMD page that belongs to a hugetlb object?
    pub(crate) fn is_object_pmd(&self) -> bool {
        self.kind() == Some(FrameKind::Table) && self.state & FLAG_OBJECT_PMD != 0
    }

    /// Is it the target of an entry or a root?
    pub(crate) fn is_referenced(&self) -> bool {
        self.maps != 0 || self.table != NO_TABLE
    }
}

/// Where a frame number lies.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// Managed and given out at least once.
    Known(Frame),
    /// Managed, never given out.
    Virgin,
    /// Reserved memory.
    Reserved,
    /// No memory that the census knows.
    Outside,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Known(frame) => write!(f, "a frame of {}", frame.kind_name()),
            Place::Virgin => f.write_str("a frame never given out"),
            Place::Reserved => f.write_str("reserved memory"),
            Place::Outside => f.write_str("an address outside the managed memory"),
        }
    }
}

/// A managed range's frames.
struct Range {
    start: u64,
    end: u64,
    frames: Vec<Frame>,
}

/// All managed frames.
pub(crate) struct Frames {
    ranges: Vec<Range>,
    reserved: Vec<std::ops::Range<u64>>,
}

impl Frames {
    /// Copies the metadata. `None`, with a finding, if some of it is not in memory.
    pub(crate) fn read(view: &dyn PhysView, census: &Census, sink: &mut Sink) -> Option<Frames> {
        let mut ranges = Vec::new();
        for ram in &census.ram {
            let mut frames = Vec::new();
            let mut bytes = vec![0; (BATCH * FRAME_META_BYTES) as usize];
            let mut pfn = ram.start;
            while pfn < ram.virgin {
                let take = BATCH.min(ram.virgin - pfn);
                let bytes = &mut bytes[..(take * FRAME_META_BYTES) as usize];
                let pa = census.frame_array + pfn * FRAME_META_BYTES;
                if !view.read_bytes(pa, bytes) {
                    sink.report(&census_is_sound::RULE, || {
                        Finding::new(
                            &census_is_sound::RULE,
                            "metadata in memory for every frame below the virgin marks",
                            format!("no memory at {pa:#x}"),
                        )
                        .frame(pfn)
                    });
                    return None;
                }
                frames.extend(bytes.as_chunks::<{ FRAME_META_BYTES as usize }>().0.iter().map(decode));
                pfn += take;
            }
            ranges.push(Range { start: ram.start, end: ram.end, frames });
        }
        Some(Frames { ranges, reserved: census.reserved.clone() })
    }

    /// The frame, if it is managed and below the virgin mark.
    pub(crate) fn get(&self, pfn: u64) -> Option<&Frame> {
        self.ranges.iter().find_map(|r| r.frames.get(usize::try_from(pfn.checked_sub(r.start)?).ok()?))
    }

    /// The same, to change the judge's counts.
    pub(crate) fn get_mut(&mut self, pfn: u64) -> Option<&mut Frame> {
        self.ranges
            .iter_mut()
            .find_map(|r| r.frames.get_mut(usize::try_from(pfn.checked_sub(r.start)?).ok()?))
    }

    /// Where `pfn` lies.
    pub(crate) fn place(&self, pfn: u64) -> Place {
        match self.get(pfn) {
            Some(frame) => Place::Known(*frame),
            None => self.place_unknown(pfn),
        }
    }

    /// Where `pfn` lies, given that [`Frames::get`] does not know it.
    pub(crate) fn place_unknown(&self, pfn: u64) -> Place {
        if self.ranges.iter().any(|r| (r.start..r.end).contains(&pfn)) {
            Place::Virgin
        } else if self.reserved.iter().any(|r| (r.start >> 12..r.end.div_ceil(4096)).contains(&pfn)) {
            Place::Reserved
        } else {
            Place::Outside
        }
    }

    /// Is `[pfn, pfn + pages)` inside one managed range?
    pub(crate) fn is_managed_run(&self, pfn: u64, pages: u64) -> bool {
        pfn.checked_add(pages).is_some_and(|end| self.ranges.iter().any(|r| r.start <= pfn && end <= r.end))
    }

    /// Every frame below the virgin marks with its number, range by range in rising order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Frame)> {
        self.ranges
            .iter()
            .flat_map(|r| r.frames.iter().enumerate().map(move |(i, f)| (r.start + i as u64, f)))
    }

    /// Frames never given out.
    pub(crate) fn virgin(&self) -> u64 {
        self.ranges.iter().map(|r| r.end - r.start - r.frames.len() as u64).sum()
    }

    /// Object and index of a page in a cache, family and index of a private one, object and first page of an object's table.
    pub(crate) fn key(&self, pfn: u64) -> Option<(u64, u64)> {
        self.get(pfn).map(|frame| frame.key)
    }
}

fn decode(bytes: &[u8; FRAME_META_BYTES as usize]) -> Frame {
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
    Frame {
        refs: word(offset_of!(FrameMeta, refs)),
        state: word(offset_of!(FrameMeta, state)),
        aux: word(offset_of!(FrameMeta, aux)),
        maps: 0,
        table: NO_TABLE,
        key: (long(offset_of!(FrameMeta, a)), long(offset_of!(FrameMeta, b))),
    }
}
