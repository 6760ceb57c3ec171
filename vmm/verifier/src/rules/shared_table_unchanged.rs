//! `shared-table-unchanged`. Only tables that are shared at both instants and were so all the time between: the guest
//! counts each sharing of a table by fork before the critical section of that fork ends (`fork_tables_shared`), and
//! with that counter unchanged a table with two sharers now had two at every moment since.
//!
//! Allowed are what the processor does (A and D), fills of absent entries, which all sharers would have filled alike,
//! R/W and D taken away when one sharer copies the table, and pages of a truncated file that go, and others of that file in
//! their place.

use ptshare_paging::Pte;

use crate::census::Mm;
use crate::frames::{Frame, Frames};
use crate::graph::Graph;
use crate::history::Suspect;
use crate::report::{Finding, RuleInfo, Sink};
use crate::spaces::clip;

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "shared-table-unchanged",
    statement: "the words of a COW-shared table stay as they were while it is shared, but for A, D, lost R/W and \
                entries filled in",
    reads: "the words of COW-shared tables now and at the verdict before; the counter fork_tables_shared; the VMAs \
            over the span",
    why: "a walker that forgets to break the sharing changes memory for every sharer, with all counts right: the \
          objection that ended COW-PTE, whose last version checked each store for it (linux-mm, April 2023, 17/17)",
    design: &[3],
    catalogue: &[22],
};

/// Judges a word of a shared table that is not what it was.
pub(crate) fn word(suspect: &Suspect, graph: &Graph, frames: &Frames, mms: &[Mm], sink: &mut Sink) {
    let index = graph.index_of(frames, suspect.table);
    let Some(table) = index.and_then(|index| graph.tables.get(index as usize)) else { return };
    let Some(mm) = mms.get(table.mm as usize).filter(|mm| mm.vmas_sound) else { return };
    // A count that says shared and is wrong: table-refs-equal-parents.
    if table.parents < 2 || table.anywhere {
        return;
    }
    let va = table.base + ((suspect.slot as u64) << table.level.shift());
    // Truncation clears leaves where they are, for all sharers, and a fault may have brought in the page that the object
    // has there now: whether it is that page, file-page-at-its-offset says.
    let object = clip(&mm.vmas, va, table.level.entry_bytes()).iter().any(|over| over.object != 0);
    let (before, now) = (Pte(suspect.before).pfn(), Pte(suspect.now).pfn());
    let another = || now != before && frames.get(now.0).is_some_and(Frame::in_cache);
    if object && (suspect.now == 0 || another()) {
        return;
    }
    sink.report(&RULE, || {
        Finding::new(
            &RULE,
            format!("{:#018x} = {}, as at the verdict before", suspect.before, Pte(suspect.before)),
            format!("{:#018x} = {}", suspect.now, Pte(suspect.now)),
        )
        .mm(mm.id)
        .va(va)
        .level(table.level as u8)
        .entry(suspect.now)
        .frame(table.pfn)
        .detail(format!("{} entries or roots point to the table", table.parents))
    });
}
