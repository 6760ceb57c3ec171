//! Private huge pages: fork shares them, the first write copies 2 MiB, and nobody sees another's stores. Without a
//! reservation an empty pool is SIGBUS.

use ptshare_programs::huge::{self, HUGE, is_marked, mark, must_map, pool};
use ptshare_programs::memory::RW;
use ptshare_programs::process::{self, Gate};
use ptshare_programs::{check, check_eq, judge, signal};

const PAGES: usize = 4;

fn main() {
    huge::need(3 * PAGES as u64);
    let start = pool();
    let flags = libc::MAP_PRIVATE | libc::MAP_HUGETLB;
    let region = must_map(0, PAGES * HUGE, RW, flags, -1);
    mark(&region, 10);
    let (to_child, to_parent) = (Gate::new(), Gate::new());
    let child = process::spawn(|| {
        check!(is_marked(&region, 10), "the child sees other pages");
        println!("forked: {} pages in use", start[1] - pool()[1]);
        region.set_word(64, 99);
        region.set_word(HUGE + 128, 98);
        // The rest of a copied page came along.
        check_eq!(region.word(HUGE + 64), 11);
        println!("the child has written two: {} pages in use", start[1] - pool()[1]);
        judge::checkpoint("child-wrote");
        to_parent.open();
        to_child.pass();
        check_eq!(region.word(2 * HUGE + 64), 12);
        check_eq!(region.word(64), 99);
        0
    });
    to_parent.pass();
    check!(is_marked(&region, 10), "the parent sees the child's stores");
    region.set_word(2 * HUGE + 64, 77);
    println!("the parent has written one: {} pages in use", start[1] - pool()[1]);
    judge::checkpoint("parent-wrote");
    to_child.open();
    println!("child: {}", process::wait(child));
    println!("the child is gone: {} pages in use", start[1] - pool()[1]);
    region.part(0, HUGE).protect(libc::PROT_READ);
    check_eq!(region.word(64), 10);
    region.part(0, HUGE).protect(RW);
    region.set_word(64, 20);
    let moved = region.part(0, HUGE).remap(HUGE, Some(huge::place(0)));
    check_eq!(moved.word(64), 20);
    judge::checkpoint("moved");
    let unmapped = process::in_child(|| {
        signal::default_faults();
        region.word(64) as i32
    });
    println!("where it was: {unmapped}");
    moved.unmap();
    region.part(HUGE, (PAGES - 1) * HUGE).unmap();
    let wide = must_map(0, (start[0] as usize + 1) * HUGE, RW, flags | libc::MAP_NORESERVE, -1);
    let killed = process::in_child(|| {
        signal::default_faults();
        mark(&wide, 0);
        0
    });
    println!("more than the pool has: {killed}");
    wide.unmap();
    println!("the pool is as it was: {}", pool() == start);
}
