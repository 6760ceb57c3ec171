//! `reverse-map-equals-walk`. The guest finds the mappings of a private page through its family's mms and their VMAs.
//! So it misses none if every leaf fits, which is checked for all of them; the answers show that the search does what
//! it should, and that it names nobody who is not there. The pages of objects are found by their offsets:
//! `file-page-at-its-offset`.

use ptshare_wire::{FrameKind, VmaRec};

use crate::answers::ReverseMap;
use crate::census::Mm;
use crate::frames::Frame;
use crate::graph::At;
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "reverse-map-equals-walk",
    statement: "the kernel finds every mapping of a page, and nothing else",
    reads: "of each leaf that maps a private page, family and index in the page's metadata, the mm's family and the \
            VMA's offset; the reverse maps that the guest gives of single frames, against every place where the \
            walk finds them",
    why: "a mapping that the reverse map misses outlives the page: rmap that stopped at map count 0 while other \
          sharers still mapped a hugetlb page corrupted databases (017b1660df89, 2018); on-demand-fork left rmap \
          and reclaim as they were",
    design: &[14],
    catalogue: &[51, 52],
};

/// Places named in a finding.
const NAMED_MAX: usize = 6;

/// Is it a page that processes alone have?
fn is_private(frame: &Frame) -> bool {
    matches!(frame.kind(), Some(FrameKind::Anon | FrameKind::Hugetlb)) && !frame.in_cache()
}

/// Judges the leaf at `at` of `mm`. `(pfn, index)`: its frame, and how many pages into the leaf `vma` begins.
#[inline]
pub(crate) fn leaf(
    at: At,
    word: u64,
    (pfn, index): (u64, u64),
    frame: &Frame,
    (mm, vma): (&Mm, &VmaRec),
    sink: &mut Sink,
) {
    if index != 0 || !is_private(frame) {
        return;
    }
    let expected = (mm.family, vma.pgoff.wrapping_add(at.va.wrapping_sub(vma.start) >> 12));
    let found = frame.key;
    if found != expected {
        sink.report(&RULE, || {
            let text = |(family, index): (u64, u64)| format!("family {family}, index {index:#x}");
            Finding::new(&RULE, text(expected), text(found))
                .mm(at.mm)
                .va(at.va)
                .level(at.level as u8)
                .entry(word)
                .frame(pfn)
                .detail(super::rights_within_vma::describe(vma))
        });
    }
}

/// Compares an answer of the guest with the places (slot, address) that the walk found.
pub(crate) fn answer(said: &ReverseMap, mut walked: Vec<(u64, u64)>, sink: &mut Sink) {
    let mut places = said.places.clone();
    places.sort_unstable();
    walked.sort_unstable();
    let invented: Vec<_> = places.iter().filter(|place| walked.binary_search(place).is_err()).collect();
    let missed: Vec<_> = walked.iter().filter(|place| places.binary_search(place).is_err()).collect();
    let counts = places.len() as u64 + said.left_out == walked.len() as u64;
    if invented.is_empty() && counts && (missed.is_empty() || said.left_out > 0) {
        return;
    }
    sink.report(&RULE, || {
        let list = |places: &[&(u64, u64)]| {
            let named = places.iter().take(NAMED_MAX).map(|(slot, va)| format!("mm slot {slot} at {va:#x}"));
            let text = named.collect::<Vec<_>>().join(", ");
            let more = places.len().saturating_sub(NAMED_MAX);
            if more > 0 { format!("{text} and {more} more") } else { text }
        };
        let found = match (missed.is_empty(), invented.is_empty()) {
            (false, _) => format!("{} places, without {}", places.len(), list(&missed)),
            (_, false) => format!("{} places, with {}", places.len(), list(&invented)),
            _ => format!("{} places and {} left out", places.len(), said.left_out),
        };
        Finding::new(&RULE, format!("the {} places where the walk finds it", walked.len()), found)
            .frame(said.pfn)
            .detail("the kernel was asked where it is mapped")
    });
}
