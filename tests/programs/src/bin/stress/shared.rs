//! Memory that others see too: words of one's own in pages of everybody's, and a file that changes its size.

use crate::Random;
use ptshare_programs::memory::{PAGE, RW, Region, TABLE, memfd};
use ptshare_programs::{check, process};
use std::os::fd::AsRawFd;

/// Workers at most: each has two threads with a word each in every page.
pub const WORKERS_MAX: usize = 16;

/// One thread's words in the pages of the common memory, through a mapping of its own.
pub struct Words {
    fd: i32,
    map: Region,
    at: usize,
    model: Vec<u32>,
}

impl Words {
    /// The words number `slot` of all pages.
    pub fn new(fd: i32, bytes: usize, slot: usize) -> Words {
        let map = Words::mapping(fd, bytes);
        Words { fd, map, at: slot * 64, model: vec![0; bytes / PAGE] }
    }

    /// At a multiple of what a PTE page maps, so that its tables can be everybody's.
    fn mapping(fd: i32, bytes: usize) -> Region {
        let place = Region::aligned(bytes + TABLE);
        place.unmap_and_map_file(fd, bytes)
    }

    fn check_page(&self, page: usize) {
        let (found, expected) =
            (self.map.word(page * PAGE + self.at), self.model.get(page).copied().unwrap_or(0));
        check!(found == expected, "common page {page}, word at {}: {found:#x}, not {expected:#x}", self.at);
    }

    /// Checks every fourth word.
    pub fn check_many(&self) {
        (self.at / 64 % 4..self.model.len()).step_by(4).for_each(|page| self.check_page(page));
    }

    /// Checks a few words.
    pub fn check_some(&self, random: &mut Random) {
        (0..4).for_each(|_| self.check_page(random.below(self.model.len())));
    }

    /// Writes, reads, or takes part of the mapping out of the sharing and back.
    pub fn step(&mut self, random: &mut Random) {
        let page = random.below(self.model.len());
        let table = self.map.part(page * PAGE / TABLE * TABLE, TABLE);
        match random.below(10) {
            0..=4 => {
                let word = random.number() as u32;
                self.map.set_word(page * PAGE + self.at, word);
                if let Some(known) = self.model.get_mut(page) {
                    *known = word;
                }
            }
            5 | 6 => self.check_page(page),
            7 => {
                table.protect(libc::PROT_READ);
                self.check_page(page);
                table.protect(RW);
            }
            8 => {
                table.advise(libc::MADV_DONTNEED);
                self.check_page(page);
            }
            _ => {
                // All of it anew, in the same place.
                let flags = libc::MAP_SHARED | libc::MAP_FIXED;
                // SAFETY: the place is this mapping's own.
                let at = unsafe { libc::mmap(self.map.base as *mut _, self.map.len, RW, flags, self.fd, 0) };
                check!(at as usize == self.map.base, "the common memory cannot be mapped anew");
                self.check_page(page);
            }
        }
    }
}

/// Maps a file over the beginning of a private mapping.
trait Over {
    fn unmap_and_map_file(&self, fd: i32, bytes: usize) -> Region;
}

impl Over for Region {
    fn unmap_and_map_file(&self, fd: i32, bytes: usize) -> Region {
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        // SAFETY: the place is this mapping's own.
        let at = unsafe { libc::mmap(self.base as *mut _, bytes, RW, flags, fd, 0) };
        check!(at as usize == self.base, "the common memory cannot be mapped");
        self.part(0, bytes)
    }
}

/// A file of one's own, and a mapping of all that it can be.
pub struct File {
    file: std::fs::File,
    map: Region,
    /// What the first word of each page holds, as long as the file is now.
    model: Vec<u32>,
}

const FILE_PAGES: usize = TABLE / PAGE;

impl File {
    /// A full file.
    pub fn new() -> File {
        let file = memfd(FILE_PAGES * PAGE);
        let map = Region::of_file(file.as_raw_fd(), FILE_PAGES * PAGE, RW, libc::MAP_SHARED);
        File { file, map, model: vec![0; FILE_PAGES] }
    }

    fn check_page(&self, page: usize) {
        if let Some(&expected) = self.model.get(page) {
            let found = self.map.word(page * PAGE);
            check!(found == expected, "page {page} of the file holds {found:#x}, not {expected:#x}");
        }
    }

    /// Checks every page that there is.
    pub fn check_all(&self) {
        (0..self.model.len()).for_each(|page| self.check_page(page));
    }

    /// Checks a few pages.
    pub fn check_some(&self, random: &mut Random) {
        (0..4).for_each(|_| self.check_page(random.below(self.model.len())));
    }

    /// Writes, or changes the size, or punches a hole, or has a child look.
    pub fn step(&mut self, random: &mut Random) {
        match random.below(8) {
            0..=3 => {
                let page = random.below(self.model.len());
                let word = random.number() as u32;
                self.map.set_word(page * PAGE, word);
                if let Some(known) = self.model.get_mut(page) {
                    *known = word;
                }
            }
            4 => {
                let pages = 1 + random.below(FILE_PAGES);
                let result = self.file.set_len((pages * PAGE) as u64);
                check!(result.is_ok(), "ftruncate: {result:?}");
                self.model.resize(pages, 0);
            }
            5 => {
                let first = random.below(self.model.len());
                let pages = 1 + random.below(self.model.len() - first);
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                let (offset, len) = ((first * PAGE) as i64, (pages * PAGE) as i64);
                // SAFETY: no pointer.
                let result = unsafe { libc::fallocate(self.file.as_raw_fd(), mode, offset, len) };
                check!(result == 0, "a hole cannot be punched: {}", ptshare_programs::errno());
                self.model.iter_mut().skip(first).take(pages).for_each(|word| *word = 0);
            }
            6 => {
                let status = process::in_child(|| {
                    (0..8).for_each(|_| self.check_page(random.below(self.model.len())));
                    0
                });
                check!(status.code() == Some(0), "the child that looked at the file ended with {status:?}");
            }
            _ => (0..8).for_each(|_| self.check_page(random.below(self.model.len()))),
        }
    }
}
