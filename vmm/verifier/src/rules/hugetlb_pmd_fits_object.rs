//! `hugetlb-pmd-fits-object` (prior art H9, H11, H14). Reads: for each entry that points to a PMD page: the table's state
//! and key, its number of parents, and the VMAs over its span.
//!
//! What the leaves map is judged one by one ([`frame_fits_vma`](super::frame_fits_vma)), and that all sharers have equal
//! VMAs by [`sharers_agree`](super::sharers_agree).

use ptshare_paging::{Level, Pte};
use ptshare_wire::frame::{FLAG_OBJECT_PMD, OBJECT_PMD_RIGHTS_SHIFT};
use ptshare_wire::vma::{VM_EXEC, VM_HUGETLB, VM_READ, VM_SHARED, VM_WRITE};

use crate::frames::Frame;
use crate::graph::{At, Table};
use crate::report::{Finding, RuleInfo, Sink};
use crate::spaces::Clip;

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "hugetlb-pmd-fits-object",
    statement: "a PMD page of an object lies under one shared hugetlb VMA over its whole GiB, with its key and rights",
    why: "Linux shared PMD pages over spans with a VMA boundary inside (b30c14cd6102), with other rights, or after a \
          split that raced with a fault (CVE-2025-38084): one process then works in another's mapping",
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
    let objects = frame.state & FLAG_OBJECT_PMD != 0;
    let found = if objects {
        mismatch(frame.state, key(), clips)
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

fn mismatch(state: u32, key: Option<u64>, clips: &[Clip]) -> Option<String> {
    let [clip] = clips else { return Some(format!("{} VMAs over its span", clips.len())) };
    let rights = u64::from(state >> OBJECT_PMD_RIGHTS_SHIFT & 7);
    if (clip.start, clip.end) != (0, Level::Pmd.span_bytes()) || !shared(clips) {
        return Some("its span is not covered by one shared hugetlb VMA".into());
    }
    if rights != clip.flags & (VM_READ | VM_WRITE | VM_EXEC) {
        return Some(format!("rights {rights:#x} for a VMA with flags {:#x}", clip.flags));
    }
    let expected = clip.object << 32 | clip.pgoff >> 9;
    (key != Some(expected)).then(|| format!("key {:#x}, not {expected:#x}", key.unwrap_or(0)))
}
