//! After a fork, each side changes the rights of parts of a shared table; the other side must notice nothing.

use ptshare_programs::memory::{PAGE, RW, Region, TABLE};
use ptshare_programs::process::{self, Gate};
use ptshare_programs::{check, judge, signal};

const STEP: usize = 16;

/// How a child ends that writes to (or only reads) a byte.
fn try_access(region: &Region, offset: usize, write: bool) -> String {
    let status = process::in_child(|| {
        signal::default_faults();
        if write {
            region.set(offset, 1);
        } else {
            region.get(offset);
        }
        0
    });
    status.to_string()
}

fn main() {
    let region = Region::aligned(2 * TABLE);
    region.mark_pages(STEP, 10);
    let (to_child, to_parent) = (Gate::new(), Gate::new());
    let child = process::spawn(|| {
        region.part(0, TABLE / 2).protect(libc::PROT_READ);
        check!(region.pages_are_marked(STEP, 10), "narrowing rights lost bytes");
        println!("child writes to read-only: {}", try_access(&region, 0, true));
        println!("child writes beside it: {}", try_access(&region, TABLE / 2, true));
        region.part(TABLE + 64 * PAGE, 64 * PAGE).protect(libc::PROT_NONE);
        println!("child reads PROT_NONE: {}", try_access(&region, TABLE + 64 * PAGE, false));
        judge::checkpoint("child-has-narrowed");
        to_parent.open();
        to_child.pass();
        region.protect(RW);
        check!(region.pages_are_marked(STEP, 10), "widening rights lost bytes");
        region.mark_pages(STEP, 20);
        check!(region.pages_are_marked(STEP, 20), "the child cannot write again");
        0
    });
    to_parent.pass();
    region.mark_pages(STEP, 30);
    println!("the parent can write where the child cannot");
    region.part(TABLE, TABLE).protect(libc::PROT_READ);
    println!("parent's other half: {}", try_access(&region, TABLE, true));
    judge::checkpoint("both-have-narrowed");
    to_child.open();
    println!("child: {}", process::wait(child));
    check!(region.pages_are_marked(STEP, 30), "the child's writes reached the parent");
    // Rights taken away from a page that is shared copy-on-write, then given back, must not make it writable for all.
    let child = process::spawn(|| {
        region.protect(libc::PROT_READ);
        region.protect(RW);
        region.mark_pages(STEP, 40);
        0
    });
    println!("child: {}", process::wait(child));
    check!(region.pages_are_marked(STEP, 30), "mprotect made a shared page writable");
    println!("done");
}
