//! One round: workers, until the time is over.

use crate::Random;
use crate::children::Family;
use crate::huge::{Huge, POOL_PER_WORKER};
use crate::private::{self, Owner};
use crate::shared::{File, Words};
use crate::tide::{Cuts, Shape, Tide};
use ptshare_programs::huge::{self, GIB, HUGE};
use ptshare_programs::memory::{PAGE, Region, TABLE, memfd};
use ptshare_programs::{check, judge, now_ns, process};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Barrier, RwLock};

/// Bytes of the memory that all workers share: two PTE pages.
const COMMON_BYTES: usize = 2 * TABLE;
/// Bytes of the file that all workers cut: a whole PTE page, and part of another.
const TIDE_BYTES: usize = TABLE + TABLE / 4;
/// Units of the hugetlb file that are used.
const HUGE_UNITS: usize = 6;

/// Whoever makes a hole in the address space for a moment holds it for reading; whoever lets the kernel or the C library
/// choose an address, which could be in a hole, for writing.
pub static HOLES: RwLock<()> = RwLock::new(());

/// The files that all have.
struct Common {
    words: std::fs::File,
    _tide: std::fs::File,
    tide: Shape,
    /// Where there are huge pages.
    huge: Option<Shape>,
}

impl Common {
    fn new(workers: usize) -> Common {
        let tide = memfd(TIDE_BYTES);
        let (units, mapped) = (TIDE_BYTES / PAGE, TIDE_BYTES);
        let shape = Shape { fd: tide.as_raw_fd(), unit: PAGE, units, mapped, flags: 0, cuts: Cuts::new() };
        let [_, free, reserved] = huge::pool();
        let enough = free - reserved >= POOL_PER_WORKER * workers as u64 + HUGE_UNITS as u64;
        let huge = enough.then(|| Shape {
            fd: huge::memfd(GIB),
            unit: HUGE,
            units: HUGE_UNITS,
            mapped: GIB,
            flags: libc::MAP_NORESERVE,
            cuts: Cuts::new(),
        });
        Common { words: memfd(COMMON_BYTES), tide: shape, _tide: tide, huge }
    }
}

/// Lets this many workers work for `lasts_ns` from when they are ready, in a process of its own, of which nothing stays.
/// Gives the number of their steps.
pub fn run(workers: usize, seed: u64, lasts_ns: u64) -> u64 {
    let steps = Region::shared(PAGE);
    let status = process::in_child(|| {
        let common = Common::new(workers);
        if common.huge.is_none() {
            println!("there are too few huge pages: none are used");
        }
        let pids: Vec<i32> = (0..workers)
            .map(|worker| {
                process::spawn(|| {
                    steps.set_word(worker * 4, work(worker, seed, lasts_ns, &common));
                    0
                })
            })
            .collect();
        let failed = pids.into_iter().filter(|&pid| {
            let status = process::wait(pid);
            if status.code() != Some(0) {
                println!("process {pid} ended with {status}");
            }
            status.code() != Some(0)
        });
        failed.count() as i32
    });
    check!(status.code() == Some(0), "{status} of the workers failed");
    let sum = (0..workers).map(|worker| u64::from(steps.word(worker * 4))).sum();
    steps.unmap();
    sum
}

/// What each thread has of what all have.
pub struct Shares {
    words: Words,
    tide: Tide,
    huge: Option<Tide>,
}

impl Shares {
    fn new(common: &Common, slot: usize) -> Shares {
        Shares {
            words: Words::new(common.words.as_raw_fd(), COMMON_BYTES, slot),
            tide: Tide::new(common.tide, TABLE, slot),
            huge: common.huge.map(|shape| Tide::new(shape, GIB, slot)),
        }
    }

    /// One operation.
    pub fn step(&mut self, random: &mut Random) {
        match (random.below(8), &mut self.huge) {
            (0 | 1, Some(huge)) => huge.step(random),
            (2..=4, _) => self.tide.step(random),
            _ => self.words.step(random),
        }
    }

    /// Checks a little of everything.
    pub fn check_some(&mut self, random: &mut Random) {
        self.words.check_some(random);
        self.tide.check_some(random);
        if let Some(huge) = &mut self.huge {
            huge.check_some(random);
        }
    }

    /// Checks everything.
    pub fn check_all(&mut self) {
        self.words.check_many();
        self.tide.check_many();
        if let Some(huge) = &mut self.huge {
            huge.check_many();
        }
    }
}

/// One worker's life; gives the number of its steps.
fn work(worker: usize, seed: u64, lasts_ns: u64, common: &Common) -> u32 {
    let memory = Region::aligned(private::TABLES * TABLE);
    let shares = Shares::new(common, worker * 2);
    let others = Shares::new(common, worker * 2 + 1);
    let ready = Arc::new(Barrier::new(2));
    let other = {
        let (ready, seed) = (ready.clone(), seed * 64 + worker as u64 * 2 + 1);
        let (mut owner, mut shares) = (Owner::new(memory, 1), others);
        std::thread::spawn(move || {
            let (mut random, mut steps) = (Random::new(seed), 0);
            ready.wait();
            let end = now_ns() + lasts_ns;
            while now_ns() < end {
                match random.below(3) {
                    0 => shares.step(&mut random),
                    _ => owner.step(&mut random),
                }
                steps += 1;
            }
            owner.check_all();
            shares.check_all();
            steps
        })
    };
    let (owner, huge) = (Owner::new(memory, 0), common.huge.map(|_| Huge::new()));
    let mut family = Family { owner, huge, file: File::new(), shares };
    let mut random = Random::new(seed * 64 + worker as u64 * 2);
    let mut steps = 0;
    ready.wait();
    let end = now_ns() + lasts_ns;
    while now_ns() < end {
        match random.below(32) {
            0 | 1 => family.children(&mut random),
            2 => family.killed_child(&mut random),
            3 => family.errand(&mut random),
            4 => match random.below(4) {
                0 | 1 => family.exec(&mut random),
                _ => judge::answer("stress"),
            },
            5..=12 => family.shares.step(&mut random),
            13 | 14 => family.file.step(&mut random),
            _ => family.step(&mut random),
        }
        steps += 1;
    }
    family.check_all();
    let other = other.join();
    check!(other.is_ok(), "the second thread of worker {worker} failed");
    steps + other.unwrap_or(0)
}
