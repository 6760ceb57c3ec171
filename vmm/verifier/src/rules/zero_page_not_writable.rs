//! `zero-page-not-writable`.

use ptshare_wire::FrameKind;

use super::private_page_shared_not_writable::open;
use crate::frames::Frame;
use crate::graph::At;
use crate::report::{RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "zero-page-not-writable",
    statement: "the zero page is writable through no path of any mm",
    reads: "effective R/W of every leaf that maps the zero page",
    why: "one store would change what every untouched page of every process reads; Linux's huge zero page could be \
          written to through get_user_pages with a stale dirty bit (CVE-2017-1000405)",
    design: &[4],
    catalogue: &[15],
};

/// Judges one leaf that a path opens for writing.
#[inline]
pub(crate) fn leaf(at: At, word: u64, pfn: u64, frame: &Frame, sink: &mut Sink) {
    if frame.kind() == Some(FrameKind::Zero) {
        sink.report(&RULE, || open(&RULE, at, word, pfn, "the zero page"));
    }
}
