//! What fork, the first write on each side and the last user's write do to whole tables.

use crate::{expect_marked, mark, private};
use ptshare_programs::memory::{PAGE, RW, TABLE};
use ptshare_programs::process::{self, Gate};
use ptshare_programs::{check, check_eq, judge};
use std::os::unix::fs::FileExt;

/// Fork, a copied table, a table taken back: every slot keeps what belongs there.
pub(crate) fn edges() {
    let region = private(5);
    mark(&region, 100);
    judge::answer("filled");
    let (to_child, to_parent) = (Gate::new(), Gate::new());
    let child = process::spawn(|| {
        expect_marked("child", &region, 100, &[]);
        // A page that is there, and one that is not.
        region.set_word(TABLE + PAGE, 1);
        region.set_word(TABLE + 7 * PAGE, 2);
        judge::checkpoint("child-wrote");
        judge::answer("child-wrote");
        expect_marked("child", &region, 100, &[TABLE + PAGE]);
        to_parent.open();
        to_child.pass();
        expect_marked("child", &region, 100, &[TABLE + PAGE]);
        check_eq!((region.word(TABLE + PAGE), region.word(TABLE + 7 * PAGE)), (1, 2));
        0
    });
    judge::answer("forked");
    to_parent.pass();
    expect_marked("parent", &region, 100, &[]);
    check_eq!(region.word(TABLE + 7 * PAGE), 0);
    // In the table that the child has left, which is this process's own again, and in one that both use.
    let written = [TABLE + 255 * PAGE, 2 * TABLE, 2 * TABLE + 511 * PAGE];
    for at in written {
        region.set_word(at, 3);
    }
    judge::answer("parent-wrote");
    expect_marked("parent", &region, 100, &written);
    to_child.open();
    check_eq!(process::wait(child).code(), Some(0));
    judge::answer("child-gone");
    expect_marked("parent", &region, 100, &written);
    mark(&region, 200);
    judge::answer("taken-back");
    expect_marked("parent", &region, 200, &[]);
    region.unmap();
}

/// Tables whose every entry is in use: copied another way.
pub(crate) fn dense() {
    let region = private(5);
    region.mark_pages(1, 700);
    let (to_child, to_parent) = (Gate::new(), Gate::new());
    let child = process::spawn(|| {
        region.set_word(TABLE, 1);
        judge::checkpoint("child-copied");
        to_parent.open();
        to_child.pass();
        check!(region.part(2 * TABLE, 3 * TABLE).pages_are_marked(1, 700 + 1024), "the child lost a page");
        check_eq!(region.word(2 * TABLE - PAGE), 1023 + 700);
        0
    });
    to_parent.pass();
    region.set_word(TABLE + PAGE, 2);
    judge::checkpoint("parent-copied");
    check_eq!((region.word(TABLE), region.word(2 * TABLE - PAGE)), (512 + 700, 1023 + 700));
    to_child.open();
    check_eq!(process::wait(child).code(), Some(0));
    region.unmap();
}

/// Memory that is read-only at fork and becomes writable afterwards.
pub(crate) fn read_only() {
    let region = private(5);
    mark(&region, 300);
    region.protect(libc::PROT_READ);
    let (to_child, to_parent) = (Gate::new(), Gate::new());
    let child = process::spawn(|| {
        judge::answer("forked-read-only");
        region.protect(RW);
        mark(&region, 400);
        judge::answer("child-may-write");
        to_parent.open();
        to_child.pass();
        expect_marked("child", &region, 400, &[]);
        0
    });
    to_parent.pass();
    expect_marked("parent", &region, 300, &[]);
    region.part(0, TABLE).protect(RW);
    region.set_word(0, 1);
    judge::answer("parent-may-write");
    to_child.open();
    check_eq!(process::wait(child).code(), Some(0));
    region.unmap();
}

/// A VMA that children do not get lies over part of a table.
pub(crate) fn advice() {
    let region = private(5);
    mark(&region, 500);
    let kept = region.part(TABLE + 500 * PAGE, 24 * PAGE);
    kept.advise(libc::MADV_DONTFORK);
    let child = process::spawn(|| {
        expect_marked("child", &region.part(2 * TABLE, 3 * TABLE), 500 + 1024, &[0, PAGE, 255 * PAGE]);
        judge::answer("forked-in-part");
        0
    });
    check_eq!(process::wait(child).code(), Some(0));
    expect_marked("parent", &region, 500, &[]);
    region.unmap();
}

/// The number of the frame that this address maps to; 0 where the kernel does not tell.
fn frame_at(address: usize) -> u64 {
    let mut entry = [0; 8];
    let read = std::fs::File::open("/proc/self/pagemap")
        .and_then(|file| file.read_exact_at(&mut entry, (address / PAGE * 8) as u64));
    check!(read.is_ok(), "pagemap: {read:?}");
    u64::from_le_bytes(entry) & ((1 << 55) - 1)
}

/// Where the kernel finds pages of parent and child: shared ones, and copies.
pub(crate) fn reverse() {
    let region = private(5);
    mark(&region, 600);
    let child = process::spawn(|| {
        region.set_word(TABLE, 1);
        for at in [TABLE, TABLE + PAGE, 2 * TABLE] {
            judge::reverse_map(frame_at(region.base + at));
        }
        0
    });
    check_eq!(process::wait(child).code(), Some(0));
    judge::reverse_map(frame_at(region.base));
    region.unmap();
}
