//! The four levels of the tree and the slot of an address in each.

/// Entries in a table, at every level.
pub const ENTRIES: usize = 512;

/// The level of a table, counted from the leaves as in the SDM.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Level {
    /// A PTE page: its entries map 4 KiB pages.
    Pte = 1,
    /// A PMD page: its entries point to PTE pages or map 2 MiB.
    Pmd = 2,
    /// A PUD page: its entries point to PMD pages or map 1 GiB.
    Pud = 3,
    /// The root (PGD): its entries point to PUD pages.
    Pgd = 4,
}

/// Index of an entry in its table: `0..512` by construction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Slot(u16);

impl Level {
    /// All levels, root first.
    pub const TOP_DOWN: [Level; 4] = [Level::Pgd, Level::Pud, Level::Pmd, Level::Pte];

    /// From the number that a frame's metadata holds.
    pub const fn from_u8(n: u8) -> Option<Level> {
        match n {
            1 => Some(Level::Pte),
            2 => Some(Level::Pmd),
            3 => Some(Level::Pud),
            4 => Some(Level::Pgd),
            _ => None,
        }
    }

    /// The level of the tables that this level's entries point to; `None` for PTE pages.
    #[inline]
    pub const fn below(self) -> Option<Level> {
        Level::from_u8(self as u8 - 1)
    }

    /// log2 of the bytes that one entry covers.
    #[inline]
    pub const fn shift(self) -> u32 {
        12 + 9 * (self as u32 - 1)
    }

    /// Bytes that one entry covers: 4 KiB, 2 MiB, 1 GiB, 512 GiB.
    #[inline]
    pub const fn entry_bytes(self) -> u64 {
        1 << self.shift()
    }

    /// Bytes that a whole table covers: 2 MiB, 1 GiB, 512 GiB, 256 TiB.
    #[inline]
    pub const fn span_bytes(self) -> u64 {
        1 << (self.shift() + 9)
    }

    /// Which entry of a table at this level translates `va`.
    #[inline]
    pub const fn slot(self, va: u64) -> Slot {
        Slot(((va >> self.shift()) & 511) as u16)
    }

    /// First address of the span of the table at this level that translates `va`.
    #[inline]
    pub const fn span_start(self, va: u64) -> u64 {
        va & !(self.span_bytes() - 1)
    }

    /// May an entry at this level be a leaf (PS bit, or a PTE)?
    #[inline]
    pub const fn may_map(self) -> bool {
        !matches!(self, Level::Pgd)
    }
}

impl Slot {
    /// Slot `index` of a table.
    ///
    /// # Panics
    /// If `index` is 512 or more.
    #[inline]
    pub const fn new(index: usize) -> Slot {
        assert!(index < ENTRIES);
        Slot(index as u16)
    }

    /// The index, below 512.
    #[inline]
    pub const fn index(self) -> usize {
        (self.0 & 511) as usize
    }

    /// The slot after this one; `None` after the last.
    #[inline]
    pub const fn next(self) -> Option<Slot> {
        if self.0 < 511 { Some(Slot(self.0 + 1)) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_nest() {
        assert_eq!(Level::Pte.span_bytes(), 2 << 20);
        assert_eq!(Level::Pmd.span_bytes(), Level::Pud.entry_bytes());
        assert_eq!(Level::Pgd.span_bytes(), 1 << 48);
    }

    #[test]
    fn slots_of_an_address_rebuild_it() {
        let va = 0x7f12_3456_7000_u64;
        let built: u64 = Level::TOP_DOWN.iter().map(|l| (l.slot(va).index() as u64) << l.shift()).sum();
        assert_eq!(built, va);
    }
}
