//! Advisory record locks on one file (fcntl(2), "Advisory record locking"; flock(2)). Pure.
//!
//! Ranges are `[start, end]`, both included, so that "to the end of the file" is `u64::MAX`. The ranges of one owner do
//! not overlap.

use alloc::vec::Vec;

/// A locked range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub end: u64,
    /// A write lock: excludes everybody else.
    pub write: bool,
    /// Who holds it.
    pub owner: u64,
    /// Process to name in F_GETLK; -1 for a lock of an open file.
    pub pid: i32,
}

/// All locks on a file.
#[derive(Default)]
pub struct FileLocks {
    records: Vec<Record>,
    /// flock locks: owner, exclusive.
    flocks: Vec<(u64, bool)>,
}

impl FileLocks {
    /// No locks.
    pub const fn new() -> Self {
        FileLocks { records: Vec::new(), flocks: Vec::new() }
    }

    /// The first lock that keeps `wanted` from being set.
    pub fn conflict(&self, wanted: &Record) -> Option<Record> {
        let hit = |r: &&Record| {
            r.owner != wanted.owner
                && r.start <= wanted.end
                && wanted.start <= r.end
                && (r.write || wanted.write)
        };
        self.records.iter().filter(hit).min_by_key(|r| r.start).copied()
    }

    /// Takes the owner's locks off a range.
    pub fn clear(&mut self, start: u64, end: u64, owner: u64) {
        let mut kept = Vec::with_capacity(self.records.len() + 1);
        for r in self.records.drain(..) {
            if r.owner != owner || r.end < start || r.start > end {
                kept.push(r);
                continue;
            }
            if r.start < start {
                kept.push(Record { end: start - 1, ..r });
            }
            if r.end > end {
                kept.push(Record { start: end + 1, ..r });
            }
        }
        self.records = kept;
    }

    /// Sets a lock that conflicts with none, in place of what its owner has there; joins it with its neighbours.
    pub fn set(&mut self, lock: Record) {
        self.clear(lock.start, lock.end, lock.owner);
        let mut lock = lock;
        self.records.retain(|r| {
            let alike = r.owner == lock.owner && r.write == lock.write;
            let touches =
                r.end.checked_add(1) == Some(lock.start) || lock.end.checked_add(1) == Some(r.start);
            if alike && touches {
                lock.start = lock.start.min(r.start);
                lock.end = lock.end.max(r.end);
            }
            !(alike && touches)
        });
        self.records.push(lock);
    }

    /// Number of record locks.
    pub fn records(&self) -> usize {
        self.records.len()
    }

    /// Would a flock by `owner` have to wait?
    pub fn flock_conflict(&self, owner: u64, exclusive: bool) -> bool {
        self.flocks.iter().any(|&(o, e)| o != owner && (e || exclusive))
    }

    /// Sets a flock that conflicts with none.
    pub fn flock(&mut self, owner: u64, exclusive: bool) {
        self.unflock(owner);
        self.flocks.push((owner, exclusive));
    }

    /// Takes an owner's flock away.
    pub fn unflock(&mut self, owner: u64) {
        self.flocks.retain(|&(o, _)| o != owner);
    }

    /// Takes away everything that an owner has. Gives whether there was anything.
    pub fn forget(&mut self, owner: u64) -> bool {
        let before = self.records.len() + self.flocks.len();
        self.records.retain(|r| r.owner != owner);
        self.unflock(owner);
        before != self.records.len() + self.flocks.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(start: u64, end: u64, write: bool, owner: u64) -> Record {
        Record { start, end, write, owner, pid: owner as i32 }
    }

    #[test]
    fn readers_share_and_writers_exclude() {
        let mut locks = FileLocks::new();
        locks.set(lock(0, 9, false, 1));
        assert_eq!(locks.conflict(&lock(5, 20, false, 2)), None);
        assert_eq!(locks.conflict(&lock(5, 20, true, 2)), Some(lock(0, 9, false, 1)));
        assert_eq!(locks.conflict(&lock(10, 20, true, 2)), None);
        assert_eq!(locks.conflict(&lock(0, u64::MAX, true, 1)), None);
    }

    #[test]
    fn unlocking_the_middle_leaves_two_locks_and_relocking_joins_them() {
        let mut locks = FileLocks::new();
        locks.set(lock(0, u64::MAX, true, 1));
        locks.clear(10, 19, 1);
        assert_eq!(locks.records(), 2);
        assert_eq!(locks.conflict(&lock(10, 19, true, 2)), None);
        assert_eq!(locks.conflict(&lock(9, 9, false, 2)), Some(lock(0, 9, true, 1)));
        locks.set(lock(10, 19, true, 1));
        assert_eq!(locks.records(), 1);
        assert!(locks.forget(1));
        assert!(!locks.forget(1));
    }

    #[test]
    fn flocks_are_by_owner() {
        let mut locks = FileLocks::new();
        locks.flock(1, false);
        assert!(!locks.flock_conflict(2, false));
        assert!(locks.flock_conflict(2, true));
        assert!(!locks.flock_conflict(1, true));
        locks.unflock(1);
        assert!(!locks.flock_conflict(2, true));
    }
}
