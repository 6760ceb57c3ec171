//! `i_mmap`: which mms map an object.
//!
//! By mm slot, with the number of VMAs, so that processes find themselves among thousands of mappers. Truncate goes
//! through a snapshot, because it takes each mm's `mmap_lock`, which comes before this list's lock in the order.

use crate::{Env, Mm};
use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use alloc::sync::Weak;
use alloc::vec::Vec;

/// The list, guarded by Rank::IMmap.
pub(super) struct Mappings<E: Env> {
    /// By mm slot: the mm, and how many of its VMAs map the object.
    mms: BTreeMap<u32, (Weak<Mm<E>>, usize)>,
    /// VMAs in all.
    vmas: usize,
    /// Counts additions, so that a walk over a snapshot sees whether it missed one.
    generation: u64,
}

impl<E: Env> Mappings<E> {
    pub(super) fn new() -> Self {
        Mappings { mms: BTreeMap::new(), vmas: 0, generation: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.vmas
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn add(&mut self, slot: u32, mm: Weak<Mm<E>>) {
        self.mms.entry(slot).or_insert((mm, 0)).1 += 1;
        self.vmas += 1;
        self.generation += 1;
    }

    /// Takes back one [`Mappings::add`] of the mm. What it gives is dropped after the lock.
    pub(super) fn remove(&mut self, slot: u32) -> Option<Weak<Mm<E>>> {
        let Entry::Occupied(mut entry) = self.mms.entry(slot) else { return None };
        self.vmas -= 1;
        entry.get_mut().1 -= 1;
        if entry.get().1 == 0 { Some(entry.remove().0) } else { None }
    }

    /// Each mm once.
    pub(super) fn snapshot(&self) -> Vec<Weak<Mm<E>>> {
        self.mms.values().map(|entry| entry.0.clone()).collect()
    }
}
