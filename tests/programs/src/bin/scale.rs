//! How much more gets done with more CPUs: as many workers as CPUs, each on a CPU of its own, do the same work until the first is
//! done. One line a figure, operations a second of all together: `measure scaleN_NAME_per_s 0 VALUE` with N workers.
//!
//! | name | operation |
//! |---|---|
//! | `threads` | the first write to a page, by threads of one process, each in page tables of its own |
//! | `file` | the first write to a page of a shared file, by processes that all fill the same page tables |
//! | `cow` | the first write to a page after fork, by processes that share all page tables at the beginning |
//! | `fork` | fork, exit and wait, by processes that share nothing |
//!
//! Arguments: names of the table for these alone, `workers=N`, `pages=P` for each worker, `forks=F` for each, `rounds=R`: the
//! best of as many attempts counts. As PID 1 it does what
//! `ptshare_programs::init` says.

use ptshare_programs::memory::{self, PAGE, RW, Region, TABLE};
use ptshare_programs::process::{self, wait};
use ptshare_programs::{check, check_eq, init, now_ns};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where workers begin together, count what they have done, and see that one is done. In memory that all share.
#[repr(C)]
struct Track {
    ready: AtomicU64,
    go: AtomicU64,
    done: AtomicU64,
    lanes: [Lane; 64],
}

/// A worker's count, in a cache line of its own.
#[repr(C, align(64))]
struct Lane(AtomicU64);

impl Track {
    /// A new one, all zero, that forked children share.
    fn new() -> &'static Track {
        let region = Region::shared(size_of::<Track>().next_multiple_of(PAGE));
        // SAFETY: fresh memory, zero, larger and better aligned than the record, which is made of atomics and is never
        // unmapped.
        unsafe { &*(region.base as *const Track) }
    }

    /// What worker `me` does: `count` operations, or as many as it gets done before another has done all of its own.
    fn run(&self, me: usize, count: usize, mut operation: impl FnMut(usize)) {
        pin(me);
        self.ready.fetch_add(1, Ordering::SeqCst);
        while self.go.load(Ordering::SeqCst) == 0 {
            std::hint::spin_loop();
        }
        for number in 0..count {
            if self.done.load(Ordering::Relaxed) != 0 {
                return;
            }
            operation(number);
            self.lanes[me].0.store(number as u64 + 1, Ordering::Relaxed);
        }
        let _ = self.done.compare_exchange(0, now_ns(), Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Lets `workers` begin, when all are ready; operations a second until the first was done.
    fn start(&self, workers: usize) -> u64 {
        while self.ready.load(Ordering::SeqCst) < workers as u64 {
            process::sleep_ms(1);
        }
        let begin = now_ns();
        self.go.store(1, Ordering::SeqCst);
        let end = loop {
            match self.done.load(Ordering::SeqCst) {
                0 => process::sleep_ms(1),
                end => break end,
            }
        };
        let all: u64 = self.lanes.iter().map(|lane| lane.0.load(Ordering::Relaxed)).sum();
        (u128::from(all) * 1_000_000_000 / u128::from(end.saturating_sub(begin).max(1))) as u64
    }
}

/// Pages that a fault maps, if the cache has them (`fault_around_bytes`, mm/memory.c).
const AROUND: usize = 16;

/// Keeps the calling thread on one CPU.
fn pin(cpu: usize) {
    let mask = 1_u64 << cpu;
    // SAFETY: the mask lives through the call, which reads eight bytes of it.
    let result = unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, 8, &mask) };
    check_eq!(result, 0);
}

/// `workers` processes, each of which runs `body`; operations a second.
fn processes(workers: usize, body: impl Fn(&Track, usize)) -> u64 {
    let track = Track::new();
    let children: Vec<i32> = (0..workers)
        .map(|me| {
            process::spawn(|| {
                body(track, me);
                0
            })
        })
        .collect();
    let rate = track.start(workers);
    for child in children {
        check_eq!(wait(child).code(), Some(0));
    }
    rate
}

/// Whole page tables for `pages` pages of each worker.
fn part(pages: usize) -> usize {
    (pages * PAGE).next_multiple_of(TABLE)
}

fn threads(workers: usize, pages: usize) -> u64 {
    let region = Region::aligned(workers * part(pages));
    let track = Track::new();
    let rate = std::thread::scope(|scope| {
        for me in 0..workers {
            let own = region.part(me * part(pages), part(pages));
            scope.spawn(move || track.run(me, pages, |page| own.set(page * PAGE, 1)));
        }
        track.start(workers)
    });
    region.unmap();
    rate
}

fn file(workers: usize, pages: usize) -> u64 {
    let bytes = workers * part(pages);
    let file = memory::memfd(bytes);
    let rate = processes(workers, |track, me| {
        let region = Region::of_file(file.as_raw_fd(), bytes, RW, libc::MAP_SHARED);
        // By turns, so that all fill the same tables at the same time, each what one fault may fill at once.
        let place = |page: usize| (page / AROUND * workers + me) * AROUND + page % AROUND;
        track.run(me, pages, |page| region.set(place(page) * PAGE, 1));
    });
    drop(file);
    rate
}

fn cow(workers: usize, pages: usize) -> u64 {
    let region = Region::aligned(part(pages));
    for page in 0..pages {
        region.set(page * PAGE, 1);
    }
    let rate = processes(workers, |track, me| track.run(me, pages, |page| region.set(page * PAGE, 2)));
    region.unmap();
    rate
}

fn fork(workers: usize, forks: usize) -> u64 {
    processes(workers, |track, me| {
        track.run(me, forks, |_| check_eq!(process::in_child(|| 0).code(), Some(0)));
    })
}

fn main() {
    let (mut workers, mut pages, mut forks, mut rounds) = (1, 1024, 32, 1);
    let words: Vec<String> = std::env::args().collect();
    if std::process::id() == 1 {
        init::run("scale", &words[0], &words[1..]);
    }
    let (names, numbers): (Vec<String>, Vec<String>) =
        words.into_iter().skip(1).partition(|word| !word.contains('='));
    for word in numbers {
        let (name, value) = word.split_once('=').unwrap_or((&word, ""));
        let value = value.parse().unwrap_or(0);
        check!((1..=1 << 20).contains(&value), "`{word}` has no number");
        match name {
            "workers" => workers = value.min(64),
            "pages" => pages = value,
            "forks" => forks = value,
            "rounds" => rounds = value,
            _ => check!(false, "`{word}` is none of workers=, pages=, forks=, rounds="),
        }
    }
    let cases: [(&str, &dyn Fn() -> u64); 4] = [
        // First, while memory is as the boot left it: what the others scatter slows it down.
        ("fork", &|| fork(workers, forks)),
        ("threads", &|| threads(workers, pages)),
        ("file", &|| file(workers, pages)),
        ("cow", &|| cow(workers, pages)),
    ];
    for name in &names {
        check!(cases.iter().any(|case| case.0 == name), "there is no `{name}`");
    }
    for (name, case) in cases.into_iter().filter(|case| names.is_empty() || names.iter().any(|n| n == case.0))
    {
        let best = (0..rounds).map(|_| case()).max().unwrap_or(0);
        println!("measure scale{workers}_{name}_per_s 0 {best}");
    }
    println!("scale: done");
}
