//! What only several CPUs show: locks given up early, counts read outside their locks, answers that nobody waits for.
//!
//! Those that a chance of a few milliseconds shows are booted with several CPUs, and dawdle where they are wrong. Those that
//! need one order of many steps, or a stale translation that this KVM never has, are played under the scheduler of the
//! core's own tests (`tests/model/tests/concurrency`).

use super::group;
use crate::Mutant;

group! { "Several CPUs":
    LEAF_WRITTEN_AFTER_UNLOCK = "leaf-written-after-unlock",
        "a fault looks at a leaf under the PTE page's lock, and writes it without",
        imitates "I24, I28",
        killed by "table-present-count" in [PTE_CPUS: "races faults"] ci;
    TABLE_COUNT_NOT_ATOMIC = "table-count-not-atomic",
        "who leaves a table reads its count, and writes it a moment later: two who leave at once count once",
        imitates "I4, Dickins's objection of 2006 to a count that is read outside of its lock",
        killed by "table-refs-equal-parents" in [PTE_CPUS: "races exits"] ci;
    OBJECT_FOUND_UNLOCKED = "object-found-unlocked",
        "a table that the registry lists is counted after the registry's lock is given up: its last user may have freed it",
        imitates "I35, eb48c0714647, d833352a4338",
        killed by "pointers-reach-tables" in [PTE_CPUS: "races finders"] ci;
    OBJECT_LEFT_UNLOCKED = "object-left-unlocked",
        "the last user of an object's table sees that it is the last before it takes the registry's lock",
        imitates "I35, CVE-2025-38084",
        killed by "cow-shared-entries-read-only" in [PTE_CPUS: "races leavers"];
    TRUNCATE_TRUSTS_FIRST_LIST = "truncate-trusts-first-list",
        "truncate goes by the list of mms as it was when `i_mmap` was locked, whoever has been added since",
        imitates "I33, I51",
        killed by "probe:content" in [NONE_CPUS: "races truncate"];
    REMOTE_FLUSH_SKIPPED = "remote-flush-skipped",
        "a flush empties the TLB of the CPU that does it, and of no other",
        imitates "I19, I34, the flush of 2006 that stayed local",
        killed by "probe:stale-tlb" in [PTE_EMULATED_CPUS: "tlb_probe thread-mprotect"; PTE_EMULATED_CPUS: "tlb_probe thread-munmap"] ci;
    UNSHARE_FLUSH_SKIPPED = "unshare-flush-skipped",
        "a process gets its own copy of a table, and its other CPUs go on walking through the old one",
        imitates "I20, COW-PTE before version 3",
        killed by "probe:schedule" in [SCHEDULES: "faults::nobody_walks_through_a_table_that_was_left"] ci;
    COW_FLUSH_SKIPPED = "cow-flush-skipped",
        "a page is copied on write, and other threads of the process go on reading the old one",
        imitates "I20, FreeBSD's SA-21:08",
        killed by "probe:schedule" in [SCHEDULES: "faults::a_thread_reads_what_another_has_copied"];
    FREED_BEFORE_FLUSH = "freed-before-flush",
        "displaced pages are free before the other CPUs have answered the flush",
        imitates "I53, CVE-2021-4002",
        killed by "probe:schedule" in [SCHEDULES: "faults::a_page_is_reused_while_others_write"] ci;
    WALK_IGNORES_ANSWERS = "walk-ignores-answers",
        "a walk goes on though its CPU has answered a flush while it waited for a lock: the tables behind it may be gone",
        imitates "I45, CVE-2025-38085",
        killed by "probe:schedule" in [SCHEDULES: "faults::a_walk_meets_the_end_of_the_tables_it_is_in"];
    PMD_TAKES_DYING_TABLE = "pmd-takes-dying-table",
        "the search for a hugetlb object's PMD page counts one up whose count is 0 already",
        imitates "I1, eb48c0714647, d833352a4338",
        killed by "probe:schedule" in [SCHEDULES: "huge::a_search_meets_the_end_of_the_last_user"];
    RMAP_STOPS_AT_DEAD = "rmap-stops-at-dead",
        "the search for a page's mappings ends at a process that is on its way out",
        imitates "I51, 017b1660df89",
        killed by "probe:schedule" in [SCHEDULES: "rmap::a_search_meets_fork_unmap_and_exit"] ci;
    LOCKS_IN_BOTH_ORDERS = "locks-in-both-orders",
        "tgkill takes the lock of the table of processes with a process's signal lock held, clone takes them the other way round",
        imitates "the deadlock of two CPUs that an order of locks is there to prevent",
        killed by "probe:hang" in [PTE_CPUS: "races tellers"] ci;
    UFFD_MARKS_LATER = "uffd-marks-later",
        "registering with a userfaultfd gives up `mmap_lock` between the unsharing and the mark: a fork shares the tables again",
        imitates "I46, CVE-2025-38084",
        killed by "probe:schedule" in [SCHEDULES: "userfault::registration_meets_fork"];
}
