//! Missing pages that a handler brings in: of anonymous memory, shared memory and a private file mapping; for the process's
//! own accesses and for system calls; and everything that ends the waiting.

use ptshare_programs::memory::{self, PAGE, RW, Region};
use ptshare_programs::process;
use ptshare_programs::uffd::{
    self, DONTWAKE, FEATURE_SIGBUS, FEATURE_THREAD_ID, FLAG_WRITE, MISSING, Uffd, page,
};
use ptshare_programs::{check, check_eq, judge};
use std::os::fd::AsRawFd;
use std::thread;

const PAGES: usize = 8;

/// A page of the handler's own in which every word is `word`.
fn content(word: u32) -> Region {
    let source = Region::private(PAGE);
    for offset in (0..PAGE).step_by(4) {
        source.set_word(offset, word);
    }
    source
}

fn the_handshake() {
    let uffd = Uffd::open(libc::O_NONBLOCK);
    check!(uffd.is_ok(), "userfaultfd: {uffd:?}");
    let Ok(uffd) = uffd else { return };
    let range = Region::private(PAGE);
    check_eq!(uffd.register(range, MISSING), Err(libc::EINVAL));
    check_eq!(uffd.read(), Err(libc::EINVAL));
    check_eq!(uffd.handshake(0xab, 0), (Err(libc::EINVAL), [0; 3]));
    check_eq!(uffd.handshake(0xaa, 1 << 40), (Err(libc::EINVAL), [0; 3]));
    let (result, [api, features, ioctls]) = uffd.handshake(0xaa, 0);
    check_eq!(result, Ok(()));
    check_eq!(api, 0xaa);
    check_eq!(features & uffd::NEEDED, uffd::NEEDED);
    check_eq!(ioctls, 1 << 63 | 3);
    check_eq!(uffd.handshake(0xaa, 0), (Err(libc::EINVAL), [0; 3]));
    check_eq!(uffd.read(), Err(libc::EAGAIN));
    check_eq!(uffd.register(range, 0), Err(libc::EINVAL));
    check_eq!(uffd.register(range, 1 << 5), Err(libc::EINVAL));
    check_eq!(uffd.register(Region { base: range.base + 8, len: PAGE }, MISSING), Err(libc::EINVAL));
    check_eq!(uffd.register(Region { base: range.base, len: 0 }, MISSING), Err(libc::EINVAL));
    check_eq!(uffd.register(range, uffd::MINOR), Err(libc::EINVAL));
    range.unmap();
    check_eq!(uffd.register(range, MISSING), Err(libc::EINVAL));
    println!("the handshake and its refusals");
}

/// Eight pages; a thread reads or writes each, the handler fills each in another way.
fn pages_come_from_the_handler(name: &str, range: Region) {
    let uffd = Uffd::need(FEATURE_THREAD_ID);
    let ioctls = uffd.register(range, MISSING);
    check!(ioctls.is_ok_and(|bits| bits & 0xdc == 0x1c), "register: {ioctls:x?}");
    check!(uffd::has_vm_flag(range, "um"), "no um in smaps");
    let source = content(0x1111);
    let worker = thread::spawn(move || {
        // SAFETY: no precondition.
        let me = unsafe { libc::gettid() } as u32;
        for i in 0..PAGES {
            if i % 2 == 0 {
                check_eq!(range.word(i * PAGE + 40), if i == 4 { 0 } else { 0x1111 });
            } else {
                range.set_word(i * PAGE + 44, i as u32);
                check_eq!(range.word(i * PAGE + 48), 0x1111);
            }
        }
        me
    });
    let mut threads = Vec::new();
    for i in 0..PAGES {
        let message = uffd.next();
        check_eq!(message.address, range.base + i * PAGE);
        check_eq!(message.flags, if i % 2 == 0 { 0 } else { FLAG_WRITE });
        threads.push(message.thread);
        let place = page(range, i);
        match i {
            4 => check_eq!(uffd.zero(place, 0), (Ok(()), PAGE as i64)),
            5 => {
                // Filled in without waking; then woken.
                check_eq!(uffd.copy(place, source.base, DONTWAKE), (Ok(()), PAGE as i64));
                check_eq!(uffd.wake(place), Ok(()));
            }
            _ => check_eq!(uffd.copy(place, source.base, 0), (Ok(()), PAGE as i64)),
        }
    }
    let me = worker.join().unwrap_or(0);
    check!(threads.iter().all(|thread| *thread == me), "{threads:?} are not {me}");
    check!(!uffd.poll(0), "a message too many");
    let there = (Err(libc::EEXIST), -i64::from(libc::EEXIST));
    check_eq!(uffd.copy(page(range, 0), source.base, 0), there);
    check_eq!(uffd.zero(page(range, 1), 0), there);
    let outside = Region::private(2 * PAGE);
    let nobody = (Err(libc::ENOENT), -i64::from(libc::ENOENT));
    check_eq!(uffd.copy(outside, source.base, 0), nobody);
    check_eq!(uffd.copy(page(range, 0), outside.base + 1, 0).0, Err(libc::EEXIST));
    check_eq!(uffd.copy(page(range, 0), source.base, 4), (Err(libc::EINVAL), 0));
    check_eq!(uffd.copy(Region { base: range.base + 1, len: PAGE }, source.base, 0), (Err(libc::EINVAL), 0));
    println!("{name}: {PAGES} pages came from the handler");
    judge::checkpoint(name);
    check_eq!(uffd.unregister(range), Ok(()));
    check!(!uffd::has_vm_flag(range, "um"), "um in smaps");
    range.unmap();
}

fn a_copy_stops_where_a_page_is() {
    let uffd = Uffd::need(0);
    let range = Region::private(4 * PAGE);
    page(range, 2).set(0, 1);
    let source = Region::private(4 * PAGE);
    source.mark_pages(1, 5);
    check_eq!(uffd.register(range, MISSING).is_ok(), true);
    check_eq!(uffd.copy(range, source.base, 0), (Err(libc::EAGAIN), 2 * PAGE as i64));
    check_eq!(range.word(PAGE), 6);
    // The source is not there at all.
    let nowhere = Region::private(PAGE);
    nowhere.unmap();
    check_eq!(uffd.copy(page(range, 3), nowhere.base, 0), (Err(libc::EFAULT), -i64::from(libc::EFAULT)));
    check_eq!(uffd.zero(page(range, 3), 0), (Ok(()), PAGE as i64));
    check_eq!(range.word(3 * PAGE), 0);
    println!("a copy stops where a page is");
}

/// Read(2) into, and write(2) from, memory that is not there.
fn system_calls_wait_too() {
    let uffd = Uffd::need(0);
    let range = Region::private(2 * PAGE);
    check_eq!(uffd.register(range, MISSING).is_ok(), true);
    let file = memory::memfd(PAGE);
    let fd = file.as_raw_fd();
    let source = content(0x2222);
    let worker = thread::spawn(move || {
        // SAFETY: both ranges are mapped, and no Rust reference points into them.
        let wrote = unsafe { libc::pwrite(fd, range.base as *const _, PAGE, 0) };
        check_eq!(wrote, PAGE as isize);
        // SAFETY: as above.
        let read = unsafe { libc::pread(fd, (range.base + PAGE) as *mut _, PAGE, 0) };
        check_eq!(read, PAGE as isize);
    });
    uffd.expect(range, 0, 0);
    check_eq!(uffd.copy(page(range, 0), source.base, 0).0, Ok(()));
    uffd.expect(range, 1, FLAG_WRITE);
    check_eq!(uffd.zero(page(range, 1), 0).0, Ok(()));
    check!(worker.join().is_ok(), "the worker failed");
    check_eq!(range.word(PAGE + 100), 0x2222);

    // A handler that hears of the process's own accesses only.
    let quiet = Uffd::open(libc::O_NONBLOCK | uffd::USER_MODE_ONLY);
    check!(quiet.is_ok(), "UFFD_USER_MODE_ONLY: {quiet:?}");
    let Ok(quiet) = quiet else { return };
    check_eq!(quiet.handshake(0xaa, 0).0, Ok(()));
    let other = Region::private(PAGE);
    check_eq!(quiet.register(other, MISSING).is_ok(), true);
    check_eq!(uffd.register(other, MISSING), Err(libc::EBUSY));
    // SAFETY: as above.
    let read = unsafe { libc::pread(fd, other.base as *mut _, PAGE, 0) };
    check_eq!((read, ptshare_programs::errno()), (-1, libc::EFAULT));
    println!("system calls wait too, unless they are told not to");
}

fn what_ends_a_wait() {
    // The end of the process.
    let child = process::spawn(|| {
        let uffd = Uffd::need(0);
        let range = Region::private(PAGE);
        check_eq!(uffd.register(range, MISSING).is_ok(), true);
        i32::from(range.get(0))
    });
    process::sleep_ms(100);
    check_eq!(process::kill(child, libc::SIGKILL), Ok(()));
    println!("a process that waits for itself: {}", process::wait(child));

    // SIGBUS, where that is wanted.
    let status = process::in_child(|| {
        let uffd = Uffd::need(FEATURE_SIGBUS);
        let range = Region::private(PAGE);
        check_eq!(uffd.register(range, MISSING).is_ok(), true);
        i32::from(range.get(0))
    });
    println!("UFFD_FEATURE_SIGBUS: {status}");

    // The end of the userfaultfd, and of the registration: the kernel fills in zeros.
    for close in [true, false] {
        let uffd = Uffd::need(0);
        let range = Region::private(PAGE);
        check_eq!(uffd.register(range, MISSING).is_ok(), true);
        let worker = thread::spawn(move || range.word(0));
        uffd.expect(range, 0, 0);
        if close {
            drop(uffd);
        } else {
            check_eq!(uffd.unregister(range), Ok(()));
        }
        check_eq!(worker.join().unwrap_or(1), 0);
        range.unmap();
    }
    println!("closing and unregistering let the kernel fill in");
}

fn what_becomes_of_the_registration() {
    let uffd = Uffd::need(0);
    let range = Region::private(6 * PAGE);
    range.mark_pages(1, 1);
    check_eq!(uffd.register(range, MISSING).is_ok(), true);
    // A child is not registered.
    let status = process::in_child(|| {
        range.advise(libc::MADV_DONTNEED);
        i32::from(range.get(0))
    });
    println!("a child reads zeros: {status}");
    // Nor is what has moved; what is left behind is.
    let moved = page(range, 5).remap(PAGE, Some(Region::private(PAGE).base));
    check_eq!(moved.word(0), 6);
    moved.advise(libc::MADV_DONTNEED);
    check_eq!(moved.word(0), 0);
    // A split mapping is registered on both sides.
    page(range, 2).protect(libc::PROT_READ);
    page(range, 3).unmap();
    for i in [1, 2, 4] {
        page(range, i).advise(libc::MADV_DONTNEED);
        let worker = thread::spawn(move || range.word(i * PAGE));
        uffd.expect(range, i, 0);
        check_eq!(uffd.zero(page(range, i), 0).0, Ok(()));
        check_eq!(worker.join().unwrap_or(1), 0);
    }
    // Where something else is mapped now nobody hears of it.
    page(range, 4).map_over(RW);
    check_eq!(range.word(4 * PAGE), 0);
    // mlock(2) brings in what the handler gives.
    page(range, 1).advise(libc::MADV_DONTNEED);
    let worker = thread::spawn(move || {
        // SAFETY: locking memory changes none of it.
        unsafe { libc::mlock((range.base + PAGE) as *const _, PAGE) }
    });
    let write = uffd.next();
    check_eq!(write.address, range.base + PAGE);
    check_eq!(uffd.copy(page(range, 1), content(9).base, 0).0, Ok(()));
    check_eq!(worker.join().unwrap_or(-1), 0);
    check_eq!(range.word(PAGE), 9);
    println!("split, moved and unmapped ranges");
}

fn main() {
    drop(Uffd::need(0));
    the_handshake();
    pages_come_from_the_handler("anonymous memory", Region::private(PAGES * PAGE));
    pages_come_from_the_handler("shared memory", Region::shared(PAGES * PAGE));
    let empty = memory::memfd(PAGE);
    check!(empty.set_len(0).is_ok(), "ftruncate failed");
    check!(empty.set_len((PAGES * PAGE) as u64).is_ok(), "ftruncate failed");
    let private = Region::of_file(empty.as_raw_fd(), PAGES * PAGE, RW, libc::MAP_PRIVATE);
    pages_come_from_the_handler("a private mapping of a file", private);
    a_copy_stops_where_a_page_is();
    system_calls_wait_too();
    what_ends_a_wait();
    what_becomes_of_the_registration();
    judge::checkpoint("end");
}
