//! `frame-has-one-state` (design invariant 8, first half). Reads: kind of every frame below the virgin marks, which
//! frames the walk reached as tables, the census's zero page.

use ptshare_wire::FrameKind;

use crate::frames::{Frame, NO_TABLE};
use crate::graph::At;
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "frame-has-one-state",
    statement: "a frame's kind exists and is the one its use shows: every table reached is a Table, one frame is Zero",
    why: "a page that is a table for one and data for another gives a process its own page tables to write; Linux \
          added PAGE_TABLE_CHECK after such type mixing",
};

/// An entry or root points to a table in frame `pfn`, whose kind is neither Table, Free nor Kernel.
pub(crate) fn table(at: At, word: u64, pfn: u64, frame: &Frame, sink: &mut Sink) {
    sink.report(&RULE, || {
        let finding = Finding::new(&RULE, "kind Table", format!("kind {}", kind_name(frame)))
            .mm(at.mm)
            .va(at.va)
            .level(at.level as u8)
            .frame(pfn);
        if word == 0 { finding.detail("this frame is the mm's root") } else { finding.entry(word) }
    });
}

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

/// The kind, or its number if there is no such kind.
fn kind_name(frame: &Frame) -> String {
    frame.kind().map_or_else(|| (frame.state & 0xff).to_string(), |kind| format!("{kind:?}"))
}
