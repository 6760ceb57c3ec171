//! `hugetlb-pmd-spans-one-vma`.

use ptshare_paging::Level;

use super::hugetlb_pmd_fits_object::shared;
use crate::graph::{At, Table};
use crate::report::{Finding, RuleInfo, Sink};
use crate::spaces::Clip;

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "hugetlb-pmd-spans-one-vma",
    statement: "a PMD page of a hugetlb object lies under one shared hugetlb VMA over its whole GiB",
    reads: "flags of each PMD page; the VMAs over its span in every mm that reaches it",
    why: "Linux shared PMD pages over spans with a VMA boundary inside (b30c14cd6102), or after a split that raced \
          with a fault (CVE-2025-38084): one process then works in another's mapping",
    design: &[3, 10],
    catalogue: &[39, 40],
};

/// An entry points to the object's PMD page `table`; gives the VMA over its whole GiB, if there is one.
pub(crate) fn pointer<'a>(
    at: At,
    word: u64,
    table: &Table,
    clips: &'a [Clip],
    sink: &mut Sink,
) -> Option<&'a Clip> {
    let found = match clips {
        [one] if (one.start, one.end) != (0, Level::Pmd.span_bytes()) => {
            format!("a VMA over bytes {:#x} to {:#x}", one.start, one.end)
        }
        [one] if shared(clips) => return Some(one),
        [one] => format!("a VMA with flags {:#x} of object {}", one.flags, one.object),
        _ => format!("{} VMAs", clips.len()),
    };
    sink.report(&RULE, || {
        Finding::new(&RULE, "one shared hugetlb VMA over the whole GiB", found)
            .mm(at.mm)
            .va(at.va)
            .level(at.level as u8)
            .entry(word)
            .frame(table.pfn)
    });
    None
}
