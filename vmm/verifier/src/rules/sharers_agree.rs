//! `sharers-agree`. Neighbouring VMAs that could be one count as one, and flags that concern no entry (hints,
//! VM_LOCKED) may differ.

use crate::graph::{At, Table};
use crate::report::{Finding, MmId, RuleInfo, Sink};
use crate::spaces::{Clip, Shared};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "sharers-agree",
    statement: "all mms that share a table have equal VMAs over its span",
    reads: "for each table with more than one parent, the VMAs over its span in every mm that reaches it, clipped \
            to the span: bounds, flags, object, offset",
    why: "a VMA split, mprotect or mmap that forgets to unshare gives other sharers the new meaning; on-demand-fork \
          had it at VMA split and merge (fixed June 2021), Linux's hugetlb in b30c14cd6102",
    design: &[3],
    catalogue: &[17],
};

/// Compares an mm's VMAs over a shared table with those of the `first` sharer, which is called `with`.
pub(crate) fn table(
    at: At,
    table: &Table,
    clips: &[Clip],
    first: &Shared,
    with: Option<MmId>,
    sink: &mut Sink,
) {
    if clips == first.clips {
        return;
    }
    let different = clips
        .iter()
        .zip(&first.clips)
        .position(|(a, b)| a != b)
        .unwrap_or(clips.len().min(first.clips.len()));
    sink.report(&RULE, || {
        let expected = describe(first.clips.get(different), first.base);
        let expected = format!("VMA {different} of the span: {expected}");
        let finding = Finding::new(&RULE, expected, describe(clips.get(different), at.va))
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

fn describe(clip: Option<&Clip>, base: u64) -> String {
    clip.map_or("none".to_string(), |c| {
        format!(
            "{:x}-{:x} flags {:#x} object {} page {:#x}",
            base + c.start,
            base + c.end,
            c.flags,
            c.object,
            c.pgoff
        )
    })
}
