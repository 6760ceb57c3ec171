//! `hugetlb-reservations-backed`. Against the census's own counts: where one of those is wrong, that is the finding
//! (`hugetlb-pool-adds-up`).

use ptshare_wire::huge::HUGE_SIZES;
use ptshare_wire::vma::{VM_HUGETLB, VM_MAYSHARE, VM_NORESERVE};
use ptshare_wire::{HugeSize, VmaRec};

use crate::census::{Census, Mm, Pool};
use crate::recount::Recount;
use crate::report::{Finding, RuleInfo, Sink};

pub(crate) const RULE: RuleInfo = RuleInfo {
    name: "hugetlb-reservations-backed",
    statement: "there is a free page and a mapping or an object for each reservation, and no more surplus pages than pages",
    reads: "the census's counts of hugetlb pages; what is reserved for each mm, its private hugetlb VMAs, and the private \
            huge leaves that the walk finds in them",
    why: "a reservation without a page is a SIGBUS where mmap had promised memory, and one that outlives its mapping keeps a \
          page from everybody; Linux's resv_huge_pages has \
          underflowed more than once (mm/hugetlb.c)",
    design: &[10],
    catalogue: &[],
};

/// Judges the census's counts.
pub(crate) fn counts(pools: &[Pool; HUGE_SIZES], sink: &mut Sink) {
    for Pool { total, free, reserved, surplus, .. } in
        pools.iter().filter(|pool| pool.reserved > pool.free || pool.surplus > pool.total)
    {
        sink.report(&RULE, || {
            Finding::new(
                &RULE,
                format!("at most {free} reserved and {total} surplus pages"),
                format!("{reserved} reserved, {surplus} surplus"),
            )
        });
    }
}

/// Is it private memory of huge pages?
fn private(vma: &&VmaRec) -> bool {
    vma.flags & (VM_HUGETLB | VM_MAYSHARE) == VM_HUGETLB
}

/// Judges for whom pages are reserved. What an mm may have is a bound: a fork's child, and memory that MADV_DONTNEED gave
/// back, are mapped without a promise. Objects have none, for a file may be mapped by nobody.
pub(crate) fn owners(census: &Census, mms: &[Mm], mut recount: Recount<'_>, sink: &mut Sink) {
    for size in HugeSize::ALL {
        let (kib, pool) = (size.bytes() >> 10, census.hugetlb[size.index()]);
        let of_mms = mms.iter().fold(0, |sum: u64, mm| sum.saturating_add(mm.hugetlb_reserved[size.index()]));
        if of_mms.saturating_add(pool.promised) != pool.reserved {
            sink.report(&RULE, || {
                let promised = pool.promised;
                let expected =
                    format!("{of_mms} pages of {kib} KiB reserved for mms and {promised} for objects");
                Finding::new(&RULE, expected, format!("{} reserved in all", pool.reserved))
            });
        }
        for mm in mms.iter().filter(|mm| mm.vmas_sound) {
            owner(mm, size, &mut recount, sink);
        }
    }
}

/// Judges what is reserved for one mm.
fn owner(mm: &Mm, size: HugeSize, recount: &mut Recount<'_>, sink: &mut Sink) {
    let reserved = mm.hugetlb_reserved[size.index()];
    if reserved == 0 {
        return;
    }
    let (unreserved, reservable): (Vec<&VmaRec>, Vec<&VmaRec>) = mm
        .vmas
        .iter()
        .filter(private)
        .filter(|vma| HugeSize::of_vma(vma.flags) == size)
        .partition(|vma| vma.flags & VM_NORESERVE != 0);
    let mapped: u64 = reservable.iter().map(|vma| (vma.end - vma.start) >> size.shift()).sum();
    // Pages that are there may lie where nothing was reserved.
    let there = if unreserved.is_empty() { recount.root(mm.root).huge_private[size.index()] } else { 0 };
    if reserved.saturating_add(there) > mapped {
        sink.report(&RULE, || {
            let kib = size.bytes() >> 10;
            let expected = format!(
                "at most {mapped} pages of {kib} KiB mapped privately, {there} of them there already"
            );
            Finding::new(&RULE, expected, format!("{reserved} more reserved")).mm(mm.id)
        });
    }
}
