//! `frame-has-one-state`. A frame that the walk reached as a table is judged where it was reached.

use ptshare_wire::FrameKind;

use crate::frames::{Frame, NO_TABLE};
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "frame-has-one-state",
    statement: "a frame's kind exists, and one frame alone is the zero page, the one that the census names",
    reads: "kind of every frame below the virgin marks; the census's zero page",
    why: "a page of two kinds is freed by the rules of one while it is used by those of the other; Linux added \
          PAGE_TABLE_CHECK after such type mixing",
    design: &[8],
    catalogue: &[],
};

/// Judges any frame.
#[inline]
pub(crate) fn frame(pfn: u64, frame: &Frame, zero_page: u64, sink: &mut Sink) {
    // A frame reached as a table was judged where it was reached.
    if frame.table != NO_TABLE {
        return;
    }
    match frame.kind() {
        None => sink.report(&RULE, || {
            Finding::new(&RULE, "one of the kinds 0 to 6", format!("state {:#x}", frame.state)).frame(pfn)
        }),
        Some(FrameKind::Zero) if pfn != zero_page => sink.report(&RULE, || {
            Finding::new(&RULE, format!("kind Zero for frame {zero_page:#x} alone"), "kind Zero").frame(pfn)
        }),
        Some(kind) if pfn == zero_page && kind != FrameKind::Zero => sink.report(&RULE, || {
            Finding::new(&RULE, "kind Zero for the zero page", format!("kind {kind:?}")).frame(pfn)
        }),
        Some(_) => {}
    }
}
