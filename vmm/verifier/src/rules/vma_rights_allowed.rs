//! `vma-rights-allowed`.

use ptshare_wire::vma::{VM_EXEC, VM_MAYEXEC, VM_MAYREAD, VM_MAYWRITE, VM_READ, VM_WRITE};

use super::rights_within_vma::describe;
use crate::census::Mm;
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "vma-rights-allowed",
    statement: "a VMA has no right that mprotect could not give it: READ, WRITE and EXEC each within MAYREAD, \
                MAYWRITE and MAYEXEC",
    reads: "flags of every VMA",
    why: "the MAY bits say what the file was opened for: a shared mapping that is writable without MAYWRITE writes \
          to a file opened read-only (mmap(2), EACCES; the checks of do_mmap and mprotect_fixup)",
    design: &[5],
    catalogue: &[],
};

/// Judges the VMAs of an mm.
pub(crate) fn mm(mm: &Mm, sink: &mut Sink) {
    for vma in &mm.vmas {
        let bad =
            [(VM_READ, VM_MAYREAD, "read"), (VM_WRITE, VM_MAYWRITE, "write"), (VM_EXEC, VM_MAYEXEC, "exec")]
                .into_iter()
                .find(|(now, may, _)| vma.flags & now != 0 && vma.flags & may == 0);
        if let Some((_, _, right)) = bad {
            sink.report(&RULE, || {
                Finding::new(
                    &RULE,
                    format!("no right to {right}, as mprotect could not give it"),
                    format!("flags {:#x}", vma.flags),
                )
                .mm(mm.id)
                .va(vma.start)
                .detail(describe(vma))
            });
        }
    }
}
