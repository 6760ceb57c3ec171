//! Which neighbours become one VMA, and the merging.
//!
//! As in Linux (`can_vma_merge_before`, mm/vma.c): equal flags, and the same object, or none, at offsets that continue: the
//! reverse map of a private page (`rmap.rs`) goes by the offset, in anonymous memory too.

use super::{Pos, Vma, VmaSet};
use crate::{Env, Userfault};
use alloc::sync::Arc;

impl<E: Env> Vma<E> {
    /// May `next`, which begins where this one ends, be part of it?
    pub(crate) fn merges_with(&self, next: &Vma<E>) -> bool {
        self.rec.end == next.rec.start
            && self.rec.flags == next.rec.flags
            && same_userfault(&self.uffd, &next.uffd)
            && match (&self.object, &next.object) {
                (None, None) => true,
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                _ => false,
            }
            && self.pgoff_of(next.rec.start) == next.rec.pgoff
    }
}

/// Do faults of both go to the same place?
fn same_userfault<E: Env>(a: &Option<Arc<Userfault<E>>>, b: &Option<Arc<Userfault<E>>>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        _ => false,
    }
}

impl<E: Env> VmaSet<E> {
    /// Merges what can be merged at every boundary inside `[start, end]`, both ends included.
    pub(crate) fn merge_range(&mut self, start: u64, end: u64) {
        // The first boundary that counts is the one at `start`: begin with the VMA that ends there or contains it.
        let mut pos = self.seek(start.saturating_sub(1));
        while let Some(vma) = self.get(pos) {
            if vma.rec.end > end {
                break;
            }
            let next = self.next(pos);
            match self.get(next) {
                Some(after) if vma.merges_with(after) => {
                    let (start, end) = (vma.rec.start, after.rec.end);
                    pos = self.absorb(pos, next, start, end);
                }
                Some(_) => pos = next,
                None => break,
            }
        }
    }

    /// Removes `next` and lets the VMA at `pos` cover both. Gives the position of the result.
    fn absorb(&mut self, pos: Pos, next: Pos, start: u64, end: u64) -> Pos {
        // No page is added or removed: the counts stay.
        drop(self.remove_at(next));
        // Chunks may have been joined.
        let pos =
            if self.get(pos).is_some_and(|vma| vma.rec.start == start) { pos } else { self.seek(start) };
        if let Some(vma) = self.get_mut(pos) {
            vma.set_range(start, end);
        }
        pos
    }

    /// Adds a VMA, merged with its neighbours where it can be.
    pub(crate) fn insert_merged(&mut self, vma: Vma<E>) {
        let (start, end) = (vma.rec.start, vma.rec.end);
        // The common case, growth of the VMA below or above, needs no insertion and no removal.
        let after = self.seek(start);
        let below = self.prev(after).filter(|&pos| self.get(pos).is_some_and(|v| v.merges_with(&vma)));
        let above = Some(after).filter(|&pos| self.get(pos).is_some_and(|v| vma.merges_with(v)));
        match (below, above) {
            (Some(pos), _) => {
                let first = self.get(pos).map_or(start, |v| v.rec.start);
                self.set_range(pos, first, end);
                if above.is_some() {
                    self.merge_range(end, end);
                }
            }
            (None, Some(pos)) => {
                let last = self.get(pos).map_or(end, |v| v.rec.end);
                self.set_range(pos, start, last);
            }
            (None, None) => self.insert(vma),
        }
    }
}

impl<E: Env> VmaSet<E> {
    /// Gives every VMA part in `[start, end)` the flags `f(flags)`: cuts at the ends where that makes a difference, calls
    /// `each(start, end, flags)` for every part that changes, and merges what has become equal.
    pub(crate) fn update_flags(
        &mut self,
        start: u64,
        end: u64,
        f: impl Fn(u64) -> u64,
        mut each: impl FnMut(u64, u64, u64),
    ) {
        let mut at = start;
        let mut changed = false;
        while at < end {
            let pos = self.seek(at);
            let Some(vma) = self.get(pos).filter(|vma| vma.rec.start < end) else { break };
            let (from, upto) = (vma.rec.start.max(start), vma.rec.end.min(end));
            let (old, new) = (vma.rec.flags, f(vma.rec.flags));
            if old != new {
                changed = true;
                self.split_at(from);
                self.split_at(upto);
                let pos = self.seek(from);
                self.set_flags(pos, new);
                each(from, upto, new);
            }
            at = upto;
        }
        if changed {
            self.merge_range(start, end);
        }
    }

    /// Registers the VMA parts in `[start, end)` for which `wanted` gives flags, with `uffd` (`None` and no
    /// [`super::VM_UFFD`] flags: takes the registration back). Cuts at the ends where that makes a difference, and merges.
    pub(crate) fn set_userfault(
        &mut self,
        start: u64,
        end: u64,
        uffd: Option<&Arc<Userfault<E>>>,
        wanted: impl Fn(&Vma<E>) -> Option<u64>,
    ) {
        let mut at = start;
        while at < end {
            let pos = self.seek(at);
            let Some(vma) = self.get(pos).filter(|vma| vma.rec.start < end) else { break };
            let (from, upto) = (vma.rec.start.max(start), vma.rec.end.min(end));
            if let Some(flags) = wanted(vma) {
                self.split_at(from);
                self.split_at(upto);
                let pos = self.seek(from);
                self.set_flags(pos, flags);
                if let Some(vma) = self.get_mut(pos) {
                    vma.uffd = uffd.cloned();
                }
            }
            at = upto;
        }
        self.merge_range(start, end);
    }
}
