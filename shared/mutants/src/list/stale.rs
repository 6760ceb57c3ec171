//! Flushes that are left out: the tables are right, the processor is not.

use super::group;
use crate::Mutant;

group! { "Stale translations":
    MPROTECT_FLUSH_SKIPPED = "mprotect-flush-skipped",
        "mprotect does not flush what it takes rights from",
        imitates "I34",
        killed by "probe:stale-tlb" in [PTE_EMULATED: "tlb_probe mprotect-read-only"] ci;
    ZAP_FLUSH_SKIPPED = "zap-flush-skipped",
        "munmap and MADV_DONTNEED do not flush",
        imitates "I53",
        killed by "probe:stale-tlb" in [PTE_EMULATED: "tlb_probe munmap"; PTE_EMULATED: "tlb_probe madvise-dontneed"];
    MREMAP_FLUSH_SKIPPED = "mremap-flush-skipped",
        "mremap does not flush the old place",
        imitates "I53, eb66ae030829",
        killed by "probe:stale-tlb" in [PTE_EMULATED: "tlb_probe mremap-away"];
    TRUNCATE_FLUSH_SKIPPED = "truncate-flush-skipped",
        "truncate does not flush those who map the file",
        imitates "I34",
        killed by "probe:stale-tlb" in [PTE_EMULATED: "tlb_probe file-truncate"];
    FORK_FLUSH_SKIPPED = "fork-flush-skipped",
        "fork does not flush the parent",
        imitates "I19",
        killed by "probe:stale-tlb" in [NONE_EMULATED: "tlb_probe fork-parent-writes"; PTE_EMULATED: "tlb_probe fork-parent-writes"; TREE_EMULATED: "tlb_probe fork-parent-writes"] ci;
}
