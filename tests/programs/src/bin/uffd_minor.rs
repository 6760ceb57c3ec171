//! Minor faults: pages that a file has and a mapping has not, reported so that a handler can look at them, or change them
//! through another mapping, before UFFDIO_CONTINUE maps them.

use ptshare_programs::memory::{self, PAGE, RW, Region};
use ptshare_programs::uffd::{
    self, DONTWAKE, FEATURE_MINOR_SHMEM, FLAG_MINOR, FLAG_WRITE, MINOR, MISSING, Uffd, page,
};
use ptshare_programs::{check, check_eq, judge};
use std::os::fd::AsRawFd;
use std::thread;

const PAGES: usize = 32;
const BYTES: usize = PAGES * PAGE;

fn pages_go_through_the_handler(name: &str, flags: i32) {
    let uffd = Uffd::need(FEATURE_MINOR_SHMEM);
    let file = memory::memfd(BYTES);
    let handler = Region::of_file(file.as_raw_fd(), BYTES, RW, libc::MAP_SHARED);
    handler.mark_pages(1, 10);
    let range = Region::of_file(file.as_raw_fd(), BYTES, RW, flags);
    let ioctls = uffd.register(range, MINOR);
    check!(ioctls.is_ok_and(|bits| bits & 0xc4 == 0x84), "register: {ioctls:x?}");
    check!(uffd::has_vm_flag(range, "ui"), "no ui in smaps");
    let worker = thread::spawn(move || {
        let mut sum = 0;
        for i in 0..PAGES - 1 {
            if i % 4 == 3 {
                range.set_word(i * PAGE + 8, 1);
            }
            sum += range.word(i * PAGE);
        }
        sum
    });
    for i in 0..PAGES - 1 {
        uffd.expect(range, i, if i % 4 == 3 { FLAG_MINOR | FLAG_WRITE } else { FLAG_MINOR });
        // What the handler makes of the page is what its reader finds: neighbours are not mapped along.
        handler.set_word(i * PAGE, 1000 + i as u32);
        check_eq!(uffd.resume(page(range, i), 0), (Ok(()), PAGE as i64));
        if i == 0 {
            check_eq!(uffd.resume(page(range, 0), 0), (Err(libc::EEXIST), -i64::from(libc::EEXIST)));
            judge::checkpoint(name);
        }
    }
    let expected: u32 = (0..PAGES as u32 - 1).map(|i| 1000 + i).sum();
    check_eq!(worker.join().unwrap_or(0), expected);
    let wrote = u32::from(flags == libc::MAP_SHARED);
    check_eq!(handler.word(3 * PAGE + 8), wrote);
    println!("{name}: {} pages went through the handler", PAGES - 1);

    // A page that the file does not have is not minor: the kernel makes it, and nobody hears of it.
    // SAFETY: no pointer.
    let punched = unsafe {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        libc::fallocate(file.as_raw_fd(), mode, (BYTES - PAGE) as i64, PAGE as i64)
    };
    check_eq!(punched, 0);
    let last = page(range, PAGES - 1);
    check_eq!(uffd.resume(last, 0), (Err(libc::EFAULT), -i64::from(libc::EFAULT)));
    check_eq!(last.word(0), 0);
    // Gone from this mapping but not from the file: minor again.
    let first = page(range, 0);
    first.advise(libc::MADV_DONTNEED);
    let worker = thread::spawn(move || first.word(0));
    uffd.expect(range, 0, FLAG_MINOR);
    check_eq!(uffd.resume(first, DONTWAKE).0, Ok(()));
    check_eq!(uffd.wake(first), Ok(()));
    check_eq!(worker.join().unwrap_or(0), 1000);
    range.unmap();
    handler.unmap();
}

fn missing_and_minor() {
    let uffd = Uffd::need(0);
    let file = memory::memfd(2 * PAGE);
    let fd = file.as_raw_fd();
    check!(file.set_len(PAGE as u64).is_ok() && file.set_len(2 * PAGE as u64).is_ok(), "ftruncate failed");
    let range = Region::of_file(fd, 2 * PAGE, RW, libc::MAP_SHARED);
    check_eq!(uffd.register(range, MISSING | MINOR).is_ok(), true);
    let worker = thread::spawn(move || (range.word(0), range.word(PAGE)));
    uffd.expect(range, 0, FLAG_MINOR);
    check_eq!(uffd.resume(page(range, 0), 0).0, Ok(()));
    uffd.expect(range, 1, 0);
    let source = Region::private(PAGE);
    source.set_word(0, 5);
    // A page of the file that only the mapping lacks cannot be copied in.
    page(range, 0).advise(libc::MADV_DONTNEED);
    check_eq!(uffd.copy(page(range, 0), source.base, 0).0, Err(libc::EEXIST));
    check_eq!(uffd.copy(page(range, 1), source.base, 0).0, Ok(()));
    check_eq!(worker.join().unwrap_or((1, 1)), (0, 5));
    let mut word = [0u8; 4];
    // SAFETY: the buffer has four bytes.
    let n = unsafe { libc::pread(fd, word.as_mut_ptr().cast(), 4, PAGE as i64) };
    check_eq!((n, u32::from_ne_bytes(word)), (4, 5));
    // Beyond the end there is nothing to map.
    check!(file.set_len(PAGE as u64).is_ok(), "ftruncate failed");
    check_eq!(uffd.copy(page(range, 1), source.base, 0).0, Err(libc::EFAULT));
    println!("missing and minor faults of one range");
}

fn main() {
    drop(Uffd::need(0));
    pages_go_through_the_handler("a shared mapping", libc::MAP_SHARED);
    pages_go_through_the_handler("a private mapping", libc::MAP_PRIVATE);
    missing_and_minor();
}
