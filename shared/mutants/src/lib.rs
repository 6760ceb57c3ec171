//! Deliberate bugs of the guest kernel ("mutants"), by which the judge is judged.
//!
//! A judge that has never been seen to object proves nothing. So the guest carries small bugs, one for each thing that
//! can go wrong with shared tables: compiled in by the feature `armed` alone, and switched on one at a time at boot by
//! `mutant=NAME`. `cargo xtask mutants` boots each of them under the programs that can reach it and demands that the rule
//! it was made for says so.
//!
//! ```text
//!   list/*.rs   the bugs as data: name, what it does, whence, rule, boots   <-- cargo xtask mutants, docs/MUTANTS.md
//!   mutant!(N)  in the guest's code: is bug N switched on?                  <-- select(), by the command line
//! ```
//!
//! Mutation rule of the catalogue that most of them come from: a mutant breaks one thing and keeps every other book in
//! order, so that only the rule in question can notice.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod list;
#[cfg(feature = "armed")]
mod selected;

#[cfg(feature = "armed")]
pub use selected::{is_selected, select};

/// How a guest is booted for a mutant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Boot {
    /// `none`, `pte` or `tree`.
    pub sharing: &'static str,
    /// Words for the kernel's command line.
    pub words: &'static str,
    /// Guest memory, bytes.
    pub mem_bytes: u64,
    /// Verify after this many page faults too; 0 for not.
    pub faults: u64,
    /// Under QEMU's emulation, whose TLB keeps what is not flushed.
    pub emulated: bool,
    /// Virtual CPUs.
    pub cpus: u32,
    /// No boot at all: the core's own code on the host, under a scheduler of threads that explores interleavings
    /// (`tests/model/tests/concurrency`). The program is the name of a test there.
    pub schedules: bool,
}

impl Boot {
    /// Shares PTE pages.
    pub const PTE: Boot = Boot {
        sharing: "pte",
        words: "",
        mem_bytes: 256 << 20,
        faults: 0,
        emulated: false,
        cpus: 1,
        schedules: false,
    };
    /// So little memory that it can be used up.
    pub const PTE_SMALL: Boot = Boot { mem_bytes: 32 << 20, ..Boot::PTE };
    /// Verifies after every page fault: for bugs that no program survives for long.
    pub const PTE_FAULTS: Boot = Boot { faults: 1, ..Boot::PTE };
    /// Shares PTE pages, under the emulator.
    pub const PTE_EMULATED: Boot = Boot { emulated: true, ..Boot::PTE };
    /// Copies everything, under the emulator.
    pub const NONE_EMULATED: Boot = Boot { emulated: true, ..Boot::NONE };
    /// Shares whole subtrees, under the emulator.
    pub const TREE_EMULATED: Boot = Boot { emulated: true, ..Boot::TREE };
    /// Shares PTE pages, on two CPUs.
    pub const PTE_CPUS: Boot = Boot { cpus: 2, ..Boot::PTE };
    /// Shares PTE pages, under the emulator, on two CPUs.
    pub const PTE_EMULATED_CPUS: Boot = Boot { cpus: 2, ..Boot::PTE_EMULATED };
    /// Copies everything, on two CPUs.
    pub const NONE_CPUS: Boot = Boot { cpus: 2, ..Boot::NONE };
    /// A test of the core under the scheduler, in all modes that it has.
    pub const SCHEDULES: Boot = Boot { schedules: true, ..Boot::PTE };
    /// Shares whole subtrees.
    pub const TREE: Boot = Boot { sharing: "tree", ..Boot::PTE };
    /// Copies everything.
    pub const NONE: Boot = Boot { sharing: "none", ..Boot::PTE };
    /// A small pool of huge pages.
    pub const HUGE: Boot = Boot { words: "hugepages=32", ..Boot::PTE };

    /// Does it take luck to meet the bug: two CPUs in the same few instructions?
    pub const fn is_a_race(&self) -> bool {
        self.cpus > 1 && !self.schedules
    }
}

/// A boot and the programs that it runs, each with its arguments.
pub type Run = (Boot, &'static [&'static str]);

/// A deliberate bug.
#[derive(Debug)]
pub struct Mutant {
    /// For the command line and the documents.
    pub name: &'static str,
    /// What it does, in one sentence.
    pub what: &'static str,
    /// What it imitates: invariants of the catalogue in docs/MUTANTS.md (I1 to I60), commits, CVEs.
    pub imitates: &'static str,
    /// The rule that must name it: one of the verifier's, or a probe ([`PROBES`]).
    pub rule: &'static str,
    /// The boots that can reach it.
    pub runs: &'static [Run],
    /// Part of the subset that CI runs.
    pub ci: bool,
}

/// What can notice a bug without looking at the tables: a program in the guest that finds something wrong.
pub const PROBES: &[(&str, &str)] = &[
    ("probe:content", "a program reads other bytes than its own history allows"),
    (
        "probe:stale-tlb",
        "an access succeeds that the tables no longer allow: the translation was not flushed",
    ),
    (
        "probe:progress",
        "the programs do not come to an end in the time that the right kernel needs many times over",
    ),
    (
        "probe:hang",
        "no counter of the kernel moves any more, and the watchdog's report of every CPU names the locks that they wait for",
    ),
    (
        "probe:schedule",
        "the core's own code on the host, in some order of the steps of several CPUs, ends in wrong bytes, a stale translation, \
         a walk through a table that is gone, or a verdict against it",
    ),
];

/// Every mutant, by subject.
pub fn all() -> impl Iterator<Item = &'static Mutant> {
    list::GROUPS.iter().flat_map(|group| group.mutants.iter().copied())
}

/// Is this mutant switched on? Names a static of [`list`]. `false` at compile time without the feature `armed`.
#[cfg(feature = "armed")]
#[macro_export]
macro_rules! mutant {
    ($name:ident) => {
        $crate::is_selected(&$crate::list::$name)
    };
}

/// Is this mutant switched on? Names a static of [`list`]. `false` at compile time without the feature `armed`.
#[cfg(not(feature = "armed"))]
#[macro_export]
macro_rules! mutant {
    ($name:ident) => {{
        let _: &$crate::Mutant = &$crate::list::$name;
        false
    }};
}

/// The probe that a program stands for when it fails.
pub fn probe(program: &str) -> &'static str {
    if program.split_whitespace().next() == Some("tlb_probe") { "probe:stale-tlb" } else { "probe:content" }
}
