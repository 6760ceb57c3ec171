//! `no-user-path-to-kernel` (design invariant 7). Reads: where every user-half entry points (managed frames by kind,
//! reserved memory, nothing), U/S of every user-half entry, and U/S of the kernel root's upper slots.
//!
//! U/S is the AND over a path (SDM 3A, "Determination of Access Rights"), so U = 0 in the 256 upper slots of a root bars
//! the whole kernel half; that other roots have the same slots is `kernel-half-identical`.

use ptshare_paging::{ENTRIES, Level, Pte};
use ptshare_wire::layout::KERNEL_HALF_SLOT;

use crate::frames::Place;
use crate::graph::At;
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "no-user-path-to-kernel",
    statement: "user-half entries have U = 1 and reach no table, kernel memory or reserved memory as data; \
                kernel-half paths have U = 0",
    why: "a process that can write a page table owns the machine: the usual end of a stale-translation bug such as \
          CVE-2025-38085, where a table was walked after it had become private to another mm",
};

/// A leaf maps `pfn`, which lies at `place`.
pub(crate) fn leaf(at: At, word: u64, pfn: u64, place: Place, sink: &mut Sink) {
    sink.report(&RULE, || finding(at, word, "memory of processes or files", what(place)).frame(pfn));
}

/// An entry or root points to a table in `pfn`, which lies at `place`.
pub(crate) fn table(at: At, word: u64, pfn: u64, place: Place, sink: &mut Sink) {
    sink.report(&RULE, || finding(at, word, "a table in managed memory", what(place)).frame(pfn));
}

/// A present entry of the user half has U = 0.
pub(crate) fn supervisor(at: At, word: u64, sink: &mut Sink) {
    sink.report(&RULE, || finding(at, word, "U = 1 in the user half", "U = 0".into()));
}

/// Judges the kernel's own root once.
pub(crate) fn kernel_root(root: u64, page: &[u64; ENTRIES], sink: &mut Sink) {
    for (slot, word) in page.iter().enumerate().skip(KERNEL_HALF_SLOT) {
        if Pte(*word).has(Pte::PRESENT | Pte::USER) {
            sink.report(&RULE, || {
                Finding::new(&RULE, "U = 0 in the kernel half", "U = 1 in the kernel's own root")
                    .va(0xffff << 48 | (slot as u64) << Level::Pgd.shift())
                    .level(Level::Pgd as u8)
                    .entry(*word)
                    .frame(root)
            });
        }
    }
}

fn what(place: Place) -> String {
    match place {
        Place::Known(frame) => {
            format!("a frame of kind {:?}", frame.kind()).replace("Some(", "").replace(')', "")
        }
        Place::Virgin => "a frame never given out".into(),
        Place::Reserved => "reserved memory".into(),
        Place::Outside => "an address outside the managed memory".into(),
    }
}

fn finding(at: At, word: u64, expected: &str, found: String) -> Finding {
    let finding = Finding::new(&RULE, expected, found).mm(at.mm).va(at.va).level(at.level as u8);
    if word == 0 { finding.detail("this is the mm's root") } else { finding.entry(word) }
}
