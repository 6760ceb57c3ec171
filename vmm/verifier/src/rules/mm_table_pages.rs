//! `mm-table-pages`.

use crate::census::Mm;
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "mm-table-pages",
    statement: "an mm's table_pages = the tables that its root reaches",
    reads: "table_pages of every mm; the tables that its root reaches, the root included and shared ones counted in \
            full",
    why: "VmPTE and the OOM killer go by it; hugetlb sharing counted nr_pmds on the wrong branch for two years \
          (c17b1f42594e, 2016), and McCracken's patch was sent back with VmPTE always 0",
    design: &[15],
    catalogue: &[28],
};

/// Compares the counter of one mm.
pub(crate) fn mm(mm: &Mm, found: u64, sink: &mut Sink) {
    if mm.table_pages != found {
        sink.report(&RULE, || {
            Finding::new(
                &RULE,
                format!("table_pages = {found}, the tables reached"),
                format!("table_pages = {}", mm.table_pages),
            )
            .mm(mm.id)
            .frame(mm.root)
        });
    }
}
