//! `frames-add-up` (design invariant 9). Reads: kind, refs and block heads of every frame below the virgin marks, the
//! census's `free_frames` and `kernel_frames`, and which tables the walk reached.
//!
//! A free or kernel frame that something refers to is the subject of another rule, and is not counted twice here: the
//! guest's number may or may not include it.

use ptshare_wire::FrameKind;
use ptshare_wire::frame::HUGE_FRAMES;

use crate::census::Census;
use crate::frames::{Frame, NO_TABLE};
use crate::report::{Finding, KindCounts, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "frames-add-up",
    statement: "free blocks, kernel memory, reachable tables and referenced pages are all the frames there are",
    why: "a table cleared from its parent but never freed is lost for good (CVE-2024-57883: hugetlb tables leaked \
          because speculative references looked like sharers)",
};

/// Largest order of a free block: the whole of the largest machine.
const ORDER_MAX: u8 = 40;

/// Sums over all frames, fed in rising order.
#[derive(Default)]
pub(crate) struct Tally {
    /// Frames by state.
    pub(crate) kinds: KindCounts,
    free_referenced: u64,
    kernel_referenced: u64,
    /// Frames in blocks, as the heads say.
    in_blocks: u64,
    /// First frame after the last block met.
    block_end: u64,
}

impl Tally {
    /// Counts one frame, and reports it if it is lost.
    #[inline]
    pub(crate) fn frame(&mut self, pfn: u64, frame: &Frame, sink: &mut Sink) {
        let used = u64::from(frame.is_referenced());
        match frame.kind() {
            Some(FrameKind::Free) => {
                self.kinds.free += 1;
                self.free_referenced += used;
                if frame.is_head() {
                    self.block(pfn, frame, sink);
                } else if pfn >= self.block_end && used == 0 {
                    lost(pfn, "a free frame inside a free block", "no block covers it", sink);
                }
            }
            Some(FrameKind::Kernel) => {
                self.kinds.kernel += 1;
                self.kernel_referenced += used;
            }
            Some(FrameKind::Table) => {
                self.kinds.table += 1;
                if frame.table == NO_TABLE {
                    lost(pfn, "a table that a live root reaches", "no entry or root points to it", sink);
                }
            }
            Some(kind @ (FrameKind::Anon | FrameKind::Cache)) => {
                let count =
                    if kind == FrameKind::Anon { &mut self.kinds.anon } else { &mut self.kinds.cache };
                *count += 1;
                // With refs above 0 and no user, the count itself is wrong: leaf-refs-equal-maps.
                if frame.refs == 0 && frame.aux == 0 && !frame.in_cache() && used == 0 {
                    lost(
                        pfn,
                        "a data frame that something refers to, or a free one",
                        "refs 0, not free",
                        sink,
                    );
                }
            }
            Some(FrameKind::Zero) => self.kinds.zero += 1,
            Some(FrameKind::Hugetlb) => self.kinds.hugetlb += HUGE_FRAMES,
            None => self.kinds.unknown += 1,
        }
    }

    /// The head of a free block.
    fn block(&mut self, pfn: u64, frame: &Frame, sink: &mut Sink) {
        let order = frame.level();
        if order > ORDER_MAX || pfn < self.block_end {
            return sink.report(&RULE, || {
                Finding::new(
                    &RULE,
                    "free blocks that do not overlap",
                    format!("a head of order {order} in frames that end at {:#x}", self.block_end),
                )
                .frame(pfn)
            });
        }
        self.in_blocks += 1 << order;
        self.block_end = pfn + (1 << order);
    }

    /// Compares the sums with the guest's.
    pub(crate) fn finish(&self, census: &Census, sink: &mut Sink) {
        compare("free frames", self.kinds.free, self.free_referenced, census.free_frames, sink);
        compare("kernel frames", self.kinds.kernel, self.kernel_referenced, census.kernel_frames, sink);
        if self.in_blocks != census.free_frames {
            sink.report(&RULE, || {
                Finding::new(
                    &RULE,
                    format!("free_frames = {}, the sum over free blocks", self.in_blocks),
                    format!("free_frames = {}", census.free_frames),
                )
            });
        }
    }
}

fn compare(what: &str, counted: u64, referenced: u64, claimed: u64, sink: &mut Sink) {
    if !(counted - referenced..=counted).contains(&claimed) {
        sink.report(&RULE, || {
            Finding::new(
                &RULE,
                format!("{counted} {what}, counted in the frame array"),
                format!("{claimed} in the census"),
            )
        });
    }
}

fn lost(pfn: u64, expected: &str, found: &str, sink: &mut Sink) {
    sink.report(&RULE, || Finding::new(&RULE, expected, found).frame(pfn));
}
