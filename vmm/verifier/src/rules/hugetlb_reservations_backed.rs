//! `hugetlb-reservations-backed`. Against the census's own counts: where one of those is wrong, that is the finding
//! (`hugetlb-pool-adds-up`).

use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "hugetlb-reservations-backed",
    statement: "there is a free page for each reservation, and no more surplus pages than pages",
    reads: "the census's four counts of hugetlb pages",
    why: "a reservation without a page is a SIGBUS where mmap had promised memory; Linux's resv_huge_pages has \
          underflowed more than once (mm/hugetlb.c)",
    design: &[10],
    catalogue: &[],
};

/// Judges the census's counts: total, free, reserved, surplus.
pub(crate) fn counts([total, free, reserved, surplus]: [u64; 4], sink: &mut Sink) {
    if reserved > free || surplus > total {
        sink.report(&RULE, || {
            Finding::new(
                &RULE,
                format!("at most {free} reserved and {total} surplus pages"),
                format!("{reserved} reserved, {surplus} surplus"),
            )
        });
    }
}
