//! `private-page-shared-not-writable` (design invariant 4). Reads: effective R/W of every leaf on every path, kind of the
//! frame, the number of leaves found that map it, and whether the VMA is shared.
//!
//! Three sorts of page must not be written in place: private pages that a second table maps, the zero page, and a file's
//! page under a private mapping.

use ptshare_wire::vma::VM_SHARED;
use ptshare_wire::{FrameKind, VmaRec};

use crate::frames::Frame;
use crate::graph::At;
use crate::report::{Finding, RuleInfo, Sink};
use crate::spaces::Rights;

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "private-page-shared-not-writable",
    statement: "a page that is not one process's alone is writable through no private path of any mm",
    why: "copy on write is broken: a child reads its parent's later stores. Unsharing that write-protects only the new \
          copy of a table leaves such a path (on-demand-fork's copy_one_pte_tfork protects only the child's)",
};

/// Judges one leaf on one path.
#[inline]
pub(crate) fn leaf(
    at: At,
    word: u64,
    pfn: u64,
    frame: &Frame,
    rights: Rights,
    vma: &VmaRec,
    sink: &mut Sink,
) {
    if !rights.write {
        return;
    }
    let found = match frame.kind() {
        Some(FrameKind::Anon) if frame.maps > 1 => "a private page that other tables map too",
        Some(FrameKind::Hugetlb) if !frame.in_cache() && frame.maps > 1 => {
            "a private huge page that other tables map too"
        }
        Some(FrameKind::Hugetlb) if frame.in_cache() && vma.flags & VM_SHARED == 0 => {
            "an object's huge page under a private mapping"
        }
        Some(FrameKind::Zero) => "the zero page",
        Some(FrameKind::Cache) if vma.flags & VM_SHARED == 0 => "a file's page under a private mapping",
        _ => return,
    };
    sink.report(&RULE, || {
        Finding::new(
            &RULE,
            "R/W = 0 at some level of the path",
            format!("R/W = 1 at every level, over {found}"),
        )
        .mm(at.mm)
        .va(at.va)
        .level(at.level as u8)
        .entry(word)
        .frame(pfn)
        .detail(format!("{} leaves map this frame", frame.maps))
    });
}
