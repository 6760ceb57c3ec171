//! `hugetlb-leaf-aligned`. A huge leaf whose address is not a multiple of its size is the subject of
//! `entry-bits-legal`; tables, kernel memory and free frames have rules of their own.

use ptshare_paging::Level;
use ptshare_wire::{FrameKind, HugeSize};

use crate::frames::Frame;
use crate::graph::At;
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "hugetlb-leaf-aligned",
    statement: "a huge leaf maps a hugetlb page of its own size from its head on, and a small leaf no part of one",
    reads: "level and frame of every leaf; kind and size of that frame",
    why: "a huge leaf over ordinary frames, or over a smaller huge page, hands out pages that belong to others; a leaf \
          smaller than the page is not counted by the page's head and survives its return to the pool",
    design: &[10],
    catalogue: &[41],
};

/// Judges a leaf, whose frame is `frame`.
#[inline]
pub(crate) fn leaf(at: At, word: u64, pfn: u64, frame: &Frame, sink: &mut Sink) {
    let huge = frame.kind() == Some(FrameKind::Hugetlb);
    let other = |size: HugeSize| match frame.huge_size() {
        Some(found) => found != size,
        None => is_small(frame),
    };
    let aligned = |size: HugeSize| pfn.is_multiple_of(size.frames());
    let expected = match at.level {
        Level::Pte if huge => "a frame of its own kind under a leaf of 4 KiB",
        Level::Pmd if aligned(HugeSize::Mib2) && other(HugeSize::Mib2) => {
            "the head of a hugetlb page of 2 MiB"
        }
        Level::Pud if aligned(HugeSize::Gib1) && other(HugeSize::Gib1) => {
            "the head of a hugetlb page of 1 GiB"
        }
        _ => return,
    };
    sink.report(&RULE, || {
        Finding::new(&RULE, expected, format!("{}, order {}", frame.kind_name(), frame.level()))
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
