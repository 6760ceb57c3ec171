//! Pairs of things that must exclude each other, done at the same instant again and again: what a lock that is given up too
//! early, or a count that is read outside of its lock, gets wrong. Each round ends with a verdict of the judge.
//!
//! Arguments: the races to run, all of them without any. On one CPU they take turns, and find nothing.

use ptshare_programs::memory::{PAGE, RW, Region, TABLE, memfd};
use ptshare_programs::process::{self, Gate};
use ptshare_programs::{check, check_eq, errno, judge, probe};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// A race: its name, and what runs it.
type Race = (&'static str, fn());

const RACES: &[Race] = &[
    ("faults", faults),
    ("exits", exits),
    ("finders", finders),
    ("leavers", leavers),
    ("truncate", truncate),
    ("tellers", tellers),
];

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    for (name, run) in RACES {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            run();
            println!("{name}: nothing was lost");
        }
    }
}

/// Where two meet: each comes to a step, and goes on when the other has come too. They do not sleep, so that they go on at
/// the same instant if there is a CPU for each.
#[derive(Clone, Copy)]
struct Meeting(Region);

impl Meeting {
    /// In memory that children share.
    fn new() -> Meeting {
        Meeting(Region::shared(PAGE))
    }

    fn counter(&self, me: usize) -> &AtomicU32 {
        // SAFETY: the page stays mapped for the life of the program, and is accessed in no other way.
        unsafe { &*((self.0.base + me * 64) as *const AtomicU32) }
    }

    /// The `me`-th of two (0 or 1) comes to its next step.
    fn come(&self, me: usize) {
        let step = self.counter(me).fetch_add(1, SeqCst) + 1;
        let mut turns = 0u32;
        while self.counter(1 - me).load(SeqCst) < step {
            turns += 1;
            // On one CPU the other has to get its turn.
            if turns.is_multiple_of(1 << 16) {
                std::thread::yield_now();
            }
        }
    }
}

/// Two threads have their first fault at the same page at the same time: one frame, and both words in it.
fn faults() {
    const ROUNDS: usize = 6;
    const PAGES: usize = 16;
    for _ in 0..ROUNDS {
        let region = Region::private(PAGES * PAGE);
        let meeting = Meeting::new();
        let touch = |me: usize| {
            for page in 0..PAGES {
                meeting.come(me);
                region.set_word(page * PAGE + 4 * me, (page + me) as u32 + 1);
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| touch(1));
            touch(0);
        });
        judge::checkpoint("faults");
        for page in 0..PAGES {
            check_eq!(
                [region.word(page * PAGE), region.word(page * PAGE + 4)],
                [page as u32 + 1, page as u32 + 2]
            );
        }
        region.unmap();
        meeting.0.unmap();
    }
}

/// Two processes that share page tables end at the same time: each table loses two users.
fn exits() {
    const ROUNDS: usize = 4;
    const TABLES: usize = 8;
    let region = Region::aligned(TABLES * TABLE);
    region.mark_pages(TABLE / PAGE, 7);
    for _ in 0..ROUNDS {
        let meeting = Meeting::new();
        let children = [0, 1].map(|me| {
            process::spawn(|| {
                check!(region.pages_are_marked(TABLE / PAGE, 7), "a child lacks a page");
                meeting.come(me);
                0
            })
        });
        for child in children {
            check_eq!(process::wait(child).code(), Some(0));
        }
        judge::checkpoint("exits");
        check!(region.pages_are_marked(TABLE / PAGE, 7), "the parent has lost a page");
        meeting.0.unmap();
    }
    region.unmap();
}

/// Two processes use a file whose page table each can take over from the other. In each round one maps it and uses it; both
/// meet; then one does `first` to what it has mapped while the other maps and uses it too.
fn users(first: fn(&Region)) {
    const ROUNDS: usize = 6;
    let file = memfd(TABLE);
    let place = Region::aligned(TABLE);
    place.unmap();
    let map = || Region::of_file_at(place.base, file.as_raw_fd(), TABLE, RW, libc::MAP_SHARED);
    let meeting = Meeting::new();
    let user = process::spawn(|| {
        for round in 0..ROUNDS as u32 {
            let map = map();
            map.set_word(4, round);
            meeting.come(0);
            first(&map);
            meeting.come(0);
            map.unmap();
            meeting.come(0);
        }
        0
    });
    let other = process::spawn(|| {
        for round in 0..ROUNDS as u32 {
            meeting.come(1);
            let map = map();
            check_eq!(map.word(4), round);
            judge::checkpoint("mapped");
            map.set_word(8, round);
            check_eq!(map.word(8), round);
            meeting.come(1);
            map.unmap();
            meeting.come(1);
        }
        0
    });
    for child in [user, other] {
        check_eq!(process::wait(child).code(), Some(0));
    }
    meeting.0.unmap();
}

/// The table's last user unmaps it while the other finds it.
fn finders() {
    users(|map| {
        map.unmap();
        // For the round's end.
        map.map_over(RW);
    });
}

/// The table's last user keeps it, as a table of its own, while the other finds it.
fn leavers() {
    users(|map| map.part(PAGE, PAGE).unmap());
}

/// A process forks while another truncates a file of which it has private copies: no child keeps one of what is gone.
fn truncate() {
    const ROUNDS: usize = 5;
    const PAGES: usize = 8;
    let file = memfd(PAGES * PAGE);
    let (meeting, gate) = (Meeting::new(), Gate::new());
    probe::install();
    let cutter = process::spawn(|| {
        for _ in 0..ROUNDS {
            meeting.come(0);
            meeting.come(0);
            check!(file.set_len(0).is_ok(), "ftruncate: {}", errno());
            meeting.come(0);
            meeting.come(0);
            check!(file.set_len((PAGES * PAGE) as u64).is_ok(), "ftruncate: {}", errno());
        }
        0
    });
    let map = Region::of_file(file.as_raw_fd(), PAGES * PAGE, RW, libc::MAP_PRIVATE);
    for _ in 0..ROUNDS {
        meeting.come(1);
        map.mark_pages(1, 7);
        meeting.come(1);
        let child = process::spawn(|| {
            gate.pass();
            for page in 0..PAGES {
                check_eq!(probe::read(map.base + page * PAGE), Err(libc::SIGBUS));
            }
            0
        });
        meeting.come(1);
        judge::checkpoint("truncated");
        gate.open();
        check_eq!(process::wait(child).code(), Some(0));
        meeting.come(1);
    }
    check_eq!(process::wait(cutter).code(), Some(0));
    map.unmap();
    meeting.0.unmap();
}

/// One thread makes threads, which takes the lock of the table of processes and then the process's signal lock; another sends
/// signals that nobody minds to the first.
fn tellers() {
    const THREADS: usize = 60;
    // SAFETY: no precondition.
    let (pid, first) = unsafe { (libc::getpid(), libc::gettid()) };
    let done = std::sync::Arc::new(AtomicU32::new(0));
    let told = done.clone();
    let teller = std::thread::spawn(move || {
        while told.load(SeqCst) == 0 {
            // SAFETY: no pointer; SIGURG is ignored unless somebody handles it.
            check_eq!(unsafe { libc::syscall(libc::SYS_tgkill, pid, first, libc::SIGURG) }, 0);
        }
    });
    for _ in 0..THREADS {
        check!(std::thread::spawn(|| ()).join().is_ok(), "a thread failed");
    }
    done.store(1, SeqCst);
    check!(teller.join().is_ok(), "the teller failed");
}
