//! One set of PTE pages for a file that 100 processes map, each at another address (2003 paper, sections 4 and 4.1).
//!
//! The first reads all 64 MiB and fills the PTE pages; the others, which read every eighth page, find them: 32 in all, not
//! 3,200, and 32 faults each.

use ptshare_programs::memory::{PAGE, RW, Region, TABLE};
use ptshare_programs::process::{self, Gate};
use ptshare_programs::{check, check_eq, judge};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

const PROCESSES: usize = 100;
const BYTES: usize = 64 << 20;
const TABLES: u64 = (BYTES / TABLE) as u64;
/// Of how many pages a process after the first reads one.
const STEP: usize = 8;
/// Bytes written by one call.
const CHUNK: usize = 1 << 20;
/// Where process `i` maps: 128 MiB apart, all at multiples of 2 MiB.
const BASE: usize = 0x2000_0000_0000;

fn file() -> std::fs::File {
    // SAFETY: the name is a NUL-terminated constant.
    let fd = unsafe { libc::memfd_create(c"tables".as_ptr(), 0) };
    check!(fd >= 0, "memfd_create failed");
    // SAFETY: the descriptor is open, and nobody else's.
    let file = unsafe { std::fs::File::from_raw_fd(fd) };
    let mut chunk = vec![0; CHUNK];
    for at in (0..BYTES).step_by(CHUNK) {
        for page in (0..CHUNK).step_by(PAGE) {
            let number = ((at + page) / PAGE) as u32;
            chunk[page..page + 4].copy_from_slice(&number.to_le_bytes());
        }
        check!(file.write_all_at(&chunk, at as u64).is_ok(), "write failed");
    }
    file
}

fn main() {
    let file = file();
    let (up, down) = (Gate::new(), Gate::new());
    let mut counters = [judge::Counters::new(), judge::Counters::new()];
    counters[0].read();
    let mut children = Vec::new();
    for i in 0..PROCESSES {
        children.push(process::spawn(|| {
            let region =
                Region::of_file_at(BASE + i * (128 << 20), file.as_raw_fd(), BYTES, RW, libc::MAP_SHARED);
            let (first, step) = if i == 0 { (0, 1) } else { (i % STEP, STEP) };
            let mut pages = (first..region.pages()).step_by(step);
            let right = pages.all(|page| region.word(page * PAGE) == page as u32);
            check!(right, "process {i} reads something else");
            up.open();
            down.pass();
            // What one writes now, all see.
            check_eq!(region.word(4), 4711);
            0
        }));
        // One after the other: who comes first is then known.
        up.pass();
    }
    counters[1].read();
    let delta = |name: &str| counters[1].get(name) - counters[0].get(name);
    judge::checkpoint("all-processes-map-the-file");
    if judge::present() {
        let found = delta("object_tables_shared");
        judge::metric("file_pte_pages", PROCESSES as u64 * TABLES - found);
        judge::metric("file_tables_found", found);
        judge::metric("file_faults", delta("page_faults"));
        judge::metric("file_entries_filled", delta("file_fills"));
        judge::metric("tables_added", delta("tables_now"));
    }
    check!(file.write_all_at(&4711u32.to_le_bytes(), 4).is_ok(), "write failed");
    for _ in 0..PROCESSES {
        down.open();
    }
    let failed = children.into_iter().filter(|&pid| process::wait(pid).code() != Some(0)).count();
    println!("{PROCESSES} processes read a file of {} MiB; {failed} failed", BYTES >> 20);
    check_eq!(failed, 0);
}
