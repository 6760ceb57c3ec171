//! Processes and threads that do everything to memory at the same time, each checking all that it knows.
//!
//! Arguments: `seconds=N` (5), `seed=N` (1), `workers=N` (4). Each worker is a process of two threads, and now and then a third,
//! with private memory whose 16-page blocks they own in turns, so that all change the same page tables; with words of its own
//! in every page of memory that all workers share; with bytes of its own in a file, and in one of huge pages, that any
//! of them truncates and punches; and with a file that nobody else changes. A worker's children check what they inherit,
//! write, fork on, exec, and are killed. Whatever is read must be what the model of the reader says.
//!
//! All of this happens twice, the first time for a moment: then the second must leave no frame behind.

mod children;
mod huge;
mod private;
mod round;
mod shared;
mod tide;

use ptshare_programs::judge::{self, Counters};
use ptshare_programs::{check, huge as pool, probe, process};

/// A small generator (xorshift64*): one a thread.
pub struct Random(u64);

impl Random {
    /// Numbers drawn from `seed`.
    pub fn new(seed: u64) -> Random {
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

fn option(name: &str) -> Option<u64> {
    let prefix = format!("{name}=");
    let word = std::env::args().find_map(|word| word.strip_prefix(&prefix).map(str::to_owned))?;
    let number = word.parse();
    check!(number.is_ok(), "{name}={word} is not a number");
    number.ok()
}

/// How long the first round lasts: each worker gets to do a little of everything that leaves something in the kernel.
const FIRST_ROUND_NS: u64 = 3_000_000_000;

fn main() {
    if let Some(seed) = option(children::EXEC) {
        return children::after_exec(seed);
    }
    let (seconds, seed) = (option("seconds").unwrap_or(5), option("seed").unwrap_or(1));
    let workers = option("workers").unwrap_or(4) as usize;
    check!((1..=shared::WORKERS_MAX).contains(&workers), "workers={workers}: 1 to {}", shared::WORKERS_MAX);
    probe::install();
    let (mut before, mut after) = (Books::new(), Books::new());
    let first = round::run(workers, seed, FIRST_ROUND_NS);
    // Twice the same: the round's last process has left the kernel, and reading takes no more memory.
    loop {
        before.read();
        process::sleep_ms(20);
        after.read();
        if before.numbers() == after.numbers() {
            break;
        }
    }
    after.settle(&before);
    let steps = round::run(workers, seed + 1, seconds * 1_000_000_000);
    after.settle(&before);
    println!("seed {seed}: {} steps of {workers} workers, every frame is back", first + steps);
    judge::metric("steps", first + steps);
}

/// What there is of frames and tables.
struct Books {
    counters: Counters,
    /// Pages of files: those of this program come in when they are first used.
    cached: u64,
    pool: [u64; 3],
}

impl Books {
    fn new() -> Books {
        Books { counters: Counters::new(), cached: 0, pool: [0; 3] }
    }

    fn read(&mut self) {
        self.pool = pool::pool();
        self.cached = pool::meminfo("Cached") / 4;
        self.counters.read();
    }

    /// Free frames with those that the kernel keeps for itself (its heap only grows) and for files, and tables.
    fn numbers(&self) -> [u64; 2] {
        let get = |name| self.counters.get(name);
        [get("free_frames") + get("kernel_frames") + self.cached, get("tables_now")]
    }

    /// Reads until all is as it was before: the last process may still be on its way out of the kernel.
    fn settle(&mut self, before: &Books) {
        for _ in 0..100 {
            self.read();
            if (self.numbers(), self.pool) == (before.numbers(), before.pool) {
                return;
            }
            process::sleep_ms(20);
        }
        let ([frames, tables], [frames_before, tables_before]) = (self.numbers(), before.numbers());
        check!(
            false,
            "frames free, the kernel's or of files: {frames}, before {frames_before}; tables: {tables}, before \
             {tables_before}; huge pages (all, free, reserved): {:?}, before {:?}",
            self.pool,
            before.pool
        );
    }
}
