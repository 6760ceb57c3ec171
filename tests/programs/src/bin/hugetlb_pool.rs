//! The pool of huge pages: its size in /proc/sys/vm, reservations that mmap makes and munmap gives back, refusal when there
//! are none left, SIGBUS without a reservation, surplus pages.

use ptshare_programs::huge::{self, HUGE, map, must_map, pool};
use ptshare_programs::memory::RW;
use ptshare_programs::{check, check_eq, errno_name, judge, process, signal};
use std::fs;

const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_HUGETLB;
const SYSCTL: &str = "/proc/sys/vm/";

fn setting(name: &str) -> u64 {
    let text = fs::read_to_string(format!("{SYSCTL}{name}")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

fn set(name: &str, value: u64) {
    let done = fs::write(format!("{SYSCTL}{name}"), value.to_string());
    check!(done.is_ok(), "{name} cannot be set: {done:?}");
}

fn main() {
    const ROOM: u64 = 8;
    huge::need(ROOM);
    let (size, surplus) = (setting("nr_hugepages"), setting("nr_overcommit_hugepages"));
    let [total, free, reserved] = pool();
    check_eq!(total, size);
    set("nr_overcommit_hugepages", 0);

    set("nr_hugepages", size + 3);
    println!("grown by {}", setting("nr_hugepages") - size);
    set("nr_hugepages", size);
    println!("and shrunk to where it was: {}", setting("nr_hugepages") == size);

    let spare = free - reserved;
    let all = must_map(0, spare as usize * HUGE, RW, PRIVATE, -1);
    println!("mapped all: free {}, reserved {}", free - pool()[1], pool()[2] - reserved == spare);
    println!("one more: {:?}", map(0, HUGE, RW, PRIVATE, -1).map_err(errno_name).err());
    judge::checkpoint("all-reserved");
    // Without a reservation it is mapped, and cannot be touched.
    let unreserved = must_map(0, HUGE, RW, PRIVATE | libc::MAP_NORESERVE, -1);
    let child = process::in_child(|| {
        signal::default_faults();
        unreserved.set(0, 1);
        0
    });
    println!("one more without a reservation: {child}");
    all.set_word(0, 1);
    println!("one touched: free {}, reserved {}", free - pool()[1], spare - (pool()[2] - reserved));
    all.part(0, HUGE).advise(libc::MADV_DONTNEED);
    println!(
        "given back to the mapping: free {}, reserved {}",
        free - pool()[1],
        spare - (pool()[2] - reserved)
    );
    let child = process::in_child(|| {
        signal::default_faults();
        all.set_word(0, 2);
        0
    });
    println!("and reserved for the parent alone: {child}");
    all.part((spare as usize / 2) * HUGE, HUGE).unmap();
    println!("one given back: reserved {}", spare - (pool()[2] - reserved));
    let (hole, end) = (spare as usize / 2 * HUGE, spare as usize * HUGE);
    all.part(0, hole).unmap();
    all.part(hole + HUGE, end - hole - HUGE).unmap();
    check_eq!(pool(), [total, free, reserved]);

    // Surplus pages come and go with their use.
    set("nr_overcommit_hugepages", 2);
    let more = must_map(0, (spare as usize + 2) * HUGE, RW, PRIVATE, -1);
    println!("with two surplus pages: total {}", pool()[0] - total);
    println!("a third: {:?}", map(0, HUGE, RW, PRIVATE, -1).map_err(errno_name).err());
    more.unmap();
    unreserved.unmap();
    set("nr_overcommit_hugepages", surplus);
    check_eq!(pool(), [total, free, reserved]);
    println!("everything is back");
}
