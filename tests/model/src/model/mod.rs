//! A flat model of what every address of every process must read: mappings, private words, files. It knows nothing of
//! tables, frames or sharing. Of each page the first word and the last are kept.
//!
//! ```text
//!  extents.rs  the mappings of a process
//!  access.rs   loads and stores, and what populating brings in
//!  maps.rs     mmap, munmap, brk
//!  rights.rs   mprotect, mlock
//!  advice.rs   madvise
//!  remap.rs    mremap
//!  files.rs    truncate, punch, write
//!  follow.rs   an operation and the kernel's answer: is it right, and what is the state now?
//! ```
//!
//! The model does not decide between answers that are all right (where mmap places, whether a pool has a page left):
//! it takes the kernel's, and objects if no rule allows it.

mod access;
mod advice;
mod compare;
mod extents;
mod files;
mod follow;
mod maps;
mod remap;
mod rights;

pub use extents::{Extent, Extents};

use ptshare_abi::Errno;
use ptshare_mm::FaultOutcome;
use ptshare_mm::testing::{Answer, FlatKernel};
use ptshare_paging::{Level, PAGE_BYTES};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of a huge page.
pub const HUGE: u64 = Level::Pmd.entry_bytes();

/// First and last word of a page.
pub type Words = [u64; 2];

/// A file, or what is behind shared anonymous memory.
#[derive(Clone, Debug, Default)]
pub struct File {
    /// Bytes.
    pub size: u64,
    /// Pages that are not all zero, by number (of 4 KiB).
    pub pages: BTreeMap<u64, Words>,
    /// Made of huge pages.
    pub huge: bool,
    /// Huge pages that are there, by number (of 2 MiB): a private mapping makes one of its own of what is not.
    pub present: BTreeSet<u64>,
    /// The kernel's name for it, once it has been seen in a mapping.
    pub object: Option<u64>,
    /// It has an index in the kernel, too.
    pub open: bool,
}

impl File {
    fn page(&self, index: u64) -> Words {
        self.pages.get(&index).copied().unwrap_or_default()
    }

    /// Does page `index` (of 4 KiB) lie before the end?
    fn reaches(&self, index: u64) -> bool {
        let unit = if self.huge { HUGE } else { PAGE_BYTES };
        index < self.size.div_ceil(unit) * (unit / PAGE_BYTES)
    }
}

/// A process.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// What is mapped.
    pub extents: Extents,
    /// Private pages, by address: anonymous ones that were written to, and copies of files' pages.
    pub private: BTreeMap<u64, Words>,
    /// Huge pages of its own, by address.
    pub own_huge: BTreeSet<u64>,
    /// What mlockall(MCL_FUTURE) gives to new mappings.
    pub def_flags: u64,
    /// Where the heap ends.
    pub brk: u64,
}

/// Where the heap begins, in every process.
pub const START_BRK: u64 = 0x10_6000_1000;

/// Everything.
pub struct Model {
    /// By pid.
    pub processes: BTreeMap<u32, Process>,
    /// The first are those that the kernel has under the same index.
    pub files: Vec<File>,
}

/// What the model needs to know of an answer: who gave it, and whether an allocation was refused on the way.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// After the call.
    pub kernel: &'a FlatKernel,
    /// Whose call it was.
    pub pid: u32,
    /// An allocation was refused meanwhile.
    pub refused: bool,
}

impl Context<'_> {
    /// Pages of the hugetlb pool that are not promised to anybody.
    fn spare_huge(&self) -> u64 {
        let [_, free, reserved, _] =
            ptshare_mm::hugetlb::counts(self.kernel.arena(), ptshare_mm::hugetlb::HugeSize::Mib2);
        free - reserved
    }

    /// Does the kernel have a mapping in this range?
    fn maps(&self, start: u64, end: u64) -> bool {
        let mut found = false;
        self.kernel.mm(self.pid).for_each_vma(&mut |vma| found |= vma.start < end && start < vma.end);
        found
    }
}

/// What went wrong, in words.
pub type Verdict = Result<(), String>;

fn expect(answer: Answer, wanted: Answer, what: &str) -> Verdict {
    if answer == wanted { Ok(()) } else { Err(format!("{what}: {answer:x?} instead of {wanted:x?}")) }
}

const fn value(value: u64) -> Answer {
    Answer::Value(value)
}

const fn error(errno: Errno) -> Answer {
    Answer::Error(errno)
}

const fn fault(outcome: FaultOutcome) -> Answer {
    Answer::Fault(outcome)
}

impl Model {
    /// Process 1 with nothing mapped, and no files.
    pub fn new() -> Model {
        let init = Process { brk: START_BRK, ..Process::default() };
        Model { processes: BTreeMap::from([(1, init)]), files: Vec::new() }
    }

    fn process(&self, pid: u32) -> &Process {
        &self.processes[&pid]
    }

    fn process_mut(&mut self, pid: u32) -> &mut Process {
        self.processes.get_mut(&pid).expect("the model has the kernel's processes")
    }

    /// A file that only mappings know. Gives its number.
    fn hidden_file(&mut self, size: u64, huge: bool) -> usize {
        self.files.push(File { size, huge, ..File::default() });
        self.files.len() - 1
    }
}

impl Default for Model {
    fn default() -> Self {
        Model::new()
    }
}
