//! `no-user-path-to-kernel`.

use crate::frames::Place;
use crate::graph::At;
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "no-user-path-to-kernel",
    statement: "no leaf of the user half maps a table, kernel memory, reserved memory or an address without memory",
    reads: "where every leaf of the user half points: managed frames by kind, reserved memory, nothing",
    why: "a process that can write a page table owns the machine: the usual end of a stale-translation bug such as \
          CVE-2025-38085, where a table was walked after it had become private to another mm",
    design: &[7],
    catalogue: &[7],
};

/// A leaf maps `pfn`, which lies at `place`.
pub(crate) fn leaf(at: At, word: u64, pfn: u64, place: Place, sink: &mut Sink) {
    sink.report(&RULE, || {
        Finding::new(&RULE, "memory of processes or files", place.to_string())
            .mm(at.mm)
            .va(at.va)
            .level(at.level as u8)
            .entry(word)
            .frame(pfn)
    });
}
