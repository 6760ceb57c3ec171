//! The model's list of mappings: ranges that know nothing of tables.

use ptshare_paging::PAGE_SHIFT;
use std::collections::BTreeMap;

/// A mapping: `[start, end)`, flags (`VM_*`), and the file behind it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Extent {
    /// First byte.
    pub start: u64,
    /// First byte after it.
    pub end: u64,
    /// `VM_*`.
    pub flags: u64,
    /// Number of the model's file.
    pub file: Option<usize>,
    /// The page of the file at `start`; in anonymous memory the number that the page there keeps for life.
    pub first: u64,
}

impl Extent {
    /// All of these flags?
    pub fn has(&self, bits: u64) -> bool {
        self.flags & bits == bits
    }

    /// Page of the file at `addr`.
    pub fn page_at(&self, addr: u64) -> Option<(usize, u64)> {
        Some((self.file?, self.number_at(addr)))
    }

    /// The number of the page at `addr`.
    pub fn number_at(&self, addr: u64) -> u64 {
        let pages = (addr.wrapping_sub(self.start) as i64) >> PAGE_SHIFT;
        self.first.wrapping_add(pages as u64)
    }

    /// The part of it in `[start, end)`, or the same mapping carried on beyond its ends.
    pub fn over(&self, start: u64, end: u64) -> Extent {
        Extent { start, end, first: self.number_at(start), ..self.clone() }
    }

    fn continues(&self, next: &Extent) -> bool {
        self.end == next.start
            && self.flags == next.flags
            && self.file == next.file
            && self.number_at(next.start) == next.first
    }
}

/// Mappings by their first byte, disjoint.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Extents(BTreeMap<u64, Extent>);

impl Extents {
    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = &Extent> {
        self.0.values()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// None?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The mapping at `addr`.
    pub fn find(&self, addr: u64) -> Option<&Extent> {
        self.0.range(..=addr).next_back().map(|(_, extent)| extent).filter(|extent| addr < extent.end)
    }

    /// The first mapping that ends above `addr`.
    pub fn at_or_after(&self, addr: u64) -> Option<&Extent> {
        self.find(addr).or_else(|| self.0.range(addr..).next().map(|(_, extent)| extent))
    }

    /// The last mapping that ends at or below `addr`.
    pub fn below(&self, addr: u64) -> Option<&Extent> {
        self.0.range(..addr).next_back().map(|(_, extent)| extent).filter(|extent| extent.end <= addr)
    }

    /// The parts of mappings in `[start, end)`.
    pub fn parts(&self, start: u64, end: u64) -> Vec<Extent> {
        let mut parts = Vec::new();
        let mut at = start;
        while at < end {
            let Some(extent) = self.at_or_after(at).filter(|extent| extent.start < end) else { break };
            parts.push(extent.over(extent.start.max(start), extent.end.min(end)));
            at = extent.end;
        }
        parts
    }

    /// Is anything in `[start, end)`?
    pub fn intersects(&self, start: u64, end: u64) -> bool {
        self.at_or_after(start).is_some_and(|extent| extent.start < end)
    }

    /// Where the first hole at or after `start` begins; `end` if there is none before it.
    pub fn first_hole(&self, start: u64, end: u64) -> u64 {
        let mut at = start;
        while let Some(extent) = self.find(at).filter(|_| at < end) {
            at = extent.end;
        }
        at.min(end)
    }

    fn cut(&mut self, addr: u64) {
        let Some(extent) = self.find(addr).filter(|extent| extent.start < addr).cloned() else { return };
        self.0.insert(extent.start, extent.over(extent.start, addr));
        self.0.insert(addr, extent.over(addr, extent.end));
    }

    /// Empties `[start, end)`.
    pub fn remove(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        self.cut(start);
        self.cut(end);
        let gone: Vec<u64> = self.0.range(start..end).map(|(at, _)| *at).collect();
        for at in gone {
            self.0.remove(&at);
        }
    }

    /// Puts a mapping where none is, and makes one of it and the neighbours that it continues.
    pub fn insert(&mut self, extent: Extent) {
        let (start, end) = (extent.start, extent.end);
        assert!(!self.intersects(start, end), "the model maps over a mapping: {extent:x?}");
        self.0.insert(start, extent);
        self.join(end);
        self.join(start);
    }

    /// Changes the flags of what is mapped in `[start, end)`. As in Linux, neighbours become one where something changed.
    pub fn update(&mut self, start: u64, end: u64, f: impl Fn(&Extent) -> u64) {
        let mut changed = false;
        for part in self.parts(start, end) {
            let flags = f(&part);
            if flags != part.flags {
                changed = true;
                self.cut(part.start);
                self.cut(part.end);
                self.0.insert(part.start, Extent { flags, ..part });
            }
        }
        if changed {
            let mut edges: Vec<u64> = self.0.range(start..end).map(|(at, _)| *at).collect();
            edges.push(end);
            edges.into_iter().for_each(|edge| self.join(edge));
        }
    }

    /// Changes the flags of every mapping, and leaves the list as it is (fork does not make one of neighbours).
    pub fn update_each(&mut self, f: impl Fn(&Extent) -> u64) {
        for extent in self.0.values_mut() {
            extent.flags = f(extent);
        }
    }

    /// Makes one of the mappings that meet at `edge`, if one continues the other.
    fn join(&mut self, edge: u64) {
        let Some(above) = self.0.get(&edge).cloned() else { return };
        let Some(below) = self.0.range_mut(..edge).next_back().map(|(_, extent)| extent) else { return };
        if below.continues(&above) {
            below.end = above.end;
            self.0.remove(&edge);
        }
    }
}
