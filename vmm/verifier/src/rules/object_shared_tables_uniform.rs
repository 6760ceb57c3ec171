//! `object-shared-tables-uniform` (design invariant 3, second half). Reads: metadata of each table that claims to belong to an
//! object, the words of the entries that point to it, the VMA over its span in every mm that reaches it, and the kinds of
//! the frames that it maps.
//!
//! Such a table is written in place for all its users, at whatever addresses. So: one VMA covers its whole span everywhere
//! and maps just the pages that the metadata names; nothing private is in it; R/W is one for all. That its leaves map the
//! right pages is judged by [`frame_fits_vma`](super::frame_fits_vma), and that its users' VMAs are equal by
//! [`sharers_agree`](super::sharers_agree).

use ptshare_paging::{Level, Pte};
use ptshare_wire::FrameKind;
use ptshare_wire::vma::{VM_SHARED, VM_WRITE};

use crate::frames::Frame;
use crate::graph::{At, Graph, Table};
use crate::report::{Finding, RuleInfo, Sink};
use crate::spaces::Clip;

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "object-shared-tables-uniform",
    statement: "an object's table maps that object's pages only, under one VMA over its whole span, with one R/W for all",
    why: "a table that is copied on write for one user and written in place by another gives them different memory; \
          Linux shares hugetlb tables only where all flags agree (page_table_shareable, mm/hugetlb.c)",
};

/// An entry points to an object's `table`: the VMAs over its span, and the object and page in its metadata.
pub(crate) fn place(
    at: At,
    word: u64,
    table: &Table,
    clips: &[Clip],
    key: Option<(u64, u64)>,
    sink: &mut Sink,
) {
    let span = table.level.span_bytes();
    let private = |flags: u64| flags & VM_SHARED == 0;
    let (expected, found) = match clips {
        _ if table.level != Level::Pte => ("a PTE page".into(), format!("level {}", table.level as u8)),
        [one] if one.start != 0 || one.end != span => (
            format!("one VMA over all {span:#x} bytes of the span"),
            format!("bytes {:#x} to {:#x}", one.start, one.end),
        ),
        [one] if Some((one.object, one.pgoff)) != key || one.object == 0 => {
            let found = key.map_or("no metadata".into(), |(o, p)| format!("page {p:#x} of object {o}"));
            (format!("page {:#x} of object {} in the metadata, as in the VMA", one.pgoff, one.object), found)
        }
        [one] if private(one.flags) && one.flags & VM_WRITE != 0 => {
            ("a VMA that is shared or cannot be written to".into(), format!("flags {:#x}", one.flags))
        }
        [one] if private(one.flags) && Pte(word).writable() => {
            ("R/W = 0 over a private mapping".into(), "R/W = 1".into())
        }
        [_] => return,
        _ => ("one VMA over the span".into(), format!("{} VMAs", clips.len())),
    };
    sink.report(&RULE, || finding(at, word, table.pfn, expected, found));
}

/// An entry points to an object's `table`. Called once a table.
pub(crate) fn pointer(at: At, word: u64, graph: &Graph, table: &Table, sink: &mut Sink) {
    let writable = graph.edges(table).filter(|e| Pte(e.word).writable()).count();
    if writable == 0 || writable == table.parents as usize {
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
