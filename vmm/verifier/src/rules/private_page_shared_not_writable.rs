//! `private-page-shared-not-writable`.

use ptshare_wire::FrameKind;

use crate::frames::Frame;
use crate::graph::At;
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "private-page-shared-not-writable",
    statement: "a private page that several tables map is writable through no path of any mm",
    reads: "effective R/W of every leaf on every path; kind of the frame; the leaves found that map it",
    why: "copy on write is broken: a child reads its parent's later stores. Unsharing that write-protects only the \
          new copy of a table leaves such a path (on-demand-fork's copy_one_pte_tfork protects only the child's)",
    design: &[4],
    catalogue: &[15],
};

/// Judges one leaf that a path opens for writing.
#[inline]
pub(crate) fn leaf(at: At, word: u64, pfn: u64, frame: &Frame, sink: &mut Sink) {
    let private = match frame.kind() {
        Some(FrameKind::Anon) => true,
        Some(FrameKind::Hugetlb) => !frame.in_cache(),
        _ => false,
    };
    if private && frame.maps > 1 {
        let what = "a private page that other tables map too";
        sink.report(&RULE, || {
            open(&RULE, at, word, pfn, what).detail(format!("{} leaves map it", frame.maps))
        });
    }
}

/// A finding: this leaf is open for writing over what it must not be.
pub(super) fn open(rule: &RuleInfo, at: At, word: u64, pfn: u64, what: &str) -> Finding {
    let found = format!("R/W = 1 at every level, over {what}");
    Finding::new(rule, "R/W = 0 at some level of the path", found)
        .mm(at.mm)
        .va(at.va)
        .level(at.level as u8)
        .entry(word)
        .frame(pfn)
}
