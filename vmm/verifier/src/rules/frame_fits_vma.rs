//! `frame-fits-vma`. Frames that no VMA may map (tables, kernel memory, free frames) are left to the rules about
//! those.

use ptshare_wire::vma::{VM_HUGETLB, VM_SHARED};
use ptshare_wire::{FrameKind, HugeSize, VmaRec};

use crate::frames::Frame;
use crate::graph::At;
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "frame-fits-vma",
    statement: "a leaf maps a frame of a kind, and a huge leaf one of a size, that its VMA can have",
    reads: "level of a leaf; kind of the frame that it maps; object and flags of the VMA",
    why: "a private page in a shared mapping is seen by one process alone, and a file's page in anonymous memory \
          belongs to two owners; Linux's PAGE_TABLE_CHECK counts both uses of a page for the same reason",
    design: &[5],
    catalogue: &[8],
};

/// Judges a leaf. True if its page belongs to the VMA's object, and so has an offset there.
#[inline]
pub(crate) fn leaf(at: At, word: u64, pfn: u64, frame: &Frame, vma: &VmaRec, sink: &mut Sink) -> bool {
    let shared = vma.flags & VM_SHARED != 0;
    let huge = vma.flags & VM_HUGETLB != 0;
    let (fits, placed) = match frame.kind() {
        Some(FrameKind::Anon | FrameKind::Zero) => (!shared && !huge, false),
        // A leaf of another size than its page: hugetlb-leaf-aligned.
        Some(FrameKind::Hugetlb) if frame.huge_size().map(HugeSize::level) != Some(at.level) => (true, false),
        Some(FrameKind::Hugetlb) => {
            let fits = huge && at.level == HugeSize::of_vma(vma.flags).level();
            (fits, shared || frame.in_cache())
        }
        Some(FrameKind::Cache) => (vma.object != 0 && !huge, true),
        Some(FrameKind::Table | FrameKind::Kernel | FrameKind::Free) | None => (true, false),
    };
    if !fits {
        sink.report(&RULE, || {
            Finding::new(&RULE, kinds_of(vma), frame.kind_name())
                .mm(at.mm)
                .va(at.va)
                .level(at.level as u8)
                .entry(word)
                .frame(pfn)
                .detail(super::rights_within_vma::describe(vma))
        });
    }
    fits && placed
}

/// Kinds that a VMA may map.
fn kinds_of(vma: &VmaRec) -> &'static str {
    match (vma.flags & VM_HUGETLB != 0, vma.object, vma.flags & VM_SHARED != 0) {
        (true, ..) if HugeSize::of_vma(vma.flags) == HugeSize::Gib1 => "kind Hugetlb, by a leaf of 1 GiB",
        (true, ..) => "kind Hugetlb, by a leaf of 2 MiB",
        (_, 0, _) => "kind Anon or Zero (anonymous VMA)",
        (_, _, false) => "kind Cache, Anon or Zero (private file VMA)",
        (_, _, true) => "kind Cache (shared VMA)",
    }
}
