//! `sharers-agree` (prior art I16, I17). Reads: for each table with more than one parent, its address in every mm that
//! reaches it, and the VMAs over its span there, clipped to the span: bounds, flags, object, offset.
//!
//! Neighbouring VMAs that could be one count as one, and flags that concern no entry (hints, VM_LOCKED) may differ. A table
//! that belongs to an object may lie at different addresses.

use super::hugetlb_pmd_fits_object;
use crate::graph::{At, Table};
use crate::report::{Finding, MmId, RuleInfo, Sink};
use crate::spaces::{Clip, Shared};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "sharers-agree",
    statement: "all mms that share a table have it at one address, under equal VMAs",
    why: "a VMA split, mprotect or mmap that forgets to unshare gives other sharers the new meaning; on-demand-fork had \
          it at VMA split and merge (fixed June 2021), Linux's hugetlb in b30c14cd6102",
};

/// Compares an mm's VMAs over a shared table with those of the `first` sharer, which is called `with`.
pub(crate) fn table(
    at: At,
    table: Option<&Table>,
    clips: &[Clip],
    first: &Shared,
    with: Option<MmId>,
    sink: &mut Sink,
) {
    let objects = table.is_some_and(|t| t.anywhere) || hugetlb_pmd_fits_object::shared(clips);
    let (expected, found) = if at.va != first.base && !objects {
        (format!("the shared table at {:#x}", first.base), format!("at {:#x}", at.va))
    } else if clips != first.clips {
        let different = clips
            .iter()
            .zip(&first.clips)
            .position(|(a, b)| a != b)
            .unwrap_or(clips.len().min(first.clips.len()));
        (
            format!("VMA {different} of the span: {}", describe(first.clips.get(different), first.base)),
            describe(clips.get(different), at.va),
        )
    } else {
        return;
    };
    sink.report(&RULE, || {
        let finding = Finding::new(&RULE, expected, found).mm(at.mm).va(at.va).level(at.level as u8);
        let finding = match table {
            Some(table) => finding.frame(table.pfn),
            None => finding,
        };
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
