//! Leaves and VMAs: faults, mprotect, munmap, mremap, madvise, brk.

use super::group;
use crate::Mutant;

group! { "Changing mappings":
    MUNMAP_FORGETS_LAST_PAGE = "munmap-forgets-last-page",
        "munmap leaves the last page's entry, with its reference",
        imitates "I18",
        killed by "no-entry-outside-vma" in [PTE: "vm_cases tail"] ci;
    ZAP_KEEPS_REFERENCE = "zap-keeps-reference",
        "munmap clears the last page's entry and keeps its reference",
        imitates "I24: a leaked page",
        killed by "leaf-refs-equal-maps" in [PTE: "vm_cases tail"];
    MPROTECT_LEAVES_WRITE = "mprotect-leaves-write",
        "mprotect to read-only leaves R/W set",
        imitates "I18",
        killed by "rights-within-vma" in [PTE: "vm_cases rights"] ci;
    MPROTECT_LOSES_NX = "mprotect-loses-nx",
        "mprotect clears the no-execute bit of what must not be executed",
        imitates "I18",
        killed by "rights-within-vma" in [PTE: "vm_cases rights"];
    PROT_NONE_STAYS_PRESENT = "prot-none-stays-present",
        "mprotect to nothing leaves pages readable",
        imitates "I18",
        killed by "prot-none-closed" in [PTE: "vm_cases rights"];
    MPROTECT_LOSES_USER = "mprotect-loses-user",
        "mprotect clears the user bit",
        imitates "I10",
        killed by "user-bit-by-half" in [PTE_FAULTS: "vm_cases rights"];
    MPROTECT_GRANTS_SHARED_PAGE = "mprotect-grants-shared-page",
        "mprotect to read-write sets R/W on pages that another table maps too",
        imitates "I15",
        killed by "private-page-shared-not-writable" in [PTE: "vm_cases fork_read_only"];
    MPROTECT_IN_SHARED_TABLE = "mprotect-in-shared-table",
        "mprotect changes a shared table in place",
        imitates "I17, I22: the 2021 fix of on-demand-fork",
        killed by "sharers-agree" in [PTE: "vm_cases neighbours"] ci;
    MPROTECT_HALF_DONE = "mprotect-half-done",
        "mprotect goes on where there is no memory for a table of its own",
        imitates "I26",
        killed by "sharers-agree" in [PTE_SMALL: "vm_cases no_memory"];
    MPROTECT_IGNORES_MAY = "mprotect-ignores-may",
        "mprotect makes a mapping of a file that is open for reading writable",
        imitates "I18: the VMA's own limits",
        killed by "vma-rights-allowed" in [PTE: "vm_cases may"];
    MMAP_INTO_SHARED_TABLE = "mmap-into-shared-table",
        "mmap puts a VMA into the span of a shared table",
        imitates "I17",
        killed by "sharers-agree" in [PTE: "vm_cases neighbours"];
    BRK_INTO_SHARED_TABLE = "brk-into-shared-table",
        "brk grows the heap in the span of a shared table",
        imitates "I17",
        killed by "sharers-agree" in [PTE: "vm_cases heap"];
    UFFD_REGISTER_SHARES = "uffd-register-shares",
        "registering with a userfaultfd leaves the tables below shared",
        imitates "I46, 6dfeaff93be1",
        killed by "userfaultfd-owns-tables" in [PTE: "vm_cases watched"] ci;
    DISCARD_IN_SHARED_TABLE = "discard-in-shared-table",
        "MADV_DONTNEED and munmap clear entries of a shared table for all, and drop their references",
        imitates "I38, I22",
        killed by "shared-table-unchanged" in [PTE: "vm_cases discard"] ci;
    MREMAP_WRONG_DELTA = "mremap-wrong-delta",
        "mremap puts each page one page too high",
        imitates "I47, 9bdad082d44b",
        killed by "no-entry-outside-vma" in [PTE: "vm_cases moved"];
    MREMAP_KEEPS_SOURCE = "mremap-keeps-source",
        "mremap of a whole table counts it once more and leaves it at the source too",
        imitates "I6",
        killed by "table-once-in-mm" in [PTE: "vm_cases moved"];
    FILL_SETS_GLOBAL = "fill-sets-global",
        "a page that is faulted in gets the global bit",
        imitates "I60",
        killed by "entry-bits-legal" in [PTE: "vm_cases tail"] ci;
    FILL_MAPS_OWN_TABLE = "fill-maps-own-table",
        "a read fault maps the page table itself instead of the zero page",
        imitates "I7",
        killed by "no-user-path-to-kernel" in [PTE_FAULTS: "vm_cases zero"] ci;
    FILL_OPENS_ZERO_PAGE = "fill-opens-zero-page",
        "a read fault maps the zero page with R/W set",
        imitates "I15",
        killed by "zero-page-not-writable" in [PTE_FAULTS: "vm_cases zero"] ci;
    FILL_OPENS_FILE_PAGE = "fill-opens-file-page",
        "a read fault in a private file mapping maps the file's page with R/W set",
        imitates "I15, I32",
        killed by "file-page-not-writable-privately" in [PTE_FAULTS: "vm_cases object"];
    FILL_TAGS_ANON_AS_ZERO = "fill-tags-anon-as-zero",
        "the frame of a fresh private page is marked as the zero page",
        imitates "I8",
        killed by "frame-has-one-state" in [PTE: "vm_cases tail"];
    FILL_TAGS_ANON_AS_CACHE = "fill-tags-anon-as-cache",
        "the frame of a fresh private page is marked as a page of a file",
        imitates "I8",
        killed by "frame-fits-vma" in [PTE: "vm_cases tail"];
}
