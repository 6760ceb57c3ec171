//! Addresses. Fixed ones lie in an arena that is free in every process on every system; the others are relative to a
//! handle, which holds an address that the kernel chose, or to the start of the heap.

use crate::{PAGE, SLOTS};

/// Where the arena begins: 2 GiB below the boundary of two PGD entries, so that it has boundaries of every level.
pub const ARENA_START: u64 = 0x7f_8000_0000;
/// How long it is, bytes.
pub const ARENA_BYTES: u64 = 4 << 30;

const HANDLE: u64 = 1 << 62;
const HEAP: u64 = 1 << 61;
const ANYWHERE: u64 = 1 << 60;
const OFFSET_BITS: u32 = 48;
const OFFSET_MASK: u64 = (1 << OFFSET_BITS) - 1;

/// An address as a trace names it, in one word.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Place(pub u64);

/// What a [`Place`] is relative to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Base {
    /// The start of the arena.
    Arena,
    /// The address that this handle holds.
    Handle(usize),
    /// The break at the start of the trace.
    Heap,
    /// Nothing: the null pointer, by which the kernel is asked to choose.
    Null,
}

impl Place {
    /// The null pointer.
    pub const NULL: Place = Place(ANYWHERE);

    /// In the arena, `offset` bytes from its start.
    pub const fn arena(offset: u64) -> Place {
        Place(offset & OFFSET_MASK)
    }

    /// `offset` bytes from the address in a handle.
    pub const fn handle(handle: usize, offset: u64) -> Place {
        Place(HANDLE | ((handle % SLOTS) as u64) << OFFSET_BITS | offset & OFFSET_MASK)
    }

    /// `offset` bytes from the heap's start.
    pub const fn heap(offset: u64) -> Place {
        Place(HEAP | offset & OFFSET_MASK)
    }

    /// What it is relative to.
    pub const fn base(self) -> Base {
        match self.0 {
            word if word & HANDLE != 0 => Base::Handle((word >> OFFSET_BITS) as usize % SLOTS),
            word if word & HEAP != 0 => Base::Heap,
            word if word & ANYWHERE != 0 => Base::Null,
            _ => Base::Arena,
        }
    }

    /// Bytes from its base.
    pub const fn offset(self) -> u64 {
        self.0 & OFFSET_MASK
    }

    /// The same base, another offset.
    pub const fn at(self, offset: u64) -> Place {
        Place(self.0 & !OFFSET_MASK | offset & OFFSET_MASK)
    }

    /// So many bytes further.
    pub const fn plus(self, bytes: u64) -> Place {
        self.at(self.offset().wrapping_add(bytes))
    }

    /// The start of its page.
    pub const fn page(self) -> Place {
        self.at(self.offset() & !(PAGE - 1))
    }
}
