//! `object-table-spans-one-vma`.

use ptshare_paging::Level;

use crate::graph::{At, Table};
use crate::report::{Finding, RuleInfo, Sink};
use crate::spaces::Clip;

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "object-table-spans-one-vma",
    statement: "an object's table is a PTE page whose whole span one VMA of that object covers",
    reads: "level of each object's table; the VMAs over its span in every mm that reaches it",
    why: "a VMA boundary inside the span gives a process entries outside its VMA as soon as another sharer faults \
          there; McCracken's patch of 2006 was off by a page in this test, Linux's hugetlb missed boundaries in \
          b30c14cd6102",
    design: &[3],
    catalogue: &[30],
};

/// An entry points to an object's `table`; gives the VMA over its whole span, if there is one.
pub(crate) fn place<'a>(
    at: At,
    word: u64,
    table: &Table,
    clips: &'a [Clip],
    sink: &mut Sink,
) -> Option<&'a Clip> {
    let span = table.level.span_bytes();
    let found = match clips {
        _ if table.level != Level::Pte => format!("a table of level {}", table.level as u8),
        [one] if one.start != 0 || one.end != span => {
            format!("a VMA over bytes {:#x} to {:#x}", one.start, one.end)
        }
        [one] if one.object == 0 => "anonymous memory".into(),
        [one] => return Some(one),
        _ => format!("{} VMAs", clips.len()),
    };
    sink.report(&RULE, || {
        Finding::new(&RULE, format!("one VMA of an object over all {span:#x} bytes of a PTE page"), found)
            .mm(at.mm)
            .va(at.va)
            .level(at.level as u8)
            .entry(word)
            .frame(table.pfn)
    });
    None
}
