//! `sharers-at-one-address`. An object's table may lie at any address.

use crate::graph::{At, Table};
use crate::report::{Finding, MmId, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "sharers-at-one-address",
    statement: "a COW-shared table lies at the same address in every mm that shares it",
    reads: "for each table with more than one parent, its address in every mm that reaches it",
    why: "what fork shares it shares in place: another address is an entry in the wrong slot, and shows one range \
          under another's name (H18, 9bdad082d44b: mremap past an unshared table advanced by the wrong distance)",
    design: &[3],
    catalogue: &[16],
};

/// An mm has the shared `table` at `at`, the first sharer, which is called `with`, at `first`.
pub(crate) fn table(at: At, table: &Table, first: u64, with: Option<MmId>, sink: &mut Sink) {
    if at.va == first {
        return;
    }
    sink.report(&RULE, || {
        let finding =
            Finding::new(&RULE, format!("the shared table at {first:#x}"), format!("at {:#x}", at.va))
                .mm(at.mm)
                .va(at.va)
                .level(at.level as u8)
                .frame(table.pfn);
        match with {
            Some(other) => finding.detail(format!("expected as in {other}, which shares the table")),
            None => finding,
        }
    });
}
