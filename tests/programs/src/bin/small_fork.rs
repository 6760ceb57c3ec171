//! A process of some 400 kB forks a few times: the case where sharing has least to win.

use ptshare_programs::judge::{self, Counters};
use ptshare_programs::memory::Region;
use ptshare_programs::{check, check_eq, now_ns, process};

fn main() {
    let region = Region::private(400 << 10);
    region.mark_pages(1, 77);
    let mut before = Counters::new();
    let mut after = Counters::new();
    before.read();
    let mut total_ns = 0;
    const FORKS: u64 = 5;
    for i in 0..FORKS as u32 {
        let start = now_ns();
        let child = process::fork();
        if child == 0 {
            check!(region.pages_are_marked(1, 77), "the child does not see the parent's bytes");
            region.set_word(0, i);
            process::leave(i as i32);
        }
        total_ns += now_ns() - start;
        let status = process::wait(child);
        println!("child {i}: {status}");
        check_eq!(status.code(), Some(i as i32));
    }
    after.read();
    check!(region.pages_are_marked(1, 77), "a child wrote into the parent's memory");
    judge::metric("small_fork_ns", total_ns / FORKS);
    judge::metric("faults_a_child", (after.get("page_faults") - before.get("page_faults")) / FORKS);
    println!("done");
}
