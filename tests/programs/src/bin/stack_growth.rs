//! The stack grows on demand, in the parent and in a child; a mapping with MAP_GROWSDOWN grows too.

use ptshare_programs::memory::{PAGE, RW, Region};
use ptshare_programs::{check, check_eq, judge, process};
use std::hint::black_box;

/// Uses a little more than one page of stack a level.
#[inline(never)]
fn descend(level: u32) -> u64 {
    let mut page = [0u8; PAGE];
    page[level as usize % PAGE] = level as u8;
    let page = black_box(page);
    let below = if level == 0 { 0 } else { descend(level - 1) };
    below + u64::from(page[level as usize % PAGE])
}

fn sum(levels: u32) -> u64 {
    (0..=levels).map(|n| u64::from(n as u8)).sum()
}

fn main() {
    check_eq!(descend(20), sum(20));
    let child = process::spawn(|| {
        check_eq!(descend(200), sum(200));
        judge::checkpoint("child-is-deep");
        0
    });
    println!("child: {}", process::wait(child));
    check_eq!(descend(150), sum(150));
    println!("the stack has grown");

    // Room below the mapping, so that nothing is in its way.
    let room = Region::private(1 << 20);
    room.unmap();
    let flags = libc::MAP_PRIVATE | libc::MAP_GROWSDOWN | libc::MAP_FIXED | libc::MAP_ANONYMOUS;
    let top = room.base + room.len;
    // SAFETY: the range was ours a moment ago and nothing else of this program maps memory meanwhile.
    let base = unsafe { libc::mmap((top - PAGE) as *mut _, PAGE, RW, flags, -1, 0) };
    check!(base as usize == top - PAGE, "MAP_GROWSDOWN failed");
    let grown = Region { base: top - 16 * PAGE, len: 16 * PAGE };
    for page in (0..16).rev() {
        grown.set(page * PAGE, page as u8);
    }
    check!((0..16).all(|page| grown.get(page * PAGE) == page as u8), "the grown range lost bytes");
    println!("the mapping has grown");
}
