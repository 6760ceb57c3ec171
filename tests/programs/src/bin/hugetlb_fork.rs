//! fork over hugetlb: the PMD pages of shared mappings are handed on, not copied; private pages are copied on the first write,
//! and one who finds none left gets SIGBUS while the parent keeps what it was promised.

use ptshare_programs::huge::{self, GIB, HUGE, must_map, place};
use ptshare_programs::judge::{self, Counters};
use ptshare_programs::memory::RW;
use ptshare_programs::process::{self, Gate};
use ptshare_programs::{check, check_eq};

const SHARED: i32 = libc::MAP_SHARED | libc::MAP_NORESERVE;
const CHILDREN: usize = 5;
const PAGES: usize = 6;

fn sharing() -> bool {
    let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    judge::present() && !line.split_whitespace().any(|word| word == "share_hugetlb=0")
}

fn main() {
    huge::need(4 * PAGES as u64);
    let fd = huge::memfd(GIB);
    let shared = must_map(place(0), GIB, RW, SHARED, fd);
    let private = must_map(0, 2 * HUGE, RW, libc::MAP_PRIVATE | libc::MAP_HUGETLB, -1);
    huge::mark(&shared.part(0, PAGES * HUGE), 30);
    huge::mark(&private, 60);
    let (go, done) = (std::array::from_fn::<Gate, CHILDREN, _>(|_| Gate::new()), Gate::new());
    let mut counters = [Counters::new(), Counters::new()];
    counters[0].read();
    let children: Vec<i32> = (0..CHILDREN)
        .map(|me| {
            process::spawn(|| {
                check!(huge::is_marked(&shared.part(0, PAGES * HUGE), 30), "child {me} sees other pages");
                done.open();
                go[me].pass();
                shared.set_word(me * 8 + 128, 7 + me as u32);
                check!(huge::is_marked(&private, 60), "child {me} sees other private pages");
                done.open();
                go[me].pass();
                0
            })
        })
        .collect();
    children.iter().for_each(|_| done.pass());
    counters[1].read();
    let gained = |name: &str| counters[1].get(name) - counters[0].get(name);
    judge::metric("huge_faults_of_children", gained("hugetlb_faults"));
    judge::metric("tables_for_children", gained("tables_now"));
    if sharing() {
        check_eq!(gained("hugetlb_faults"), 0);
        check_eq!(gained("pmd_tables_shared"), CHILDREN as u64);
    }
    judge::checkpoint("forked");
    go.iter().for_each(Gate::open);
    children.iter().for_each(|_| done.pass());
    check!((0..CHILDREN).all(|me| shared.word(me * 8 + 128) == 7 + me as u32), "a child's write is missing");
    // The parent's write to its private page is its own.
    private.set_word(64, 1);
    go.iter().for_each(Gate::open);
    for child in children {
        check_eq!(process::wait(child).code(), Some(0));
    }
    check_eq!((private.word(64), private.word(HUGE + 64)), (1, 61));
    println!("{CHILDREN} children share the parent's huge pages");
    let writer = process::in_child(|| {
        private.set_word(HUGE + 64, 2);
        i32::from(private.word(HUGE + 64) != 2)
    });
    println!("a child that writes to a private huge page: {writer}");
    check_eq!(private.word(HUGE + 64), 61);
}
