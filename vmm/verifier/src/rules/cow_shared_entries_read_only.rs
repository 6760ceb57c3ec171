//! `cow-shared-entries-read-only`. Under VMAs that may be written to now. The others are
//! `cow-shared-closed-for-later`.

use crate::graph::{At, Table};
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "cow-shared-entries-read-only",
    statement: "a shared table that is not an object's has R/W = 0 in every entry that points to it",
    reads: "the word of each entry that points to a table with more than one parent; the parents found; the VMAs \
            over its span",
    why: "with R/W = 1 in one parent a process writes pages that others see: isolation after fork is these bits \
          (the case of CVE-2021-38198, one table under parents with different R/W)",
    design: &[3],
    catalogue: &[13],
};

/// An entry with R/W = 1 points to the shared `table`, whose span is not wholly an object's; some VMA over it is writable.
pub(crate) fn pointer(at: At, word: u64, table: &Table, sink: &mut Sink) {
    sink.report(&RULE, || finding(&RULE, at, word, table));
}

/// A finding of this rule, or of the one that is its other half.
pub(super) fn finding(rule: &RuleInfo, at: At, word: u64, table: &Table) -> Finding {
    let expected = format!("R/W = 0, as {} entries or roots point to this table", table.parents);
    Finding::new(rule, expected, "R/W = 1")
        .mm(at.mm)
        .va(at.va)
        .level(at.level as u8)
        .entry(word)
        .frame(table.pfn)
}
