//! `tables-reachable`.

use ptshare_wire::FrameKind;

use crate::frames::{Frame, NO_TABLE};
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "tables-reachable",
    statement: "every frame of kind Table is reached from a live root",
    reads: "kind of every frame below the virgin marks; which of them the walk reached",
    why: "a table cleared from its parent and never freed is lost for good (CVE-2024-57883: hugetlb tables leaked \
          because speculative references looked like sharers)",
    design: &[9],
    catalogue: &[5],
};

/// Judges any frame.
#[inline]
pub(crate) fn frame(pfn: u64, frame: &Frame, sink: &mut Sink) {
    if frame.kind() == Some(FrameKind::Table) && frame.table == NO_TABLE {
        sink.report(&RULE, || {
            let found = format!("no entry or root points to it; refs {}", frame.refs);
            Finding::new(&RULE, "a table that a live root reaches", found).level(frame.level()).frame(pfn)
        });
    }
}
