//! `frame-fits-vma` (prior art I8, I29). Reads: kind of the frame that a leaf maps, and for page-cache frames object and
//! index; object, offset and flags of the VMA.
//!
//! Frames that no VMA may map (tables, kernel memory, free frames) are left to the rules about those.

use ptshare_paging::Level;
use ptshare_wire::vma::{VM_HUGETLB, VM_SHARED};
use ptshare_wire::{FrameKind, VmaRec};

use crate::frames::{Frame, Frames};
use crate::graph::At;
use crate::report::{Finding, RuleInfo, Sink};
use crate::view::PhysView;

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "frame-fits-vma",
    statement: "a leaf maps a frame of a kind that its VMA has, and a file page at its offset",
    why: "two processes at one file offset must see one page; a fault that forgets vm_pgoff, or a frame freed and used \
          for something else while still mapped, shows as a frame that does not belong there",
};

/// Judges the leaf at `at`. `(pfn, index)`: its frame, and how many pages into the leaf `vma` begins.
#[allow(clippy::too_many_arguments)]
#[inline]
pub(crate) fn leaf(
    at: At,
    word: u64,
    (pfn, index): (u64, u64),
    frame: &Frame,
    vma: &VmaRec,
    view: &dyn PhysView,
    frames: &Frames,
    sink: &mut Sink,
) {
    let shared = vma.flags & VM_SHARED != 0;
    let huge = vma.flags & VM_HUGETLB != 0;
    let fits = match frame.kind() {
        Some(FrameKind::Anon) => !shared && !huge,
        Some(FrameKind::Zero) => !shared && !huge,
        // A small leaf into a huge page: hugetlb-leaf-aligned.
        Some(FrameKind::Hugetlb) if at.level == Level::Pte => true,
        Some(FrameKind::Hugetlb) if huge && (shared || frame.in_cache()) => {
            return cached(at, word, (pfn, index), vma, frames.cache_key(view, pfn), sink);
        }
        Some(FrameKind::Hugetlb) => huge,
        Some(FrameKind::Cache) if vma.object == 0 || huge => false,
        Some(FrameKind::Cache) => {
            return cached(at, word, (pfn, index), vma, frames.cache_key(view, pfn), sink);
        }
        Some(FrameKind::Table | FrameKind::Kernel | FrameKind::Free) | None => true,
    };
    if !fits {
        sink.report(&RULE, || {
            finding(at, word, pfn, vma, kinds_of(vma).to_string(), format!("kind {:?}", frame.kind()))
        });
    }
}

/// A page-cache frame in a VMA with an object.
fn cached(
    at: At,
    word: u64,
    (pfn, index): (u64, u64),
    vma: &VmaRec,
    key: Option<(u64, u64)>,
    sink: &mut Sink,
) {
    let offset = (at.va + (index << 12)).saturating_sub(vma.start) >> 12;
    let expected = (vma.object, vma.pgoff.wrapping_add(offset));
    let found = key.map(|(object, page)| (object, page.wrapping_add(index)));
    if found != Some(expected) {
        sink.report(&RULE, || {
            let found =
                found.map_or("no metadata".to_string(), |(o, p)| format!("page {p:#x} of object {o}"));
            finding(at, word, pfn, vma, format!("page {:#x} of object {}", expected.1, expected.0), found)
        });
    }
}

/// Kinds that a VMA may map.
fn kinds_of(vma: &VmaRec) -> &'static str {
    match (vma.flags & VM_HUGETLB != 0, vma.object, vma.flags & VM_SHARED != 0) {
        (true, ..) => "kind Hugetlb",
        (_, 0, _) => "kind Anon or Zero (anonymous VMA)",
        (_, _, false) => "kind Cache, Anon or Zero (private file VMA)",
        (_, _, true) => "kind Cache (shared VMA)",
    }
}

fn finding(at: At, word: u64, pfn: u64, vma: &VmaRec, expected: String, found: String) -> Finding {
    Finding::new(&RULE, expected, found)
        .mm(at.mm)
        .va(at.va)
        .level(at.level as u8)
        .entry(word)
        .frame(pfn)
        .detail(super::rights_within_vma::describe(vma))
}
