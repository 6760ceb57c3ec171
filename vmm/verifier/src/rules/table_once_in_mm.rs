//! `table-once-in-mm`. Two VMAs may show the same part of an object, and then its table appears at both.

use crate::graph::{At, Table};
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "table-once-in-mm",
    statement: "an mm reaches a table once, unless the table belongs to an object",
    reads: "which tables the walk of one mm meets twice",
    why: "a process that has a private table at two addresses writes one range and changes another; an mremap that \
          copies the entry and leaves the source does it (mremap past shared hugetlb tables went wrong in another \
          way in 9bdad082d44b)",
    design: &[3],
    catalogue: &[6],
};

/// An mm reaches a table a second time.
pub(crate) fn again(at: At, table: &Table, sink: &mut Sink) {
    sink.report(&RULE, || {
        Finding::new(&RULE, "a table at one address of an mm", format!("a second time at {:#x}", at.va))
            .mm(at.mm)
            .va(at.va)
            .level(at.level as u8)
            .frame(table.pfn)
    });
}
