//! `no-entry-outside-vma`. Pages held without access under PROT_NONE count too.

use crate::graph::At;
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "no-entry-outside-vma",
    statement: "every user leaf lies inside a VMA",
    reads: "the span of every leaf on every path; the VMAs",
    why: "a page left behind by a partial munmap is readable after the call said it was gone, and shows up in \
          whatever is mapped there next; Linux's hugetlb unshare missed VMA boundaries (b30c14cd6102, \
          CVE-2025-38084)",
    design: &[6],
    catalogue: &[18],
};

/// A leaf has no VMA at `va`.
pub(crate) fn leaf(at: At, word: u64, va: u64, sink: &mut Sink) {
    sink.report(&RULE, || {
        Finding::new(&RULE, "a VMA over the leaf", format!("no VMA at {va:#x}"))
            .mm(at.mm)
            .va(at.va)
            .level(at.level as u8)
            .entry(word)
            .frame(ptshare_paging::Pte(word).pfn().0)
    });
}
