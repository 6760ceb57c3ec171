//! A page that one process has faulted in is there for all who share the PTE page: shared mappings, and read-only private ones
//! (2003 paper, section 4). What a process makes writable, and private, it then has for itself (section 4.1: "either
//! shareable or read-only").

use ptshare_programs::memory::{self, PAGE, RW, Region, TABLE};
use ptshare_programs::process::{self, Gate};
use ptshare_programs::{check, check_eq, judge};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

const BYTES: usize = 2 * TABLE;
const READERS: usize = 6;
/// One page in so many is read: as many as a fault maps at most.
const STEP: usize = 16;
/// Pages that are used besides.
const OTHERS: [usize; 3] = [3, 40, 513];
const READ: i32 = libc::PROT_READ;

/// Is sharing of files' tables on? It is but for the boot option.
fn sharing() -> bool {
    let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    judge::present() && !line.split_whitespace().any(|word| word == "share_file=0")
}

/// A file that the first process reads from its beginning to its end, and the others afterwards.
fn one_for_all(name: &str, prot: i32, kind: i32) {
    let file = memory::memfd(BYTES);
    for page in (0..BYTES / PAGE).step_by(STEP).chain(OTHERS) {
        let word = (page as u32 + 50).to_le_bytes();
        check!(file.write_all_at(&word, (page * PAGE) as u64).is_ok(), "write failed");
    }
    // A gate for each, lest one go through twice.
    let (gates, done) = (std::array::from_fn::<Gate, READERS, _>(|_| Gate::new()), Gate::new());
    let readers: Vec<i32> = (0..READERS)
        .map(|i| {
            let go = &gates[i];
            process::spawn(|| {
                let base = 0x2000_0000_0000 + i * (64 << 20);
                let own = Region::of_file_at(base, file.as_raw_fd(), BYTES, prot, kind);
                // One page of each table, so that the tables are found.
                own.get(0);
                own.get(TABLE);
                done.open();
                go.pass();
                check!(own.pages_are_marked(STEP, 50), "reader {i} reads something else");
                done.open();
                go.pass();
                if kind == libc::MAP_PRIVATE {
                    own.part(0, TABLE).protect(RW);
                    own.set_word(3 * PAGE, 1000 + i as u32);
                    own.set_word(40 * PAGE, 2000 + i as u32);
                }
                done.open();
                go.pass();
                let expected = if kind == libc::MAP_PRIVATE { 1000 + i as u32 } else { 53 };
                check_eq!(own.word(3 * PAGE), expected);
                check!(own.part(TABLE, TABLE).word(PAGE) == 513 + 50, "reader {i} reads something else");
                0
            })
        })
        .collect();
    readers.iter().for_each(|_| done.pass());
    let mut counters = [judge::Counters::new(), judge::Counters::new(), judge::Counters::new()];
    counters[0].read();
    gates[0].open();
    done.pass();
    counters[1].read();
    gates[1..].iter().for_each(Gate::open);
    (1..READERS).for_each(|_| done.pass());
    counters[2].read();
    let faults = |i: usize| counters[i + 1].get("page_faults") - counters[i].get("page_faults");
    judge::metric("faults_of_the_first", faults(0));
    judge::metric("faults_of_the_others", faults(1));
    if sharing() {
        check!(faults(0) >= 30, "the first took {} faults", faults(0));
        check!(faults(1) <= 2, "the others took {} faults", faults(1));
    }
    judge::checkpoint(name);
    gates.iter().for_each(Gate::open);
    readers.iter().for_each(|_| done.pass());
    judge::checkpoint("on-their-own");
    gates.iter().for_each(Gate::open);
    for reader in readers {
        check_eq!(process::wait(reader).code(), Some(0));
    }
    println!("{name}: one reads, all have the pages");
}

fn main() {
    one_for_all("shared", RW, libc::MAP_SHARED);
    one_for_all("shared read-only", READ, libc::MAP_SHARED);
    one_for_all("private read-only", READ, libc::MAP_PRIVATE);
}
