//! Private memory of huge pages, which fork shares and a write copies.

use crate::Random;
use ptshare_programs::check;
use ptshare_programs::huge::{HUGE, must_map};
use ptshare_programs::memory::{RW, Region};

/// Pages of one worker.
const PAGES: usize = 3;
/// Pages that one worker, with what its children copy and leave to it, may need at the same time. The pool holds so many for
/// each, and some for the common file.
pub const POOL_PER_WORKER: u64 = 10;
/// Words looked at in each page.
const WORDS: usize = 4;

/// The pages of a worker's first thread.
pub struct Huge {
    memory: Region,
    /// What the words hold, page by page.
    model: [[u32; WORDS]; PAGES],
}

/// Offset of a word: they lie far apart.
fn offset(page: usize, word: usize) -> usize {
    page * HUGE + word * (HUGE / WORDS) + 64
}

impl Huge {
    /// Fresh memory.
    pub fn new() -> Huge {
        let memory = must_map(0, PAGES * HUGE, RW, libc::MAP_PRIVATE | libc::MAP_HUGETLB, -1);
        Huge { memory, model: [[0; WORDS]; PAGES] }
    }

    fn check_page(&self, page: usize) {
        for (word, &expected) in self.model[page].iter().enumerate() {
            let found = self.memory.word(offset(page, word));
            check!(found == expected, "huge page {page}, word {word}: {found:#x}, not {expected:#x}");
        }
    }

    /// Checks every word.
    pub fn check_all(&self) {
        (0..PAGES).for_each(|page| self.check_page(page));
    }

    /// Writes to one page: what a child does at most, for it has no reservation.
    pub fn write(&mut self, page: usize, random: &mut Random) {
        let (word, value) = (random.below(WORDS), random.number() as u32);
        self.memory.set_word(offset(page, word), value);
        self.model[page][word] = value;
    }

    /// One operation on one page.
    pub fn step(&mut self, random: &mut Random) {
        let page = random.below(PAGES);
        let part = self.memory.part(page * HUGE, HUGE);
        match random.below(8) {
            0..=3 => self.write(page, random),
            4 | 5 => self.check_page(page),
            6 => {
                part.protect(libc::PROT_READ);
                self.check_page(page);
                part.protect(RW);
            }
            _ => {
                part.advise(libc::MADV_DONTNEED);
                self.model[page] = [0; WORDS];
                self.check_page(page);
            }
        }
    }
}
