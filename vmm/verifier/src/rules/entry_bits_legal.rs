//! `entry-bits-legal`. SDM 3A, "Formats of CR3 and Paging-Structure Entries with 4-Level Paging". MAXPHYADDR is
//! approximated by the memory that the census describes: an address bit above it is judged reserved, and ignored by
//! the rest of the walk.

use ptshare_paging::{Entry, Level, Pte};

use crate::graph::At;
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "entry-bits-legal",
    statement: "reserved and unused bits are zero, PS stands at PMD and PUD only, huge leaves are aligned, G is \
                clear",
    reads: "the word of every entry of the user half, by level",
    why: "a reserved bit faults on use, and G in a user leaf outlives its address space in the TLB; a split huge \
          page with a misaligned leaf maps its neighbour's memory",
    design: &[12],
    catalogue: &[9, 60],
};

/// What is wrong with the word of a non-zero entry at this level.
pub(crate) fn problem(pte: Pte, level: Level, phys_mask: u64) -> Option<&'static str> {
    if !pte.present() {
        let marker = matches!(pte.decode(level), Entry::Marker(_));
        let known = match level {
            Level::Pte => pte.0 == Pte::UFFD_WP,
            Level::Pmd => pte.0 == Pte::UFFD_WP | Pte::HUGE,
            Level::Pud | Level::Pgd => false,
        };
        return (marker && !known).then_some("not present, but neither zero nor a known marker");
    }
    let any = |bits: u64| pte.0 & bits != 0;
    let software = if pte.is_leaf(level) { Pte::SOFTWARE & !Pte::UFFD_WP } else { Pte::SOFTWARE };
    if any(Pte::UNUSED_HIGH | software | Pte::GLOBAL | Pte::WRITE_THROUGH | Pte::NO_CACHE) {
        return Some(match () {
            () if any(Pte::UNUSED_HIGH) => "a bit of 62:52 set",
            () if any(software) => "a software bit (11:9) set",
            () if any(Pte::GLOBAL) => "G set in the user half",
            () => "PWT or PCD set: user memory is write-back",
        });
    }
    if any(Pte::ADDR & !phys_mask) {
        return Some("an address bit beyond physical memory set");
    }
    match level {
        Level::Pgd if any(Pte::HUGE) => Some("PS set in a PGD entry"),
        Level::Pte if any(Pte::HUGE) => Some("PAT set"),
        Level::Pmd | Level::Pud if any(Pte::HUGE) && pte.pfn().pa().0 & (level.entry_bytes() - 1) != 0 => {
            Some("a huge leaf with address bits below its size (bit 12 is PAT)")
        }
        _ => None,
    }
}

/// Judges an entry that is not zero.
#[inline]
pub(crate) fn entry(at: At, word: u64, phys_mask: u64, sink: &mut Sink) {
    // Nearly all are present and have none of the bits that anything is wrong with at some level.
    let watched = Pte::UNUSED_HIGH
        | Pte::SOFTWARE
        | Pte::GLOBAL
        | Pte::WRITE_THROUGH
        | Pte::NO_CACHE
        | Pte::HUGE
        | Pte::ADDR & !phys_mask;
    if word & (watched | Pte::PRESENT) != Pte::PRESENT {
        closely(at, word, phys_mask, sink);
    }
}

#[inline(never)]
fn closely(at: At, word: u64, phys_mask: u64, sink: &mut Sink) {
    if let Some(problem) = problem(Pte(word), at.level, phys_mask) {
        sink.report(&RULE, || {
            Finding::new(&RULE, "no reserved or unused bit set", problem)
                .mm(at.mm)
                .va(at.va)
                .level(at.level as u8)
                .entry(word)
        });
    }
}
