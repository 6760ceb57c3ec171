//! One set of PTE pages for a file that many processes map, each at another address (2003 paper, sections 4 and 4.1).
//!
//! All read from all of it. The first, which fills the file through its mapping, makes the PTE pages; the others find them: 8 for
//! 16 MiB, not 8 for each process, and 8 faults each. Arguments are the number of processes, and the file's size in MiB: with
//! `100 64` it is 32 PTE pages, not 3,200.

use ptshare_programs::memory::{self, RW, Region, TABLE};
use ptshare_programs::process::{self, Gate};
use ptshare_programs::{check, check_eq, judge};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

/// Processes, unless an argument says otherwise.
const PROCESSES: usize = 20;
/// MiB of the file, unless a second argument says otherwise.
const MIB: usize = 16;
/// One page in so many is looked at: one of each window that a fault maps.
const STEP: usize = 16;
/// Where process `i` maps: 128 MiB apart, all at multiples of 2 MiB.
const BASE: usize = 0x2000_0000_0000;

fn main() {
    let argument = |n: usize| std::env::args().nth(n).and_then(|text| text.parse().ok());
    let processes: usize = argument(1).unwrap_or(PROCESSES);
    let bytes = argument(2).unwrap_or(MIB) << 20;
    let tables = (bytes / TABLE) as u64;
    let file = memory::memfd(bytes);
    let (up, down) = (Gate::new(), Gate::new());
    let mut counters = [judge::Counters::new(), judge::Counters::new()];
    counters[0].read();
    let mut children = Vec::new();
    for i in 0..processes {
        children.push(process::spawn(|| {
            let region =
                Region::of_file_at(BASE + i * (128 << 20), file.as_raw_fd(), bytes, RW, libc::MAP_SHARED);
            if i == 0 {
                region.touch_file();
                region.mark_pages(STEP, 0);
            }
            check!(region.pages_are_marked(STEP, 0), "process {i} reads something else");
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
        judge::metric("file_pte_pages", processes as u64 * tables - found);
        judge::metric("file_tables_found", found);
        judge::metric("file_faults", delta("page_faults"));
        judge::metric("file_entries_filled", delta("file_fills"));
        judge::metric("tables_added", delta("tables_now"));
    }
    check!(file.write_all_at(&4711u32.to_le_bytes(), 4).is_ok(), "write failed");
    for _ in 0..processes {
        down.open();
    }
    let failed = children.into_iter().filter(|&pid| process::wait(pid).code() != Some(0)).count();
    println!("{processes} processes read a file of {} MiB; {failed} failed", bytes >> 20);
    check_eq!(failed, 0);
}
