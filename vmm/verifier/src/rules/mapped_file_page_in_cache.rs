//! `mapped-file-page-in-cache`. Truncate and hole punching unmap first and take pages out of the cache then.

use ptshare_wire::vma::VM_SHARED;
use ptshare_wire::{FrameKind, VmaRec};

use super::rights_within_vma::describe;
use crate::frames::Frame;
use crate::graph::At;
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "mapped-file-page-in-cache",
    statement: "a file's page that is mapped is in its object's cache",
    reads: "cache flag of each frame of kind Cache that a leaf maps, and of hugetlb pages in shared mappings",
    why: "a truncate that misses a table leaves old content readable beyond the end of the file, and the next \
          reader of the file gets another page for the same offset (eb48c0714647: fork missed the sharing, and \
          truncate hit BUG in mm/filemap.c)",
    design: &[5],
    catalogue: &[33],
};

/// Judges a leaf over a page of the VMA's object.
#[inline]
pub(crate) fn leaf(at: At, word: u64, pfn: u64, frame: &Frame, vma: &VmaRec, sink: &mut Sink) {
    if frame.in_cache() || frame.kind() == Some(FrameKind::Hugetlb) && vma.flags & VM_SHARED == 0 {
        return;
    }
    sink.report(&RULE, || {
        Finding::new(&RULE, "a page in its object's cache", "a page that has left it")
            .mm(at.mm)
            .va(at.va)
            .level(at.level as u8)
            .entry(word)
            .frame(pfn)
            .detail(describe(vma))
    });
}
