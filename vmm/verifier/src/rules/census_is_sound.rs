//! `census-is-sound`. A census that cannot be followed makes every other verdict worthless, so it is a violation by
//! itself, never a panic of the judge.

use crate::graph::At;
use crate::report::{Finding, MmId, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "census-is-sound",
    statement: "every address and count of the census leads to memory, and the walk of it ends",
    reads: "the census header, its tables and lists, as far as addresses and counts go",
    why: "a checker whose own model of the books is wrong raises false alarms or sees nothing (Linux's lockdep \
          missed a changed hugetlb locking rule in 2026 and reported a bug that was none)",
    design: &[],
    catalogue: &[],
};

/// The walk took more entries than [`crate::Options::entry_budget`] allows.
pub(crate) fn budget(mm: MmId, sink: &mut Sink) {
    sink.report(&RULE, || {
        Finding::new(
            &RULE,
            "a walk that ends within the entry budget",
            "the budget is spent; the rest was not checked",
        )
        .mm(mm)
    });
}

/// A table that lies in managed RAM cannot be read.
pub(crate) fn table_unreadable(at: At, pfn: u64, sink: &mut Sink) {
    sink.report(&RULE, || {
        Finding::new(&RULE, "memory behind every managed frame", "the view cannot read this table")
            .mm(at.mm)
            .va(at.va)
            .level(at.level as u8)
            .frame(pfn)
    });
}

/// The kernel's own root cannot be read.
pub(crate) fn kernel_root_unreadable(pfn: u64, sink: &mut Sink) {
    sink.report(&RULE, || Finding::new(&RULE, "the kernel's root in memory", "no memory there").frame(pfn));
}
