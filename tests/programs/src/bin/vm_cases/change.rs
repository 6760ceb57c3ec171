//! Changes of mappings: rights, the last page, moves, discards, new neighbours in a shared table.

use crate::{BASE, SLOTS, expect_marked, mark, private, reads, writes};
use ptshare_programs::memory::{self, PAGE, RW, Region, TABLE};
use ptshare_programs::process::{self, Gate};
use ptshare_programs::uffd::{MISSING, Uffd};
use ptshare_programs::{check, check_eq, errno, judge};
use std::os::fd::AsRawFd;

const EXEC: i32 = libc::PROT_READ | libc::PROT_EXEC;

/// mprotect of a table of this process's own, every right in turn.
pub(crate) fn rights() {
    let region = private(1);
    mark(&region, 10);
    for (name, prot) in [
        ("read", libc::PROT_READ),
        ("execute", EXEC),
        ("read-again", libc::PROT_READ),
        ("nothing", libc::PROT_NONE),
        ("all", RW),
    ] {
        region.protect(prot);
        judge::answer(name);
        let may =
            |allowed: bool| (if allowed { Some(0) } else { None }, if allowed { None } else { Some(11) });
        let (read, write) = (reads(&region, PAGE), writes(&region, PAGE));
        check_eq!((read.code(), read.signal()), may(prot & libc::PROT_READ != 0));
        check_eq!((write.code(), write.signal()), may(prot & libc::PROT_WRITE != 0));
    }
    expect_marked("all", &region, 10, &[]);
    region.unmap();
}

/// munmap of pieces of tables that nobody shares.
pub(crate) fn tail() {
    let region = private(2);
    region.mark_pages(1, 20);
    region.part(TABLE - 8 * PAGE, 8 * PAGE).unmap();
    judge::answer("tail");
    region.part(TABLE, 3 * PAGE).unmap();
    judge::answer("head");
    region.part(TABLE + 100 * PAGE, PAGE).unmap();
    judge::answer("middle");
    for at in [TABLE - 8 * PAGE, TABLE - PAGE, TABLE, TABLE + 2 * PAGE, TABLE + 100 * PAGE] {
        check_eq!(reads(&region, at).signal(), Some(libc::SIGSEGV));
    }
    check_eq!(region.word(TABLE - 9 * PAGE), 512 - 9 + 20);
    check_eq!(region.word(TABLE + 3 * PAGE), 512 + 3 + 20);
    region.unmap();
}

/// mremap by whole tables and by single pages, with and without keeping the source.
pub(crate) fn moved() {
    let target = BASE + (1 << 30);
    let region = private(3);
    mark(&region, 30);
    let whole = region.remap(3 * TABLE, Some(target));
    judge::answer("tables-moved");
    expect_marked("moved", &whole, 30, &[]);
    // Not congruent modulo a table's span: leaf by leaf.
    let odd = whole.remap(3 * TABLE, Some(BASE + (2 << 30) + 3 * PAGE));
    judge::answer("pages-moved");
    expect_marked("moved again", &odd, 30, &[]);
    let back = odd.remap(3 * TABLE, Some(BASE));
    // SAFETY: the target is free, and regions give out no references.
    let at = unsafe {
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
        libc::mremap(back.base as *mut _, back.len, back.len, flags, target)
    };
    check_eq!(at as usize, target);
    judge::answer("source-kept");
    expect_marked("copy", &whole, 30, &[]);
    check_eq!(back.word(0), 0);
    back.unmap();
    whole.unmap();
}

/// Pages that one process discards stay with the other.
pub(crate) fn discard() {
    let region = private(5);
    mark(&region, 40);
    let (to_child, to_parent) = (Gate::new(), Gate::new());
    let child = process::spawn(|| {
        judge::checkpoint("shared");
        region.part(TABLE + 250 * PAGE, 10 * PAGE).advise(libc::MADV_DONTNEED);
        judge::answer("discarded");
        check_eq!(region.word(TABLE + 255 * PAGE), 0);
        region.part(2 * TABLE, TABLE).advise(libc::MADV_DONTNEED);
        judge::answer("table-discarded");
        check_eq!(region.word(2 * TABLE), 0);
        to_parent.open();
        to_child.pass();
        0
    });
    to_parent.pass();
    expect_marked("parent", &region, 40, &[]);
    to_child.open();
    check_eq!(process::wait(child).code(), Some(0));
    region.unmap();
}

/// New VMAs beside old ones, in the span of a table that is shared.
pub(crate) fn neighbours() {
    let region = private(5);
    // The last table ends in a hole that a later mmap and mremap fill.
    region.part(5 * TABLE - 16 * PAGE, 16 * PAGE).unmap();
    for slot in SLOTS.iter().take(3) {
        for table in 0..5 {
            region.set_word(table * TABLE + slot * PAGE, 50);
        }
    }
    let (to_child, to_parent) = (Gate::new(), Gate::new());
    let child = process::spawn(|| {
        let hole = Region { base: region.base + 5 * TABLE - 8 * PAGE, len: 8 * PAGE };
        hole.map_over(RW);
        judge::answer("mapped-beside");
        hole.set_word(0, 1);
        region.part(0, PAGE).protect(libc::PROT_READ);
        judge::answer("split");
        region.part(TABLE, TABLE / 2).advise(libc::MADV_WIPEONFORK);
        judge::answer("advised");
        let grown = region.part(5 * TABLE - 17 * PAGE, PAGE).remap(2 * PAGE, None);
        check_eq!(grown.base, region.base + 5 * TABLE - 17 * PAGE);
        judge::answer("grown");
        to_parent.open();
        to_child.pass();
        0
    });
    to_parent.pass();
    check_eq!(reads(&region, 5 * TABLE - 8 * PAGE).signal(), Some(libc::SIGSEGV));
    region.set_word(0, 60);
    judge::answer("parent-wrote");
    to_child.open();
    check_eq!(process::wait(child).code(), Some(0));
    region.unmap();
}

/// A heap that grows in the child, in the span of a table that both use.
pub(crate) fn heap() {
    // SAFETY: libc's allocator tolerates that others move the break upwards; the memory is ours.
    let grow = |bytes: usize| unsafe { libc::sbrk(bytes as isize) } as usize;
    let start = grow(3 * TABLE + PAGE);
    check!(start != usize::MAX, "sbrk failed");
    let heap = Region { base: start, len: 3 * TABLE };
    heap.mark_pages(64, 90);
    let child = process::spawn(|| {
        let more = Region { base: grow(8 * PAGE), len: 8 * PAGE };
        judge::answer("heap-has-grown");
        check_eq!(more.word(0), 0);
        check!(heap.pages_are_marked(64, 90), "the child lost its heap");
        0
    });
    check_eq!(process::wait(child).code(), Some(0));
    check!(heap.pages_are_marked(64, 90), "the parent lost its heap");
}

/// Reads of memory that nobody has written to.
pub(crate) fn zero() {
    let region = private(1);
    let seen: Vec<u8> = SLOTS.iter().map(|slot| region.get(slot * PAGE)).collect();
    judge::answer("zero-page-read");
    check_eq!(seen, [0; 5]);
    SLOTS.iter().for_each(|slot| region.set(slot * PAGE, 1));
    region.unmap();
}

/// mprotect in a shared table while no memory is left for a copy of it. In a guest alone: it uses up the machine's memory.
pub(crate) fn no_memory() {
    check!(judge::present(), "this case is for a guest with little memory");
    let region = private(5);
    mark(&region, 95);
    let child = process::spawn(|| {
        let attempt = |at: usize| {
            let part = region.part(at, 16 * PAGE);
            // SAFETY: the region gives out no references.
            let result = unsafe { libc::mprotect(part.base as *mut _, part.len, libc::PROT_READ) };
            (result, if result == 0 { 0 } else { errno() })
        };
        // Once with memory, so that the second attempt needs none for the program itself.
        let first = attempt(3 * TABLE);
        judge::checkpoint("memory");
        // Pages of a file: their want kills nobody.
        let file = memory::memfd(PAGE);
        let (mut size, mut step) = (PAGE, 16 << 20);
        while step >= PAGE {
            // SAFETY: no pointer.
            let grown = unsafe { libc::fallocate(file.as_raw_fd(), 0, size as i64, step as i64) };
            if grown == 0 { size += step } else { step /= 2 }
        }
        let second = attempt(TABLE);
        judge::checkpoint("no-memory");
        drop(file);
        check_eq!((first, second), ((0, 0), (-1, libc::ENOMEM)));
        region.set_word(TABLE, 1);
        expect_marked("child", &region, 95, &[TABLE]);
        0
    });
    check_eq!(process::wait(child).code(), Some(0));
    expect_marked("parent", &region, 95, &[]);
    region.unmap();
}

/// A range registered with a userfaultfd, in the span of tables that another process uses.
pub(crate) fn watched() {
    let region = private(5);
    mark(&region, 110);
    let gate = Gate::new();
    let child = process::spawn(|| {
        gate.pass();
        expect_marked("child", &region, 110, &[]);
        0
    });
    let uffd = Uffd::need(0);
    check!(uffd.register(region.part(TABLE + PAGE, 2 * TABLE), MISSING).is_ok(), "UFFDIO_REGISTER failed");
    judge::answer("watched");
    gate.open();
    check_eq!(process::wait(child).code(), Some(0));
    drop(uffd);
    judge::answer("not-watched");
    expect_marked("parent", &region, 110, &[]);
    region.unmap();
}
