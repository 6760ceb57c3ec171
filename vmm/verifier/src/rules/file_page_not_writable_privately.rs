//! `file-page-not-writable-privately`.

use ptshare_wire::vma::VM_SHARED;
use ptshare_wire::{FrameKind, VmaRec};

use super::private_page_shared_not_writable::open;
use super::rights_within_vma::describe;
use crate::frames::Frame;
use crate::graph::At;
use crate::report::{RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "file-page-not-writable-privately",
    statement: "an object's page is writable through no private mapping",
    reads: "effective R/W of every leaf; kind and cache flag of its frame; whether the VMA is shared",
    why: "a store to a private copy would reach the file and all who map it: Dirty COW (CVE-2016-5195) wrote to \
          read-only files this way",
    design: &[4],
    catalogue: &[15, 32],
};

/// Judges one leaf that a path opens for writing.
#[inline]
pub(crate) fn leaf(at: At, word: u64, pfn: u64, frame: &Frame, vma: &VmaRec, sink: &mut Sink) {
    let object = match frame.kind() {
        Some(FrameKind::Cache) => true,
        Some(FrameKind::Hugetlb) => frame.in_cache(),
        _ => false,
    };
    if object && vma.flags & VM_SHARED == 0 {
        let what = "an object's page under a private mapping";
        sink.report(&RULE, || open(&RULE, at, word, pfn, what).detail(describe(vma)));
    }
}
