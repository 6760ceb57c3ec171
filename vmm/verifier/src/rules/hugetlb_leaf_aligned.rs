//! `hugetlb-leaf-aligned`. A huge leaf whose address is not a multiple of its size is the subject of
//! `entry-bits-legal`; tables, kernel memory and free frames have rules of their own.

use ptshare_paging::Level;
use ptshare_wire::FrameKind;
use ptshare_wire::frame::HUGE_FRAMES;

use crate::frames::Frame;
use crate::graph::At;
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "hugetlb-leaf-aligned",
    statement: "a huge leaf maps a hugetlb page from its head on, and a small leaf no part of one",
    reads: "level and frame of every leaf; kind of that frame",
    why: "a huge leaf over ordinary frames hands out 511 pages that belong to others; a small leaf into a huge page \
          is not counted by the page's head and survives its return to the pool",
    design: &[10],
    catalogue: &[41],
};

/// Judges a leaf, whose frame is `frame`.
#[inline]
pub(crate) fn leaf(at: At, word: u64, pfn: u64, frame: &Frame, sink: &mut Sink) {
    let huge = frame.kind() == Some(FrameKind::Hugetlb);
    let expected = match at.level {
        Level::Pte if huge => "a frame of its own kind under a leaf of 4 KiB",
        Level::Pmd if pfn.is_multiple_of(HUGE_FRAMES) && is_small(frame) => "the head of a hugetlb page",
        Level::Pud if is_small(frame) || huge => "no leaf of 1 GiB",
        _ => return,
    };
    sink.report(&RULE, || {
        Finding::new(&RULE, expected, format!("kind {:?}", frame.kind()))
            .mm(at.mm)
            .va(at.va)
            .level(at.level as u8)
            .entry(word)
            .frame(pfn)
    });
}

fn is_small(frame: &Frame) -> bool {
    matches!(frame.kind(), Some(FrameKind::Anon | FrameKind::Cache | FrameKind::Zero))
}
