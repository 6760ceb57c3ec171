//! Endless recursion ends in SIGSEGV, and only for the process that recurses.

use ptshare_programs::memory::PAGE;
use ptshare_programs::{process, signal};
use std::hint::black_box;

#[inline(never)]
fn descend(level: u64) -> u64 {
    let page = black_box([level as u8; PAGE]);
    if level == u64::MAX { 0 } else { descend(level + 1) + u64::from(page[7]) }
}

fn main() {
    let limit = libc::rlimit { rlim_cur: 1 << 20, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the structure is live.
    unsafe { libc::setrlimit(libc::RLIMIT_STACK, &limit) };
    for _ in 0..2 {
        let status = process::in_child(|| {
            signal::default_faults();
            descend(0) as i32
        });
        println!("endless recursion: {status}");
    }
    println!("the parent lives");
}
