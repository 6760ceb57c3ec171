//! A SIGSEGV handler repairs the mapping and returns; the access is then carried out. Also where the table is shared.

use ptshare_programs::memory::{PAGE, RW, Region};
use ptshare_programs::{check, check_eq, judge, process, signal};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

static REPAIRED: AtomicU64 = AtomicU64::new(0);
static MAPPED: AtomicU64 = AtomicU64::new(0);
static BASE: AtomicUsize = AtomicUsize::new(0);
const PAGES: usize = 60;

extern "C" fn repair(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo; for SIGSEGV it holds an address.
    let (address, code) = unsafe { ((*info).si_addr() as usize, (*info).si_code) };
    let base = BASE.load(Ordering::Relaxed);
    if !(base..base + PAGES * PAGE).contains(&address) {
        process::leave(99);
    }
    let page = Region { base: address & !(PAGE - 1), len: PAGE };
    // SEGV_MAPERR is 1, SEGV_ACCERR is 2.
    if code == 1 {
        page.map_over(RW);
        MAPPED.fetch_add(1, Ordering::Relaxed);
    } else {
        page.protect(RW);
        REPAIRED.fetch_add(1, Ordering::Relaxed);
    }
}

fn count() -> (u64, u64) {
    (REPAIRED.swap(0, Ordering::Relaxed), MAPPED.swap(0, Ordering::Relaxed))
}

fn main() {
    let region = Region::private(PAGES * PAGE);
    BASE.store(region.base, Ordering::Relaxed);
    region.mark_pages(1, 50);
    signal::handle(libc::SIGSEGV, repair, libc::SA_NODEFER);
    region.protect(libc::PROT_READ);
    region.part(40 * PAGE, 20 * PAGE).unmap();
    let child = process::spawn(|| {
        for page in 0..20 {
            region.set_word(page * PAGE, 1);
        }
        check_eq!(count(), (20, 0));
        region.part(20 * PAGE, 10 * PAGE).protect(libc::PROT_NONE);
        for page in 20..40 {
            check_eq!(region.word(page * PAGE), page as u32 + 50);
        }
        check_eq!(count(), (10, 0));
        judge::checkpoint("child-has-repaired");
        0
    });
    println!("child: {}", process::wait(child));
    for page in 0..PAGES {
        let expected = if page < 40 { page as u32 + 50 } else { 0 };
        check_eq!(region.word(page * PAGE), expected);
        region.set_word(page * PAGE, 7);
    }
    println!("repaired, mapped: {:?}", count());
    check!((0..PAGES).all(|page| region.word(page * PAGE) == 7), "a write was lost");
    println!("done");
}
