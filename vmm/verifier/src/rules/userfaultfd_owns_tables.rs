//! `userfaultfd-owns-tables`. A shared mapping that is registered for missing pages alone may share: whether a page is missing is for its object to
//! say.

use ptshare_paging::Pte;
use ptshare_wire::VmaRec;
use ptshare_wire::vma::{VM_SHARED, VM_UFFD_MINOR, VM_UFFD_MISSING, VM_UFFD_WP};

use crate::graph::{At, Table};
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "userfaultfd-owns-tables",
    statement: "a table whose entries one mm's userfaultfd watches has no other user, and a leaf that it has write-protected \
                has R/W = 0 and lies in its range",
    reads: "for each table with more than one parent, the VMAs over its span in every mm that reaches it; for each entry \
            with the mark of userfaultfd's write protection, the VMA over it",
    why: "Linux shared PMD pages with ranges whose minor faults and writes were to be reported (c1991e070550): another \
          process's fault filled the entry in, and the handler never heard of it",
    design: &[3],
    catalogue: &[46],
};

/// Must the entries under this VMA be one mm's alone?
fn watched(vma: &VmaRec) -> bool {
    vma.flags & (VM_UFFD_WP | VM_UFFD_MINOR) != 0
        || vma.flags & VM_UFFD_MISSING != 0 && vma.flags & VM_SHARED == 0
}

/// Judges a table with several parents in one of the mms that reach it. `vmas`: that mm's, in order.
pub(crate) fn shared(at: At, table: &Table, vmas: &[VmaRec], span: u64, sink: &mut Sink) {
    let first = vmas.partition_point(|v| v.end <= at.va);
    let over = vmas.iter().skip(first).take_while(|v| v.start < at.va + span);
    let Some(vma) = over.into_iter().find(|v| watched(v)) else { return };
    sink.report(&RULE, || {
        let found = format!("{} entries or roots point to it", table.parents);
        Finding::new(&RULE, "a table of this mm alone, under what userfaultfd watches", found)
            .mm(at.mm)
            .va(at.va)
            .level(at.level as u8)
            .frame(table.pfn)
            .detail(describe(vma))
    });
}

/// Judges an entry that holds a page, or a marker. `vma`: the one over it.
#[inline]
pub(crate) fn entry(at: At, word: u64, vma: Option<&VmaRec>, sink: &mut Sink) {
    if !Pte(word).has(Pte::UFFD_WP) {
        return;
    }
    let inside = vma.is_some_and(|v| v.start <= at.va && v.flags & VM_UFFD_WP != 0);
    let (expected, found) = if !inside {
        ("no mark outside of what is registered for write protection", "marked as write-protected")
    } else if Pte(word).writable() {
        ("R/W = 0 under the mark of write protection", "R/W = 1")
    } else {
        return;
    };
    sink.report(&RULE, || {
        let finding =
            Finding::new(&RULE, expected, found).mm(at.mm).va(at.va).level(at.level as u8).entry(word);
        match vma {
            Some(vma) => finding.detail(describe(vma)),
            None => finding,
        }
    });
}

fn describe(vma: &VmaRec) -> String {
    format!("{} flags {:#x}", super::rights_within_vma::describe(vma), vma.flags)
}
