//! userfaultfd.

use super::group;
use crate::Mutant;

group! { "userfaultfd":
    REGISTER_KEEPS_SHARING = "register-keeps-sharing",
        "registering memory with userfaultfd takes no table out of the sharing",
        imitates "I46, c1991e070550",
        killed by "userfaultfd-owns-tables" in [PTE: "uffd_unshares"; HUGE: "uffd_huge"] ci;
    FORK_SHARES_WATCHED_TABLES = "fork-shares-watched-tables",
        "fork shares the tables of memory that is registered with userfaultfd like any others",
        imitates "I46",
        killed by "userfaultfd-owns-tables" in [PTE: "uffd_wp"; TREE: "uffd_wp"];
    FORK_HANDS_ON_MARKS = "fork-hands-on-marks",
        "a child gets the marks of its parent's write protection",
        imitates "I46",
        killed by "userfaultfd-owns-tables" in [PTE: "uffd_wp"];
}
