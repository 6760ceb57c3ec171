//! Counts, frames and records: the books.

use super::group;
use crate::Mutant;

group! { "Books":
    TABLE_FREED_BEFORE_LAST = "table-freed-before-last",
        "a table goes when its last but one user leaves, and its entry stays",
        imitates "I1, CVE-2021-4002",
        killed by "pointers-reach-tables" in [PTE: "vm_cases edges"] ci;
    DETACH_COUNTS_TWICE = "detach-counts-twice",
        "leaving a table with three users or more takes two off its count",
        imitates "I3",
        killed by "table-refs-equal-parents" in [PTE: "fork_cow"];
    EMPTY_TABLE_LOST = "empty-table-lost",
        "a PTE page whose last entry above goes is not freed",
        imitates "I5, CVE-2024-57883",
        killed by "tables-reachable" in [PTE: "vm_cases tail"];
    FREED_PAGE_LOST = "freed-page-lost",
        "a page whose last reference goes is not freed",
        imitates "I5",
        killed by "pages-reachable" in [PTE: "vm_cases tail"];
    FREED_PAGE_KEEPS_COUNT = "freed-page-keeps-count",
        "a page that is freed still has a reference in its books",
        imitates "I8",
        killed by "free-frames-unreferenced" in [PTE: "vm_cases tail"] ci;
    FREE_COUNT_DRIFTS = "free-count-drifts",
        "frames that come back known to be zero are not added to the number of free frames",
        imitates "I28",
        killed by "frames-add-up" in [PTE: "vm_cases tail"] ci;
    KERNEL_FRAMES_UNCOUNTED = "kernel-frames-uncounted",
        "blocks of kernel memory are not added to the number of kernel frames",
        imitates "I28",
        killed by "frames-add-up" in [PTE: "vm_cases tail"];
    FREE_BLOCK_TOO_LARGE = "free-block-too-large",
        "the head of a free block of one frame says that there are two",
        imitates "I8",
        killed by "free-blocks-disjoint" in [PTE: "vm_cases tail"] ci;
    PAGE_FREED_BEFORE_LAST = "page-freed-before-last",
        "a private page goes when its last but one leaf goes, and is kernel memory a moment later",
        imitates "I8, I7",
        killed by "no-user-path-to-kernel" in [PTE_FAULTS: "vm_cases edges"];
    ZAP_LEAVES_TABLE_PAGES = "zap-leaves-table-pages",
        "tables that a process drops stay in its number of tables",
        imitates "I28, c17b1f42594e",
        killed by "mm-table-pages" in [PTE: "vm_cases moved"] ci;
    FILL_MISSES_PRESENT_COUNT = "fill-misses-present-count",
        "a page faulted into slot 511 is not added to the table's number of entries",
        imitates "the count behind I5",
        killed by "table-present-count" in [PTE: "vm_cases edges"] ci;
    ZAP_COUNTS_ONE_LESS = "zap-counts-one-less",
        "munmap takes one entry too few off the table's number of entries",
        imitates "the count behind I5",
        killed by "table-present-count" in [PTE: "vm_cases tail"];
    EXIT_KEEPS_ROOT = "exit-keeps-root",
        "the record of an address space that is gone still names its root",
        imitates "I52, I60",
        killed by "roots-not-shared" in [PTE: "vm_cases edges"];
    SHARED_COUNTER_STICKS = "shared-counter-sticks",
        "a table that is shared no more stays in the number of shared tables",
        imitates "I12, I28",
        killed by "page-tables-counted-once" in [PTE: "vm_cases edges"] ci;
    RSS_COUNTS_ZERO_PAGE = "rss-counts-zero-page",
        "the zero page counts as a page of the process",
        imitates "I28: bad RSS",
        killed by "proc-numbers-equal-walk" in [PTE: "vm_cases zero"] ci;
    PAGE_INDEX_IGNORES_PGOFF = "page-index-ignores-pgoff",
        "a private page notes its address instead of its place in the VMA, which mremap changes",
        imitates "I51",
        killed by "reverse-map-equals-walk" in [PTE: "vm_cases moved"] ci;
    RMAP_BELIEVES_INDEX = "rmap-believes-index",
        "the reverse map names every process of the family, whether or not it maps the page",
        imitates "I52",
        killed by "reverse-map-equals-walk" in [PTE: "vm_cases reverse"];
    CPUMASK_LACKS_CPU = "cpumask-lacks-cpu",
        "a CPU that loads an address space does not enter itself in the mask for shootdowns",
        imitates "I34, I59",
        killed by "cpumask-has-cpu" in [PTE: "vm_cases tail"] ci;
    CPU_RECORD_LAGS = "cpu-record-lags",
        "a CPU's record is not brought up to date when it loads an address space",
        imitates "I60",
        killed by "cpu-runs-its-mm" in [PTE: "vm_cases edges"];
    SPLIT_LEAVES_OVERLAP = "split-leaves-overlap",
        "a VMA that is cut in two keeps its old end",
        imitates "I17, H11",
        killed by "vma-list-sorted" in [PTE: "vm_cases rights", "vm_cases neighbours"] ci;
    CENSUS_LIST_UNREACHABLE = "census-list-unreachable",
        "the address of the VMA list is published without its upper half",
        imitates "H17: the checker's own view",
        killed by "census-is-sound" in [PTE: "vm_cases tail"];
}
