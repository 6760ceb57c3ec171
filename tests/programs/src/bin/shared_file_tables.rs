//! One set of PTE pages for a file that many processes map, each at another address (2003 paper, sections 4 and 4.1).
//!
//! All read from all 64 MiB. The first, which fills the file through its mapping, makes the PTE pages; the others find them: 32 in
//! all, not 32 for each (3,200 with 100 processes), and 32 faults each.

use ptshare_programs::memory::{self, RW, Region, TABLE};
use ptshare_programs::process::{self, Gate};
use ptshare_programs::{check, check_eq, judge};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

/// Processes, unless an argument says otherwise.
const PROCESSES: usize = 20;
const BYTES: usize = 64 << 20;
const TABLES: u64 = (BYTES / TABLE) as u64;
/// One page in so many is looked at.
const STEP: usize = 8;
/// Where process `i` maps: 128 MiB apart, all at multiples of 2 MiB.
const BASE: usize = 0x2000_0000_0000;

fn main() {
    let processes = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(PROCESSES);
    let file = memory::memfd(BYTES);
    let (up, down) = (Gate::new(), Gate::new());
    let mut counters = [judge::Counters::new(), judge::Counters::new()];
    counters[0].read();
    let mut children = Vec::new();
    for i in 0..processes {
        children.push(process::spawn(|| {
            let region =
                Region::of_file_at(BASE + i * (128 << 20), file.as_raw_fd(), BYTES, RW, libc::MAP_SHARED);
            if i == 0 {
                region.touch_file();
                region.mark_pages(1, 0);
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
        judge::metric("file_pte_pages", processes as u64 * TABLES - found);
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
    println!("{processes} processes read a file of {} MiB; {failed} failed", BYTES >> 20);
    check_eq!(failed, 0);
}
