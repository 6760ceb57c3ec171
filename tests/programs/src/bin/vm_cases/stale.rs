//! Accesses through translations that must be gone: each page is used, its mapping changes, and it is used again at once, in
//! the same time slice. The tables are right in all of these; only the processor can be wrong.

use crate::{BASE, private};
use ptshare_programs::memory::{self, PAGE, RW, Region};
use ptshare_programs::process::{self, Gate};
use ptshare_programs::{check, check_eq, signal};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, Ordering};

/// Faults that the handler has seen.
static FAULTS: AtomicU32 = AtomicU32::new(0);

/// Pages in each case: as few as a flush of single pages takes.
const PAGES: usize = 8;

/// Counts the fault and puts a fresh page there, so that the access goes through.
extern "C" fn repair(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo; SIGSEGV and SIGBUS have an address.
    let address = unsafe { (*info).si_addr() as usize };
    FAULTS.fetch_add(1, Ordering::Relaxed);
    Region { base: address & !(PAGE - 1), len: PAGE }.map_over(RW);
}

/// Runs `access` on each page; how many of them faulted.
fn faults(region: &Region, access: impl Fn(usize)) -> u32 {
    FAULTS.store(0, Ordering::Relaxed);
    for page in 0..region.pages() {
        access(page * PAGE);
    }
    FAULTS.load(Ordering::Relaxed)
}

/// Private pages that have been written to.
fn used() -> Region {
    for number in [libc::SIGSEGV, libc::SIGBUS] {
        signal::handle(number, repair, libc::SA_NODEFER);
    }
    let region = private(1).part(0, PAGES * PAGE);
    region.mark_pages(1, 600);
    region
}

fn finish() {
    for number in [libc::SIGSEGV, libc::SIGBUS] {
        signal::default(number);
    }
    Region { base: BASE, len: memory::TABLE }.unmap();
}

/// Writes after mprotect to read-only.
pub(crate) fn mprotect() {
    let region = used();
    region.protect(libc::PROT_READ);
    check_eq!(faults(&region, |at| region.set(at, 1)), PAGES as u32);
    finish();
}

/// Reads after munmap.
pub(crate) fn munmap() {
    let region = used();
    region.unmap();
    check_eq!(
        faults(&region, |at| {
            region.get(at);
        }),
        PAGES as u32
    );
    finish();
}

/// Reads where pages were before mremap.
pub(crate) fn mremap() {
    let region = used();
    let moved = region.remap(region.len, Some(BASE + (1 << 30) + 5 * PAGE));
    check_eq!(
        faults(&region, |at| {
            region.get(at);
        }),
        PAGES as u32
    );
    check!(moved.pages_are_marked(1, 600), "mremap lost a page");
    moved.unmap();
    finish();
}

/// Reads after MADV_DONTNEED.
pub(crate) fn discard() {
    let region = used();
    region.advise(libc::MADV_DONTNEED);
    check!((0..PAGES).all(|page| region.word(page * PAGE) == 0), "discarded pages are still there");
    finish();
}

/// Reads beyond the new end of a file.
pub(crate) fn truncate() {
    used();
    let file = memory::memfd(PAGES * PAGE);
    let region = Region::of_file_at(BASE + (1 << 30), file.as_raw_fd(), PAGES * PAGE, RW, libc::MAP_SHARED);
    region.mark_pages(1, 700);
    check!(file.set_len(PAGE as u64).is_ok(), "ftruncate failed");
    check_eq!(
        faults(&region, |at| {
            region.get(at);
        }),
        PAGES as u32 - 1
    );
    region.unmap();
    finish();
}

/// The parent writes right after fork; the child must not see it.
pub(crate) fn fork() {
    let region = used();
    let gate = Gate::new();
    let child = process::spawn(|| {
        gate.pass();
        check!(region.pages_are_marked(1, 600), "the child sees what the parent wrote after the fork");
        0
    });
    region.mark_pages(1, 800);
    gate.open();
    check_eq!(process::wait(child).code(), Some(0));
    finish();
}
