//! Huge pages: the pool's books, private pages, and PMD pages that belong to a file.

use ptshare_programs::huge::{self, GIB, HUGE, is_marked, mark, must_map, place};
use ptshare_programs::memory::{RW, Region};
use ptshare_programs::process::{self, Gate};
use ptshare_programs::{check, check_eq, judge};

const SHARED: i32 = libc::MAP_SHARED;
/// Mappings of a GiB from a pool of a few pages.
const SPARSE: i32 = libc::MAP_SHARED | libc::MAP_NORESERVE;

/// All pages of the pool through one file; then fewer.
pub(crate) fn pool() {
    huge::need(8);
    let start = huge::pool();
    let pages = (start[1] - start[2]) as usize;
    let fd = huge::memfd(pages * HUGE);
    let region = must_map(place(0), pages * HUGE, RW, SHARED, fd);
    judge::answer("reserved");
    mark(&region, 10);
    judge::answer("all-in-use");
    check!(is_marked(&region, 10), "a page lost its content");
    // SAFETY: no pointer.
    check_eq!(unsafe { libc::ftruncate(fd, HUGE as i64) }, 0);
    judge::answer("truncated");
    region.unmap();
    // SAFETY: the descriptor is this function's own.
    unsafe { libc::close(fd) };
    judge::answer("closed");
    check_eq!(huge::pool(), start);
}

/// Private pages: filled, shared by fork, copied, unmapped.
pub(crate) fn private() {
    huge::need(8);
    let start = huge::pool();
    let region = must_map(place(0), 3 * HUGE, RW, libc::MAP_PRIVATE | libc::MAP_HUGETLB, -1);
    mark(&region, 20);
    judge::answer("filled");
    let (to_child, to_parent) = (Gate::new(), Gate::new());
    let child = process::spawn(|| {
        judge::answer("forked");
        check!(is_marked(&region, 20), "the child sees other pages");
        region.set_word(HUGE, 1);
        judge::answer("copied");
        to_parent.open();
        to_child.pass();
        check!(is_marked(&region, 20), "the child lost its pages");
        0
    });
    to_parent.pass();
    check_eq!(region.word(HUGE), 0);
    region.set_word(2 * HUGE, 2);
    judge::answer("copied-by-the-parent");
    to_child.open();
    check_eq!(process::wait(child).code(), Some(0));
    region.unmap();
    judge::answer("unmapped");
    check_eq!(huge::pool(), start);
}

/// Which pages of the GiB a case touches.
const TOUCHED: [usize; 5] = [0, 1, 255, 510, 511];

fn touch(region: &Region, salt: u32) {
    for page in TOUCHED {
        region.set_word(page * HUGE + 64, page as u32 + salt);
    }
}

fn touched(region: &Region, salt: u32) -> bool {
    TOUCHED.into_iter().all(|page| region.word(page * HUGE + 64) == page as u32 + salt)
}

/// Who may use a file's PMD page: the same rights over the whole GiB, and nobody else.
pub(crate) fn pmd() {
    huge::need(16);
    let fd = huge::memfd(2 * GIB);
    let first = must_map(place(0), GIB, RW, SPARSE, fd);
    touch(&first, 30);
    let same = must_map(place(1), GIB, RW, SPARSE, fd);
    check!(touched(&same, 30), "the same rights, other pages");
    judge::answer("same-rights");
    let reader = must_map(place(2), GIB, libc::PROT_READ, SPARSE, fd);
    check!(touched(&reader, 30), "a reader sees other pages");
    judge::answer("reader");
    let short = must_map(place(3), GIB - HUGE, RW, SPARSE, fd);
    check_eq!(short.word(510 * HUGE + 64), 510 + 30);
    judge::answer("short");
    for region in [first, same, reader, short] {
        region.unmap();
        judge::answer("left");
    }
    // SAFETY: the descriptor is this function's own.
    unsafe { libc::close(fd) };
}

/// fork hands PMD pages on; a hole across the border of two GiBs takes both out.
pub(crate) fn fork() {
    huge::need(16);
    let fd = huge::memfd(2 * GIB);
    // Places are 2 GiB apart.
    let wide = must_map(place(4), 2 * GIB, RW, SPARSE, fd);
    let halves = [wide.part(0, GIB), wide.part(GIB, GIB)];
    halves.iter().for_each(|half| touch(half, 40));
    let (to_child, to_parent) = (Gate::new(), Gate::new());
    let child = process::spawn(|| {
        judge::answer("forked");
        check!(halves.iter().all(|half| touched(half, 40)), "the child sees other pages");
        wide.part(GIB - 2 * HUGE, 4 * HUGE).unmap();
        judge::answer("hole");
        check_eq!(wide.word(255 * HUGE + 64), 255 + 40);
        check_eq!(wide.word(GIB + 255 * HUGE + 64), 255 + 40);
        to_parent.open();
        to_child.pass();
        0
    });
    to_parent.pass();
    check!(halves.iter().all(|half| touched(half, 40)), "the parent lost pages");
    to_child.open();
    check_eq!(process::wait(child).code(), Some(0));
    wide.unmap();
    // SAFETY: the descriptor is this function's own.
    unsafe { libc::close(fd) };
}
