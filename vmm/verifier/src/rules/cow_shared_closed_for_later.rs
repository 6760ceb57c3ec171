//! `cow-shared-closed-for-later`. The same demand as `cow-shared-entries-read-only`, for a table over which nothing
//! may be written to now.

use super::cow_shared_entries_read_only;
use crate::graph::{At, Table};
use crate::report::{RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "cow-shared-closed-for-later",
    statement: "R/W = 0 holds in every entry that points to a COW-shared table though no VMA over it is writable",
    reads: "the word of each entry that points to a table with more than one parent; the parents found; the VMAs \
            over its span",
    why: "a later mprotect would open the table for all: on-demand-fork (EuroSys'21, mm/memory.c of its tree) \
          clears R/W only for VMAs with VM_WRITE at the time of the fork",
    design: &[3],
    catalogue: &[14],
};

/// An entry with R/W = 1 points to the shared `table`, over which no VMA is writable.
pub(crate) fn pointer(at: At, word: u64, table: &Table, sink: &mut Sink) {
    sink.report(&RULE, || cow_shared_entries_read_only::finding(&RULE, at, word, table));
}
