//! Private memory whose blocks two threads own in turns.

use crate::Random;
use crate::round::HOLES;
use ptshare_programs::check;
use ptshare_programs::memory::{PAGE, RW, Region, TABLE};

/// PTE pages that it takes.
pub const TABLES: usize = 3;
/// Pages of a block.
const BLOCK: usize = 16;
const BLOCKS: usize = TABLES * TABLE / PAGE / BLOCK;

/// One thread's blocks: every second one.
pub struct Owner {
    memory: Region,
    thread: usize,
    /// What the first word of each page holds, by page; pages of the other thread's blocks stay 0.
    model: Vec<u32>,
    /// Where a block goes for a moment.
    aside: Region,
}

impl Owner {
    /// The blocks of thread 0 or 1 of a worker.
    pub fn new(memory: Region, thread: usize) -> Owner {
        let aside = Region::private(BLOCK * PAGE);
        Owner { memory, thread, model: vec![0; BLOCKS * BLOCK], aside }
    }

    fn block(&self, random: &mut Random) -> usize {
        random.below(BLOCKS / 2) * 2 + self.thread
    }

    fn part(&self, block: usize) -> Region {
        self.memory.part(block * BLOCK * PAGE, BLOCK * PAGE)
    }

    fn forget(&mut self, block: usize) {
        self.model.iter_mut().skip(block * BLOCK).take(BLOCK).for_each(|word| *word = 0);
    }

    fn check_page(&self, page: usize) {
        let (found, expected) = (self.memory.word(page * PAGE), self.model.get(page).copied().unwrap_or(0));
        check!(
            found == expected,
            "page {page} of thread {} holds {found:#x}, not {expected:#x}",
            self.thread
        );
    }

    fn check_block(&self, block: usize) {
        (block * BLOCK..(block + 1) * BLOCK).for_each(|page| self.check_page(page));
    }

    /// Checks a few blocks.
    pub fn check_some(&self, random: &mut Random) {
        for _ in 0..4 {
            self.check_block(self.block(random));
        }
    }

    /// Checks every page.
    pub fn check_all(&self) {
        (self.thread..BLOCKS).step_by(2).for_each(|block| self.check_block(block));
    }

    /// One operation on one block.
    pub fn step(&mut self, random: &mut Random) {
        match random.below(12) {
            0 => self.away_and_back(random),
            _ => self.step_without_holes(random),
        }
    }

    /// One operation on one block, which is mapped at every instant.
    pub fn step_without_holes(&mut self, random: &mut Random) {
        let block = self.block(random);
        let part = self.part(block);
        match random.below(11) {
            0..=4 => {
                let page = block * BLOCK + random.below(BLOCK);
                let word = random.number() as u32;
                self.memory.set_word(page * PAGE, word);
                if let Some(known) = self.model.get_mut(page) {
                    *known = word;
                }
            }
            5 | 6 => self.check_block(block),
            7 => {
                part.protect(libc::PROT_READ);
                self.check_block(block);
                part.protect(RW);
            }
            8 => {
                part.advise(libc::MADV_DONTNEED);
                self.forget(block);
            }
            9 => {
                part.map_over(RW);
                self.forget(block);
            }
            _ => {
                let half = part.part(0, part.len / 2);
                half.protect(libc::PROT_NONE);
                half.protect(RW);
                self.check_block(block);
            }
        }
    }

    /// A block is moved, or unmapped, and comes back.
    fn away_and_back(&mut self, random: &mut Random) {
        let block = self.block(random);
        let part = self.part(block);
        let _hole = HOLES.read();
        if random.below(3) == 0 {
            part.unmap();
            let back = Region::try_at(part.base, part.len, RW, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            check!(back.is_ok(), "an unmapped block cannot be mapped again: {back:?}");
            self.forget(block);
        } else {
            let there = part.remap(part.len, Some(self.aside.base));
            there.remap(part.len, Some(part.base));
            self.aside.map_over(RW);
        }
        self.check_block(block);
    }
}
