//! `file-page-at-its-offset`.

use ptshare_wire::VmaRec;

use super::rights_within_vma::describe;
use crate::graph::At;
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "file-page-at-its-offset",
    statement: "a file's page is mapped at the address that its index gives",
    reads: "object and index of each page-cache frame that a leaf maps; object and offset of the VMA",
    why: "two processes at one file offset must see one page: a fault that takes vm_start and forgets vm_pgoff, or \
          a table taken over in another phase, shows other parts of the file; Linux's hugetlb compares pmd_index \
          and offset for it (page_table_shareable, mm/hugetlb.c)",
    design: &[3, 5],
    catalogue: &[29, 31],
};

/// Judges the leaf at `at`, over a page of the VMA's object. `(pfn, index)`: its frame, and how many pages into the leaf
/// `vma` begins. `key`: object and index in the frame's metadata.
#[inline]
pub(crate) fn leaf(
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
        let text = |(object, page)| format!("page {page:#x} of object {object}");
        sink.report(&RULE, || {
            Finding::new(&RULE, text(expected), found.map_or("no metadata".to_string(), text))
                .mm(at.mm)
                .va(at.va)
                .level(at.level as u8)
                .entry(word)
                .frame(pfn)
                .detail(describe(vma))
        });
    }
}
