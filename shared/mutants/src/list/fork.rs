//! Fork.

use super::group;
use crate::Mutant;

group! { "Fork":
    FORK_PROTECTS_CHILD_ONLY = "fork-protects-child-only",
        "fork clears R/W in the child's entries and leaves it set in the parent's",
        imitates "I13",
        killed by "cow-shared-entries-read-only" in [PTE: "vm_cases edges"] ci;
    FORK_LEAVES_READ_ONLY_VMAS = "fork-leaves-read-only-vmas",
        "fork leaves R/W set in entries above memory that cannot be written to at the time",
        imitates "I14, on-demand-fork",
        killed by "cow-shared-closed-for-later" in [PTE: "vm_cases fork_read_only"];
    TREE_FORK_LEAVES_WRITE = "tree-fork-leaves-write",
        "fork of a whole tree leaves R/W set in the parent's root",
        imitates "I13, one level up",
        killed by "cow-shared-entries-read-only" in [TREE: "vm_cases edges"] ci;
    TREE_COPY_LEAVES_WRITE = "tree-copy-leaves-write",
        "copying an upper table leaves R/W set in the entries of both copies",
        imitates "I13, CVE-2021-38198",
        killed by "cow-shared-entries-read-only" in [TREE: "vm_cases edges"];
    TREE_COPY_TAGS_PTE_PAGE = "tree-copy-tags-pte-page",
        "a copied upper table is marked as a PTE page",
        imitates "I2",
        killed by "table-level" in [TREE: "vm_cases edges"];
    FORK_COUNTS_ONE_SHORT = "fork-counts-one-short",
        "fork does not count the last table that it shares",
        imitates "I3",
        killed by "table-refs-equal-parents" in [PTE: "vm_cases edges"] ci;
    FORK_TAGS_WRONG_LEVEL = "fork-tags-wrong-level",
        "fork writes level 2 into the metadata of the PTE pages that it shares",
        imitates "I2",
        killed by "table-level" in [PTE: "vm_cases edges"] ci;
    FORK_SHIFTS_LAST_TABLE = "fork-shifts-last-table",
        "fork puts the child's last table 2 MiB higher",
        imitates "I16",
        killed by "sharers-at-one-address" in [PTE: "vm_cases edges"];
    FORK_HANDS_ON_DONTFORK = "fork-hands-on-dontfork",
        "fork gives the child the entries of memory under MADV_DONTFORK",
        imitates "I17, I18",
        killed by "no-entry-outside-vma" in [PTE: "vm_cases fork_advice"];
    KERNEL_HALF_ALIASED = "kernel-half-aliased",
        "a fresh root has the linear map in a second slot too",
        imitates "I10",
        killed by "kernel-half-identical" in [PTE: "vm_cases tail"] ci;
}
