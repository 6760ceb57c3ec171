//! `page-tables-counted-once`.

use crate::census::Totals;
use crate::graph::Graph;
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "page-tables-counted-once",
    statement: "PageTables is the number of tables, however many processes share each; and as many are called \
                shared as have several parents",
    reads: "the counters tables_now and tables_shared_now; the tables that the walk reaches",
    why: "sums over processes say how much sharing saves only against a total in which nothing counts twice; and \
          whoever asks whether a table is shared must ask its own count: hugetlb_pmd_shared read another one, and \
          smaps, migration and fork went wrong by it (CVE-2024-57883, 14967a9c7d24)",
    design: &[15],
    catalogue: &[12, 28],
};

/// Compares the counters.
pub(crate) fn check(totals: Totals, graph: &Graph, sink: &mut Sink) {
    let shared = graph.tables.iter().filter(|table| table.parents > 1).count();
    for (what, counter, walked) in
        [("tables", totals.tables, graph.tables.len()), ("shared tables", totals.tables_shared, shared)]
    {
        if counter != walked as u64 {
            sink.report(&RULE, || {
                let found = format!("{counter} by the counter");
                Finding::new(&RULE, format!("{walked} {what}, found by the walk"), found)
            });
        }
    }
}
