//! Processes and threads that do everything to memory at the same time, each checking all that it knows.
//!
//! Arguments: `seconds=N` (5), `seed=N` (1), `workers=N` (4). Each worker is a process of two threads with private memory
//! whose 16-page blocks they own in turns, so that both change the same page tables; with words of its own in every page of
//! memory that all workers share; and with a file of its own that it truncates and punches under a child's eyes. A worker's
//! children check what they inherit, write, and fork on. Whatever is read must be what the model of the reader says.

mod private;
mod shared;

use ptshare_programs::memory::{PAGE, Region, TABLE, memfd};
use ptshare_programs::{check, now_ns, process};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Barrier};

/// A small generator (xorshift64*): one a thread.
pub struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next 64 bits.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.number() % n as u64) as usize
    }
}

fn option(name: &str, default: u64) -> u64 {
    let prefix = format!("{name}=");
    let Some(word) = std::env::args().find_map(|word| word.strip_prefix(&prefix).map(str::to_owned)) else {
        return default;
    };
    let number = word.parse();
    check!(number.is_ok(), "{name}={word} is not a number");
    number.unwrap_or(default)
}

/// Bytes of the memory that all workers share: four PTE pages.
const COMMON_BYTES: usize = 4 * TABLE;

fn main() {
    let (seconds, seed) = (option("seconds", 5), option("seed", 1));
    let workers = option("workers", 4) as usize;
    check!((1..=shared::WORKERS_MAX).contains(&workers), "workers={workers}: 1 to {}", shared::WORKERS_MAX);
    let end = now_ns() + seconds * 1_000_000_000;
    let common = memfd(COMMON_BYTES);
    let counts = Region::shared(PAGE);
    let pids: Vec<i32> = (0..workers)
        .map(|worker| {
            process::spawn(|| {
                let steps = work(worker, seed, end, common.as_raw_fd());
                counts.set_word(worker * 4, steps);
                0
            })
        })
        .collect();
    let mut failed = 0;
    for (worker, pid) in pids.into_iter().enumerate() {
        let status = process::wait(pid);
        if status.code() != Some(0) {
            println!("worker {worker} ended with {status:?}");
            failed += 1;
        }
    }
    let steps: u64 = (0..workers).map(|worker| u64::from(counts.word(worker * 4))).sum();
    println!("seed {seed}: {steps} steps of {workers} workers, {failed} of which failed");
    if failed != 0 {
        process::leave(1);
    }
}

/// One worker's life; gives the number of its steps.
fn work(worker: usize, seed: u64, end: u64, common: i32) -> u32 {
    let memory = Region::aligned(private::TABLES * TABLE);
    // Nobody lets the kernel choose a place once blocks go away and come back: it could choose theirs.
    let ready = Arc::new(Barrier::new(2));
    let other = {
        let ready = ready.clone();
        let seed = seed * 64 + worker as u64 * 2 + 1;
        std::thread::spawn(move || {
            let mut owner = private::Owner::new(memory, 1);
            let mut words = shared::Words::new(common, COMMON_BYTES, worker * 2 + 1);
            let (mut random, mut steps) = (Random::new(seed), 0);
            ready.wait();
            while now_ns() < end {
                if random.below(4) == 0 {
                    words.step(&mut random);
                } else {
                    owner.step(&mut random);
                }
                steps += 1;
            }
            owner.check_all();
            words.check_all();
            steps
        })
    };
    let mut owner = private::Owner::new(memory, 0);
    let mut words = shared::Words::new(common, COMMON_BYTES, worker * 2);
    let mut file = shared::File::new();
    let mut random = Random::new(seed * 64 + worker as u64 * 2);
    let mut steps = 0;
    ready.wait();
    while now_ns() < end {
        match random.below(16) {
            0 => children(&mut owner, &mut random),
            1..=3 => words.step(&mut random),
            4 | 5 => file.step(&mut random),
            _ => owner.step(&mut random),
        }
        steps += 1;
    }
    owner.check_all();
    words.check_all();
    file.check_all();
    let other = other.join();
    check!(other.is_ok(), "the second thread of worker {worker} failed");
    steps + other.unwrap_or(0)
}

/// A child that checks what it has inherited, writes, and forks on, while the other thread goes on.
fn children(owner: &mut private::Owner, random: &mut Random) {
    let depth = 1 + random.below(3);
    let seed = random.number();
    let status = process::in_child(|| {
        generation(owner, depth, seed);
        0
    });
    check!(status.code() == Some(0), "a child ended with {status:?}");
    owner.check_some(random);
}

fn generation(owner: &mut private::Owner, depth: usize, seed: u64) {
    let mut random = Random::new(seed);
    owner.check_some(&mut random);
    for _ in 0..3 {
        owner.step(&mut random);
    }
    if depth > 1 {
        let status = process::in_child(|| {
            generation(owner, depth - 1, seed + 1);
            0
        });
        check!(status.code() == Some(0), "a grandchild ended with {status:?}");
    }
    owner.check_some(&mut random);
}
