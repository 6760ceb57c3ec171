//! `user-bit-by-half`. U/S is the AND over a path (SDM 3A, "Determination of Access Rights"), so U = 0 in the 256
//! upper slots of a root bars the whole kernel half; that other roots have the same slots is `kernel-half-identical`.

use ptshare_paging::{ENTRIES, Level, Pte};
use ptshare_wire::layout::KERNEL_HALF_SLOT;

use crate::graph::At;
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "user-bit-by-half",
    statement: "present entries of the user half have U = 1, those in the upper half of the kernel's root U = 0",
    reads: "U/S of every present user-half entry, and of the upper slots of the kernel's own root",
    why: "one U = 1 in the kernel half opens the kernel to every process, and U = 0 in the user half is a fault \
          that no handler repairs",
    design: &[7, 12],
    catalogue: &[10],
};

/// A present entry of the user half has U = 0.
pub(crate) fn supervisor(at: At, word: u64, sink: &mut Sink) {
    sink.report(&RULE, || {
        Finding::new(&RULE, "U = 1 in the user half", "U = 0")
            .mm(at.mm)
            .va(at.va)
            .level(at.level as u8)
            .entry(word)
    });
}

/// Judges the kernel's own root.
pub(crate) fn kernel_root(root: u64, page: &[u64; ENTRIES], sink: &mut Sink) {
    for (slot, word) in page.iter().enumerate().skip(KERNEL_HALF_SLOT) {
        if Pte(*word).has(Pte::PRESENT | Pte::USER) {
            sink.report(&RULE, || {
                Finding::new(&RULE, "U = 0 in the kernel half", "U = 1 in the kernel's own root")
                    .va(0xffff << 48 | (slot as u64) << Level::Pgd.shift())
                    .level(Level::Pgd as u8)
                    .entry(*word)
                    .frame(root)
            });
        }
    }
}
