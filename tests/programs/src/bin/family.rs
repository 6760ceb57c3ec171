//! A family of processes with one of everything that page tables can hold, at rest while the judge takes a dump.

use ptshare_programs::memory::{self, PAGE, RW, Region, TABLE};
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
    // A table whose neighbours are free.
    let lonely = Region::try_at(0x2800_0020_0000, 3 * PAGE, RW, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    check!(lonely.is_ok(), "mmap at a free address failed: {lonely:?}");
    lonely.iter().for_each(|page| page.mark_pages(1, 0));
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

    // A file whose PTE pages belong to it: shared and writable, and private and read-only, elsewhere in each process.
    let memory = memory::memfd(2 * TABLE);
    let map_file = |i: usize| {
        let base = 0x2000_0000_0000 + i * (64 << 20);
        let fd = memory.as_raw_fd();
        let shared = Region::of_file_at(base, fd, 2 * TABLE, RW, libc::MAP_SHARED);
        let text = Region::of_file_at(base + (32 << 20), fd, 2 * TABLE, libc::PROT_READ, libc::MAP_PRIVATE);
        shared.set(70 * PAGE, 1);
        check_eq!(text.get(70 * PAGE), 1);
        check_eq!(text.get(TABLE + 50 * PAGE), 0);
    };
    map_file(0);

    // Huge pages, where there are any: 1 GiB of an object, which fork shares by its PMD page.
    let huge_flags = libc::MAP_HUGETLB | libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let pool = std::fs::read_to_string("/proc/sys/vm/nr_hugepages").unwrap_or_default();
    if pool.trim().parse().is_ok_and(|pages: u64| pages >= 2)
        && let Ok(huge) = Region::try_at(0x3000_0000_0000, 1 << 30, RW, huge_flags)
    {
        huge.set(0, 1);
        huge.set(5 * TABLE, 1);
    }

    let (ready, leave) = (Gate::new(), Gate::new());
    let children: Vec<i32> = (0..2u8)
        .map(|i| {
            process::spawn(|| {
                map_file(1 + usize::from(i));
                // Each writes to a table of its own; the others stay shared.
                private.set(usize::from(i) * TABLE, i);
                let grandchild = process::spawn(|| {
                    ready.open();
                    leave.pass();
                    0
                });
                if i == 0 {
                    // In tables of its own from now on: the zero page, and a file's page in a private mapping.
                    private.set(3 * TABLE + 60 * PAGE, 1);
                    mapped.set(3 * PAGE, 1);
                }
                ready.open();
                leave.pass();
                process::wait(grandchild).code().unwrap_or(1)
            })
        })
        .collect();
    for _ in 0..4 {
        ready.pass();
    }
    judge::answer("dump");
    for _ in 0..4 {
        leave.open();
    }
    for child in children {
        println!("child: {}", process::wait(child));
    }
}
