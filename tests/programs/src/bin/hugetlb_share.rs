//! Many processes map one GiB of huge pages at different addresses: one PMD page maps it for all of them, and a page that
//! one has faulted in is there for all.

use ptshare_programs::huge::{self, GIB, HUGE, must_map, place};
use ptshare_programs::judge::{self, Counters};
use ptshare_programs::memory::RW;
use ptshare_programs::process::{self, Gate};
use ptshare_programs::{check, check_eq};

const PAGES: usize = GIB / HUGE;

/// Is sharing on? It is but for the boot option.
fn sharing() -> bool {
    let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    judge::present() && !line.split_whitespace().any(|word| word == "share_hugetlb=0")
}

fn main() {
    huge::need(PAGES as u64);
    let processes = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(20_usize);
    let fd = huge::memfd(GIB);
    let (go, leave, ready) = (Gate::new(), Gate::new(), Gate::new());
    let mut before = Counters::new();
    before.read();
    let children: Vec<i32> = (0..processes)
        .map(|me| {
            process::spawn(|| {
                let region = must_map(place(me), GIB, RW, libc::MAP_SHARED, fd);
                for page in (me..PAGES).step_by(processes) {
                    region.set_word(page * HUGE + 4 * me, page as u32 + 1);
                }
                ready.open();
                go.pass();
                for page in 0..PAGES {
                    check_eq!(region.word(page * HUGE + 4 * (page % processes)), page as u32 + 1);
                }
                ready.open();
                leave.pass();
                0
            })
        })
        .collect();
    children.iter().for_each(|_| ready.pass());
    let mut filled = Counters::new();
    filled.read();
    children.iter().for_each(|_| go.open());
    children.iter().for_each(|_| ready.pass());
    let mut after = Counters::new();
    after.read();
    judge::checkpoint("all-mapped");
    let gained = |name: &str| after.get(name) - before.get(name);
    judge::metric("processes", processes as u64);
    judge::metric("huge_faults_in_all", gained("hugetlb_faults"));
    judge::metric("pmd_pages_taken_over", gained("pmd_tables_shared"));
    judge::metric("tables_for_all", gained("tables_now"));
    if sharing() {
        check_eq!(gained("hugetlb_faults"), PAGES as u64);
        check_eq!(gained("pmd_tables_shared"), processes as u64 - 1);
        check_eq!(after.get("hugetlb_faults"), filled.get("hugetlb_faults"));
    }
    children.iter().for_each(|_| leave.open());
    let fine = children.into_iter().all(|child| process::wait(child).code() == Some(0));
    check!(fine, "a process failed");
    println!("every process saw every page");
}
