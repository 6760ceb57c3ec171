//! Parent and child write to the same pages after a fork, in turns; each must see its own bytes only.

use ptshare_programs::memory::{PAGE, Region, TABLE};
use ptshare_programs::process::{self, Gate};
use ptshare_programs::{check, check_eq, judge};

const STEP: usize = 37;

fn main() {
    let region = Region::aligned(3 * TABLE);
    region.mark_pages(STEP, 1000);
    let (to_child, to_parent) = (Gate::new(), Gate::new());
    let child = process::spawn(|| {
        check!(region.pages_are_marked(STEP, 1000), "the child does not see the parent's bytes");
        judge::checkpoint("child-reads");
        // The child writes into the first table only.
        let first = region.part(0, TABLE);
        first.mark_pages(STEP, 2000);
        to_parent.open();
        to_child.pass();
        check!(first.pages_are_marked(STEP, 2000), "the parent's writes reached the child");
        for page in (0..region.pages()).step_by(STEP).filter(|page| page * PAGE >= TABLE) {
            check_eq!(region.word(page * PAGE), page as u32 + 1000);
        }
        // A page that nobody had touched before the fork.
        region.set(PAGE, 5);
        check_eq!(region.get(PAGE), 5);
        0
    });
    to_parent.pass();
    check!(region.pages_are_marked(STEP, 1000), "the child's writes reached the parent");
    println!("the parent keeps its bytes while the child writes");
    region.mark_pages(STEP, 3000);
    judge::checkpoint("both-have-written");
    to_child.open();
    println!("child: {}", process::wait(child));
    check!(region.pages_are_marked(STEP, 3000), "the parent lost its bytes");
    check_eq!(region.get(PAGE), 0);
    println!("both saw their own bytes only");

    // Grandchildren share with each other what their parent has not written.
    let children: Vec<i32> = (0..4)
        .map(|i| {
            process::spawn(|| {
                region.set_word(STEP * PAGE, 9000 + i);
                check_eq!(region.word(0), 3000);
                let grandchild = process::in_child(|| {
                    check_eq!(region.word(STEP * PAGE), 9000 + i);
                    region.set_word(STEP * PAGE, 1);
                    0
                });
                check_eq!(grandchild.code(), Some(0));
                check_eq!(region.word(STEP * PAGE), 9000 + i);
                i as i32
            })
        })
        .collect();
    for child in children {
        println!("child: {}", process::wait(child));
    }
    check!(region.pages_are_marked(STEP, 3000), "a child wrote into the parent's memory");
    region.unmap();
    println!("done");
}
