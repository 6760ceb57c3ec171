//! Threads of several processes fault, unmap, change rights and write through tables that the processes share, all at once:
//! the upper levels change under one lock, the PTE page under its own (2003 paper, section 4.3).

use ptshare_programs::memory::{self, PAGE, RW, Region, TABLE};
use ptshare_programs::{check, check_eq, judge, process};
use std::fs::File;
use std::os::fd::AsRawFd;

const PROCESSES: usize = 3;
const ROUNDS: usize = 5;
const BYTES: usize = 2 * TABLE;

/// Maps the file anew, reads it, makes a part of it read-only, and lets go of it.
fn map_and_leave(file: &File, salt: usize) {
    for round in 0..ROUNDS {
        let region = Region::of_file(file.as_raw_fd(), BYTES, RW, libc::MAP_SHARED);
        for page in (salt..region.pages()).step_by(61) {
            check_eq!(region.word(page * PAGE), page as u32);
        }
        region.part((round % 2) * TABLE, TABLE / 2).protect(libc::PROT_READ);
        check_eq!(region.word(TABLE - PAGE), 511);
        region.unmap();
    }
}

/// Counts in a page of the file that belongs to this thread alone.
fn count(region: Region, page: usize) {
    for round in 0..ROUNDS as u32 {
        let seen = region.word(page * PAGE + 8);
        check_eq!(seen, round);
        region.set_word(page * PAGE + 8, round + 1);
        std::thread::yield_now();
    }
}

fn main() {
    let file = memory::memfd(BYTES);
    let region = Region::of_file(file.as_raw_fd(), BYTES, RW, libc::MAP_SHARED);
    region.mark_pages(1, 0);
    let children: Vec<i32> = (0..PROCESSES)
        .map(|me| {
            process::spawn(|| {
                let own = Region::of_file(file.as_raw_fd(), BYTES, RW, libc::MAP_SHARED);
                std::thread::scope(|scope| {
                    scope.spawn(|| map_and_leave(&file, 7 * me));
                    scope.spawn(|| map_and_leave(&file, 7 * me + 3));
                    scope.spawn(|| count(own, 100 + me));
                    scope.spawn(|| count(own, 612 + me));
                });
                own.unmap();
                0
            })
        })
        .collect();
    for child in children {
        check_eq!(process::wait(child).code(), Some(0));
    }
    judge::checkpoint("threads-are-done");
    let counted = |page: usize| region.word(page * PAGE + 8) == ROUNDS as u32;
    check!((0..PROCESSES).all(|me| counted(100 + me) && counted(612 + me)), "a count was lost");
    check!(region.pages_are_marked(1, 0), "the file has changed");
    println!("{PROCESSES} processes of five threads: nothing was lost");
}
