//! What takes a shared PMD page out of one process: mprotect, munmap, mremap, a VMA split. The others never notice, and
//! what is still mapped comes back by faults.

use ptshare_programs::huge::{self, GIB, HUGE, is_marked, mark, must_map, place, pool};
use ptshare_programs::judge::{self, Counters};
use ptshare_programs::memory::{RW, Region};
use ptshare_programs::process::{self, Gate};
use ptshare_programs::{check, check_eq};

/// A change of the region; gives what is left of it, with the number of its first huge page.
type Change = fn(&Region) -> Vec<(Region, u32)>;

const CHANGES: &[(&str, Change)] = &[
    ("mprotect of one page", |region| {
        region.part(3 * HUGE, HUGE).protect(libc::PROT_READ);
        vec![(*region, 0)]
    }),
    ("mprotect of all", |region| {
        region.protect(libc::PROT_READ);
        vec![(*region, 0)]
    }),
    ("munmap of one page", |region| {
        region.part(3 * HUGE, HUGE).unmap();
        vec![(region.part(0, 3 * HUGE), 0), (region.part(4 * HUGE, GIB - 4 * HUGE), 4)]
    }),
    ("munmap of all", |region| {
        region.unmap();
        Vec::new()
    }),
    ("mremap to half", |region| vec![(region.remap(GIB / 2, None), 0)]),
    ("mremap elsewhere", |region| vec![(region.remap(GIB, Some(place(40))), 0)]),
    ("madvise of one page", |region| {
        region.part(3 * HUGE, HUGE).advise(libc::MADV_DONTDUMP);
        vec![(*region, 0)]
    }),
];

fn main() {
    huge::need((GIB / HUGE) as u64);
    let start = pool();
    let fd = huge::memfd(GIB);
    let mine = must_map(place(0), GIB, RW, libc::MAP_SHARED, fd);
    mark(&mine, 1000);
    for (name, change) in CHANGES {
        let (changed, go) = (Gate::new(), Gate::new());
        let child = process::spawn(|| {
            // By fork, and at an address of its own.
            let other = must_map(place(20), GIB, RW, libc::MAP_SHARED, fd);
            check!(is_marked(&other, 1000), "{name}: before");
            let left = change(&mine);
            for (part, first) in &left {
                check!(is_marked(part, 1000 + first), "{name}: what is left");
            }
            check!(is_marked(&other, 1000), "{name}: the other mapping");
            judge::checkpoint("changed");
            changed.open();
            go.pass();
            0
        });
        changed.pass();
        let mut before = Counters::new();
        before.read();
        check!(is_marked(&mine, 1000), "{name}: the parent's pages");
        let mut after = Counters::new();
        after.read();
        check_eq!(after.get("hugetlb_faults"), before.get("hugetlb_faults"));
        go.open();
        println!("{name}: child: {}", process::wait(child));
    }
    mine.unmap();
    // SAFETY: the descriptor is this function's own.
    unsafe { libc::close(fd) };
    println!("the pool is as it was: {}", pool() == start);
}
