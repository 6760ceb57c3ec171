//! Twenty generations: each checks what all its ancestors wrote, writes its own, forks the next, and checks again.

use ptshare_programs::memory::{PAGE, Region};
use ptshare_programs::{check, check_eq, judge, process};

const DEPTH: u32 = 20;

fn generation(region: &Region, depth: u32) -> i32 {
    for ancestor in 0..depth {
        check_eq!(region.word(ancestor as usize * PAGE), 100 + ancestor);
    }
    check_eq!(region.word(depth as usize * PAGE), 0);
    region.set_word(depth as usize * PAGE, 100 + depth);
    // Every generation overwrites one word that all of them have.
    region.set_word(region.len - PAGE, depth);
    if depth == DEPTH {
        judge::checkpoint("all-generations-live");
        return DEPTH as i32;
    }
    let status = process::in_child(|| generation(region, depth + 1));
    check_eq!(region.word(region.len - PAGE), depth);
    check_eq!(region.word((depth as usize + 1) * PAGE), 0);
    check!(status.code() == Some(DEPTH as i32), "generation {} ended with {status}", depth + 1);
    DEPTH as i32
}

fn main() {
    let region = Region::private(64 * PAGE);
    println!("the last generation answers {}", generation(&region, 0));
}
