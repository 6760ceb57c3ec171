//! Allocations that fail because a test says so: the k-th from now, or all from then on.

use super::Arena;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// What is to fail, and what has been asked for.
#[derive(Default)]
pub(super) struct Failures {
    /// Allocations asked for since the last [`Arena::fail_at`].
    asked: AtomicU64,
    /// The number of the first to refuse; 0 for none.
    at: AtomicU64,
    /// All that follow are refused as well.
    all: AtomicBool,
    refused: AtomicU64,
}

impl Failures {
    pub(super) fn allow(&self) -> bool {
        let number = self.asked.fetch_add(1, Relaxed) + 1;
        let at = self.at.load(Relaxed);
        let refuse = at != 0 && (number == at || (number > at && self.all.load(Relaxed)));
        self.refused.fetch_add(u64::from(refuse), Relaxed);
        !refuse
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
        failures.all.store(false, Relaxed);
    }

    /// Refuses the `k`-th allocation from now on and all after it, until [`Arena::fail_at`].
    pub fn fail_from(&self, k: u64) {
        self.fail_at(k);
        self.0.failures.all.store(true, Relaxed);
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
