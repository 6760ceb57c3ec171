//! Copies of tables and pages, and tables and pages taken back.

use super::group;
use crate::Mutant;

group! { "Unsharing":
    COPY_PROTECTS_COPY_ONLY = "copy-protects-copy-only",
        "copying a table clears R/W in the leaves of the copy, and leaves it in the original",
        imitates "I15, on-demand-fork",
        killed by "private-page-shared-not-writable" in [PTE: "vm_cases edges"] ci;
    COPY_FORGETS_SLOT_511 = "copy-forgets-slot-511",
        "a copied table lacks the last entry; all counts are right",
        imitates "I21",
        killed by "probe:content" in [PTE: "vm_cases edges"; NONE: "vm_cases edges"] ci;
    COPY_MISSES_SLOT_0 = "copy-misses-slot-0",
        "copying a table takes no reference for slot 0",
        imitates "I24",
        killed by "leaf-refs-equal-maps" in [PTE: "vm_cases edges"] ci;
    COPY_COUNTS_SLOT_511_TWICE = "copy-counts-slot-511-twice",
        "copying a table takes two references for slot 511",
        imitates "I24, c5c99429fa57",
        killed by "leaf-refs-equal-maps" in [PTE: "vm_cases edges"; NONE: "vm_cases edges"];
    DENSE_COPY_MISSES_SLOT_511 = "dense-copy-misses-slot-511",
        "copying a full table as a block takes no reference for the last entry",
        imitates "I24",
        killed by "leaf-refs-equal-maps" in [PTE: "vm_cases dense"];
    DENSE_COPY_LEAVES_WRITE = "dense-copy-leaves-write",
        "copying a full table as a block leaves R/W in the leaves of both copies",
        imitates "I15",
        killed by "private-page-shared-not-writable" in [PTE: "vm_cases dense"];
    UNSHARE_KEEPS_COUNT = "unshare-keeps-count",
        "a process that gets its own copy is still counted as a user of the old table",
        imitates "I4, CVE-2024-57883",
        killed by "table-refs-equal-parents" in [PTE: "vm_cases edges"; TREE: "vm_cases edges"];
    UNSHARE_TAGS_COPY_AS_DATA = "unshare-tags-copy-as-data",
        "the frame of a copied table is marked as a private page",
        imitates "I1",
        killed by "pointers-reach-tables" in [PTE: "vm_cases edges"] ci;
    UNSHARE_SETS_RESERVED_BIT = "unshare-sets-reserved-bit",
        "a copied table has bit 51 set in slot 0",
        imitates "I9",
        killed by "entry-bits-legal" in [PTE: "vm_cases edges"];
    RECLAIM_WITH_TWO_USERS = "reclaim-with-two-users",
        "a write takes a table back though another process uses it too",
        imitates "I13, the 2006 review's test of the count",
        killed by "cow-shared-entries-read-only" in [PTE: "vm_cases edges"];
    RECLAIM_FORGETS_WRITE = "reclaim-forgets-write",
        "the last user of a table gets it back without R/W in the entry above",
        imitates "I27",
        killed by "probe:progress" in [PTE: "vm_cases edges"];
    COW_TAKES_SHARED_PAGE = "cow-takes-shared-page",
        "a write takes a page over though a second table maps it",
        imitates "I15",
        killed by "private-page-shared-not-writable" in [PTE: "vm_cases edges"; NONE: "vm_cases edges"] ci;
    COW_COPIES_NOTHING = "cow-copies-nothing",
        "a copied page does not get the content of the old one",
        imitates "I21",
        killed by "probe:content" in [PTE: "vm_cases discard", "fork_cow"];
    COW_KEEPS_REFERENCE = "cow-keeps-reference",
        "a copied page's original is still counted as mapped by the copier",
        imitates "I24",
        killed by "leaf-refs-equal-maps" in [PTE: "vm_cases edges"];
}
