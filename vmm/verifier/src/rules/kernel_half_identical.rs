//! `kernel-half-identical`. The accessed and dirty bits may differ: the processor sets them in whichever root it
//! walks.

use ptshare_paging::{ENTRIES, Level, Pte};
use ptshare_wire::layout::KERNEL_HALF_SLOT;

use crate::census::Mm;
use crate::report::{Finding, RuleInfo, Sink};
use crate::view::PhysView;

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "kernel-half-identical",
    statement: "slots 256 to 511 of every root equal those of the kernel's own root",
    reads: "slots 256 to 511 of every root and of the kernel's own root",
    why: "a root that misses a kernel entry kills the machine at the next interrupt in that process, and one that \
          has another entry runs another kernel",
    design: &[7],
    catalogue: &[10],
};

/// Compares one mm's root with the kernel's.
pub(crate) fn mm(mm: &Mm, kernel: &[u64; ENTRIES], view: &dyn PhysView, sink: &mut Sink) {
    let mut root = [0; ENTRIES];
    // A root that cannot be read was reported by the walk.
    if !view.read_page(mm.root, &mut root) {
        return;
    }
    let same = |word: u64| word & !(Pte::ACCESSED | Pte::DIRTY);
    for slot in KERNEL_HALF_SLOT..ENTRIES {
        let (own, template) = (root[slot], kernel[slot]);
        if same(own) != same(template) {
            sink.report(&RULE, || {
                Finding::new(
                    &RULE,
                    format!("{template:#018x} as in the kernel's root ({})", Pte(template)),
                    format!("{own:#018x}"),
                )
                .mm(mm.id)
                .va(0xffff << 48 | (slot as u64) << Level::Pgd.shift())
                .level(Level::Pgd as u8)
                .entry(own)
                .frame(mm.root)
            });
        }
    }
}
