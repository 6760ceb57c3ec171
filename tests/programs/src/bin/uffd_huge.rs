//! userfaultfd over huge pages: missing, minor and write-protected ones; and a PMD page that two processes share until one of
//! them registers for minor faults or writes.

use ptshare_programs::huge::{self, GIB, HUGE, must_map, place};
use ptshare_programs::judge::{self, Counters};
use ptshare_programs::memory::{PAGE, RW, Region};
use ptshare_programs::process::{self, Gate};
use ptshare_programs::uffd::{FLAG_MINOR, FLAG_WP, FLAG_WRITE, MINOR, MISSING, Uffd, WP, huge_page};
use ptshare_programs::{check, check_eq};
use std::thread;

const PAGES: usize = HUGE / PAGE;

fn close(fd: i32) {
    // SAFETY: the descriptor is the caller's own.
    unsafe { libc::close(fd) };
}

/// Two missing pages, then a third that the kernel would make.
fn missing(name: &str, flags: i32) {
    let uffd = Uffd::need(0);
    let fd = huge::memfd(2 * HUGE);
    let range = must_map(0, 2 * HUGE, RW, flags, fd);
    let part = Region { base: range.base, len: HUGE + PAGE };
    check_eq!(uffd.register(part, MISSING), Err(libc::EINVAL));
    let ioctls = uffd.register(range, MISSING | WP);
    check!(ioctls.is_ok_and(|bits| bits & 0x5c == 0x4c), "register: {ioctls:x?}");
    let source = Region::private(HUGE);
    source.set_word(5 * PAGE, 55);
    let worker = thread::spawn(move || {
        check_eq!(range.word(5 * PAGE), 55);
        range.set_word(HUGE + 8, 1);
        range.word(HUGE + 5 * PAGE)
    });
    uffd.expect(range, 0, 0);
    check_eq!(uffd.copy(huge_page(range, 0).part(0, PAGE), source.base, 0).0, Err(libc::EINVAL));
    check_eq!(uffd.zero(huge_page(range, 0), 0).0, Err(libc::EINVAL));
    check_eq!(uffd.copy(huge_page(range, 0), source.base, 0), (Ok(()), HUGE as i64));
    check_eq!(uffd.copy(huge_page(range, 0), source.base, 0).0, Err(libc::EEXIST));
    uffd.expect(range, PAGES, FLAG_WRITE);
    check_eq!(uffd.copy(huge_page(range, 1), source.base, 0), (Ok(()), HUGE as i64));
    check_eq!(worker.join().unwrap_or(0), 55);
    // Writes.
    check_eq!(uffd.protect(range.part(0, HUGE + PAGE), true), Err(libc::EINVAL));
    check_eq!(uffd.protect(range, true), Ok(()));
    check_eq!(range.word(5 * PAGE), 55);
    let worker = thread::spawn(move || range.set_word(HUGE + 8, 2));
    uffd.expect(range, PAGES, FLAG_WP | FLAG_WRITE);
    check_eq!(uffd.protect(huge_page(range, 1), false), Ok(()));
    check!(worker.join().is_ok(), "the writer failed");
    judge::checkpoint(name);
    println!("{name}: missing and write-protected");
    range.unmap();
    close(fd);
}

fn minor() {
    let uffd = Uffd::need(0);
    let fd = huge::memfd(2 * HUGE);
    let handler = must_map(0, 2 * HUGE, RW, libc::MAP_SHARED, fd);
    handler.set_word(8, 1);
    let range = must_map(0, 2 * HUGE, RW, libc::MAP_SHARED, fd);
    check_eq!(uffd.register(range, MINOR).is_ok(), true);
    let worker = thread::spawn(move || range.word(8));
    uffd.expect(range, 0, FLAG_MINOR);
    handler.set_word(8, 2);
    check_eq!(uffd.resume(huge_page(range, 0), 0), (Ok(()), HUGE as i64));
    check_eq!(worker.join().unwrap_or(0), 2);
    check_eq!(uffd.resume(huge_page(range, 1), 0).0, Err(libc::EFAULT));
    check_eq!(range.word(HUGE), 0);
    println!("a huge page of the file goes through the handler");
    range.unmap();
    handler.unmap();
    close(fd);
}

/// Two processes map 1 GiB through one PMD page; one registers.
fn registering_ends_the_sharing(name: &str, mode: u64) {
    let fd = huge::memfd(GIB);
    let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
    let (go, done) = (Gate::new(), Gate::new());
    let child = process::spawn(|| {
        let region = must_map(place(20), GIB, RW, flags, fd);
        region.set_word(8, 7);
        region.set_word(HUGE + 8, 8);
        done.open();
        for _ in 0..2 {
            go.pass();
            let mut counters = [Counters::new(), Counters::new()];
            counters[0].read();
            check_eq!((region.word(8), region.word(HUGE + 8)), (7, 8));
            counters[1].read();
            check_eq!(counters[0].get("page_faults"), counters[1].get("page_faults"));
            done.open();
        }
        0
    });
    done.pass();
    let range = must_map(place(0), GIB, RW, flags, fd);
    let mut counters = [Counters::new(), Counters::new(), Counters::new(), Counters::new()];
    let [start, taken, left, end] = &mut counters;
    start.read();
    check_eq!(range.word(8), 7);
    taken.read();
    let uffd = Uffd::need(0);
    check_eq!(uffd.register(range, mode).is_ok(), true);
    left.read();
    judge::checkpoint(name);
    go.open();
    done.pass();
    if mode == MINOR {
        // Where registering leaves no table, a page that is mapped stays so: another one is looked at.
        huge_page(range, 1).advise(libc::MADV_DONTNEED);
        let worker = thread::spawn(move || range.word(HUGE + 8));
        uffd.expect(range, PAGES, FLAG_MINOR);
        check_eq!(uffd.resume(huge_page(range, 1), 0).0, Ok(()));
        check_eq!(worker.join().unwrap_or(0), 8);
    } else if mode == WP {
        check_eq!(uffd.protect(range.part(0, 2 * HUGE), true), Ok(()));
        let worker = thread::spawn(move || range.set_word(HUGE + 16, 1));
        uffd.expect(range, PAGES, FLAG_WP | FLAG_WRITE);
        check_eq!(uffd.protect(huge_page(range, 1), false), Ok(()));
        check!(worker.join().is_ok(), "the writer failed");
    } else {
        check_eq!(range.word(8), 7);
    }
    end.read();
    judge::checkpoint(name);
    go.open();
    done.pass();
    if judge::present() {
        let moved = |from: &Counters, to: &Counters, name: &str| to.get(name) - from.get(name);
        check_eq!(moved(start, taken, "pmd_tables_shared"), 1);
        check_eq!(moved(taken, left, "pmd_detaches"), 1);
        // Registered for missing pages alone it shares again: what the object has is missing for nobody.
        check_eq!(moved(left, end, "pmd_tables_shared"), u64::from(mode == MISSING));
    }
    println!("{name}: the other process: {}", process::wait(child));
    range.unmap();
    close(fd);
}

fn main() {
    huge::need(8);
    drop(Uffd::need(0));
    missing("a shared mapping", libc::MAP_SHARED);
    missing("a private mapping", libc::MAP_PRIVATE);
    minor();
    registering_ends_the_sharing("registered for missing pages", MISSING);
    registering_ends_the_sharing("registered for minor faults", MINOR);
    registering_ends_the_sharing("registered for writes", WP);
}
