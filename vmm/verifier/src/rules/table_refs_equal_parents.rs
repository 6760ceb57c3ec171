//! `table-refs-equal-parents`.

use ptshare_wire::FrameKind;

use crate::census::Mm;
use crate::frames::Frames;
use crate::graph::{Graph, Table};
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "table-refs-equal-parents",
    statement: "a table's refs = the entries and roots that point to it, over all mms",
    reads: "refs of every table reached; the entries and roots found that point to it",
    why: "too low, a table is freed under its other sharers; too high, it is never freed and sharing never ends \
          (CVE-2024-57883; the speculative references behind it also broke fork, 14967a9c7d24)",
    design: &[1],
    catalogue: &[3, 4],
};

/// Parents listed in a finding.
const LISTED: usize = 6;

/// Judges one table.
pub(crate) fn table(table: &Table, graph: &Graph, frames: &Frames, mms: &[Mm], sink: &mut Sink) {
    let Some(frame) = frames.get(table.pfn).filter(|f| f.kind() == Some(FrameKind::Table)) else { return };
    if frame.refs == table.parents {
        return;
    }
    sink.report(&RULE, || {
        let mut parents: Vec<String> = graph
            .edges(table)
            .take(LISTED)
            .map(|edge| {
                let pid = mms.get(edge.mm as usize).map_or(0, |mm| mm.id.pid);
                if edge.word == 0 {
                    format!("root of pid {pid}")
                } else {
                    format!("pid {pid} at {:#x} by {:#x}", edge.va, edge.word)
                }
            })
            .collect();
        if table.parents as usize > LISTED {
            parents.push("...".into());
        }
        let finding = Finding::new(
            &RULE,
            format!("refs = {}, the entries and roots found", table.parents),
            format!("refs = {}", frame.refs),
        )
        .va(table.base)
        .level(table.level as u8)
        .frame(table.pfn)
        .detail(format!("reached from {}", parents.join(", ")));
        match mms.get(table.mm as usize) {
            Some(mm) => finding.mm(mm.id),
            None => finding,
        }
    });
}
