//! A PMD page is looked for when a fault needs one, not before; at any address; and whoever fills it fills it for all
//! (2023 article, "When is Huge PMD Sharing established?").

use ptshare_programs::huge::{self, GIB, HUGE, must_map, place};
use ptshare_programs::judge::{self, Counters};
use ptshare_programs::memory::RW;
use ptshare_programs::process::{self, Gate};
use ptshare_programs::{check, check_eq};

const SHARED: i32 = libc::MAP_SHARED | libc::MAP_NORESERVE;
const PAGES: usize = 6;

fn sharing() -> bool {
    let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    judge::present() && !line.split_whitespace().any(|word| word == "share_hugetlb=0")
}

/// What a counter gains while `body` runs, or what it should, where nobody counts.
fn gained(name: &str, expected: u64, body: impl FnOnce()) -> u64 {
    let mut counters = [Counters::new(), Counters::new()];
    counters[0].read();
    body();
    counters[1].read();
    if sharing() { counters[1].get(name) - counters[0].get(name) } else { expected }
}

fn main() {
    huge::need(2 * PAGES as u64 + 2);
    let fd = huge::memfd(GIB);
    let (go, done) = (Gate::new(), Gate::new());
    let child = process::spawn(|| {
        let own = must_map(place(3), GIB, RW, SHARED, fd);
        done.open();
        go.pass();
        // The first touch finds the table; the pages that the parent has are there.
        check_eq!(own.word(64), 20);
        done.open();
        go.pass();
        for page in 1..PAGES {
            check_eq!(own.word(page * HUGE + 64), 20 + page as u32);
        }
        done.open();
        go.pass();
        own.set_word(PAGES * HUGE + 64, 99);
        done.open();
        go.pass();
        0
    });
    done.pass();
    let region = must_map(place(0), GIB, RW, SHARED, fd);
    let first = gained("pmd_tables_shared", 0, || region.set_word(64, 20));
    println!("mapped by two, touched by one: {first} taken over");
    let step = || {
        go.open();
        done.pass();
    };
    println!("touched by the other: {} taken over", gained("pmd_tables_shared", 1, step));
    let filled = gained("hugetlb_faults", PAGES as u64 - 1, || {
        for page in 1..PAGES {
            region.set_word(page * HUGE + 64, 20 + page as u32);
        }
    });
    println!("filled by one: {filled} faults");
    println!("read by the other: {} faults", gained("hugetlb_faults", 0, step));
    step();
    judge::checkpoint("both-have-all");
    let read = gained("hugetlb_faults", 0, || check_eq!(region.word(PAGES * HUGE + 64), 99));
    println!("filled by the other, read by the first: {read} faults");
    go.open();
    check_eq!(process::wait(child).code(), Some(0));
    check!(region.word(64) == 20, "the first page has changed");
}
