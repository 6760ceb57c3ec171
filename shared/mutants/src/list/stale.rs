//! Flushes that are left out: the tables are right, the processor is not.

use super::group;
use crate::Mutant;

group! { "Stale translations":
    MPROTECT_FLUSH_SKIPPED = "mprotect-flush-skipped",
        "mprotect does not flush what it takes rights from",
        imitates "I34",
        killed by "probe:stale-tlb" in [PTE: "vm_cases stale_mprotect"] ci;
    ZAP_FLUSH_SKIPPED = "zap-flush-skipped",
        "munmap and MADV_DONTNEED of single pages do not flush",
        imitates "I53",
        killed by "probe:stale-tlb" in [PTE: "vm_cases stale_munmap", "vm_cases stale_discard"];
    MREMAP_FLUSH_SKIPPED = "mremap-flush-skipped",
        "mremap does not flush the old place",
        imitates "I53, eb66ae030829",
        killed by "probe:stale-tlb" in [PTE: "vm_cases stale_mremap"];
    TRUNCATE_FLUSH_SKIPPED = "truncate-flush-skipped",
        "truncate does not flush those who map the file",
        imitates "I34",
        killed by "probe:stale-tlb" in [PTE: "vm_cases stale_truncate"];
    FORK_FLUSH_SKIPPED = "fork-flush-skipped",
        "fork does not flush the parent",
        imitates "I19",
        killed by "probe:stale-tlb" in [NONE: "vm_cases stale_fork"] ci;
}
