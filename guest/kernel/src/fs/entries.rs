//! What a directory holds: values found by the hash of their name, listed in the order they came. Pure.
//!
//! A listing must neither skip nor repeat an entry that stays while others come and go (readdir(3)), so each entry has
//! a cookie that only grows. Removal leaves a gap; gaps are squeezed out when they outnumber the entries. Small
//! directories are searched linearly, a word an entry; larger ones get an index.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

/// Entries above which an index pays.
const INDEX_ABOVE: usize = 48;

struct Slot<T> {
    cookie: u64,
    value: Option<T>,
}

/// A directory's entries.
pub struct Entries<T> {
    /// Hash of each slot's name, 0 for a gap.
    hashes: Vec<u32>,
    slots: Vec<Slot<T>>,
    live: usize,
    next_cookie: u64,
    index: Option<BTreeSet<(u32, u32)>>,
}

impl<T> Entries<T> {
    /// No entries. The first cookie given is `first_cookie`.
    pub const fn new(first_cookie: u64) -> Self {
        Entries { hashes: Vec::new(), slots: Vec::new(), live: 0, next_cookie: first_cookie, index: None }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.live
    }

    /// Has it none?
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// The entry with this hash that `matches` accepts, and its slot. The slot is good until the next change.
    pub fn find(&self, hash: u32, mut matches: impl FnMut(&T) -> bool) -> Option<(usize, &T)> {
        let mut try_slot = |at: usize| {
            let value = self.slots.get(at)?.value.as_ref()?;
            matches(value).then_some((at, value))
        };
        match &self.index {
            Some(index) => {
                index.range((hash, 0)..=(hash, u32::MAX)).find_map(|&(_, at)| try_slot(at as usize))
            }
            None => {
                self.hashes.iter().enumerate().filter(|(_, h)| **h == hash).find_map(|(at, _)| try_slot(at))
            }
        }
    }

    /// Adds an entry; the caller knows that its name is new.
    pub fn insert(&mut self, hash: u32, value: T) {
        let at = self.slots.len();
        self.hashes.push(hash);
        self.slots.push(Slot { cookie: self.next_cookie, value: Some(value) });
        self.next_cookie += 1;
        self.live += 1;
        if let Some(index) = &mut self.index {
            index.insert((hash, at as u32));
        } else if self.live > INDEX_ABOVE {
            self.build_index();
        }
    }

    /// Takes the entry in a slot out.
    pub fn remove(&mut self, at: usize) -> Option<T> {
        let value = self.slots.get_mut(at)?.value.take()?;
        let hash = core::mem::replace(&mut self.hashes[at], 0);
        if let Some(index) = &mut self.index {
            index.remove(&(hash, at as u32));
        }
        self.live -= 1;
        while matches!(self.slots.last(), Some(slot) if slot.value.is_none()) {
            self.slots.pop();
            self.hashes.pop();
        }
        if self.slots.len() > 32 && self.slots.len() > 2 * self.live {
            self.squeeze();
        }
        Some(value)
    }

    /// Puts another value under the same name; gives the old one.
    pub fn replace(&mut self, at: usize, value: T) -> Option<T> {
        self.slots.get_mut(at)?.value.replace(value)
    }

    /// The first entry whose cookie is `cookie` or later, with its cookie.
    pub fn at_or_after(&self, cookie: u64) -> Option<(u64, &T)> {
        let at = self.slots.partition_point(|slot| slot.cookie < cookie);
        self.slots.get(at..)?.iter().find_map(|slot| Some((slot.cookie, slot.value.as_ref()?)))
    }

    /// Takes everything out.
    pub fn drain(&mut self) -> Vec<T> {
        self.index = None;
        self.hashes = Vec::new();
        self.live = 0;
        core::mem::take(&mut self.slots).into_iter().filter_map(|slot| slot.value).collect()
    }

    fn squeeze(&mut self) {
        self.slots.retain(|slot| slot.value.is_some());
        self.hashes.retain(|h| *h != 0);
        self.index = None;
        if self.live > INDEX_ABOVE {
            self.build_index();
        }
    }

    fn build_index(&mut self) {
        let live = self.hashes.iter().enumerate().filter(|(_, h)| **h != 0);
        self.index = Some(live.map(|(at, h)| (*h, at as u32)).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_hash(n: u32) -> u32 {
        // Few values, so that names share hashes.
        n % 7 + 1
    }

    #[test]
    fn a_listing_neither_skips_nor_repeats_what_stays() {
        let mut entries = Entries::new(3);
        for n in 0..200u32 {
            entries.insert(name_hash(n), n);
        }
        let mut seen = Vec::new();
        let mut cookie = 0;
        while let Some((at, &n)) = entries.at_or_after(cookie) {
            cookie = at + 1;
            seen.push(n);
            // Every second one goes away as it is seen, as `rm -r` does.
            if n % 2 == 0 {
                let (slot, _) = entries.find(name_hash(n), |v| *v == n).unwrap();
                assert_eq!(entries.remove(slot), Some(n));
            }
        }
        assert_eq!(seen, (0..200).collect::<Vec<_>>());
        assert_eq!(entries.len(), 100);
        for n in 0..200 {
            assert_eq!(entries.find(name_hash(n), |v| *v == n).is_some(), n % 2 == 1);
        }
    }

    #[test]
    fn a_replaced_entry_keeps_its_place() {
        let mut entries = Entries::new(3);
        entries.insert(1, 'a');
        entries.insert(2, 'b');
        let (slot, _) = entries.find(1, |v| *v == 'a').unwrap();
        assert_eq!(entries.replace(slot, 'c'), Some('a'));
        assert_eq!(entries.at_or_after(0), Some((3, &'c')));
        assert_eq!(entries.drain(), ['c', 'b']);
        assert!(entries.is_empty());
    }
}
