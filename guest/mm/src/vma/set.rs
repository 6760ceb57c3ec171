//! The sorted list of an mm's VMAs.
//!
//! ```text
//!   index: Vec<Box<Chunk>>   [ c0 | c1 | c2 ]          binary search over chunks,
//!                              |    |    |             then inside one
//!                        up to 32 VMAs each
//! ```
//!
//! **Invariants.** Sorted by address, no overlap, no empty VMA, no empty chunk. Each VMA with an object is registered
//! once in the object's `i_mmap` list. `counts` are the sums over all VMAs. [`VmaSet::split_at`] is the only cut.
//!
//! Guarded by `mmap_lock`; the `mut` methods want it for write, inside a critical section, and the caller ends with
//! [`VmaSet::publish`].

use super::chunk::Chunk;
use super::gap::GapCache;
use super::{Counts, Layout, Limits, Vma};
use crate::space::limits::recommit;
use crate::{Env, Mm};
use alloc::boxed::Box;
use alloc::sync::Weak;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use ptshare_mutants::mutant;
use ptshare_wire::MmRec;
use ptshare_wire::census::VMA_CHUNK_MAX;

/// Where a VMA stands. Good until the list changes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Pos {
    pub(super) chunk: usize,
    pub(super) slot: usize,
}

/// The VMAs of an mm, and what else `mmap_lock` guards.
pub struct VmaSet<E: Env> {
    #[expect(
        clippy::vec_box,
        reason = "the judge reads an array of addresses, and a chunk stays where it is"
    )]
    pub(super) index: Vec<Box<Chunk<E>>>,
    len: usize,
    /// The VMA found last, packed: programs fault many times in a row in one VMA.
    last_hit: AtomicUsize,
    /// The mm, for the objects' `i_mmap` lists.
    owner: Weak<Mm<E>>,
    slot: u32,
    pub(crate) counts: Counts,
    /// Pages that the system's sum of promises holds for these VMAs.
    promised: u64,
    pub(crate) layout: Layout,
    pub(crate) limits: Limits,
    /// What mlockall(MCL_FUTURE) gives to each new VMA: 0, or `VM_LOCKED` with or without `VM_LOCKONFAULT`.
    pub(crate) def_flags: u64,
    pub(super) gaps: GapCache,
}

impl<E: Env> VmaSet<E> {
    /// No VMAs. `owner` and its `slot` in the mm table go to the objects that are mapped here.
    pub(crate) fn new(owner: Weak<Mm<E>>, slot: u32) -> Self {
        VmaSet {
            index: Vec::new(),
            len: 0,
            last_hit: AtomicUsize::new(0),
            owner,
            slot,
            counts: Counts::default(),
            promised: 0,
            layout: Layout::default(),
            limits: Limits::default(),
            def_flags: 0,
            gaps: GapCache::default(),
        }
    }

    /// VMAs in all.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Are there none?
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sizes by kind, in pages.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The VMA that contains `addr`.
    #[inline]
    pub fn find(&self, addr: u64) -> Option<&Vma<E>> {
        let hint = self.last_hit.load(Relaxed);
        if let Some(chunk) = self.index.get(hint / VMA_CHUNK_MAX)
            && let Some(vma) = chunk.vmas().get(hint % VMA_CHUNK_MAX)
            && vma.contains(addr)
        {
            return Some(vma);
        }
        let pos = self.seek(addr);
        let vma = self.get(pos).filter(|vma| vma.rec.start <= addr)?;
        self.last_hit.store(pos.chunk * VMA_CHUNK_MAX + pos.slot, Relaxed);
        Some(vma)
    }

    /// The first VMA that ends above `addr` (Linux's `find_vma`).
    #[inline]
    pub fn find_at_or_after(&self, addr: u64) -> Option<&Vma<E>> {
        self.get(self.seek(addr))
    }

    /// Does any VMA overlap `[start, end)`?
    #[inline]
    pub fn intersects(&self, start: u64, end: u64) -> bool {
        self.find_at_or_after(start).is_some_and(|vma| vma.rec.start < end)
    }

    /// Where the last VMA that begins below `addr` ends, but at least `floor` and at most `addr`.
    pub(crate) fn last_end_in(&self, floor: u64, addr: u64) -> u64 {
        let pos = self.seek(addr);
        if self.get(pos).is_some_and(|vma| vma.rec.start < addr) {
            return addr;
        }
        let below = self.prev(pos).and_then(|pos| self.get(pos));
        below.map_or(floor, |vma| vma.rec.end.max(floor))
    }

    /// VMAs in order, from the first that ends above `addr`.
    pub fn iter_from(&self, addr: u64) -> impl Iterator<Item = &Vma<E>> {
        let pos = self.seek(addr);
        let (head, tail) = match self.index.get(pos.chunk..) {
            Some([first, rest @ ..]) => (first.vmas().get(pos.slot..).unwrap_or(&[]), rest),
            _ => (&[][..], &[][..]),
        };
        head.iter().chain(tail.iter().flat_map(|chunk| chunk.vmas().iter()))
    }

    /// VMAs that overlap `[start, end)`, in order.
    pub fn iter_range(&self, start: u64, end: u64) -> impl Iterator<Item = &Vma<E>> {
        self.iter_from(start).take_while(move |vma| vma.rec.start < end && start < end)
    }

    /// All VMAs in order.
    pub fn iter(&self) -> impl Iterator<Item = &Vma<E>> {
        self.index.iter().flat_map(|chunk| chunk.vmas().iter())
    }

    /// Position of the first VMA that ends above `addr`; past the end if there is none.
    pub(crate) fn seek(&self, addr: u64) -> Pos {
        let chunk = self.index.partition_point(|c| c.vmas().last().is_none_or(|v| v.rec.end <= addr));
        let slot = match self.index.get(chunk) {
            Some(c) => c.vmas().partition_point(|v| v.rec.end <= addr),
            None => 0,
        };
        Pos { chunk, slot }
    }

    /// The VMA at `pos`; `None` past the end.
    #[inline]
    pub(crate) fn get(&self, pos: Pos) -> Option<&Vma<E>> {
        self.index.get(pos.chunk)?.vmas().get(pos.slot)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, pos: Pos) -> Option<&mut Vma<E>> {
        self.index.get_mut(pos.chunk)?.vmas_mut().get_mut(pos.slot)
    }

    /// The position after `pos`, which may be past the end.
    #[inline]
    pub(crate) fn next(&self, pos: Pos) -> Pos {
        match self.index.get(pos.chunk) {
            Some(chunk) if pos.slot + 1 < chunk.len() => Pos { slot: pos.slot + 1, ..pos },
            _ => Pos { chunk: pos.chunk + 1, slot: 0 },
        }
    }

    /// The position before `pos`; `None` at the first VMA.
    #[inline]
    pub(crate) fn prev(&self, pos: Pos) -> Option<Pos> {
        if pos.slot > 0 {
            return Some(Pos { slot: pos.slot - 1, ..pos });
        }
        let chunk = pos.chunk.checked_sub(1)?;
        let slot = self.index.get(chunk)?.len().checked_sub(1)?;
        Some(Pos { chunk, slot })
    }

    /// Adds a VMA. Its range is free. Merges nothing.
    pub(crate) fn insert(&mut self, vma: Vma<E>) {
        debug_assert!(vma.rec.start < vma.rec.end && !self.intersects(vma.rec.start, vma.rec.end));
        self.counts.add(vma.rec.flags, vma.pages());
        self.gaps.filled(vma.rec.start, vma.rec.end);
        let pos = self.seek(vma.rec.start);
        self.insert_at(pos, vma);
    }

    /// Puts `vma` before what stands at `pos`. Counts are the caller's.
    fn insert_at(&mut self, pos: Pos, vma: Vma<E>) {
        if let Some(object) = &vma.object {
            object.add_mapping(self.slot, &self.owner);
        }
        self.len += 1;
        let Pos { mut chunk, mut slot } = pos;
        // Prefer the end of the chunk before to the front of the next: nothing moves.
        if slot == 0 && chunk > 0 && !self.index[chunk - 1].is_full() {
            chunk -= 1;
            slot = self.index[chunk].len();
        } else if chunk == self.index.len() {
            self.index.push(Chunk::empty());
        } else if self.index[chunk].is_full() {
            let mut upper = Chunk::empty();
            if slot == 0 {
                // Placement goes downwards: a chunk of its own, to be filled from above.
                self.index.insert(chunk, upper);
            } else {
                self.index[chunk].move_tail(VMA_CHUNK_MAX / 2, &mut upper);
                self.index.insert(chunk + 1, upper);
                if slot > VMA_CHUNK_MAX / 2 {
                    chunk += 1;
                    slot -= VMA_CHUNK_MAX / 2;
                }
            }
        }
        self.index[chunk].insert(slot, vma);
    }

    /// Takes out what stands at `pos`. Counts are the caller's.
    pub(super) fn remove_at(&mut self, pos: Pos) -> Vma<E> {
        let vma = self.index[pos.chunk].remove(pos.slot);
        self.len -= 1;
        if let Some(object) = &vma.object {
            object.remove_mapping(self.slot);
        }
        let left = self.index[pos.chunk].len();
        if left == 0 {
            self.index.remove(pos.chunk);
        } else if left <= VMA_CHUNK_MAX / 4 && self.index.len() > 1 {
            self.join_small(pos.chunk);
        }
        vma
    }

    /// Merges a chunk that has become small with a neighbour, if both fit with room to spare.
    fn join_small(&mut self, chunk: usize) {
        let first = chunk.saturating_sub(1).min(self.index.len() - 2);
        for at in [first, first + 1] {
            if at + 1 < self.index.len()
                && self.index[at].len() + self.index[at + 1].len() <= VMA_CHUNK_MAX * 3 / 4
            {
                let mut upper = self.index.remove(at + 1);
                upper.move_tail(0, &mut self.index[at]);
                return;
            }
        }
    }

    /// Cuts the VMA that has `addr` inside (not at its start) in two. Changes nothing else.
    pub(crate) fn split_at(&mut self, addr: u64) {
        let pos = self.seek(addr);
        let Some(vma) = self.get_mut(pos).filter(|vma| vma.rec.start < addr) else { return };
        let upper = vma.over(addr, vma.rec.end);
        if !mutant!(SPLIT_LEAVES_OVERLAP) {
            vma.set_range(vma.rec.start, addr);
        }
        // Not the canonical `next`: an insertion at the end of this chunk is wanted, not at the front of the next.
        self.insert_at(Pos { slot: pos.slot + 1, ..pos }, upper);
    }

    /// Removes every VMA inside `[start, end)`, splitting those that stick out. The entries are gone already, or move.
    pub(crate) fn remove_range(&mut self, start: u64, end: u64) {
        self.split_at(start);
        self.split_at(end);
        loop {
            let pos = self.seek(start);
            match self.get(pos) {
                Some(vma) if vma.rec.start < end => {}
                _ => break,
            }
            let vma = self.remove_at(pos);
            self.counts.sub(vma.rec.flags, vma.pages());
        }
        self.gaps.freed();
    }

    /// Sets the flags of the VMA at `pos`.
    pub(crate) fn set_flags(&mut self, pos: Pos, flags: u64) {
        let Some(vma) = self.get_mut(pos) else { return };
        let (before, pages) = (vma.rec.flags, vma.pages());
        vma.rec.flags = flags;
        self.counts.sub(before, pages);
        self.counts.add(flags, pages);
    }

    /// Moves the ends of the VMA at `pos`; the range that it grows by is free.
    pub(crate) fn set_range(&mut self, pos: Pos, start: u64, end: u64) {
        let Some(vma) = self.get_mut(pos) else { return };
        let (flags, before) = (vma.rec.flags, vma.pages());
        vma.set_range(start, end);
        let after = vma.pages();
        self.counts.sub(flags, before);
        self.counts.add(flags, after);
        self.gaps.filled(start, end);
        if after < before {
            self.gaps.freed();
        }
    }

    /// Says where things lie.
    pub(crate) fn set_layout(&mut self, layout: Layout) {
        self.layout = layout;
        self.gaps.freed();
    }

    /// Removes all VMAs.
    pub(crate) fn clear(&mut self) {
        for chunk in &self.index {
            for object in chunk.vmas().iter().filter_map(|vma| vma.object.as_ref()) {
                object.remove_mapping(self.slot);
            }
        }
        self.index.clear();
        self.len = 0;
        self.counts = Counts::default();
        self.settle();
        self.gaps.freed();
    }

    /// Brings the system's sum of promises up to date.
    fn settle(&mut self) {
        recommit(self.promised, self.counts.committed);
        self.promised = self.counts.committed;
    }

    /// Shows the list to the judge.
    pub(crate) fn publish(&mut self, env: &E, rec: &MmRec) {
        self.settle();
        let mut va = self.index.first().map_or(0, |first| env.census_va(first));
        if mutant!(CENSUS_LIST_UNREACHABLE) {
            va &= 0xffff_ffff;
        }
        rec.vma_index.store(va, Relaxed);
        rec.vma_chunks.store(self.index.len() as u64, Relaxed);
        rec.vma_count.store(self.len as u64, Relaxed);
        rec.vma_stride.store(core::mem::size_of::<Vma<E>>() as u64, Relaxed);
    }

    /// Makes room in the index for `chunks` more, so that what follows cannot fail.
    pub(crate) fn reserve_chunks(&mut self, chunks: usize) -> Result<(), crate::NoMemory> {
        self.index.try_reserve(chunks).map_err(|_| crate::NoMemory)
    }

    /// Appends a VMA above all others, with no search and no merging.
    pub(super) fn push(&mut self, vma: Vma<E>) {
        self.counts.add(vma.rec.flags, vma.pages());
        let chunk = self.index.len();
        self.insert_at(Pos { chunk, slot: 0 }, vma);
    }
}
