//! Which PTE pages belong to objects: from a place in an object to the table that maps it.
//!
//! Linux's `huge_pmd_share` and the 2003 paper (section 4.1) walk the object's VMAs for a table to share. Here the tables
//! are listed themselves, so that a fault finds one in a few steps whatever the number of processes, and needs no lock
//! of another process.
//!
//! The registry holds no reference. Its lock ([`ptshare_sync::Rank::ObjectTables`]) is what makes that safe: a count is
//! taken under it, and the count of a listed table goes to zero only under it, together with the entry. So a table in the
//! registry is alive.

use crate::NoMemory;
use alloc::vec::Vec;
use ptshare_paging::Pfn;

/// What a PTE page maps. Two spans that agree in this can use one table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ObjectKey {
    /// Id of the object.
    pub object: u64,
    /// Page of the object at the first address of the span.
    pub pgoff: u64,
    /// The VMA's flags, hints apart.
    pub flags: u64,
}

#[derive(Clone, Copy)]
struct Entry {
    key: ObjectKey,
    /// 0: the place is free.
    table: Pfn,
}

const FREE: Entry = Entry { key: ObjectKey { object: 0, pgoff: 0, flags: 0 }, table: Pfn(0) };
const FIRST_PLACES: usize = 64;

/// A hash table with linear probing. A plain vector: lookups are what the first fault in each 2 MiB of a file costs.
pub struct ObjectTables {
    /// A power of two of them, or none.
    places: Vec<Entry>,
    used: usize,
}

impl Default for ObjectTables {
    fn default() -> Self {
        ObjectTables::new()
    }
}

impl ObjectTables {
    /// An empty registry.
    pub const fn new() -> Self {
        ObjectTables { places: Vec::new(), used: 0 }
    }

    /// Tables listed.
    pub fn len(&self) -> usize {
        self.used
    }

    /// Is no table listed?
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Where to look first. Tables of one object lie 512 pages apart: the product spreads them.
    #[inline]
    fn home(&self, object: u64, pgoff: u64) -> usize {
        let mixed = (object.rotate_left(32) ^ pgoff).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 32) as usize & (self.places.len() - 1)
    }

    #[inline]
    fn next(&self, at: usize) -> usize {
        (at + 1) & (self.places.len() - 1)
    }

    /// The table that maps this.
    pub(crate) fn find(&self, key: &ObjectKey) -> Option<Pfn> {
        if self.used == 0 {
            return None;
        }
        let mut at = self.home(key.object, key.pgoff);
        loop {
            let entry = self.places.get(at)?;
            if entry.table == FREE.table {
                return None;
            }
            if entry.key == *key {
                return Some(entry.table);
            }
            at = self.next(at);
        }
    }

    /// Lists a table under a key that is not listed.
    ///
    /// # Errors
    /// [`NoMemory`]: the registry could not grow. The table is then nobody's but its mm's.
    pub(crate) fn insert(&mut self, key: ObjectKey, table: Pfn) -> Result<(), NoMemory> {
        if (self.used + 1) * 4 > self.places.len() * 3 {
            self.grow()?;
        }
        self.put(Entry { key, table });
        self.used += 1;
        Ok(())
    }

    fn put(&mut self, entry: Entry) {
        let mut at = self.home(entry.key.object, entry.key.pgoff);
        while let Some(place) = self.places.get_mut(at) {
            if place.table == FREE.table {
                *place = entry;
                return;
            }
            at = self.next(at);
        }
    }

    fn grow(&mut self) -> Result<(), NoMemory> {
        let mut places = Vec::new();
        let more = (self.places.len() * 2).max(FIRST_PLACES);
        places.try_reserve_exact(more).map_err(|_| NoMemory)?;
        places.resize(more, FREE);
        let old = core::mem::replace(&mut self.places, places);
        for entry in old.into_iter().filter(|entry| entry.table != FREE.table) {
            self.put(entry);
        }
        Ok(())
    }

    /// Strikes a table out that maps this part of this object.
    pub(crate) fn remove(&mut self, object: u64, pgoff: u64, table: Pfn) {
        if self.used == 0 {
            return;
        }
        let mut at = self.home(object, pgoff);
        loop {
            match self.places.get(at) {
                Some(entry) if entry.table == table => break,
                Some(entry) if entry.table != FREE.table => at = self.next(at),
                _ => {
                    debug_assert!(false, "object table {:#x} is not listed", table.0);
                    return;
                }
            }
        }
        self.used -= 1;
        self.close_gap(at);
    }

    /// Frees a place, and moves those behind it that would not be found past a free one.
    fn close_gap(&mut self, mut gap: usize) {
        let mut at = gap;
        loop {
            at = self.next(at);
            let Some(&entry) = self.places.get(at).filter(|entry| entry.table != FREE.table) else { break };
            let home = self.home(entry.key.object, entry.key.pgoff);
            // Is the gap between the entry's home and where it stands? (Distances wrap.)
            let mask = self.places.len() - 1;
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(gap) & mask {
                self.set(gap, entry);
                gap = at;
            }
        }
        self.set(gap, FREE);
    }

    fn set(&mut self, at: usize, entry: Entry) {
        if let Some(place) = self.places.get_mut(at) {
            *place = entry;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn it_agrees_with_a_map() {
        let mut registry = ObjectTables::new();
        let mut model: BTreeMap<(u64, u64, u64), Pfn> = BTreeMap::new();
        let mut random = 0x1234_5678_9abc_def1_u64;
        for table in 1..20_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let (object, pgoff, flags) = (1 + random % 3, (random >> 8) % 200 * 512, (random >> 20) % 2);
            let key = ObjectKey { object, pgoff, flags };
            let known = model.get(&(object, pgoff, flags)).copied();
            assert_eq!(registry.find(&key), known);
            match known {
                Some(old) => {
                    registry.remove(object, pgoff, old);
                    model.remove(&(object, pgoff, flags));
                }
                None => {
                    registry.insert(key, Pfn(table)).unwrap();
                    model.insert((object, pgoff, flags), Pfn(table));
                }
            }
            assert_eq!(registry.len(), model.len());
        }
        for ((object, pgoff, flags), table) in model {
            assert_eq!(registry.find(&ObjectKey { object, pgoff, flags }), Some(table));
            registry.remove(object, pgoff, table);
        }
        assert!(registry.is_empty());
    }
}
