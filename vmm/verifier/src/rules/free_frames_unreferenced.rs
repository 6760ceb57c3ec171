//! `free-frames-unreferenced` (design invariant 8, second half). Reads: entries and roots that point to frames of kind
//! Free or beyond a virgin mark, and `refs` of free frames.

use ptshare_wire::FrameKind;

use crate::frames::Frame;
use crate::graph::At;
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "free-frames-unreferenced",
    statement: "a free frame has refs 0, and no entry or root points to it",
    why: "a table or page freed while an entry still points to it belongs to two owners after the next allocation \
          (CVE-2021-4002: hugetlb PMD pages reused while still in use)",
};

/// A leaf maps a free frame.
pub(crate) fn leaf(at: At, word: u64, pfn: u64, sink: &mut Sink) {
    sink.report(&RULE, || finding(at, word, pfn, "a frame in use", "a leaf maps a free frame"));
}

/// An entry or root points to a table in a free frame.
pub(crate) fn table(at: At, word: u64, pfn: u64, sink: &mut Sink) {
    sink.report(&RULE, || finding(at, word, pfn, "a table in use", "it points to a free frame"));
}

/// An entry or root points to a frame that was never given out.
pub(crate) fn virgin(at: At, word: u64, pfn: u64, sink: &mut Sink) {
    sink.report(&RULE, || finding(at, word, pfn, "a frame in use", "it points to a frame never given out"));
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

fn finding(at: At, word: u64, pfn: u64, expected: &str, found: &str) -> Finding {
    let finding = Finding::new(&RULE, expected, found).mm(at.mm).va(at.va).level(at.level as u8).frame(pfn);
    if word == 0 { finding.detail("this frame is the mm's root") } else { finding.entry(word) }
}
