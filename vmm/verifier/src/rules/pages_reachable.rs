//! `pages-reachable`. With refs above 0 and no user the count itself is wrong: `leaf-refs-equal-maps`.

use ptshare_wire::FrameKind;

use crate::frames::Frame;
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "pages-reachable",
    statement: "a data frame with refs 0, in no cache and mapped by nobody, is a free one",
    reads: "kind, refs, aux and cache flag of every frame below the virgin marks; the leaves found that map it",
    why: "a page whose last reference went without the page is lost for good",
    design: &[9],
    catalogue: &[],
};

/// Judges any frame.
#[inline]
pub(crate) fn frame(pfn: u64, frame: &Frame, sink: &mut Sink) {
    let data = matches!(frame.kind(), Some(FrameKind::Anon | FrameKind::Cache));
    if data && frame.refs == 0 && frame.aux == 0 && !frame.in_cache() && !frame.is_referenced() {
        sink.report(&RULE, || {
            let found = format!("refs 0, {}", frame.kind_name());
            Finding::new(&RULE, "a data frame that something refers to, or a free one", found).frame(pfn)
        });
    }
}
