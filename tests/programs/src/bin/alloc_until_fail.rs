//! Allocates until it fails: by a limit, which is an error, and in a guest also by touching all memory, which kills.

use ptshare_programs::memory::{PAGE, RW, Region};
use ptshare_programs::{check, check_eq, errno_name, judge, process};

fn set_limit(bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the structure is live.
    check_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
}

fn main() {
    let status = process::in_child(|| {
        set_limit(64 << 20);
        let mut blocks = 0;
        let failure = loop {
            match Region::try_map(1 << 20, RW, libc::MAP_PRIVATE) {
                Ok(block) => {
                    block.set(0, 1);
                    blocks += 1;
                }
                Err(errno) => break errno,
            }
        };
        println!("mmap: {}", errno_name(failure));
        check!((30..64).contains(&blocks), "{blocks} MiB fitted into 64 MiB");
        // SAFETY: a size that cannot be had; the result is only compared.
        let memory = std::hint::black_box(unsafe { libc::malloc(32 << 20) });
        println!("malloc: {}", if memory.is_null() { "NULL" } else { "memory" });
        let old = unsafe_brk(0);
        println!("brk: {}", if unsafe_brk(64 << 20) == old { "unchanged" } else { "moved" });
        0
    });
    println!("with a limit: {status}");
    // More than any machine has, and more than an address space has.
    for (name, bytes) in [("8 EiB", 1usize << 63), ("128 TiB", 1 << 47), ("0", 0)] {
        let result = Region::try_map(bytes, RW, libc::MAP_PRIVATE | libc::MAP_NORESERVE);
        println!("{name}: {}", result.map_or_else(errno_name, |_| "mapped".into()));
    }
    if judge::present() {
        let status = process::in_child(touch_everything);
        judge::checkpoint("memory-was-full");
        judge::metric("end_of_the_greedy_child", u64::from(status.0.unsigned_abs()));
        check!(status.signal() == Some(libc::SIGKILL), "touching all memory: {status}");
        let status = process::in_child(|| i32::from(Region::private(1 << 20).pages_are_marked(1 << 20, 0)));
        check_eq!(status.code(), Some(1));
    }
    println!("the parent lives");
}

/// The break after an attempt to move it by `bytes`, by the call itself.
fn unsafe_brk(bytes: usize) -> usize {
    // SAFETY: brk with 0 asks; moving the break up by memory that nobody uses harms nobody.
    unsafe {
        let now = libc::syscall(libc::SYS_brk, 0usize) as usize;
        libc::syscall(libc::SYS_brk, if bytes == 0 { 0 } else { now + bytes }) as usize
    }
}

fn touch_everything() -> i32 {
    loop {
        let Ok(block) =
            Region::try_map(1 << 20, RW, libc::MAP_PRIVATE | libc::MAP_NORESERVE | libc::MAP_POPULATE)
        else {
            return 1;
        };
        for page in 0..block.pages() {
            block.set(page * PAGE, 1);
        }
    }
}
