//! Which mappings share a PMD page: those that are shared, cover a whole aligned GiB, and have the rights of one that has the
//! page already (2023 article, "What mappings are eligible for Huge PMD Sharing?").

use ptshare_programs::huge::{self, GIB, HUGE, must_map, place};
use ptshare_programs::judge::{self, Counters};
use ptshare_programs::memory::{RW, Region};
use ptshare_programs::{check, check_eq, process};

const SHARED: i32 = libc::MAP_SHARED | libc::MAP_NORESERVE;
const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_NORESERVE;
const READ: i32 = libc::PROT_READ;
/// Huge pages of the first GiB that exist.
const PAGES: usize = 4;

/// A mapping: what it is called, where it begins after a multiple of 1 GiB, its length, rights and kind, and whether it finds
/// the PMD page.
type Case = (&'static str, usize, usize, i32, i32, bool);

const CASES: [Case; 7] = [
    ("the whole GiB", 0, GIB, RW, SHARED, true),
    ("more than a GiB", 0, GIB + 2 * HUGE, RW, SHARED, true),
    ("half a GiB", 0, GIB / 2, RW, SHARED, false),
    ("a GiB that is not aligned", HUGE, GIB, RW, SHARED, false),
    ("a private GiB", 0, GIB, RW, PRIVATE, false),
    ("a GiB with other rights", 0, GIB, READ, SHARED, false),
    ("all rights", 0, GIB, RW | libc::PROT_EXEC, SHARED, false),
];

fn sharing() -> bool {
    let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    judge::present() && !line.split_whitespace().any(|word| word == "share_hugetlb=0")
}

/// Maps, reads what the holder wrote, and says whether a PMD page was taken over.
fn takes_over(fd: i32, (name, offset, len, prot, kind, _): Case) -> bool {
    let region: Region = must_map(place(2) + offset, len, prot, kind, fd);
    let mut counters = [Counters::new(), Counters::new()];
    counters[0].read();
    for page in 0..PAGES {
        check!(region.word(page * HUGE + 64) == page as u32 + 9, "{name}: page {page} shows something else");
    }
    counters[1].read();
    judge::checkpoint("mapped");
    counters[1].get("pmd_tables_shared") != counters[0].get("pmd_tables_shared")
}

fn main() {
    huge::need(2 * PAGES as u64);
    let fd = huge::memfd(GIB + 4 * HUGE);
    let holder = must_map(place(0), GIB, RW, SHARED, fd);
    huge::mark(&holder.part(0, PAGES * HUGE), 9);
    for case in CASES {
        let child = process::in_child(|| {
            let found = takes_over(fd, case);
            i32::from(sharing() && found != case.5)
        });
        check!(child.code() == Some(0), "{}: the PMD page is shared, or not, against the rules", case.0);
        println!("{}: as it should be", case.0);
    }
    // Equal rights are what counts, not which.
    let reader = must_map(place(1), GIB, READ, SHARED, fd);
    check_eq!(reader.word(64), 9);
    let child =
        process::in_child(|| i32::from(sharing() && !takes_over(fd, ("", 0, GIB, READ, SHARED, true))));
    check_eq!(child.code(), Some(0));
    check!(huge::is_marked(&holder.part(0, PAGES * HUGE), 9), "the holder's pages have changed");
    println!("two readers share with each other");
}
