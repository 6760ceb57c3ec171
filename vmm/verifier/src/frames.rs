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

/// Frames in a chunk of a range: an eighth of a huge page.
const CHUNK: u64 = 64;

/// In place of a chunk whose frames are all blank.
const BLANK_CHUNK: u32 = u32::MAX;

/// A frame with metadata of zeros, to which nothing refers.
const BLANK: Frame = Frame { refs: 0, state: 0, aux: 0, maps: 0, table: NO_TABLE, key: (0, 0) };

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

/// A managed range's frames, in chunks of [`CHUNK`]: those with nothing but blank frames (free memory, huge pages) take no
/// room, for most of the judge's time would go into moving them about.
struct Range {
    start: u64,
    end: u64,
    /// Frames below the virgin mark.
    known: u64,
    /// By chunk: where its frames begin in `frames`, or [`BLANK_CHUNK`].
    chunks: Vec<u32>,
    frames: Vec<Frame>,
}

impl Range {
    /// Chunk, and index in it, of a frame below the virgin mark.
    #[inline]
    fn find(&self, pfn: u64) -> Option<(u32, usize)> {
        let at = pfn.checked_sub(self.start).filter(|at| *at < self.known)?;
        Some((*self.chunks.get((at / CHUNK) as usize)?, (at % CHUNK) as usize))
    }

    #[inline]
    fn get(&self, pfn: u64) -> Option<&Frame> {
        match self.find(pfn)? {
            (BLANK_CHUNK, _) => Some(&BLANK),
            (chunk, at) => self.frames.get(chunk as usize + at),
        }
    }

    #[inline]
    fn get_mut(&mut self, pfn: u64) -> Option<&mut Frame> {
        let (mut chunk, at) = self.find(pfn)?;
        if chunk == BLANK_CHUNK {
            chunk = self.unfold(pfn)?;
        }
        self.frames.get_mut(chunk as usize + at)
    }

    /// Makes room for the blank chunk around `pfn`, which somebody refers to.
    #[cold]
    fn unfold(&mut self, pfn: u64) -> Option<u32> {
        let chunk = u32::try_from(self.frames.len()).ok().filter(|chunk| *chunk != BLANK_CHUNK)?;
        *self.chunks.get_mut(((pfn - self.start) / CHUNK) as usize)? = chunk;
        self.frames.resize(self.frames.len() + CHUNK as usize, BLANK);
        Some(chunk)
    }

    /// Takes the metadata of the next frames, at most a chunk of them.
    fn push(&mut self, metas: &[[u8; FRAME_META_BYTES as usize]]) {
        self.known += metas.len() as u64;
        let chunk = u32::try_from(self.frames.len()).unwrap_or(BLANK_CHUNK);
        if metas.as_flattened().iter().fold(0, |all, byte| all | byte) == 0 {
            self.chunks.push(BLANK_CHUNK);
        } else {
            self.chunks.push(chunk);
            self.frames.extend(metas.iter().map(decode));
        }
    }
}

/// Some neighbouring frames of a range.
pub(crate) struct Chunk<'a> {
    /// Their numbers.
    pub(crate) pfns: std::ops::Range<u64>,
    /// They, and others behind them; `None` if all are blank.
    frames: Option<&'a [Frame]>,
}

impl<'a> Chunk<'a> {
    /// Has no frame either state or references?
    pub(crate) fn is_blank(&self) -> bool {
        self.frames.is_none()
    }

    /// The frames with their numbers.
    pub(crate) fn iter(self) -> impl Iterator<Item = (u64, &'a Frame)> {
        let frames = self.frames.unwrap_or_default();
        self.pfns.enumerate().map(move |(at, pfn)| (pfn, frames.get(at).unwrap_or(&BLANK)))
    }
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
            let mut range =
                Range { start: ram.start, end: ram.end, known: 0, chunks: Vec::new(), frames: Vec::new() };
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
                let metas = bytes.as_chunks::<{ FRAME_META_BYTES as usize }>().0;
                metas.chunks(CHUNK as usize).for_each(|metas| range.push(metas));
                pfn += take;
            }
            ranges.push(range);
        }
        Some(Frames { ranges, reserved: census.reserved.clone() })
    }

    /// The frame, if it is managed and below the virgin mark.
    #[inline]
    pub(crate) fn get(&self, pfn: u64) -> Option<&Frame> {
        self.ranges.iter().find_map(|range| range.get(pfn))
    }

    /// The same, to change the judge's counts.
    #[inline]
    pub(crate) fn get_mut(&mut self, pfn: u64) -> Option<&mut Frame> {
        self.ranges.iter_mut().find_map(|range| range.get_mut(pfn))
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
        self.chunks().flat_map(Chunk::iter)
    }

    /// The same by chunks.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = Chunk<'_>> {
        self.ranges.iter().flat_map(|range| {
            let end = range.start + range.known;
            (range.start..end).step_by(CHUNK as usize).zip(&range.chunks).map(move |(pfn, at)| Chunk {
                pfns: pfn..(pfn + CHUNK).min(end),
                frames: range.frames.get(*at as usize..),
            })
        })
    }

    /// Frames never given out.
    pub(crate) fn virgin(&self) -> u64 {
        self.ranges.iter().map(|r| r.end - r.start - r.known).sum()
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
