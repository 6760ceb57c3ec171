//! Mappings of one file that may, or may not, use the same PTE pages.

use crate::{BASE, SLOTS, expect_marked, mark, reads};
use ptshare_programs::memory::{self, PAGE, RW, Region, TABLE};
use ptshare_programs::process;
use ptshare_programs::{check, check_eq, errno, judge};
use std::os::fd::AsRawFd;

const GIB: usize = 1 << 30;
const READ: i32 = libc::PROT_READ;
const SHARED: i32 = libc::MAP_SHARED;
const PRIVATE: i32 = libc::MAP_PRIVATE;

/// One file under every kind of mapping.
pub(crate) fn object() {
    let file = memory::memfd(3 * TABLE);
    let fd = file.as_raw_fd();
    let at = |n: usize| BASE + n * GIB;
    let first = Region::of_file_at(at(0), fd, 3 * TABLE, RW, SHARED);
    mark(&first, 70);
    let same = Region::of_file_at(at(1), fd, 3 * TABLE, RW, SHARED);
    expect_marked("same rights", &same, 70, &[]);
    judge::answer("same-rights");
    let child = process::spawn(|| {
        let own = Region::of_file_at(at(9), fd, 3 * TABLE, RW, SHARED);
        expect_marked("child", &own, 70, &[]);
        judge::answer("three-mappings");
        own.part(TABLE, PAGE).unmap();
        judge::answer("left");
        0
    });
    check_eq!(process::wait(child).code(), Some(0));

    let reader = Region::of_file_at(at(2), fd, 3 * TABLE, READ, SHARED);
    expect_marked("read-only", &reader, 70, &[]);
    judge::answer("read-only");
    let frozen = Region::of_file_at(at(3), fd, 3 * TABLE, READ, PRIVATE);
    expect_marked("private read-only", &frozen, 70, &[]);
    judge::answer("private-read-only");
    let private = Region::of_file_at(at(4), fd, 3 * TABLE, RW, PRIVATE);
    expect_marked("private", &private, 70, &[]);
    judge::answer("private-read");
    private.set_word(TABLE, 1);
    judge::answer("private-written");
    let offset = Region::of_file_from(at(5), fd, TABLE, 2 * TABLE, RW, SHARED);
    expect_marked("from the second table", &offset, 70 + 512, &[]);
    judge::answer("offset");
    // A page short of a table; the place of that page is somebody else's.
    let short = Region::of_file_at(at(6), fd, TABLE - PAGE, RW, SHARED);
    let after = Region { base: short.base + short.len, len: PAGE };
    after.map_over(RW);
    for slot in SLOTS.iter().take(4) {
        check_eq!(short.word(slot * PAGE), *slot as u32 + 70);
    }
    judge::answer("short");
    // A table's span that a mapping reaches only from its middle on.
    let late = Region::of_file_from(at(7) + PAGE, fd, PAGE, 2 * TABLE - PAGE, RW, SHARED);
    check_eq!(late.word(0), 1 + 70);
    check_eq!(late.word(TABLE - PAGE), 512 + 70);
    judge::answer("late");
    expect_marked("first", &first, 70, &[]);
    check_eq!(private.word(TABLE), 1);
    for region in [first, same, reader, frozen, private, offset, short, after, late] {
        region.unmap();
    }
    let again = Region::of_file_at(at(0), fd, 3 * TABLE, RW, SHARED);
    again.get(0);
    judge::answer("mapped-again");
    expect_marked("again", &again, 70, &[]);
    again.unmap();
}

/// A file that is open for reading only: its shared mapping never becomes writable.
pub(crate) fn may() {
    let path = format!("vm_cases.{}", std::process::id());
    check!(std::fs::write(&path, [7; PAGE]).is_ok(), "a file cannot be written");
    let file = std::fs::File::open(&path);
    check!(file.is_ok(), "a file cannot be opened");
    let Ok(file) = file else { return };
    check!(std::fs::remove_file(&path).is_ok(), "a file cannot be removed");
    let region = Region::of_file_at(BASE, file.as_raw_fd(), PAGE, READ, SHARED);
    check_eq!(region.get(0), 7);
    // SAFETY: the region gives out no references.
    let refused = unsafe { libc::mprotect(region.base as *mut _, region.len, RW) };
    judge::answer("may-not-write");
    check_eq!((refused, errno()), (-1, libc::EACCES));
    region.unmap();
}

/// truncate and hole punching take pages away from all who map them.
pub(crate) fn truncate() {
    let file = memory::memfd(4 * TABLE);
    let fd = file.as_raw_fd();
    let first = Region::of_file_at(BASE, fd, 4 * TABLE, RW, SHARED);
    mark(&first, 80);
    let private = Region::of_file_at(BASE + GIB, fd, 4 * TABLE, RW, PRIVATE);
    expect_marked("private", &private, 80, &[]);
    private.set_word(3 * TABLE, 1);
    let child = process::spawn(|| {
        expect_marked("child", &first, 80, &[]);
        judge::answer("mapped");
        check!(file.set_len((TABLE + 256 * PAGE) as u64).is_ok(), "ftruncate failed");
        judge::answer("truncated");
        check_eq!(first.word(TABLE + 255 * PAGE), 512 + 255 + 80);
        0
    });
    check_eq!(process::wait(child).code(), Some(0));
    for region in [&first, &private] {
        for at in [TABLE + 510 * PAGE, 2 * TABLE, 3 * TABLE] {
            check_eq!(reads(region, at).signal(), Some(libc::SIGBUS));
        }
    }
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: no pointer.
    check_eq!(unsafe { libc::fallocate(fd, mode, 0, 2 * PAGE as i64) }, 0);
    judge::answer("punched");
    check_eq!((first.word(PAGE), private.word(PAGE)), (0, 0));
    first.unmap();
    private.unmap();
}
