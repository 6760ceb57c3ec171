//! `pointers-reach-tables`. A frame that claims to be something else is looked at all the same if its words could be
//! entries, so that one wrong kind is one finding.

use ptshare_wire::FrameKind;

use crate::frames::{Frame, Place};
use crate::graph::At;
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "pointers-reach-tables",
    statement: "an entry that is no leaf, and a root, points to a frame in managed memory that is in use as a table",
    reads: "where each such entry of the user half points, each root; kind of that frame",
    why: "a table freed while an entry still points to it is walked by the processor after its next owner has \
          written to it (CVE-2021-4002: hugetlb PMD pages reused while in use; mshare v2 freed a PUD page under its \
          processes)",
    design: &[8],
    catalogue: &[1],
};

/// An entry or root points to `pfn`, which lies at `place`: memory that cannot be a table.
pub(crate) fn place(at: At, word: u64, pfn: u64, place: Place, sink: &mut Sink) {
    sink.report(&RULE, || finding(at, word, pfn, "a table in managed memory", place.to_string()));
}

/// An entry or root points to a table in frame `pfn`, which is memory in use or free.
pub(crate) fn kind(at: At, word: u64, pfn: u64, frame: &Frame, sink: &mut Sink) {
    if frame.kind() != Some(FrameKind::Table) {
        sink.report(&RULE, || finding(at, word, pfn, "a table in use", frame.kind_name()));
    }
}

fn finding(at: At, word: u64, pfn: u64, expected: &str, found: String) -> Finding {
    let finding = Finding::new(&RULE, expected, found).mm(at.mm).va(at.va).level(at.level as u8).frame(pfn);
    if word == 0 { finding.detail("this frame is the mm's root") } else { finding.entry(word) }
}
