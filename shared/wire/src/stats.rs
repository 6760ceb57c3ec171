//! Counters that the guest keeps and the host reports, and the grammar of `/dev/ptshare`.
//!
//! A program talks to the judge by writing lines to `/dev/ptshare` (absent on Linux, so programs ignore a failure to
//! open it):
//!
//! ```text
//! checkpoint LABEL        verify now, and the reverse maps of a few frames with it
//! answer LABEL            the same with more frames, and the numbers that /proc shows of processes
//! rmap PFN                the same with the reverse map of this frame (decimal)
//! scenario NAME           what follows belongs to this scenario (written by init)
//! metric NAME VALUE       a number for the JSON report of the current scenario
//! result NAME STATUS      the scenario ended with this wait status (written by init)
//! ```
//!
//! Reading the device gives one `name value` line for each counter below, and `mapped PID ADDRESS` for each place that the
//! last `rmap` found.

use core::sync::atomic::AtomicU64;

/// Unknown system calls remembered by number.
pub const UNKNOWN_MAX: usize = 32;

macro_rules! stats {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// Counters since boot, unless a field says otherwise.
        #[repr(C)]
        #[derive(Default, Debug)]
        pub struct Stats {
            $($(#[$doc])+ pub $name: AtomicU64,)+
            /// Numbers of unknown system calls, in the order met; 0 ends them (0 itself, `read`, is known).
            pub unknown: [AtomicU64; UNKNOWN_MAX],
        }

        impl Stats {
            /// Names of the counters, in memory order: field `i` is the `u64` at byte `8 * i`.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name)),+];

            /// All zero.
            pub const fn new() -> Stats {
                Stats { $($name: AtomicU64::new(0),)+ unknown: [const { AtomicU64::new(0) }; UNKNOWN_MAX] }
            }

            /// The counters with their names, in memory order.
            pub fn each(&self, mut f: impl FnMut(&'static str, &AtomicU64)) {
                $(f(stringify!($name), &self.$name);)+
            }
        }
    };
}

stats! {
    /// Page faults taken from user mode or on behalf of a system call, spurious ones included.
    page_faults,
    /// Successful fork, vfork and clone calls that made a process.
    forks,
    /// Table pages allocated now, all levels, each counted once.
    tables_now,
    /// Most table pages allocated at one time.
    tables_peak,
    /// Tables with a count above one, now.
    tables_shared_now,
    /// Most tables with a count above one at one time.
    tables_shared_peak,
    /// Write faults or calls that gave an mm a table of its own by copying a shared one.
    unshares,
    /// Times an mm found itself the last user of a shared table and took it back without a copy.
    reclaims,
    /// Shared tables dropped from an mm by their count alone (exit, exec, munmap of a whole span).
    detaches,
    /// PTE pages copied by fork (sharing off, or small processes).
    fork_tables_copied,
    /// PTE pages shared by fork.
    fork_tables_shared,
    /// Pages copied on a write fault.
    cow_copies,
    /// Pages taken over in place on a write fault (last reference).
    cow_reuses,
    /// Fresh zeroed pages given out by faults.
    anon_fills,
    /// Read faults answered with the zero page.
    zero_page_fills,
    /// Entries filled from page caches.
    file_fills,
    /// TLB flush operations, one for each batch.
    tlb_flushes,
    /// Flushes that other CPUs had to carry out too (shootdowns).
    tlb_shootdowns,
    /// Interrupts that a CPU has sent to another, for shootdowns and to say that there is a task to run.
    ipis,
    /// System calls.
    syscalls,
    /// Context switches between tasks.
    switches,
    /// Nanoseconds spent inside fork, clone and vfork in the caller.
    fork_ns,
    /// Nanoseconds of the last fork.
    last_fork_ns,
    /// Processes killed because memory ran out.
    oom_kills,
    /// PTE pages that a fault found through their object, instead of allocating one.
    object_tables_shared,
    /// Objects' PTE pages dropped from an mm while others kept them.
    object_detaches,
    /// Page faults in hugetlb mappings.
    hugetlb_faults,
    /// Times an mm took over a PMD page of a hugetlb object that another mapping had built (faults and forks).
    pmd_tables_shared,
    /// PMD pages of hugetlb objects taken out of one mm while others kept them (mprotect, munmap, mremap, splits).
    pmd_detaches,
}

const _: () = assert!(core::mem::size_of::<Stats>() == 8 * (Stats::NAMES.len() + UNKNOWN_MAX));
