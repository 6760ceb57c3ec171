//! `table-level`. Levels fall by one from a table to the next, so a cycle is a table at two levels.

use ptshare_paging::Level;

use crate::frames::Frame;
use crate::graph::At;
use crate::report::{Finding, RuleInfo, Sink, level_name};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "table-level",
    statement: "a table is reached at the level that its metadata says and at no other",
    reads: "the level at which every entry or root reaches a table; the level in the table's metadata",
    why: "a frame that is a PTE page for one parent and a PMD page for another turns data addresses into table \
          addresses; retyping a page without waiting for its walkers did that (CVE-2025-38085)",
    design: &[11],
    catalogue: &[2],
};

/// A table's metadata says another level than that at which it was reached.
pub(crate) fn recorded(at: At, word: u64, pfn: u64, level: Level, frame: &Frame, sink: &mut Sink) {
    sink.report(&RULE, || {
        let found = format!("level {} ({})", frame.level(), level_name(frame.level()));
        finding(
            at,
            word,
            pfn,
            format!("metadata says level {} ({})", level as u8, level_name(level as u8)),
            found,
        )
    });
}

/// A table first reached at `first` is reached at `level` too.
pub(crate) fn two_levels(at: At, word: u64, pfn: u64, level: Level, first: Level, sink: &mut Sink) {
    sink.report(&RULE, || {
        finding(
            at,
            word,
            pfn,
            format!("reached at level {} alone", first as u8),
            format!("level {} too", level as u8),
        )
    });
}

fn finding(at: At, word: u64, pfn: u64, expected: String, found: String) -> Finding {
    let finding = Finding::new(&RULE, expected, found).mm(at.mm).va(at.va).level(at.level as u8).frame(pfn);
    if word == 0 { finding } else { finding.entry(word) }
}
