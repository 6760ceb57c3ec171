//! Sets of page numbers as ranges: what has been reserved (Linux: `struct resv_map`, mm/hugetlb.c).

use crate::NoMemory;
use alloc::vec::Vec;

/// Ranges of numbers, sorted, with gaps between them.
#[derive(Debug, Default)]
pub(crate) struct Regions {
    ranges: Vec<(u64, u64)>,
}

impl Regions {
    pub(crate) const fn new() -> Self {
        Regions { ranges: Vec::new() }
    }

    /// Makes sure that the next change needs no memory.
    pub(crate) fn room(&mut self) -> Result<(), NoMemory> {
        self.ranges.try_reserve(1).map_err(|_| NoMemory)
    }

    /// Numbers of `[from, to)` in the set.
    pub(crate) fn count(&self, from: u64, to: u64) -> u64 {
        self.ranges.iter().map(|&(a, b)| b.min(to).saturating_sub(a.max(from))).sum()
    }

    /// Is this number in the set?
    pub(crate) fn contains(&self, number: u64) -> bool {
        let at = self.ranges.partition_point(|&(_, end)| end <= number);
        self.ranges.get(at).is_some_and(|&(start, _)| start <= number)
    }

    /// Adds `[from, to)`. [`Regions::room`] came before.
    pub(crate) fn add(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        // Everything that touches the range becomes one with it.
        let first = self.ranges.partition_point(|&(_, end)| end < from);
        let last = self.ranges.partition_point(|&(start, _)| start <= to);
        if first >= last {
            self.ranges.insert(first, (from, to));
            return;
        }
        let start = self.ranges.get(first).map_or(from, |r| r.0.min(from));
        let end = self.ranges.get(last - 1).map_or(to, |r| r.1.max(to));
        self.ranges.drain(first + 1..last);
        if let Some(range) = self.ranges.get_mut(first) {
            *range = (start, end);
        }
    }

    /// Takes `[from, to)` out; gives how many numbers left the set. Where a range would have to be cut in two and there
    /// is no memory for that, its upper part leaves too.
    pub(crate) fn remove(&mut self, from: u64, to: u64) -> u64 {
        if from >= to {
            return 0;
        }
        let mut removed = 0;
        let mut at = self.ranges.partition_point(|&(_, end)| end <= from);
        while let Some(range) = self.ranges.get_mut(at) {
            let (start, end) = *range;
            if start >= to {
                break;
            }
            removed += end.min(to) - start.max(from);
            match (start < from, end > to) {
                (false, false) => {
                    self.ranges.remove(at);
                    continue;
                }
                (true, false) => *range = (start, from),
                (false, true) => *range = (to, end),
                (true, true) => {
                    *range = (start, from);
                    if self.room().is_ok() {
                        self.ranges.insert(at + 1, (to, end));
                    } else {
                        removed += end - to;
                    }
                    break;
                }
            }
            at += 1;
        }
        removed
    }

    /// Moves what lies in `[from, from + len)` to the same place in `[to, to + len)`, which holds nothing and does not
    /// overlap; gives how many numbers were lost for want of memory.
    pub(crate) fn shift(&mut self, from: u64, to: u64, len: u64) -> u64 {
        let mut moved = Regions::new();
        let mut lost = 0;
        self.each(from, from + len, |a, b| {
            if moved.room().is_ok() {
                moved.add(a - from + to, b - from + to);
            } else {
                lost += b - a;
            }
        });
        lost += self.remove(from, from + len).saturating_sub(moved.len() + lost);
        moved.each(0, u64::MAX, |a, b| {
            if self.room().is_ok() {
                self.add(a, b);
            } else {
                lost += b - a;
            }
        });
        lost
    }

    /// Numbers in the set.
    pub(crate) fn len(&self) -> u64 {
        self.count(0, u64::MAX)
    }

    /// Calls `f` with each range that overlaps `[from, to)`, cut to it.
    pub(crate) fn each(&self, from: u64, to: u64, mut f: impl FnMut(u64, u64)) {
        for &(a, b) in &self.ranges {
            let (a, b) = (a.max(from), b.min(to));
            if a < b {
                f(a, b);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_ranges_behave_like_sets() {
        let mut regions = Regions::new();
        let mut model = std::collections::BTreeSet::new();
        let mut x: u64 = 0x1234_5678_9abc_def1;
        for _ in 0..20_000 {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            let from = x % 60;
            let to = from + x / 64 % 9;
            if x & 1 << 40 == 0 {
                regions.add(from, to);
                model.extend(from..to);
            } else {
                let before = model.len();
                model.retain(|n| !(from..to).contains(n));
                assert_eq!(regions.remove(from, to), (before - model.len()) as u64);
            }
            assert_eq!(regions.len(), model.len() as u64);
            assert_eq!(regions.count(20, 40), model.range(20..40).count() as u64);
            assert_eq!(regions.contains(30), model.contains(&30));
            assert!(regions.ranges.windows(2).all(|w| w[0].1 < w[1].0), "{:?}", regions.ranges);
        }
    }
}
