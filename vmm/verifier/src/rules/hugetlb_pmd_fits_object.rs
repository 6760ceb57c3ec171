//! `hugetlb-pmd-fits-object`. What the leaves map is judged one by one, and that all sharers have equal VMAs by
//! `sharers-agree`.

use ptshare_paging::Pte;
use ptshare_wire::frame::{FLAG_OBJECT_PMD, OBJECT_PMD_RIGHTS_SHIFT};
use ptshare_wire::vma::{VM_EXEC, VM_HUGETLB, VM_READ, VM_SHARED, VM_WRITE};

use super::hugetlb_pmd_spans_one_vma;
use crate::frames::Frame;
use crate::graph::{At, Table};
use crate::report::{Finding, RuleInfo, Sink};
use crate::spaces::Clip;

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "hugetlb-pmd-fits-object",
    statement: "a PMD page of a hugetlb object has that object's key and the VMA's rights, and a shared one with \
                R/W = 1 is such a page",
    reads: "state and key of each PMD page; its parents; the VMA over its span",
    why: "sharers with other rights than the leaves were made for gain or lose rights with each other's faults \
          (page_table_shareable, mm/hugetlb.c, compares vm_flags for this)",
    design: &[3, 10],
    catalogue: &[39],
};

/// Judges the entry at `at`, which points to the PMD page `table`. `key`: the table's words for object and part.
pub(crate) fn pointer(
    at: At,
    word: u64,
    table: &Table,
    frame: &Frame,
    key: impl FnOnce() -> Option<u64>,
    clips: &[Clip],
    sink: &mut Sink,
) {
    let found = if frame.state & FLAG_OBJECT_PMD != 0 {
        let Some(over) = hugetlb_pmd_spans_one_vma::pointer(at, word, table, clips, sink) else { return };
        mismatch(frame.state, key(), over)
    } else if table.parents > 1 && Pte(word).writable() && shared(clips) {
        Some("shared with R/W = 1, but no object's".to_string())
    } else {
        None
    };
    let Some(found) = found else { return };
    sink.report(&RULE, || {
        Finding::new(&RULE, "an object's PMD page under the VMA that it was made for", found)
            .mm(at.mm)
            .va(at.va)
            .level(at.level as u8)
            .entry(word)
            .frame(table.pfn)
    });
}

/// All of it hugetlb memory of objects?
pub(crate) fn shared(clips: &[Clip]) -> bool {
    let wanted = VM_SHARED | VM_HUGETLB;
    !clips.is_empty() && clips.iter().all(|c| c.flags & wanted == wanted && c.object != 0)
}

fn mismatch(state: u32, key: Option<u64>, clip: &Clip) -> Option<String> {
    let rights = u64::from(state >> OBJECT_PMD_RIGHTS_SHIFT & 7);
    if rights != clip.flags & (VM_READ | VM_WRITE | VM_EXEC) {
        return Some(format!("rights {rights:#x} for a VMA with flags {:#x}", clip.flags));
    }
    let expected = clip.object << 32 | clip.pgoff >> 9;
    (key != Some(expected)).then(|| format!("key {:#x}, not {expected:#x}", key.unwrap_or(0)))
}
