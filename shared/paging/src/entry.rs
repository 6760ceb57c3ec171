//! The 64-bit entry word: the only place in the project that holds bit numbers.
//!
//! SDM 3A, "Paging-structure entries", figure "Formats of CR3 and Paging-Structure Entries with 4-Level Paging".

use crate::{Level, Pfn};

/// One entry of a table, as the processor reads it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Pte(pub u64);

/// What an entry at a known level means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Not present and all zero.
    Absent,
    /// Not present, but software keeps something in the other 63 bits (a swap entry, a marker).
    Marker(Pte),
    /// Holds a frame, and counts as mapping it, but lets nobody in: a page under PROT_NONE ([`Pte::PROT_NONE`]).
    NoAccess(Pfn),
    /// Points to a table one level below.
    Table(Pfn),
    /// Maps memory: a page of [`Level::entry_bytes`] at this level, starting at the frame.
    Leaf(Pfn),
}

impl Pte {
    /// P: the entry is used for translation.
    pub const PRESENT: u64 = 1 << 0;
    /// R/W: writes allowed, if allowed at every level above too.
    pub const WRITE: u64 = 1 << 1;
    /// U/S: user accesses allowed, if allowed at every level above too.
    pub const USER: u64 = 1 << 2;
    /// PWT: with [`Pte::NO_CACHE`], uncached.
    pub const WRITE_THROUGH: u64 = 1 << 3;
    /// PCD.
    pub const NO_CACHE: u64 = 1 << 4;
    /// A: set by the processor on use.
    pub const ACCESSED: u64 = 1 << 5;
    /// D: set by the processor on a write (leaves only).
    pub const DIRTY: u64 = 1 << 6;
    /// PS: a leaf at PMD or PUD level. At PTE level this bit is PAT.
    pub const HUGE: u64 = 1 << 7;
    /// G: survives a CR3 load (kernel leaves only).
    pub const GLOBAL: u64 = 1 << 8;
    /// In an entry that is not present: [`Entry::NoAccess`]. The bit that Linux uses for the same purpose
    /// (`_PAGE_PROTNONE`, arch/x86/include/asm/pgtable_types.h).
    pub const PROT_NONE: u64 = Pte::GLOBAL;
    /// XD: no instruction fetch.
    pub const NO_EXEC: u64 = 1 << 63;
    /// Bits 51:12, the physical address.
    pub const ADDR: u64 = 0x000f_ffff_ffff_f000;
    /// Bits 62:52 are ignored by the processor at user levels and unused by ptshare: they must be zero.
    pub const UNUSED_HIGH: u64 = 0x7ff0_0000_0000_0000;
    /// Bits 11:9, free for software. ptshare keeps them zero, but for [`Pte::UFFD_WP`].
    pub const SOFTWARE: u64 = 0xe00;
    /// userfaultfd has write-protected the page: R/W is 0, and a write is reported. The bit that Linux uses
    /// (`_PAGE_UFFD_WP`, arch/x86/include/asm/pgtable_types.h). Alone (with [`Pte::HUGE`] in a PMD page), in an entry that
    /// is not present, it marks a page that is to be write-protected once it is there.
    pub const UFFD_WP: u64 = 1 << 10;

    /// The all-zero entry.
    pub const ABSENT: Pte = Pte(0);

    /// An entry with this frame and these flag bits.
    #[inline]
    pub const fn new(pfn: Pfn, flags: u64) -> Pte {
        Pte((pfn.pa().0 & Pte::ADDR) | flags)
    }

    /// An entry of a user tree that points to a table and takes no right away.
    #[inline]
    pub const fn user_table(table: Pfn) -> Pte {
        Pte::new(table, Pte::PRESENT | Pte::WRITE | Pte::USER | Pte::ACCESSED)
    }

    /// Are all of these bits set?
    #[inline]
    pub const fn has(self, bits: u64) -> bool {
        self.0 & bits == bits
    }

    /// This entry with these bits set.
    #[inline]
    pub const fn with(self, bits: u64) -> Pte {
        Pte(self.0 | bits)
    }

    /// This entry with these bits clear.
    #[inline]
    pub const fn without(self, bits: u64) -> Pte {
        Pte(self.0 & !bits)
    }

    /// Is P set?
    #[inline]
    pub const fn present(self) -> bool {
        self.has(Pte::PRESENT)
    }

    /// Is R/W set? Says nothing about the levels above.
    #[inline]
    pub const fn writable(self) -> bool {
        self.has(Pte::WRITE)
    }

    /// The frame in the address bits. Meaningless unless present.
    #[inline]
    pub const fn pfn(self) -> Pfn {
        Pfn((self.0 & Pte::ADDR) >> 12)
    }

    /// Does this present entry of a table at `level` map memory, rather than point to a table?
    #[inline]
    pub const fn is_leaf(self, level: Level) -> bool {
        self.present()
            && match level {
                Level::Pte => true,
                Level::Pmd | Level::Pud => self.has(Pte::HUGE),
                Level::Pgd => false,
            }
    }

    /// Does this present entry of a table at `level` point to a table?
    #[inline]
    pub const fn is_table(self, level: Level) -> bool {
        self.present() && !self.is_leaf(level)
    }

    /// Decodes the word of an entry in a table at `level`. The single seam between words and meaning.
    #[inline]
    pub const fn decode(self, level: Level) -> Entry {
        if self.0 == 0 {
            Entry::Absent
        } else if !self.present() {
            if self.has(Pte::PROT_NONE) && (self.has(Pte::HUGE) || matches!(level, Level::Pte)) {
                Entry::NoAccess(self.pfn())
            } else {
                Entry::Marker(self)
            }
        } else if self.is_leaf(level) {
            // PAT of a huge leaf is bit 12; ptshare never sets it, and the judge reports it as a reserved bit.
            Entry::Leaf(self.pfn())
        } else {
            Entry::Table(self.pfn())
        }
    }
}

impl core::fmt::Debug for Pte {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{self}")
    }
}

/// `pfn 0x1234 PWUAD.x`: set bits by letter, clear ones as dots.
impl core::fmt::Display for Pte {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let bit = |mask, c| if self.has(mask) { c } else { '.' };
        write!(
            f,
            "pfn {:#x} {}{}{}{}{}{}{}{}",
            self.pfn().0,
            bit(Pte::PRESENT, 'P'),
            bit(Pte::WRITE, 'W'),
            bit(Pte::USER, 'U'),
            bit(Pte::ACCESSED, 'A'),
            bit(Pte::DIRTY, 'D'),
            bit(Pte::HUGE, 'H'),
            bit(Pte::GLOBAL, 'G'),
            if self.has(Pte::NO_EXEC) { '-' } else { 'x' },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding_follows_the_level() {
        let word = Pte::new(Pfn(0x200), Pte::PRESENT | Pte::HUGE);
        assert_eq!(word.decode(Level::Pmd), Entry::Leaf(Pfn(0x200)));
        assert_eq!(word.decode(Level::Pgd), Entry::Table(Pfn(0x200)));
        assert_eq!(word.without(Pte::HUGE).decode(Level::Pmd), Entry::Table(Pfn(0x200)));
        assert_eq!(word.without(Pte::HUGE).decode(Level::Pte), Entry::Leaf(Pfn(0x200)));
        assert_eq!(word.without(Pte::PRESENT).decode(Level::Pte), Entry::Marker(word.without(Pte::PRESENT)));
        assert_eq!(Pte::ABSENT.decode(Level::Pte), Entry::Absent);
        let closed = word.without(Pte::PRESENT | Pte::HUGE).with(Pte::PROT_NONE);
        assert_eq!(closed.decode(Level::Pte), Entry::NoAccess(Pfn(0x200)));
        assert_eq!(closed.decode(Level::Pmd), Entry::Marker(closed));
    }

    #[test]
    fn every_flag_survives_next_to_every_address_bit() {
        for shift in 12..52 {
            let pfn = Pfn(1 << (shift - 12));
            for flag in [0, 1, 2, 3, 4, 5, 6, 7, 8, 63] {
                let word = Pte::new(pfn, 1 << flag);
                assert_eq!(word.pfn(), pfn);
                assert!(word.has(1 << flag));
                assert_eq!(word.without(1 << flag).0, pfn.pa().0);
            }
        }
    }
}
