//! Truncation and holes reach every mapping, in every process, whoever shares tables: pages beyond the end are gone and
//! raise SIGBUS, holes read as zero, and private copies go with a truncation but not with a hole (2003 paper, section 2.4:
//! the address_space links to every vma and every page).

use ptshare_programs::memory::{self, PAGE, RW, Region, TABLE};
use ptshare_programs::process::{self, Gate};
use ptshare_programs::{check, check_eq, judge, signal};
use std::fs::File;
use std::os::fd::AsRawFd;

const BYTES: usize = 2 * TABLE;
const READERS: usize = 4;
const BUS_ADRERR: i32 = 2;

/// What an access beyond the end comes to: the code of the signal that ends a child that tries.
fn beyond(region: Region, offset: usize) -> Option<i32> {
    process::in_child(|| {
        signal::faults_leave_with_code();
        i32::from(region.get(offset)) + 100
    })
    .code()
}

fn punch(file: &File, offset: usize, len: usize) {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: no pointer.
    check_eq!(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset as i64, len as i64) }, 0);
}

fn main() {
    let file = memory::memfd(BYTES);
    let fd = file.as_raw_fd();
    let shared = Region::of_file(fd, BYTES, RW, libc::MAP_SHARED);
    shared.mark_pages(1, 10);
    // A gate for each, lest one go through twice.
    let (gates, done) = (std::array::from_fn::<Gate, READERS, _>(|_| Gate::new()), Gate::new());
    let readers: Vec<i32> = (0..READERS)
        .map(|i| {
            let go = &gates[i];
            process::spawn(|| {
                let base = 0x2000_0000_0000 + i * (64 << 20);
                let own = Region::of_file_at(base, fd, BYTES, RW, libc::MAP_SHARED);
                let private = Region::of_file(fd, BYTES, RW, libc::MAP_PRIVATE);
                check!(own.pages_are_marked(1, 10), "reader {i} reads something else");
                private.set_word(7 * PAGE, 77);
                private.set_word(TABLE + 9 * PAGE, 99);
                done.open();
                // A hole.
                go.pass();
                check_eq!((own.word(7 * PAGE), own.word(8 * PAGE)), (0, 18));
                check_eq!((own.word(5 * PAGE), own.word(5 * PAGE + 4096 - 4)), (15, 0));
                check_eq!(private.word(7 * PAGE), 77);
                done.open();
                // A truncation.
                go.pass();
                check_eq!(beyond(own, TABLE + PAGE), Some(BUS_ADRERR));
                check_eq!(beyond(private, TABLE + 9 * PAGE), Some(BUS_ADRERR));
                check_eq!(own.word(TABLE - PAGE), 511 + 10);
                check_eq!(private.word(7 * PAGE), 77);
                done.open();
                // Longer again.
                go.pass();
                check_eq!((own.word(TABLE + PAGE), private.word(TABLE + 9 * PAGE)), (0, 0));
                done.open();
                0
            })
        })
        .collect();
    let step = |name: &str| {
        gates.iter().for_each(Gate::open);
        readers.iter().for_each(|_| done.pass());
        judge::checkpoint(name);
        println!("{name}: every process sees it");
    };
    readers.iter().for_each(|_| done.pass());
    punch(&file, 6 * PAGE, 2 * PAGE);
    check_eq!((shared.word(6 * PAGE), shared.word(7 * PAGE)), (0, 0));
    step("a hole");
    check!(file.set_len(TABLE as u64).is_ok(), "ftruncate failed");
    step("a truncation");
    check!(file.set_len(BYTES as u64).is_ok(), "ftruncate failed");
    step("growth");
    // MADV_REMOVE punches through a mapping.
    shared.part(20 * PAGE, PAGE).advise(libc::MADV_REMOVE);
    check_eq!((shared.word(19 * PAGE), shared.word(20 * PAGE), shared.word(21 * PAGE)), (29, 0, 31));
    for reader in readers {
        check_eq!(process::wait(reader).code(), Some(0));
    }
    println!("done");
}
