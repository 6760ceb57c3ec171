//! After a fork, each side moves, grows and shrinks shared ranges; the bytes go along and the other side notices nothing.

use ptshare_programs::memory::{PAGE, Region, TABLE};
use ptshare_programs::process::{self, Gate};
use ptshare_programs::{check, check_eq, judge, signal};

const STEP: usize = 8;

fn main() {
    let region = Region::aligned(2 * TABLE);
    let elsewhere = Region::aligned(4 * TABLE);
    region.mark_pages(STEP, 1);
    let (to_child, to_parent) = (Gate::new(), Gate::new());
    let child = process::spawn(|| {
        // A whole table, to an aligned place.
        let moved = region.part(0, TABLE).remap(TABLE, Some(elsewhere.base));
        check!(moved.pages_are_marked(STEP, 1), "moving a table lost bytes");
        let status = process::in_child(|| {
            signal::default_faults();
            region.get(0).into()
        });
        println!("child reads what it moved away: {status}");
        // A piece of the other table, to an odd place.
        let piece = region
            .part(TABLE + 64 * PAGE, 64 * PAGE)
            .remap(64 * PAGE, Some(elsewhere.base + 3 * PAGE + TABLE));
        for page in (0..64).step_by(STEP) {
            check_eq!(piece.word(page * PAGE), (TABLE / PAGE + 64 + page) as u32 + 1);
        }
        judge::checkpoint("child-has-moved");
        moved.mark_pages(STEP, 700);
        // Growing keeps the old bytes and adds zeros; shrinking drops the end.
        let grown = piece.remap(256 * PAGE, None);
        check_eq!(grown.word(0), (TABLE / PAGE + 64) as u32 + 1);
        check_eq!(grown.word(200 * PAGE), 0);
        let small = grown.remap(2 * PAGE, None);
        check_eq!(small.base, grown.base);
        check_eq!(small.word(0), (TABLE / PAGE + 64) as u32 + 1);
        to_parent.open();
        to_child.pass();
        check!(moved.pages_are_marked(STEP, 700), "the parent's mremap changed the child's bytes");
        0
    });
    to_parent.pass();
    check!(region.pages_are_marked(STEP, 1), "the child's mremap took the parent's bytes");
    println!("the parent keeps its bytes");
    let moved = region.remap(2 * TABLE, Some(elsewhere.base + 2 * TABLE));
    check!(moved.pages_are_marked(STEP, 1), "moving two tables lost bytes");
    moved.mark_pages(STEP, 2);
    judge::checkpoint("both-have-moved");
    to_child.open();
    println!("child: {}", process::wait(child));
    check!(moved.pages_are_marked(STEP, 2), "the child changed the parent's bytes");
    println!("done");
}
