//! A family of processes with one of everything that page tables can hold, at rest while the judge takes a dump.

use ptshare_programs::memory::{PAGE, RW, Region, TABLE};
use ptshare_programs::process::{self, Gate};
use ptshare_programs::{check, check_eq, judge};
use std::os::fd::AsRawFd;

fn main() {
    let private = Region::aligned(6 * TABLE);
    private.mark_pages(100, 7);
    let shared = Region::shared(2 * TABLE);
    shared.mark_pages(200, 3);
    let read_only = private.part(5 * TABLE, TABLE);
    read_only.protect(libc::PROT_READ);
    let hidden = private.part(4 * TABLE, 16 * PAGE);
    hidden.set(0, 1);
    hidden.protect(libc::PROT_NONE);
    // A page that was only read: the zero page.
    check_eq!(private.get(3 * TABLE + 50 * PAGE), 0);
    let path = std::env::current_exe();
    check!(path.is_ok(), "/proc/self/exe: {path:?}");
    let file = std::fs::File::open(path.unwrap_or_default());
    check!(file.is_ok(), "this program cannot be read: {file:?}");
    let Ok(file) = file else { return };
    let mapped = Region::of_file(file.as_raw_fd(), 8 * PAGE, RW, libc::MAP_PRIVATE);
    check_eq!(mapped.get(0), 0x7f);
    mapped.set(PAGE, 1);

    let (ready, leave) = (Gate::new(), Gate::new());
    let children: Vec<i32> = (0..2u8)
        .map(|i| {
            process::spawn(|| {
                // Each writes to a table of its own; the others stay shared.
                private.set(usize::from(i) * TABLE, i);
                check_eq!(mapped.get(2 * PAGE), mapped.get(2 * PAGE));
                let grandchild = process::spawn(|| {
                    ready.open();
                    leave.pass();
                    0
                });
                ready.open();
                leave.pass();
                process::wait(grandchild).code().unwrap_or(1)
            })
        })
        .collect();
    for _ in 0..4 {
        ready.pass();
    }
    judge::checkpoint("dump");
    for _ in 0..4 {
        leave.open();
    }
    for child in children {
        println!("child: {}", process::wait(child));
    }
}
