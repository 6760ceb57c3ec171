//! `free-frames-unreferenced`. A free frame that a pointer takes for a table is the subject of
//! `pointers-reach-tables`.

use ptshare_wire::FrameKind;

use crate::frames::Frame;
use crate::graph::At;
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "free-frames-unreferenced",
    statement: "a free frame has refs 0, and no leaf maps it",
    reads: "leaves that map frames of kind Free or beyond a virgin mark; refs of free frames",
    why: "a page freed while a leaf still maps it belongs to two owners after the next allocation (CVE-2021-4002; \
          eb66ae030829: mremap moved entries without the flush)",
    design: &[8],
    catalogue: &[8],
};

/// A leaf maps a free frame.
pub(crate) fn leaf(at: At, word: u64, pfn: u64, sink: &mut Sink) {
    sink.report(&RULE, || finding(at, word, pfn, "a leaf maps a free frame"));
}

/// A leaf maps a frame that was never given out.
pub(crate) fn virgin(at: At, word: u64, pfn: u64, sink: &mut Sink) {
    sink.report(&RULE, || finding(at, word, pfn, "a leaf maps a frame never given out"));
}

/// Judges the count of a frame.
#[inline]
pub(crate) fn frame(pfn: u64, frame: &Frame, sink: &mut Sink) {
    if frame.refs != 0 && frame.kind() == Some(FrameKind::Free) {
        sink.report(&RULE, || {
            Finding::new(&RULE, "refs 0 in a free frame", format!("refs {}", frame.refs)).frame(pfn)
        });
    }
}

fn finding(at: At, word: u64, pfn: u64, found: &str) -> Finding {
    Finding::new(&RULE, "a frame in use", found)
        .mm(at.mm)
        .va(at.va)
        .level(at.level as u8)
        .entry(word)
        .frame(pfn)
}
