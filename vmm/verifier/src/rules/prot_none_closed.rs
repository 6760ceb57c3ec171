//! `prot-none-closed`.

use ptshare_wire::VmaRec;
use ptshare_wire::vma::{VM_EXEC, VM_READ, VM_WRITE};

use super::rights_within_vma::describe;
use crate::graph::At;
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "prot-none-closed",
    statement: "under a VMA without any right nothing is present",
    reads: "P of every leaf on every path; the VMA's rights now",
    why: "x86 has no entry that is present and unreadable, so what is present is readable; garbage collectors and \
          guard pages live by the fault",
    design: &[5],
    catalogue: &[18],
};

/// Judges one leaf that is present at every level of a path.
#[inline]
pub(crate) fn leaf(at: At, word: u64, vma: &VmaRec, sink: &mut Sink) {
    if vma.flags & (VM_READ | VM_WRITE | VM_EXEC) != 0 {
        return;
    }
    sink.report(&RULE, || {
        Finding::new(&RULE, "nothing present in a PROT_NONE VMA", "P = 1")
            .mm(at.mm)
            .va(at.va)
            .level(at.level as u8)
            .entry(word)
            .frame(ptshare_paging::Pte(word).pfn().0)
            .detail(describe(vma))
    });
}
