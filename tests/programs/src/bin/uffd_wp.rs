//! Write protection: a handler hears of each first write, in anonymous memory, shared memory and a private file mapping, also
//! to pages that were not there when they were protected; and what fork, mprotect and madvise do to it.

use ptshare_programs::memory::{self, PAGE, RW, Region, TABLE};
use ptshare_programs::process;
use ptshare_programs::uffd::{
    self, COPY_WP, FEATURE_WP_UNPOPULATED, FLAG_WP, FLAG_WRITE, MISSING, Uffd, WP, page,
};
use ptshare_programs::{check, check_eq, judge};
use std::os::fd::AsRawFd;
use std::thread::{self, JoinHandle};

const PAGES: usize = 2 * TABLE / PAGE;
/// One page in so many is used, where the number does not matter.
const STEP: usize = 8;
const WRITE: u64 = FLAG_WP | FLAG_WRITE;

/// A thread that writes to these pages.
fn writer(range: Region, pages: &'static [usize]) -> JoinHandle<()> {
    thread::spawn(move || {
        for &number in pages {
            range.set_word(number * PAGE + 8, number as u32);
        }
    })
}

/// The handler's half of [`writer`]: each write is reported once, and allowed.
fn allow(uffd: &Uffd, range: Region, pages: &[usize], worker: JoinHandle<()>) {
    for &number in pages {
        uffd.expect(range, number, WRITE);
        check_eq!(uffd.protect(page(range, number), false), Ok(()));
    }
    check!(worker.join().is_ok(), "the writer failed");
    check!(!uffd.poll(0), "a message too many");
    for &number in pages {
        check_eq!(range.word(number * PAGE + 8), number as u32);
    }
}

fn writes_are_reported(name: &str, range: Region, anonymous: bool) {
    const THERE: &[usize] = &[0, 1, 511, 512, 600];
    const ABSENT: &[usize] = &[2, 513, 1023];
    let uffd = Uffd::need(FEATURE_WP_UNPOPULATED);
    for &number in THERE {
        range.set_word(number * PAGE, 7);
    }
    // Read only: the zero page, or the object's.
    check_eq!(range.word(5 * PAGE), 0);
    check_eq!(uffd.register(range, WP).is_ok_and(|ioctls| ioctls & 0x44 == 0x44), true);
    check!(uffd::has_vm_flag(range, "uw"), "no uw in smaps");
    check_eq!(uffd.protect(range, true), Ok(()));
    judge::checkpoint(name);
    for &number in THERE {
        check_eq!(range.word(number * PAGE), 7);
    }
    allow(&uffd, range, THERE, writer(range, THERE));
    allow(&uffd, range, ABSENT, writer(range, ABSENT));
    allow(&uffd, range, &[5], writer(range, &[5]));
    // A read brings an absent page in; its protection stays.
    check_eq!(range.word(300 * PAGE), 0);
    allow(&uffd, range, &[300], writer(range, &[300]));
    // Rights that come and go leave the protection.
    check_eq!(uffd.protect(page(range, 1), true), Ok(()));
    page(range, 1).protect(libc::PROT_NONE);
    page(range, 1).protect(RW);
    check_eq!(range.word(PAGE), 7);
    allow(&uffd, range, &[1], writer(range, &[1]));
    // What an object's page leaves behind is protected when it comes back.
    if !anonymous {
        check_eq!(uffd.protect(page(range, 1), true), Ok(()));
        page(range, 1).advise(libc::MADV_DONTNEED);
        let worker = thread::spawn(move || range.set_word(PAGE + 8, 1));
        allow(&uffd, range, &[1], worker);
        range.set_word(PAGE, 7);
    }
    // System calls write, too.
    check_eq!(uffd.protect(page(range, 1), true), Ok(()));
    let source = memory::memfd(PAGE);
    let fd = source.as_raw_fd();
    let worker = thread::spawn(move || {
        // SAFETY: the range is mapped, and no Rust reference points into it.
        let read = unsafe { libc::pread(fd, (range.base + PAGE) as *mut _, 16, 0) };
        check_eq!(read, 16);
        range.set_word(PAGE + 8, 1);
    });
    allow(&uffd, range, &[1], worker);
    check_eq!(range.word(PAGE), 0);
    // Without the registration there is no protection.
    check_eq!(uffd.protect(range, true), Ok(()));
    check_eq!(uffd.unregister(range), Ok(()));
    range.mark_pages(STEP, 1);
    check!(range.pages_are_marked(STEP, 1), "pages lost their content");
    judge::checkpoint(name);
    println!("{name}: each first write was reported");
    range.unmap();
}

fn the_refusals() {
    let uffd = Uffd::need(0);
    let range = Region::private(4 * PAGE);
    check_eq!(uffd.protect(range, true), Err(libc::ENOENT));
    check_eq!(uffd.register(range.part(0, 2 * PAGE), WP).is_ok(), true);
    check_eq!(uffd.protect(range, true), Err(libc::ENOENT));
    check_eq!(uffd.protect(Region { base: range.base, len: PAGE + 1 }, true), Err(libc::EINVAL));
    check_eq!(uffd.protect(page(range, 0), true), Ok(()));
    check_eq!(uffd.register(page(range, 3), MISSING).is_ok_and(|ioctls| ioctls & 0x40 == 0), true);
    let source = Region::private(PAGE);
    check_eq!(uffd.copy(page(range, 3), source.base, COPY_WP).0, Err(libc::EINVAL));
    println!("the refusals");
}

/// Pages that a handler copies in under protection.
fn copied_in_protected() {
    let uffd = Uffd::need(0);
    let range = Region::private(2 * PAGE);
    let source = Region::private(PAGE);
    source.set_word(0, 3);
    check_eq!(uffd.register(range, MISSING | WP).is_ok(), true);
    check_eq!(uffd.copy(page(range, 0), source.base, COPY_WP), (Ok(()), PAGE as i64));
    check_eq!(range.word(0), 3);
    allow(&uffd, range, &[0], writer(range, &[0]));
    // Anonymous memory that is not there needs a feature to be protected; here it is missing in the first place.
    check_eq!(uffd.protect(range, true), Ok(()));
    let worker = writer(range, &[1]);
    uffd.expect(range, 1, FLAG_WRITE);
    check_eq!(uffd.zero(page(range, 1), 0).0, Ok(()));
    check!(worker.join().is_ok(), "the writer failed");
    println!("copied in under protection");
}

/// A child writes freely to its copy; the parent's pages stay protected.
fn fork_keeps_it_to_the_parent() {
    let uffd = Uffd::need(0);
    let range = Region::aligned(2 * TABLE);
    const PAGES: &[usize] = &[256, 511, 512, 767];
    range.mark_pages(STEP, 2);
    for &number in PAGES {
        range.set_word(number * PAGE + 4, 2);
    }
    check_eq!(uffd.register(range.part(TABLE / 2, TABLE), WP).is_ok(), true);
    check_eq!(uffd.protect(range.part(TABLE / 2, TABLE), true), Ok(()));
    let status = process::in_child(|| {
        check!(range.pages_are_marked(STEP, 2), "the child sees something else");
        range.mark_pages(STEP, 9);
        check!(!uffd.poll(0), "the child's writes are reported");
        judge::checkpoint("child");
        0
    });
    println!("a child writes to its copy: {status}");
    check!(range.pages_are_marked(STEP, 2), "the parent sees the child's writes");
    allow(&uffd, range, PAGES, writer(range, PAGES));
    check_eq!(uffd.protect(range.part(TABLE / 2, PAGE), true), Ok(()));
    // What has moved is protected no more.
    let part = range.part(TABLE / 2, PAGE);
    let moved = part.remap(PAGE, Some(Region::private(PAGE).base));
    moved.set_word(0, 1);
    println!("the parent's pages stay protected");
}

fn main() {
    drop(Uffd::need(0));
    the_refusals();
    writes_are_reported("anonymous memory", Region::aligned(PAGES * PAGE), true);
    writes_are_reported("shared memory", Region::shared(PAGES * PAGE), false);
    let file = memory::memfd(PAGES * PAGE);
    let private = Region::of_file(file.as_raw_fd(), PAGES * PAGE, RW, libc::MAP_PRIVATE);
    writes_are_reported("a private mapping of a file", private, false);
    copied_in_protected();
    fork_keeps_it_to_the_parent();
}
