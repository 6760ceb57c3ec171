//! What to do next.

use super::Step;
use super::game::{Game, SPAN};
use crate::model::{HUGE, START_BRK};
use ptshare_abi::sys::general as abi;
use ptshare_mm::Sharing;
use ptshare_mm::testing::Op;
use ptshare_paging::{Level, PAGE_BYTES, page_floor};

/// Four PTE pages' spans, across the end of a PMD page's.
const NEAR: u64 = 0x10_4000_0000 - 2 * SPAN;
/// Two, across the end of an entry of the root.
const FAR: u64 = 0x80_0000_0000 - SPAN;
/// Three GiB for huge pages, and a few small ones between them.
pub(super) const HUGE_AT: u64 = 0x20_0000_0000;
/// Where stacks grow.
pub(super) const STACKS: u64 = 0x30_0000_0000;
pub(super) const GIB: u64 = Level::Pmd.span_bytes();
const PROCESSES: usize = 6;
/// With fewer free frames processes end.
const FRAMES_LOW: u64 = 6000;

/// Makes steps up.
pub struct Generator {
    seed: u64,
    failures: bool,
}

impl Generator {
    /// From a seed.
    pub fn new(seed: u64, failures: bool) -> Generator {
        Generator { seed: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, failures }
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        // xorshift64*
        self.seed ^= self.seed >> 12;
        self.seed ^= self.seed << 25;
        self.seed ^= self.seed >> 27;
        (self.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// The next step.
    pub fn step(&mut self, game: &Game) -> Step {
        let pids = game.kernel.pids();
        let pid = self.pick(&pids);
        let low = game.kernel.arena().free_frames() < FRAMES_LOW;
        let op = if low { if pids.len() > 1 { Op::Exit } else { Op::Exec } } else { self.op(game, pid) };
        let fail_at = if self.failures && self.one_in(6) { 1 + self.below(5) } else { 0 };
        let mixed = op == Op::Fork && self.one_in(5);
        let sharing = mixed.then(|| self.pick(&[Sharing::None, Sharing::Pte, Sharing::Tree]));
        let fail_at = if is_ambiguous(&op) || moves_several(game, pid, &op) { 0 } else { fail_at };
        Step { pid, op, fail_at, fail_all: fail_at != 0 && self.one_in(3), sharing }
    }

    fn op(&mut self, game: &Game, pid: u32) -> Op {
        let processes = game.model.processes.len();
        match self.below(1000) {
            0..140 => self.mmap(game, pid),
            140..200 => {
                let (addr, len) = self.range(game, pid);
                Op::Munmap { addr, len }
            }
            200..290 => {
                let (addr, len) = self.range(game, pid);
                let down = if self.one_in(12) { u64::from(abi::PROT_GROWSDOWN) } else { 0 };
                Op::Mprotect { addr, len, prot: self.prot() | down }
            }
            290..390 => self.madvise(game, pid),
            390..490 => self.mremap(game, pid),
            490..530 => self.lock(game, pid),
            530..560 => Op::Brk { addr: START_BRK + self.below(2000) * 2048 },
            560..600 if processes < PROCESSES => Op::Fork,
            560..625 if processes > 1 => Op::Exit,
            560..627 => Op::Exec,
            627..760 => Op::Load { addr: self.word(game, pid) },
            760..910 => Op::Store { addr: self.word(game, pid), value: self.below(1 << 30) },
            910..925 => Op::Fetch { addr: self.word(game, pid) },
            925..940 => Op::Peek { addr: self.word(game, pid) },
            940..955 => Op::Poke { addr: self.word(game, pid), value: self.below(1 << 30) },
            _ => self.file_op(game),
        }
    }

    /// An address where something may happen: at the edges of what is mapped and of tables more often than not.
    pub(super) fn place(&mut self, game: &Game, pid: u32) -> u64 {
        let huge = game.kernel.config().huge_pages > 0;
        let extents = &game.model.processes[&pid].extents;
        if self.below(5) < 2 && !extents.is_empty() {
            let which = self.below(extents.len() as u64) as usize;
            let extent = extents.iter().nth(which).expect("there are so many");
            let edge = if self.one_in(2) { extent.start } else { extent.end };
            let step = if extent.start >= HUGE_AT && extent.start < HUGE_AT + 3 * GIB && self.below(3) > 0 {
                HUGE
            } else {
                PAGE_BYTES
            };
            let moved = edge + self.below(7) * step - 3 * step;
            return if self.one_in(4) { moved & !(SPAN - 1) } else { moved };
        }
        match self.below(if huge { 10 } else { 7 }) {
            0 | 1 => NEAR + self.below(4 * 512) * PAGE_BYTES,
            2 | 3 => NEAR + self.below(4) * SPAN,
            4 => NEAR + self.below(5) * SPAN + self.below(8) * PAGE_BYTES - 4 * PAGE_BYTES,
            5 => FAR + self.below(2 * 64) * 8 * PAGE_BYTES,
            6 => STACKS + self.below(700) * PAGE_BYTES,
            7 => HUGE_AT + self.below(3) * GIB,
            8 => HUGE_AT + self.below(3) * GIB + self.pick(&[0, 1, 2, 255, 510, 511]) * HUGE,
            _ => HUGE_AT + self.below(3) * GIB + self.below(3) * HUGE + self.below(3) * PAGE_BYTES,
        }
    }

    pub(super) fn range(&mut self, game: &Game, pid: u32) -> (u64, u64) {
        let at = self.place(game, pid);
        let inside = |base: u64, bytes: u64| at >= base && at < base + bytes;
        if inside(HUGE_AT, 3 * GIB) && at.is_multiple_of(HUGE) {
            let whole = at.is_multiple_of(GIB) && self.one_in(2);
            let pages = self.pick(&[1, 1, 2, 3, 256, 512]);
            return (at, if whole { GIB } else { (pages * HUGE).min(HUGE_AT + 3 * GIB - at) });
        }
        let len = match self.below(10) {
            0..6 => 1 + self.below(6),
            6 | 7 => 512 * (1 + self.below(2)),
            _ => 1 + self.below(600),
        };
        (at, len * PAGE_BYTES)
    }

    /// The address of the first or the last word of a page.
    fn word(&mut self, game: &Game, pid: u32) -> u64 {
        let page = page_floor(self.place(game, pid));
        if self.one_in(2) { page } else { page + PAGE_BYTES - 8 }
    }
}

/// May the model not be able to tell what a refused allocation left of it?
fn is_ambiguous(op: &Op) -> bool {
    let discards = [abi::MADV_DONTNEED, abi::MADV_DONTNEED_LOCKED, abi::MADV_FREE, abi::MADV_REMOVE];
    matches!(op, Op::Madvise { advice, .. } if discards.iter().any(|&known| u64::from(known) == *advice))
}

/// Would this move several mappings, of which a refused allocation leaves some moved?
fn moves_several(game: &Game, pid: u32, op: &Op) -> bool {
    match *op {
        Op::Mremap { old, old_len, .. } => {
            game.model.processes[&pid].extents.parts(old, old.saturating_add(old_len)).len() > 1
        }
        _ => false,
    }
}
