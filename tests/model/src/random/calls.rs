//! The arguments of the calls.

use super::Generator;
use super::game::{FILES, Game, HUGE_FILES, SPAN};
use super::generate::{GIB, HUGE_AT, STACKS};
use crate::model::HUGE;
use ptshare_abi::sys::general as abi;
use ptshare_mm::testing::Op;
use ptshare_paging::{PAGE_BYTES, page_floor};

const READ: u64 = abi::PROT_READ as u64;
const WRITE: u64 = abi::PROT_WRITE as u64;
const EXEC: u64 = abi::PROT_EXEC as u64;

impl Generator {
    pub(super) fn prot(&mut self) -> u64 {
        self.pick(&[
            READ | WRITE,
            READ | WRITE,
            READ | WRITE,
            READ,
            READ,
            0,
            READ | EXEC,
            WRITE,
            READ | WRITE | EXEC,
        ])
    }

    pub(super) fn mmap(&mut self, game: &Game, pid: u32) -> Op {
        if game.kernel.config().huge_pages > 0 && self.one_in(8) {
            return self.mmap_gib();
        }
        let (addr, len) = self.range(game, pid);
        let huge = (HUGE_AT..HUGE_AT + 3 * GIB).contains(&addr) && self.below(4) > 0;
        let mut flags = match self.below(20) {
            0..15 => abi::MAP_FIXED,
            15 => abi::MAP_FIXED_NOREPLACE,
            _ => 0,
        };
        let mut maybe = |flag, n| flags |= if self.one_in(n) { flag } else { 0 };
        maybe(abi::MAP_POPULATE, 10);
        maybe(abi::MAP_LOCKED, 30);
        maybe(abi::MAP_NORESERVE, 12);
        maybe(abi::MAP_STACK, 40);
        if huge {
            return self.mmap_huge(addr, len, flags);
        }
        // Small pages of a GiB would be more than there are frames, once they are populated.
        let len = len.min(1200 * PAGE_BYTES);
        let stack = (STACKS..STACKS + 700 * PAGE_BYTES).contains(&addr) && self.below(3) > 0;
        let (kind, file) = match self.below(12) {
            _ if stack => (abi::MAP_PRIVATE | abi::MAP_ANONYMOUS | abi::MAP_GROWSDOWN, None),
            0..4 => (abi::MAP_PRIVATE | abi::MAP_ANONYMOUS, None),
            4 => (abi::MAP_SHARED | abi::MAP_ANONYMOUS, None),
            5..8 => (abi::MAP_PRIVATE, Some(self.part(addr))),
            _ => (abi::MAP_SHARED, Some(self.part(addr))),
        };
        Op::Mmap { addr, len, prot: self.prot(), flags: u64::from(flags | kind), file }
    }

    /// A file, and an offset that is congruent to the address, so that tables can be shared, or any.
    fn part(&mut self, addr: u64) -> (usize, u64) {
        let file = self.pick(&[0, 1, 1, 1, 2, 2, 3]);
        let pages = FILES[file] / PAGE_BYTES;
        let page = if file == 1 || file == 2 {
            if self.below(5) > 0 { addr / PAGE_BYTES % 512 + self.below(2) * 512 } else { self.below(pages) }
        } else {
            self.below(pages + 1)
        };
        (file, page * PAGE_BYTES)
    }

    /// A whole GiB of a hugetlb file, whose PMD page others may have.
    fn mmap_gib(&mut self) -> Op {
        let addr = HUGE_AT + self.below(3) * GIB;
        let flags = u64::from(abi::MAP_FIXED | abi::MAP_SHARED | abi::MAP_NORESERVE);
        let file = FILES.len() + self.below(HUGE_FILES as u64) as usize;
        Op::Mmap { addr, len: GIB, prot: self.pick(&[READ | WRITE, READ]), flags, file: Some((file, 0)) }
    }

    fn mmap_huge(&mut self, addr: u64, len: u64, flags: u32) -> Op {
        // A GiB is more than the pool can promise.
        let flags = if self.below(5) > 0 { flags | abi::MAP_NORESERVE } else { flags };
        let (kind, file) = match self.below(8) {
            0 | 1 => (abi::MAP_PRIVATE | abi::MAP_ANONYMOUS | abi::MAP_HUGETLB, None),
            2 => (abi::MAP_SHARED | abi::MAP_ANONYMOUS | abi::MAP_HUGETLB, None),
            kind => {
                let file = FILES.len() + self.below(HUGE_FILES as u64) as usize;
                let odd = if self.one_in(10) { HUGE } else { 0 };
                let kind = if kind == 3 { abi::MAP_PRIVATE } else { abi::MAP_SHARED };
                (kind, Some((file, ((addr % GIB) & !(HUGE - 1)) + odd)))
            }
        };
        let prot = self.pick(&[READ | WRITE, READ | WRITE, READ, 0]);
        let addr = if self.one_in(12) { addr } else { addr & !(HUGE - 1) };
        Op::Mmap { addr, len, prot, flags: u64::from(flags | kind), file }
    }

    pub(super) fn madvise(&mut self, game: &Game, pid: u32) -> Op {
        let (addr, len) = self.range(game, pid);
        let advice = self.pick(&[
            abi::MADV_DONTNEED,
            abi::MADV_DONTNEED,
            abi::MADV_DONTNEED,
            abi::MADV_DONTNEED_LOCKED,
            abi::MADV_FREE,
            abi::MADV_REMOVE,
            abi::MADV_REMOVE,
            abi::MADV_DONTFORK,
            abi::MADV_DOFORK,
            abi::MADV_DOFORK,
            abi::MADV_WIPEONFORK,
            abi::MADV_KEEPONFORK,
            abi::MADV_SEQUENTIAL,
            abi::MADV_NORMAL,
            abi::MADV_DONTDUMP,
            abi::MADV_DODUMP,
            abi::MADV_POPULATE_READ,
            abi::MADV_POPULATE_WRITE,
        ]);
        Op::Madvise { addr, len, advice: advice.into() }
    }

    pub(super) fn mremap(&mut self, game: &Game, pid: u32) -> Op {
        let (mut old, mut old_len) = self.range(game, pid);
        let extents = &game.model.processes[&pid].extents;
        if self.below(4) > 0 && !extents.is_empty() {
            // What can be moved: a part of one mapping.
            let which = self.below(extents.len() as u64) as usize;
            let extent = extents.iter().nth(which).expect("there are so many");
            let unit =
                if extent.start.is_multiple_of(HUGE) && extent.end.is_multiple_of(HUGE) && self.one_in(2) {
                    HUGE
                } else {
                    PAGE_BYTES
                };
            let pages = (extent.end - extent.start) / unit;
            let (from, to) = (self.below(pages), 1 + self.below(pages));
            let (from, to) = if self.one_in(3) { (0, pages) } else { (from.min(to - 1), to.max(from + 1)) };
            (old, old_len) = (extent.start + from * unit, (to - from) * unit);
        }
        let new_len = match self.below(6) {
            0 | 1 => old_len,
            2 => old_len / 2,
            3 => old_len + (1 + self.below(6)) * PAGE_BYTES,
            4 => old_len.min(600 * PAGE_BYTES) + self.below(600) * PAGE_BYTES,
            _ => 0,
        };
        let new_len = if new_len == 0 && !self.one_in(20) { old_len } else { new_len };
        let old_len = if self.one_in(25) { 0 } else { old_len };
        let mut to = self.place(game, pid);
        if self.one_in(2) && old % SPAN != to % SPAN {
            to = (to & !(SPAN - 1)) + old % SPAN;
        }
        let flags = self.pick(&[0, 1, 1, 3, 3, 3, 5, 7]);
        let new_len = if flags & 4 != 0 { old_len } else { new_len };
        Op::Mremap { old, old_len, new_len, flags, new_addr: if flags & 6 != 0 { to } else { 0 } }
    }

    pub(super) fn lock(&mut self, game: &Game, pid: u32) -> Op {
        let (addr, len) = self.range(game, pid);
        match self.below(40) {
            0 => Op::Mlockall { flags: 1 + self.below(7) },
            1..4 => Op::Munlockall,
            4..20 => Op::Mlock { addr, len, flags: u64::from(self.one_in(3)) },
            20..36 => Op::Munlock { addr, len },
            _ => Op::Msync { addr, len, flags: 4 },
        }
    }

    pub(super) fn file_op(&mut self, game: &Game) -> Op {
        let huge = game.kernel.config().huge_pages > 0;
        let files = FILES.len() + if huge { HUGE_FILES } else { 0 };
        let file = self.below(files as u64) as usize;
        let is_huge = file >= FILES.len();
        let unit = if is_huge { HUGE } else { PAGE_BYTES };
        let pages = if is_huge { 512 } else { FILES[file] / PAGE_BYTES + 2 };
        let page = if self.one_in(2) { self.below(pages.min(8)) } else { self.below(pages) };
        let offset = page * unit + if self.one_in(4) { self.below(unit / 8) * 8 } else { 0 };
        let len = (1 + self.below(3)) * unit + if self.one_in(4) { self.below(unit / 8) * 8 } else { 0 };
        let word = page_floor(offset) + if self.one_in(2) { PAGE_BYTES - 8 } else { 0 };
        match self.below(9) {
            // Back to a length that mappings reach, more often than not.
            0 if is_huge => Op::Ftruncate { file, bytes: if self.one_in(2) { GIB } else { offset } },
            0 => Op::Ftruncate { file, bytes: if self.one_in(2) { FILES[file] } else { offset } },
            1 | 2 => Op::Punch { file, offset, len },
            3 => Op::Fallocate { file, offset, len },
            4 | 5 => Op::Pread { file, offset: word },
            _ => Op::Pwrite { file, offset: word, value: self.below(1 << 30) },
        }
    }
}
