//! Allocations that fail because a test says so: the k-th from now, or one in so many.

use super::Arena;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What is to fail, and what has been asked for.
#[derive(Default)]
pub(super) struct Failures {
    /// Allocations asked for since the last [`Arena::fail_at`].
    asked: AtomicU64,
    /// The number of the one to refuse; 0 for none.
    at: AtomicU64,
    /// One in how many is refused; 0 for none.
    one_in: AtomicU64,
    random: AtomicU64,
    refused: AtomicU64,
}

impl Failures {
    pub(super) fn allow(&self) -> bool {
        let number = self.asked.fetch_add(1, Relaxed) + 1;
        let one_in = self.one_in.load(Relaxed);
        let refuse = number == self.at.load(Relaxed) || (one_in != 0 && self.next().is_multiple_of(one_in));
        self.refused.fetch_add(u64::from(refuse), Relaxed);
        !refuse
    }

    fn next(&self) -> u64 {
        let mut x = self.random.load(Relaxed);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.store(x, Relaxed);
        x >> 8
    }
}

impl Arena {
    /// Refuses the `k`-th allocation for a process from now on (1 is the next), and that one alone; 0 refuses none. Counts
    /// begin anew.
    pub fn fail_at(&self, k: u64) {
        let failures = &self.0.failures;
        failures.asked.store(0, Relaxed);
        failures.refused.store(0, Relaxed);
        failures.at.store(k, Relaxed);
    }

    /// Refuses one allocation in `one_in`, picked by `seed` (not 0); `one_in` 0 refuses none.
    pub fn fail_one_in(&self, one_in: u64, seed: u64) {
        self.0.failures.one_in.store(one_in, Relaxed);
        if one_in != 0 {
            self.0.failures.random.store(seed, Relaxed);
        }
    }

    /// Allocations asked for since the last [`Arena::fail_at`].
    pub fn allocations_asked(&self) -> u64 {
        self.0.failures.asked.load(Relaxed)
    }

    /// Allocations refused since the last [`Arena::fail_at`].
    pub fn allocations_refused(&self) -> u64 {
        self.0.failures.refused.load(Relaxed)
    }
}
