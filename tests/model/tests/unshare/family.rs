//! The sharers of a mapping, and the mapping.
//!
//! Small pages: 6 spans of PTE pages, three on each side of the end of a PMD page's, so that tables lie in two PMD pages.
//! Huge pages: 3 GiB, a PMD page each, of which [`WATCHED`] are there.

use ptshare_abi::sys::general as abi;
use ptshare_mm::testing::{FlatConfig, FlatKernel};
use ptshare_mm::{Env, Sharing};
use ptshare_model_tests::judge;
use ptshare_paging::{Level, PAGE_BYTES, Pfn};
use std::sync::atomic::Ordering::Relaxed;

pub const SPAN: u64 = Level::Pte.span_bytes();
pub const HUGE: u64 = Level::Pmd.entry_bytes();
pub const GIB: u64 = Level::Pmd.span_bytes();
/// Huge pages of each GiB that are there: near the ends of the ranges, on both sides.
const WATCHED: [u64; 8] = [0, 2, 3, 9, 10, 255, 256, 511];
const POOL: u64 = 64;
const BASE: u64 = 0x20_0000_0000;
/// Somewhere below.
const SMALL_PAGES: u64 = 0x10_0000_0000;

const READ: u64 = abi::PROT_READ as u64;
const RW: u64 = (abi::PROT_READ | abi::PROT_WRITE) as u64;

/// What is mapped, and how it came to be shared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Private memory, by fork with PTE pages or trees shared.
    Anonymous { tree: bool },
    /// A private writable mapping of a file, every second page written, by fork.
    PrivateFile { tree: bool },
    /// A shared writable mapping of a file: each sharer's own at its own address, or by fork.
    SharedFile { forked: bool },
    /// A private read-only mapping of a file, each sharer's own.
    Code,
    /// A shared mapping of hugetlb pages, each sharer's own.
    HugeShared,
    /// Private hugetlb pages, by fork.
    HugePrivate { tree: bool },
}

/// A range of the mapping, and where it puts each table: outside (`O`), wholly inside (`W`), partly (`P`).
#[derive(Clone, Copy, Debug)]
pub struct Range {
    pub name: char,
    pub start: u64,
    pub end: u64,
    pub tables: &'static str,
}

const fn range(name: char, start: u64, end: u64, tables: &'static str) -> Range {
    Range { name, start, end, tables }
}

const SMALL: [Range; 6] = [
    range('A', 2 * SPAN, 4 * SPAN, "OOWWOO"),
    range('B', SPAN, 5 * SPAN, "OWWWWO"),
    range('C', SPAN + SPAN / 2, 3 * SPAN + SPAN / 4, "OPWPOO"),
    range('D', 2 * SPAN + 9 * PAGE_BYTES, 2 * SPAN + 10 * PAGE_BYTES, "OOPOOO"),
    range('E', 2 * SPAN, 3 * SPAN - PAGE_BYTES, "OOPOOO"),
    range('F', 0, 6 * SPAN, "WWWWWW"),
];

const LARGE: [Range; 5] = [
    range('A', GIB, 2 * GIB, "OWO"),
    range('C', GIB / 2, GIB + 3 * HUGE, "PPO"),
    range('D', GIB + 9 * HUGE, GIB + 10 * HUGE, "OPO"),
    range('E', GIB, 2 * GIB - HUGE, "OPO"),
    range('F', 0, 3 * GIB, "WWW"),
];

impl Kind {
    pub fn is_huge(self) -> bool {
        matches!(self, Kind::HugeShared | Kind::HugePrivate { .. })
    }

    pub fn ranges(self) -> &'static [Range] {
        if self.is_huge() { &LARGE } else { &SMALL }
    }

    /// Bytes of the smallest page.
    pub fn unit(self) -> u64 {
        if self.is_huge() { HUGE } else { PAGE_BYTES }
    }

    /// Bytes that one of the tables maps.
    pub fn span(self) -> u64 {
        if self.is_huge() { GIB } else { SPAN }
    }

    pub fn len(self) -> u64 {
        if self.is_huge() { 3 * GIB } else { 6 * SPAN }
    }

    /// Does every sharer have the same address?
    fn is_forked(self) -> bool {
        !matches!(self, Kind::SharedFile { forked: false } | Kind::Code | Kind::HugeShared)
    }

    fn sharing(self) -> Sharing {
        let tree = matches!(
            self,
            Kind::Anonymous { tree: true }
                | Kind::PrivateFile { tree: true }
                | Kind::HugePrivate { tree: true }
        );
        if tree { Sharing::Tree } else { Sharing::Pte }
    }

    /// Are its tables shared before the operation? Private huge leaves are copied by fork, unless whole trees are shared.
    pub fn has_shared_tables(self) -> bool {
        self != (Kind::HugePrivate { tree: false })
    }

    /// Offsets of the pages that are there.
    pub fn pages(self) -> Vec<u64> {
        if self.is_huge() {
            (0..3).flat_map(|gib| WATCHED.map(|page| gib * GIB + page * HUGE)).collect()
        } else {
            (0..self.len()).step_by(PAGE_BYTES as usize).collect()
        }
    }

    /// The word in the file at this offset, where there is one.
    pub fn word_of_file(offset: u64) -> u64 {
        1_000_000_007 + offset / PAGE_BYTES
    }

    /// The first word of the page at this offset.
    pub fn word(self, offset: u64) -> u64 {
        let page = offset / PAGE_BYTES;
        match self {
            Kind::Anonymous { .. } | Kind::HugePrivate { .. } => 2_000_000_000 + page,
            Kind::PrivateFile { .. } if page.is_multiple_of(2) => 3_000_000_000 + page,
            _ => Kind::word_of_file(offset),
        }
    }
}

/// What must be as it was when the operator has gone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Counts {
    free_frames: u64,
    tables: u64,
    shared_tables: u64,
    pool: [u64; 4],
    tables_of_each: Vec<u64>,
}

/// All sharers but the operator.
pub struct Family {
    pub kernel: FlatKernel,
    pub kind: Kind,
    pub sharers: usize,
    pub others: Vec<(u32, u64)>,
    file: Option<usize>,
    free_frames: u64,
}

impl Family {
    pub fn new(kind: Kind, sharers: usize) -> Family {
        let pool = if kind.is_huge() { POOL } else { 0 };
        let mut kernel = FlatKernel::new(FlatConfig {
            frames: 12_000 + 512 * pool as usize,
            huge_pages: pool,
            sharing: kind.sharing(),
            ..FlatConfig::default()
        });
        let free_frames = kernel.arena().free_frames() + 1;
        let file = match kind {
            Kind::Anonymous { .. } | Kind::HugePrivate { .. } => None,
            Kind::HugeShared => Some(kernel.memfd_huge(kind.len())),
            _ => Some(kernel.memfd(kind.len())),
        };
        let mut family = Family { kernel, kind, sharers, others: Vec::new(), file, free_frames };
        family.fill_file();
        // As a program has them: an mm without PTE pages counts as a small one, which fork copies.
        let private = u64::from(abi::MAP_PRIVATE | abi::MAP_ANONYMOUS | abi::MAP_FIXED);
        assert_eq!(family.kernel.mmap(1, SMALL_PAGES, PAGE_BYTES, RW, private, None), Ok(SMALL_PAGES));
        family.kernel.store(1, SMALL_PAGES, 1).unwrap();
        family.map(1, BASE);
        family.fill(1, BASE);
        family.others.push((1, BASE));
        while family.others.len() < sharers - 1 {
            let member = family.join();
            family.others.push(member);
        }
        family
    }

    /// One more sharer, and where it has the mapping.
    pub fn join(&mut self) -> (u32, u64) {
        if self.kind.is_forked() {
            return (self.kernel.fork(1).unwrap(), BASE);
        }
        let pid = self.kernel.spawn().unwrap();
        // Congruent, and far from the first of them.
        let at = BASE + u64::from(pid) * 16 * GIB % (1 << 46);
        self.map(pid, at);
        // One page of each table brings all of it.
        for table in 0..self.kind.len() / self.kind.span() {
            self.kernel.load(pid, at + table * self.kind.span()).unwrap();
        }
        (pid, at)
    }

    /// Makes the file what it was: an operation may have punched a hole.
    pub fn fill_file(&mut self) {
        let Some(file) = self.file.filter(|_| !self.kind.is_huge()) else { return };
        for offset in self.kind.pages() {
            self.kernel.pwrite(file, offset, Kind::word_of_file(offset)).unwrap();
        }
    }

    fn map(&self, pid: u32, at: u64) {
        let (prot, flags) = match self.kind {
            Kind::Anonymous { .. } => (RW, abi::MAP_PRIVATE | abi::MAP_ANONYMOUS),
            Kind::PrivateFile { .. } => (RW, abi::MAP_PRIVATE),
            Kind::SharedFile { .. } => (RW, abi::MAP_SHARED),
            Kind::Code => (READ, abi::MAP_PRIVATE),
            Kind::HugeShared => (RW, abi::MAP_SHARED | abi::MAP_NORESERVE),
            Kind::HugePrivate { .. } => {
                (RW, abi::MAP_PRIVATE | abi::MAP_ANONYMOUS | abi::MAP_HUGETLB | abi::MAP_NORESERVE)
            }
        };
        let flags = u64::from(flags | abi::MAP_FIXED);
        let file = self.file.map(|file| (file, 0));
        assert_eq!(self.kernel.mmap(pid, at, self.kind.len(), prot, flags, file), Ok(at));
    }

    /// Brings every page in, with its content, as process `pid`.
    pub fn fill(&self, pid: u32, at: u64) {
        for offset in self.kind.pages() {
            let word = self.kind.word(offset);
            let of_file = self.file.is_some() && !self.kind.is_huge() && word == Kind::word_of_file(offset);
            if of_file {
                assert_eq!(self.kernel.load(pid, at + offset), Ok(word));
            } else {
                self.kernel.store(pid, at + offset, word).unwrap();
            }
        }
    }

    /// The frames of the tables over the mapping of a process.
    pub fn tables(&self, (pid, at): (u32, u64)) -> Vec<Option<Pfn>> {
        let span = self.kind.span();
        (0..self.kind.len() / span).map(|table| self.table(pid, at + table * span)).collect()
    }

    /// The PTE page, or of huge pages the PMD page, that translates an address.
    fn table(&self, pid: u32, va: u64) -> Option<Pfn> {
        let levels = [Level::Pgd, Level::Pud, Level::Pmd];
        let mut table = self.kernel.mm(pid).root();
        for level in levels.into_iter().take(if self.kind.is_huge() { 2 } else { 3 }) {
            let entry = self.kernel.arena().load(table, level.slot(va));
            if !entry.present() {
                return None;
            }
            table = entry.pfn();
        }
        Some(table)
    }

    pub fn counts(&self) -> Counts {
        let arena = self.kernel.arena();
        let stats = arena.stats();
        Counts {
            free_frames: arena.free_frames(),
            tables: stats.tables_now.load(Relaxed),
            shared_tables: stats.tables_shared_now.load(Relaxed),
            pool: ptshare_mm::hugetlb::counts(arena, ptshare_mm::hugetlb::HugeSize::Mib2),
            tables_of_each: self.kernel.mms().iter().map(|mm| mm.rec().table_pages.load(Relaxed)).collect(),
        }
    }

    /// The judge and the arena's audit.
    pub fn check_books(&self, when: &str) {
        self.kernel.audit();
        let report = judge(self.kernel.arena(), &self.kernel.mms());
        let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
        assert!(report.is_clean(), "{when}:\n{}", findings.join("\n"));
    }

    /// All exit; nothing is left.
    pub fn end(mut self) {
        let arena = self.kernel.arena().clone();
        for pid in self.kernel.pids() {
            self.kernel.exit(pid);
        }
        if let Some(file) = self.file {
            self.kernel.close(file);
        }
        self.check_books("after the last exit");
        assert_eq!(arena.free_frames(), self.free_frames, "{:?}: frames are lost", self.kind);
        let [total, free, reserved, surplus] =
            ptshare_mm::hugetlb::counts(&arena, ptshare_mm::hugetlb::HugeSize::Mib2);
        assert_eq!((total, reserved, surplus), (free, 0, 0), "{:?}: huge pages are lost", self.kind);
        assert_eq!(arena.stats().tables_now.load(Relaxed), 0);
    }
}
