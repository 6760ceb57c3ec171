//! Parent and child grow and shrink their heaps after a fork, each its own.

use ptshare_programs::memory::{PAGE, Region};
use ptshare_programs::process::{self, Gate};
use ptshare_programs::{check, check_eq, judge, signal};

fn grow(bytes: isize) -> Region {
    // SAFETY: libc's allocator tolerates that others move the break upwards; the memory is ours.
    let old = unsafe { libc::sbrk(bytes) } as usize;
    check!(old != usize::MAX, "sbrk failed");
    Region { base: old, len: bytes.unsigned_abs() }
}

fn main() {
    let heap = grow(64 * PAGE as isize);
    heap.mark_pages(1, 300);
    let (to_child, to_parent) = (Gate::new(), Gate::new());
    let child = process::spawn(|| {
        let more = grow(32 * PAGE as isize);
        check_eq!(more.word(0), 0);
        more.mark_pages(1, 1);
        heap.set_word(0, 1);
        judge::checkpoint("child-has-grown");
        to_parent.open();
        to_child.pass();
        check!(more.pages_are_marked(1, 1), "the parent's heap grew into the child's");
        check_eq!(heap.word(PAGE), 301);
        0
    });
    to_parent.pass();
    let end = heap.base + heap.len;
    println!("the parent's break has not moved: {}", grow(0).base == end);
    let status = process::in_child(|| {
        signal::default_faults();
        Region { base: end.next_multiple_of(PAGE), len: PAGE }.get(0).into()
    });
    println!("reading beyond the break: {status}");
    let more = grow(16 * PAGE as isize);
    check_eq!(more.word(8 * PAGE), 0);
    more.mark_pages(1, 2);
    check!(heap.pages_are_marked(1, 300), "the child wrote into the parent's heap");
    to_child.open();
    println!("child: {}", process::wait(child));
    check!(more.pages_are_marked(1, 2), "the child wrote into the parent's heap");
    // Shrinking drops the pages: grown again they are zero.
    grow(-(16 * PAGE as isize));
    let again = grow(16 * PAGE as isize);
    check_eq!(again.base, more.base);
    check_eq!(again.word(4 * PAGE), 0);
    println!("done");
}
