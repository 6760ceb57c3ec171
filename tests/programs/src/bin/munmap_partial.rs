//! After a fork, each side unmaps parts of shared tables, whole ones and pieces; the other side keeps all its bytes.

use ptshare_programs::memory::{PAGE, RW, Region, TABLE};
use ptshare_programs::process::{self, Gate};
use ptshare_programs::{check, check_eq, judge, signal};

const STEP: usize = 8;

fn main() {
    let region = Region::aligned(4 * TABLE);
    region.mark_pages(STEP, 1);
    let (to_child, to_parent) = (Gate::new(), Gate::new());
    let child = process::spawn(|| {
        // Half of the first table and half of the second; the whole third.
        let hole = region.part(TABLE / 2, TABLE);
        hole.unmap();
        region.part(2 * TABLE, TABLE).unmap();
        judge::checkpoint("child-has-unmapped");
        for page in (0..region.pages()).step_by(STEP) {
            let offset = page * PAGE;
            let gone =
                (TABLE / 2..TABLE + TABLE / 2).contains(&offset) || (2 * TABLE..3 * TABLE).contains(&offset);
            if !gone {
                check_eq!(region.word(offset), page as u32 + 1);
            }
        }
        for offset in [TABLE / 2, TABLE, 2 * TABLE, 3 * TABLE - PAGE] {
            let status = process::in_child(|| {
                signal::default_faults();
                region.get(offset).into()
            });
            println!("child reads what it unmapped: {status}");
        }
        hole.map_over(RW);
        check_eq!(hole.word(0), 0);
        hole.mark_pages(STEP, 500);
        to_parent.open();
        to_child.pass();
        check!(hole.pages_are_marked(STEP, 500), "the parent's munmap took the child's pages");
        check_eq!(region.word(3 * TABLE), (3 * TABLE / PAGE) as u32 + 1);
        0
    });
    to_parent.pass();
    check!(region.pages_are_marked(STEP, 1), "the child's munmap took the parent's pages");
    println!("the parent keeps all its pages");
    region.part(3 * TABLE + PAGE, TABLE - PAGE).unmap();
    region.part(0, TABLE).advise(libc::MADV_DONTNEED);
    judge::checkpoint("parent-has-unmapped");
    check_eq!(region.word(0), 0);
    check_eq!(region.word(TABLE), (TABLE / PAGE) as u32 + 1);
    check_eq!(region.word(3 * TABLE), (3 * TABLE / PAGE) as u32 + 1);
    to_child.open();
    println!("child: {}", process::wait(child));
    // A mapping of its own right where a shared table is: the child must not see it through that table.
    let child = process::spawn(|| {
        to_child.pass();
        check_eq!(region.word(TABLE), (TABLE / PAGE) as u32 + 1);
        0
    });
    region.part(TABLE, 16 * PAGE).map_over(RW);
    region.set_word(TABLE, 4242);
    to_child.open();
    println!("child: {}", process::wait(child));
    check_eq!(region.word(TABLE), 4242);
    println!("done");
}
