//! What calls like read(2) and write(2) have moved (/proc/PID/io).

use super::process::Process;
use crate::syscall::SysResult;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// rchar, wchar, syscr, syscw.
pub type Counts = [u64; 4];

/// Counters of a thread, which alone adds to them, or of the threads of a process that have ended.
#[derive(Default)]
pub struct Transfers([AtomicU64; 4]);

impl Transfers {
    /// Nothing moved.
    pub const fn new() -> Self {
        Transfers([const { AtomicU64::new(0) }; 4])
    }

    fn add_to(&self, at: usize, n: u64) {
        if let Some(cell) = self.0.get(at) {
            cell.store(cell.load(Relaxed).wrapping_add(n), Relaxed);
        }
    }

    /// A call has read.
    #[inline]
    pub fn read(&self, result: SysResult) -> SysResult {
        self.add_to(2, 1);
        self.add_to(0, result.unwrap_or(0));
        result
    }

    /// A call has written.
    #[inline]
    pub fn wrote(&self, result: SysResult) -> SysResult {
        self.add_to(3, 1);
        self.add_to(1, result.unwrap_or(0));
        result
    }

    /// The numbers.
    pub fn get(&self) -> Counts {
        [0, 1, 2, 3].map(|i: usize| self.0.get(i).map_or(0, |cell| cell.load(Relaxed)))
    }

    /// A thread has ended: adds what it moved.
    pub fn add(&self, other: &Transfers) {
        for (cell, n) in self.0.iter().zip(other.get()) {
            cell.fetch_add(n, Relaxed);
        }
    }
}

/// What all threads of a process have moved, dead and alive.
pub fn of_process(process: &Process) -> Counts {
    let mut sum = process.transfers.get();
    for task in process.signals.lock().threads() {
        for (total, n) in sum.iter_mut().zip(task.transfers.get()) {
            *total += n;
        }
    }
    sum
}
