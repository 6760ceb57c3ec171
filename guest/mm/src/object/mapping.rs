//! `i_mmap`: which mms map an object.
//!
//! One entry for each VMA, so that adding is a push and removing looks from the newest back: short-lived children
//! find theirs at once. Truncate goes through a snapshot, because it takes each mm's `mmap_lock`, which comes before
//! this list's lock in the order.

use crate::{Env, Mm};
use alloc::sync::Weak;
use alloc::vec::Vec;

/// The list, guarded by Rank::IMmap.
pub(super) struct Mappings<E: Env> {
    entries: Vec<(u32, Weak<Mm<E>>)>,
    /// Counts additions, so that a walk over a snapshot sees whether it missed one.
    generation: u64,
}

impl<E: Env> Mappings<E> {
    pub(super) fn new() -> Self {
        Mappings { entries: Vec::new(), generation: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn add(&mut self, slot: u32, mm: Weak<Mm<E>>) {
        self.entries.push((slot, mm));
        self.generation += 1;
    }

    /// Removes one entry of the mm. The caller drops it after the lock.
    pub(super) fn remove(&mut self, slot: u32) -> Option<Weak<Mm<E>>> {
        let at = self.entries.iter().rposition(|entry| entry.0 == slot)?;
        Some(self.entries.swap_remove(at).1)
    }

    /// Each mm once.
    pub(super) fn snapshot(&self) -> Vec<Weak<Mm<E>>> {
        let mut sorted: Vec<&(u32, Weak<Mm<E>>)> = self.entries.iter().collect();
        sorted.sort_unstable_by_key(|entry| entry.0);
        sorted.dedup_by_key(|entry| entry.0);
        sorted.into_iter().map(|entry| entry.1.clone()).collect()
    }
}
