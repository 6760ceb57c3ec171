//! `rights-within-vma`. Effective rights: the AND of R/W and the OR of XD over a path. The other direction is no
//! violation: fewer rights than the VMA's cost a fault and are how copy on write works.

use ptshare_wire::VmaRec;
use ptshare_wire::vma::{VM_EXEC, VM_READ, VM_SHARED, VM_WRITE};

use crate::graph::At;
use crate::report::{Finding, RuleInfo, Sink};
use crate::spaces::Rights;

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "rights-within-vma",
    statement: "a leaf may be written to or executed only if its VMA allows it",
    reads: "effective R/W and XD of every leaf on every path; the VMA's rights now",
    why: "a downgrade that stops at a shared table leaves one sharer with rights it lost; KVM took the rights of \
          one parent for all users of a shared shadow page (CVE-2021-38198)",
    design: &[5, 12],
    catalogue: &[18],
};

/// Judges one leaf on one path.
#[inline]
pub(crate) fn leaf(at: At, word: u64, rights: Rights, vma: &VmaRec, sink: &mut Sink) {
    if !rights.access || vma.flags & (VM_READ | VM_WRITE | VM_EXEC) == 0 {
        // Nothing may be present under a VMA without rights: prot-none-closed.
        return;
    }
    let expected = if rights.write && vma.flags & VM_WRITE == 0 {
        "no write, as the VMA has none"
    } else if rights.exec && vma.flags & VM_EXEC == 0 {
        "no execution, as the VMA has none"
    } else {
        return;
    };
    sink.report(&RULE, || {
        let bit = |on, c| if on { c } else { '-' };
        let found = format!("path allows r{}{}", bit(rights.write, 'w'), bit(rights.exec, 'x'));
        Finding::new(&RULE, expected, found)
            .mm(at.mm)
            .va(at.va)
            .level(at.level as u8)
            .entry(word)
            .frame(ptshare_paging::Pte(word).pfn().0)
            .detail(describe(vma))
    });
}

/// A VMA in the form of /proc/PID/maps, with its backing.
pub(crate) fn describe(vma: &VmaRec) -> String {
    let bit = |mask, c| if vma.flags & mask != 0 { c } else { '-' };
    format!(
        "VMA {:x}-{:x} {}{}{}{} object {} page {:#x}",
        vma.start,
        vma.end,
        bit(VM_READ, 'r'),
        bit(VM_WRITE, 'w'),
        bit(VM_EXEC, 'x'),
        if vma.flags & VM_SHARED != 0 { 's' } else { 'p' },
        vma.object,
        vma.pgoff
    )
}
