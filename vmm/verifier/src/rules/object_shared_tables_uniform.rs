//! `object-shared-tables-uniform` (design invariant 3, second half). Reads: the entries that point to a shared table whose
//! span every sharer maps shared, the kind, object and index of each frame in it.
//!
//! Concerns tables reached with R/W = 1. One reached read-only by all is COW-shared, whatever it holds.

use ptshare_paging::{ENTRIES, Entry, Level, Pte};
use ptshare_wire::FrameKind;

use crate::frames::Frames;
use crate::graph::{At, Graph, Table, each_nonzero};
use crate::report::{Finding, RuleInfo, Sink};
use crate::view::PhysView;

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "object-shared-tables-uniform",
    statement: "a table shared by an object's mappings holds that object's pages in order, and all entries that point \
                to it have one R/W",
    why: "a table that mixes one object's pages with private ones lets a process write what it was not given; Linux \
          allows hugetlb sharing only where flags, offset and span agree (page_table_shareable)",
};

/// An entry with R/W = 1 points to the shared `table`, over shared mappings only.
pub(crate) fn pointer(
    at: At,
    word: u64,
    view: &dyn PhysView,
    frames: &Frames,
    graph: &Graph,
    table: &Table,
    sink: &mut Sink,
) {
    let edges: Vec<_> = graph.edges(table).collect();
    // Once a table: at the entry that was found first.
    if edges.last().is_none_or(|first| first.word != word || first.va != at.va) {
        return;
    }
    let report = |sink: &mut Sink, expected: String, found: String| {
        sink.report(&RULE, || {
            Finding::new(&RULE, expected, found)
                .mm(at.mm)
                .va(at.va)
                .level(at.level as u8)
                .entry(word)
                .frame(table.pfn)
        });
    };
    let writable = edges.iter().filter(|e| Pte(e.word).writable()).count();
    if writable != edges.len() {
        let found = format!("R/W = 1 in {writable} of {} entries", edges.len());
        return report(sink, "one R/W in all entries that point to the table".into(), found);
    }
    let mut page = [0; ENTRIES];
    if table.level != Level::Pte || !view.read_page(table.pfn, &mut page) {
        return;
    }
    let mut key: Option<(u64, u64)> = None;
    let mut problem = None;
    each_nonzero(&page, ENTRIES, |slot, raw| {
        let (Entry::Leaf(pfn) | Entry::NoAccess(pfn)) = Pte(raw).decode(Level::Pte) else { return };
        let slot_key = frames
            .get(pfn.0)
            .filter(|f| f.kind() == Some(FrameKind::Cache))
            .and_then(|_| frames.cache_key(view, pfn.0))
            .map(|(object, page)| (object, page.wrapping_sub(slot as u64)));
        if slot_key.is_none() || key.is_some_and(|k| Some(k) != slot_key) {
            problem.get_or_insert((slot, pfn.0));
        }
        key = key.or(slot_key);
    });
    if let Some((slot, pfn)) = problem {
        report(
            sink,
            "pages of one object, in order".into(),
            format!("frame {pfn:#x} in slot {slot} is not the object's page for that slot"),
        );
    }
}
