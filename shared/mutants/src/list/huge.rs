//! Huge pages.

use super::group;
use crate::Mutant;

group! { "Huge pages":
    HUGE_PAGE_TAGGED_ANON = "huge-page-tagged-anon",
        "a huge page taken from the pool is marked as an ordinary private page",
        imitates "I8, I41",
        killed by "hugetlb-leaf-aligned" in [HUGE: "vm_cases huge_private"] ci;
    HUGE_LEAF_MISALIGNED = "huge-leaf-misaligned",
        "a huge leaf points 4 KiB behind the start of its page",
        imitates "I41",
        killed by "entry-bits-legal" in [HUGE: "vm_cases huge_private"];
    POOL_KEEPS_RESERVATION = "pool-keeps-reservation",
        "a page taken by reservation leaves the reservation standing",
        imitates "mm/hugetlb.c, resv_huge_pages",
        killed by "hugetlb-reservations-backed" in [HUGE: "vm_cases huge_pool"] ci;
    POOL_LOSES_PAGE = "pool-loses-page",
        "a huge page whose last reference goes does not return to the pool",
        imitates "I5, c5c99429fa57",
        killed by "hugetlb-pool-adds-up" in [HUGE: "vm_cases huge_pool"];
    PMD_ROUNDS_VMA_END_UP = "pmd-rounds-vma-end-up",
        "a mapping that does not cover its last GiB shares the PMD page",
        imitates "I39",
        killed by "hugetlb-pmd-spans-one-vma" in [HUGE: "vm_cases huge_pmd"] ci;
    PMD_IGNORES_RIGHTS = "pmd-ignores-rights",
        "a PMD page is taken over whatever the mapping's rights",
        imitates "I39, page_table_shareable",
        killed by "hugetlb-pmd-fits-object" in [HUGE: "vm_cases huge_pmd"];
    PMD_TAKEOVER_UNCOUNTED = "pmd-takeover-uncounted",
        "a PMD page that is taken over is not added to the mm's number of tables",
        imitates "I28, c17b1f42594e",
        killed by "mm-table-pages" in [HUGE: "vm_cases huge_pmd"];
    HUGE_FORK_COUNTS_ENTRIES = "huge-fork-counts-entries",
        "fork takes a reference for every entry of a PMD page that it shares",
        imitates "I42, c5c99429fa57",
        killed by "leaf-refs-equal-maps" in [HUGE: "vm_cases huge_fork"] ci;
    HOLE_UNSHARES_LEFT_ONLY = "hole-unshares-left-only",
        "a hole across two tables takes only the left one out of the sharing",
        imitates "I40, CVE-2025-38084",
        killed by "hugetlb-pmd-spans-one-vma" in [HUGE: "vm_cases huge_fork"];
}
