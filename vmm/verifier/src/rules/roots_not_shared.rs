//! `roots-not-shared`.

use ptshare_paging::Level;

use crate::census::Mm;
use crate::graph::{Graph, Table};
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "roots-not-shared",
    statement: "a root belongs to one mm: one record names it and no entry points to it",
    reads: "the records of all mms, and the entries found that point to roots",
    why: "two address spaces under one root are one; sharing ends below the root in every mode (a lazily dropped \
          root that another CPU still used is why Linux counts mm_count apart from mm_users)",
    design: &[1],
    catalogue: &[11],
};

/// Judges one table.
pub(crate) fn table(table: &Table, graph: &Graph, mms: &[Mm], sink: &mut Sink) {
    if table.level != Level::Pgd || table.parents == 1 {
        return;
    }
    sink.report(&RULE, || {
        let users: Vec<String> = graph
            .edges(table)
            .take(6)
            .map(|edge| {
                let name = mms.get(edge.mm as usize).map_or("?".to_string(), |mm| mm.id.to_string());
                if edge.word == 0 { name } else { format!("an entry {:#x} of {name}", edge.word) }
            })
            .collect();
        let finding = Finding::new(&RULE, "a root of one mm", format!("{} users", table.parents))
            .level(Level::Pgd as u8)
            .frame(table.pfn)
            .detail(users.join(", "));
        match mms.get(table.mm as usize) {
            Some(mm) => finding.mm(mm.id),
            None => finding,
        }
    });
}
