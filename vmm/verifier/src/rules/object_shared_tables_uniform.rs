//! `object-shared-tables-uniform`. Such a table is written in place for all its users. Where it lies is judged by
//! `object-table-spans-one-vma` and `object-table-keeps-place`, that its users' VMAs are equal by `sharers-agree`.

use ptshare_paging::Pte;
use ptshare_wire::FrameKind;
use ptshare_wire::vma::{VM_SHARED, VM_WRITE};

use crate::frames::Frame;
use crate::graph::{At, Table};
use crate::report::{Finding, RuleInfo, Sink};
use crate::spaces::Clip;

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "object-shared-tables-uniform",
    statement: "an object's table maps no private page, and has one R/W in all entries that point to it: 0 if its \
                mappings are private",
    reads: "flags of each table's metadata; the words of the entries that point to it; the VMA over its span; kinds \
            of the frames that it maps",
    why: "a table that is copied on write for one user and written in place by another gives them different memory; \
          Linux shares hugetlb tables only where all flags agree (page_table_shareable, mm/hugetlb.c)",
    design: &[3],
    catalogue: &[32],
};

/// An entry points to an object's `table`, under the VMA `over` its span.
pub(crate) fn place(at: At, word: u64, table: &Table, over: &Clip, sink: &mut Sink) {
    if over.flags & VM_SHARED != 0 {
        return;
    }
    let (expected, found) = if over.flags & VM_WRITE != 0 {
        ("a VMA that is shared or cannot be written to", format!("flags {:#x}", over.flags))
    } else if Pte(word).writable() {
        ("R/W = 0 over a private mapping", "R/W = 1".into())
    } else {
        return;
    };
    sink.report(&RULE, || finding(at, word, table.pfn, expected.into(), found));
}

/// An entry points to an object's `table`. Called once a table.
pub(crate) fn pointer(at: At, word: u64, table: &Table, sink: &mut Sink) {
    let writable = table.open_parents;
    if writable == 0 || writable == table.parents {
        return;
    }
    sink.report(&RULE, || {
        let found = format!("R/W = 1 in {writable} of {}", table.parents);
        finding(at, word, table.pfn, "one R/W in all entries that point to the table".into(), found)
    });
}

/// A leaf in an object's table, at `at`, maps `frame`.
#[inline]
pub(crate) fn leaf(at: At, word: u64, pfn: u64, frame: &Frame, sink: &mut Sink) {
    // Kinds that no VMA may map, and what a shared VMA may not, are judged elsewhere.
    if frame.kind() == Some(FrameKind::Anon) {
        sink.report(&RULE, || finding(at, word, pfn, "a page of the object".into(), "kind Anon".into()));
    }
}

fn finding(at: At, word: u64, pfn: u64, expected: String, found: String) -> Finding {
    Finding::new(&RULE, expected, found).mm(at.mm).va(at.va).level(at.level as u8).entry(word).frame(pfn)
}
