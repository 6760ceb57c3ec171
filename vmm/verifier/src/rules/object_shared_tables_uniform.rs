//! `object-shared-tables-uniform` (design invariant 3, second half). Reads: the words of the entries that point to a shared
//! table whose span is mapped shared throughout.
//!
//! Such a table belongs to its object, and R/W may be 1; then it is 1 for all. What the table holds is judged leaf by leaf
//! ([`frame_fits_vma`](super::frame_fits_vma)), and the VMAs of its users by [`sharers_agree`](super::sharers_agree).

use ptshare_paging::Pte;

use crate::graph::{At, Graph, Table};
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "object-shared-tables-uniform",
    statement: "the entries that point to a table shared by an object's mappings have one R/W: never a mixture with COW",
    why: "a table that is copied on write for one user and written in place by another gives them different memory; \
          Linux shares hugetlb tables only where all flags agree (page_table_shareable, mm/hugetlb.c)",
};

/// An entry with R/W = 1 points to the shared `table`, over shared mappings only. Called once a table.
pub(crate) fn pointer(at: At, word: u64, graph: &Graph, table: &Table, sink: &mut Sink) {
    let writable = graph.edges(table).filter(|e| Pte(e.word).writable()).count();
    if writable == table.parents as usize {
        return;
    }
    sink.report(&RULE, || {
        Finding::new(
            &RULE,
            "one R/W in all entries that point to the table",
            format!("R/W = 1 in {writable} of {}", table.parents),
        )
        .mm(at.mm)
        .va(at.va)
        .level(at.level as u8)
        .entry(word)
        .frame(table.pfn)
    });
}
