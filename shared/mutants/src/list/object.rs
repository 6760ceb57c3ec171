//! PTE pages that belong to objects, and objects that shrink.

use super::group;
use crate::Mutant;

group! { "Objects' tables":
    FAULT_IGNORES_PGOFF = "fault-ignores-pgoff",
        "a fault in a shared mapping takes the file's page by the distance from the VMA's start alone",
        imitates "I29",
        killed by "file-page-at-its-offset" in [PTE_FAULTS: "vm_cases object"] ci;
    OBJECT_BORDER_PAGE = "object-border-page",
        "a VMA that ends one page before the end of a table's span may share it",
        imitates "I30, the off-by-one in the 2006 review",
        killed by "object-table-spans-one-vma" in [PTE: "vm_cases object"] ci;
    OBJECT_BORDER_SPAN = "object-border-span",
        "a VMA that begins inside a table's span may share it",
        imitates "I30, H11",
        killed by "object-table-spans-one-vma" in [PTE: "vm_cases object"];
    OBJECT_KEY_IGNORES_PGOFF = "object-key-ignores-pgoff",
        "the search for a table does not know where in the file the VMA begins",
        imitates "I31",
        killed by "object-table-keeps-place" in [PTE_FAULTS: "vm_cases object"];
    OBJECT_KEY_TAKES_PRIVATE = "object-key-takes-private",
        "private mappings that can be written to use the object's tables",
        imitates "I32",
        killed by "object-shared-tables-uniform" in [PTE: "vm_cases object"];
    OBJECT_KEY_IGNORES_RIGHTS = "object-key-ignores-rights",
        "the search for a table does not compare the right to write",
        imitates "I32",
        killed by "sharers-agree" in [PTE: "vm_cases object"];
    OBJECT_READ_ONLY_OPEN = "object-read-only-open",
        "a read-only mapping gets R/W in its entry above an object's table",
        imitates "I32, I14",
        killed by "object-shared-tables-uniform" in [PTE: "vm_cases object"];
    OBJECT_TAKEOVER_COUNTS_TWICE = "object-takeover-counts-twice",
        "whoever takes over an object's table is counted twice",
        imitates "I4",
        killed by "table-refs-equal-parents" in [PTE: "vm_cases object"] ci;
    OBJECT_TAKEOVER_UNCOUNTED = "object-takeover-uncounted",
        "an object's table that is taken over is not added to the mm's number of tables",
        imitates "I28, c17b1f42594e",
        killed by "mm-table-pages" in [PTE: "vm_cases object"];
    OBJECT_DEAD_TABLE_LISTED = "object-dead-table-listed",
        "an object's table stays listed when its last user leaves, and is found again",
        imitates "I35, d833352a4338",
        killed by "free-frames-unreferenced" in [PTE: "vm_cases object"];
    TRUNCATE_SKIPS_A_TABLE = "truncate-skips-a-table",
        "truncate does not look below the third entry of a PMD page",
        imitates "I33",
        killed by "mapped-file-page-in-cache" in [PTE: "vm_cases truncate"] ci;
}
