//! `leaf-refs-equal-maps`. The head frame of a hugetlb page (aligned to 512 frames or more) carries its count; the other
//! frames have none.

use ptshare_wire::FrameKind;

use crate::frames::{Frame, NO_TABLE};
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "leaf-refs-equal-maps",
    statement: "a data frame's refs = leaves that map it, counted once a table, + 1 in a page cache + kernel holds",
    reads: "refs, aux and the cache flag of every data frame; the leaf entries found, each table counted once \
            however many share it",
    why: "fork took page references for the entries of an already shared hugetlb table, and huge pages leaked \
          (c5c99429fa57, 2008); counting too few frees a page in use",
    design: &[2],
    catalogue: &[11, 24, 42],
};

/// Judges any frame.
#[inline]
pub(crate) fn frame(pfn: u64, frame: &Frame, sink: &mut Sink) {
    // A frame used as a table is judged by its parents.
    if frame.table != NO_TABLE {
        return;
    }
    let cached = match frame.kind() {
        Some(FrameKind::Anon | FrameKind::Zero) => false,
        Some(FrameKind::Cache) => frame.in_cache(),
        Some(FrameKind::Hugetlb) if pfn.is_multiple_of(512) => frame.in_cache(),
        Some(FrameKind::Hugetlb) if frame.refs == 0 => return,
        Some(FrameKind::Hugetlb) => {
            return sink.report(&RULE, || {
                Finding::new(&RULE, "refs 0 in a frame after the head", format!("refs {}", frame.refs))
                    .frame(pfn)
            });
        }
        Some(FrameKind::Free | FrameKind::Table | FrameKind::Kernel) | None => return,
    };
    let expected = u64::from(frame.maps) + u64::from(cached) + u64::from(frame.aux);
    if u64::from(frame.refs) != expected {
        sink.report(&RULE, || {
            Finding::new(
                &RULE,
                format!(
                    "refs = {} leaves + {} in cache + {} holds = {expected}",
                    frame.maps,
                    u8::from(cached),
                    frame.aux
                ),
                format!("refs = {}, kind {:?}", frame.refs, frame.kind().unwrap_or(FrameKind::Free)),
            )
            .frame(pfn)
        });
    }
}
