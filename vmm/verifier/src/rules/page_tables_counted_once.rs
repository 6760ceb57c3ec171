//! `page-tables-counted-once` (design invariant 15). Reads: the counters behind PageTables of /proc/meminfo and the number of
//! shared tables, and the tables that the walk reaches.

use crate::census::Totals;
use crate::graph::Graph;
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "page-tables-counted-once",
    statement: "PageTables is the number of tables, however many processes share each",
    why: "sums over processes say how much sharing saves only against a total in which nothing counts twice",
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
