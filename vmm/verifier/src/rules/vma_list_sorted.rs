//! `vma-list-sorted`. An mm whose list is out of order is left alone by the other rules about VMAs: they search it.

use crate::census::{Mm, vma_is_sane};
use crate::report::{Finding, MmId, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "vma-list-sorted",
    statement: "an mm's VMAs are page-aligned, in the user half, in order, disjoint, and as many as counted",
    reads: "the VMA list of every mm",
    why: "every lookup searches the list; two VMAs over one address give a fault and an unmap different answers \
          (StackRot, CVE-2023-3269: a fault walked nodes of Linux's maple tree that a stack expansion had freed)",
    design: &[],
    catalogue: &[],
};

/// Judges the order of the VMAs read.
pub(crate) fn mm(mm: &Mm, sink: &mut Sink) {
    for (i, vma) in mm.vmas.iter().enumerate() {
        let before = i.checked_sub(1).and_then(|p| mm.vmas.get(p)).map_or(0, |p| p.end);
        let expected = if !vma_is_sane(vma) {
            "page-aligned start < end <= the end of the user half".to_string()
        } else if vma.start < before {
            format!("a start at or after the end of the VMA before, {before:#x}")
        } else {
            continue;
        };
        sink.report(&RULE, || {
            Finding::new(&RULE, expected, format!("VMA {i} at {:#x}..{:#x}", vma.start, vma.end))
                .mm(mm.id)
                .va(vma.start)
        });
    }
}

/// Compares the number of VMAs read with the mm's count.
pub(crate) fn count(mm: &Mm, claimed: u64, sink: &mut Sink) {
    if mm.vmas.len() as u64 != claimed {
        sink.report(&RULE, || {
            Finding::new(
                &RULE,
                format!("vma_count = {}, the VMAs in the chunks", mm.vmas.len()),
                format!("vma_count = {claimed}"),
            )
            .mm(mm.id)
        });
    }
}

/// Chunk `index` of an mm's list is empty.
pub(crate) fn empty_chunk(mm: MmId, index: u64, sink: &mut Sink) {
    sink.report(&RULE, || {
        Finding::new(&RULE, "no empty chunk", format!("chunk {index} holds no VMA")).mm(mm)
    });
}
