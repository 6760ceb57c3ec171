//! `cow-shared-entries-read-only` (design invariant 3, first half). Reads: the word of each entry that points to a table
//! with more than one parent, the number of parents found, and the VMAs over the table's span.
//!
//! The VMA may be read-only now: the entry must be so all the same, or a later mprotect opens the table.

use crate::graph::{At, Table};
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "cow-shared-entries-read-only",
    statement: "a shared table that is not an object's has R/W = 0 in every entry that points to it",
    why: "with R/W = 1 in one parent a process writes pages that others see; on-demand-fork (EuroSys'21) clears it \
          only for VMAs writable at the time, which a later mprotect undoes",
};

/// An entry with R/W = 1 points to the shared `table`, whose span is not wholly an object's.
pub(crate) fn pointer(at: At, word: u64, table: &Table, sink: &mut Sink) {
    sink.report(&RULE, || {
        Finding::new(
            &RULE,
            format!("R/W = 0, as {} entries or roots point to this table", table.parents),
            "R/W = 1",
        )
        .mm(at.mm)
        .va(at.va)
        .level(at.level as u8)
        .entry(word)
        .frame(table.pfn)
    });
}
