//! Registering takes tables out of the sharing: of memory shared by fork, and of a file whose PTE pages all its mappings use.
//! The process that registers has tables of its own from then on; the others keep theirs.

use ptshare_programs::judge::{self, Counters};
use ptshare_programs::memory::{self, PAGE, RW, Region, TABLE};
use ptshare_programs::process::{self, Gate};
use ptshare_programs::uffd::{FLAG_MINOR, FLAG_WP, FLAG_WRITE, MINOR, MISSING, Uffd, WP, page};
use ptshare_programs::{check, check_eq};
use std::os::fd::AsRawFd;
use std::thread;

const TABLES: usize = 4;
const BYTES: usize = TABLES * TABLE;
const SALT: u32 = 50;
/// One page in so many is used.
const STEP: usize = 64;
const BASE: usize = 0x2000_0000_0000;

/// How far some counters move while `work` runs.
fn moved<const N: usize>(names: [&str; N], work: impl FnOnce()) -> [u64; N] {
    let mut counters = [Counters::new(), Counters::new()];
    counters[0].read();
    work();
    counters[1].read();
    names.map(|name| counters[1].get(name).wrapping_sub(counters[0].get(name)))
}

/// Memory that fork shares: registering part of it copies the tables there.
fn after_fork(mode: u64) {
    let range = Region::aligned(BYTES);
    range.mark_pages(STEP, SALT);
    let (go, done) = (Gate::new(), Gate::new());
    let child = process::spawn(|| {
        // A reader with the parent's tables, which fills in nothing for it.
        go.pass();
        check!(range.pages_are_marked(STEP, SALT), "the child sees something else");
        done.open();
        go.pass();
        check!(range.pages_are_marked(STEP, SALT), "the child sees the parent's write");
        range.mark_pages(STEP, SALT + 1);
        done.open();
        0
    });
    let uffd = Uffd::need(0);
    let part = range.part(TABLE + STEP * PAGE, 2 * TABLE);
    let [unshared] = moved(["unshares"], || check_eq!(uffd.register(part, mode).is_ok(), true));
    if judge::present() && sharing() {
        // Three PTE pages, and the tables above them where those were shared, too.
        check!(unshared >= 3, "{unshared} tables were copied");
    }
    judge::checkpoint("registered");
    go.open();
    done.pass();
    if mode == WP {
        check_eq!(uffd.protect(part, true), Ok(()));
        let worker = thread::spawn(move || part.set_word(0, 1));
        uffd.expect(part, 0, FLAG_WP | FLAG_WRITE);
        check_eq!(uffd.protect(page(part, 0), false), Ok(()));
        check!(worker.join().is_ok(), "the writer failed");
    } else {
        page(part, 0).advise(libc::MADV_DONTNEED);
        let worker = thread::spawn(move || part.word(0));
        uffd.expect(part, 0, 0);
        check_eq!(uffd.zero(page(part, 0), 0).0, Ok(()));
        check_eq!(worker.join().unwrap_or(1), 0);
    }
    judge::checkpoint("resolved");
    go.open();
    done.pass();
    println!("a child that shared its tables: {}", process::wait(child));
    check_eq!(range.word(0), SALT);
    range.unmap();
}

/// Does fork share tables here?
fn sharing() -> bool {
    let mut counters = Counters::new();
    counters.read();
    counters.get("sharing") != 0
}

/// A file that two processes map: the registered one leaves its tables and does not come back.
fn over_a_file(mode: u64) {
    let file = memory::memfd(BYTES);
    let fd = file.as_raw_fd();
    let (go, done) = (Gate::new(), Gate::new());
    let child = process::spawn(|| {
        let region = Region::of_file_at(BASE + (1 << 30), fd, BYTES, RW, libc::MAP_SHARED);
        region.mark_pages(STEP, SALT);
        done.open();
        for _ in 0..2 {
            go.pass();
            let [faults] = moved(["page_faults"], || {
                check!(region.pages_are_marked(STEP, SALT), "the other mapping shows something else");
            });
            check_eq!(faults, 0);
            done.open();
        }
        0
    });
    done.pass();
    let range = Region::of_file_at(BASE, fd, BYTES, RW, libc::MAP_SHARED);
    let [found] = moved(["object_tables_shared"], || range.touch_file());
    let uffd = Uffd::need(0);
    let part = range.part(TABLE, 2 * TABLE);
    let [left] = moved(["object_detaches"], || check_eq!(uffd.register(part, mode).is_ok(), true));
    if judge::present() {
        check_eq!((found, left), (TABLES as u64, 2));
    }
    judge::checkpoint("left");
    go.open();
    done.pass();
    let [found] = moved(["object_tables_shared"], || match mode {
        // All pages are there, so none is missing; and the tables may be shared as before.
        MISSING => part.touch_file(),
        MINOR => {
            // Where registering copies no tables, pages that are mapped stay so.
            part.advise(libc::MADV_DONTNEED);
            let worker = thread::spawn(move || (part.word(0), part.word(TABLE)));
            for place in [0, TABLE / PAGE] {
                uffd.expect(part, place, FLAG_MINOR);
                check_eq!(uffd.resume(page(part, place), 0).0, Ok(()));
            }
            let pages = (TABLE / PAGE) as u32;
            check_eq!(worker.join().unwrap_or((0, 0)), (pages + SALT, 2 * pages + SALT));
        }
        _ => {
            check_eq!(uffd.protect(part, true), Ok(()));
            let worker = thread::spawn(move || part.set_word(TABLE + 8, 1));
            uffd.expect(part, TABLE / PAGE, FLAG_WP | FLAG_WRITE);
            check_eq!(uffd.protect(page(part, TABLE / PAGE), false), Ok(()));
            check!(worker.join().is_ok(), "the writer failed");
        }
    });
    if judge::present() {
        check_eq!(found, if mode == MISSING { 2 } else { 0 });
    }
    judge::checkpoint("apart");
    go.open();
    done.pass();
    println!("a process that maps the same file: {}", process::wait(child));
    // Without the registration the mapping may share again.
    check_eq!(uffd.unregister(part), Ok(()));
    check!(range.pages_are_marked(STEP, SALT), "the mapping shows something else");
    judge::checkpoint("unregistered");
    range.unmap();
}

fn main() {
    drop(Uffd::need(0));
    for (name, mode) in [("missing", MISSING), ("write-protect", WP)] {
        println!("registered after fork, {name}:");
        after_fork(mode);
    }
    for (name, mode) in [("missing", MISSING), ("minor", MINOR), ("write-protect", WP)] {
        println!("registered over a file, {name}:");
        over_a_file(mode);
    }
}
