//! `free-blocks-disjoint`.

use ptshare_wire::FrameKind;

use crate::census::Census;
use crate::frames::Frame;
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "free-blocks-disjoint",
    statement: "free blocks do not overlap, cover every free frame, and sum up to free_frames",
    reads: "the heads of free blocks with their orders; frames of kind Free below the virgin marks; free_frames of \
            the census",
    why: "two blocks over one frame give it to two owners: a double free in a buddy allocator shows here first",
    design: &[9],
    catalogue: &[],
};

/// Largest order of a free block: the whole of the largest machine.
const ORDER_MAX: u8 = 40;

/// The blocks met so far; frames are fed in rising order.
#[derive(Default)]
pub(crate) struct Blocks {
    /// Frames in blocks, as the heads say.
    frames: u64,
    /// First frame after the last block met.
    end: u64,
    /// Frames of kind Free.
    free: u64,
    /// Of those, some that something refers to.
    referenced: u64,
}

impl Blocks {
    /// Takes one frame.
    #[inline]
    pub(crate) fn frame(&mut self, pfn: u64, frame: &Frame, sink: &mut Sink) {
        if frame.kind() != Some(FrameKind::Free) {
            return;
        }
        self.free += 1;
        self.referenced += u64::from(frame.is_referenced());
        if frame.is_head() {
            self.head(pfn, frame, sink);
        } else if pfn >= self.end && !frame.is_referenced() {
            sink.report(&RULE, || {
                Finding::new(&RULE, "a free frame inside a free block", "no block covers it").frame(pfn)
            });
        }
    }

    fn head(&mut self, pfn: u64, frame: &Frame, sink: &mut Sink) {
        let order = frame.level();
        if order > ORDER_MAX || pfn < self.end {
            return sink.report(&RULE, || {
                let found = format!("a head of order {order} in frames that end at {:#x}", self.end);
                Finding::new(&RULE, "free blocks that do not overlap", found).frame(pfn)
            });
        }
        self.frames += 1 << order;
        self.end = pfn.saturating_add(1 << order);
    }

    /// Compares the sum with the frames of kind Free. Where the guest's own sum agrees with neither, `frames-add-up`
    /// says so.
    pub(crate) fn finish(&self, census: &Census, sink: &mut Sink) {
        let free = self.free - self.referenced..=self.free;
        if !free.contains(&self.frames) && free.contains(&census.free_frames) {
            sink.report(&RULE, || {
                let expected = format!("{} frames in free blocks, as many as there are free", self.free);
                Finding::new(&RULE, expected, format!("{} frames", self.frames))
            });
        }
    }
}
