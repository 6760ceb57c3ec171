//! Where and how much: near the boundaries of tables, and over them.

use super::{Generator, Profile};
use crate::place::ARENA_BYTES;
use crate::random::Random;
use crate::{PAGE, Place};
use alloc::vec::Vec;

pub(super) const TABLE: u64 = 2 << 20;
pub(super) const GIB: u64 = 1 << 30;

/// The places that a trace plays on: offsets in the arena, with room before and after.
pub(super) fn sites(random: &mut Random, profile: Profile) -> Vec<u64> {
    let count = 1 + random.below(3);
    (0..count)
        .map(|_| match profile {
            // Inside the arena, at a boundary of PUD or PGD entries.
            Profile::Wide => GIB * (1 + random.below(2)),
            Profile::Huge => GIB + TABLE * random.below(8),
            _ => match random.below(4) {
                0 => GIB * (1 + random.below(3)),
                1 => GIB + TABLE * random.below(4),
                _ => TABLE * (16 + random.below(8)),
            },
        })
        .collect()
}

impl Generator {
    pub(super) fn site(&mut self) -> u64 {
        let at = self.random.below(self.sites.len() as u64) as usize;
        self.sites[at]
    }

    /// A page near a site: before, at, or after it, or near the next boundaries.
    pub(super) fn spot(&mut self) -> Place {
        let site = self.site();
        if self.profile == Profile::Huge {
            return Place::arena(site + TABLE * self.random.below(4));
        }
        let boundary = site + TABLE * self.random.pick(&[0, 0, 0, 0, 1, 1, 2]);
        let boundary = match self.profile {
            Profile::Wide => boundary + GIB / 2 * self.random.below(2),
            _ => boundary,
        };
        let page = self.random.pick(&[-16, -4, -2, -1, 0, 0, 0, 0, 1, 2, 3, 4, 8, 16]);
        Place::arena(boundary.wrapping_add_signed(page * PAGE as i64))
    }

    /// Pages of a new mapping.
    pub(super) fn pages(&mut self) -> u64 {
        match self.profile {
            Profile::Pieces => self.random.pick(&[1, 1, 2, 3, 4]),
            Profile::Wide => self.random.pick(&[1, 16, 512, 513, 1024, 131_072, 262_144, 262_145]),
            Profile::Huge => 512 * self.random.pick(&[1, 1, 2, 3]),
            _ => self.random.pick(&[1, 2, 2, 3, 4, 4, 8, 16, 16, 32, 64, 511, 512, 513, 1024, 1025]),
        }
    }

    /// Pages to bring in one by one: every page costs a fault.
    pub(super) fn few(&mut self) -> u64 {
        self.random.pick(&[1, 1, 2, 3, 4, 6, 12, 24])
    }

    /// A range inside, around, or beside something that the process has mapped.
    pub(super) fn range(&mut self, who: u8) -> (Place, u64) {
        let maps = &self.procs[usize::from(who)].maps;
        if maps.is_empty() || self.random.chance(1, 8) {
            let (spot, pages) = (self.spot(), self.pages());
            return self.clip(spot, pages * PAGE);
        }
        let known = maps[self.random.below(maps.len() as u64) as usize];
        let unit = if known.huge { TABLE } else { PAGE };
        let units = (known.bytes / unit).max(1);
        let (from, len) = match self.random.below(8) {
            0 | 1 => (0, units),
            2 => (0, units.div_ceil(2)),
            3 => (units / 2, units.div_ceil(2)),
            4 => (units - 1, 1),
            5 => (0, 1),
            _ => {
                let from = self.random.below(units);
                (from, 1 + self.random.below((units - from).min(8)))
            }
        };
        let (mut start, mut bytes) = (known.start.plus(from * unit), len * unit);
        if matches!(start.base(), crate::place::Base::Arena) && self.random.chance(1, 12) {
            // Over its end.
            bytes += unit * self.random.pick(&[1, 2, 512]);
            if self.random.chance(1, 3) && start.offset() > unit {
                start = start.at(start.offset() - unit);
            }
        }
        self.clip(start, bytes)
    }

    /// Cuts a range at the arena's end.
    pub(super) fn clip(&self, start: Place, bytes: u64) -> (Place, u64) {
        match start.base() {
            crate::place::Base::Arena => (start, bytes.min(ARENA_BYTES.saturating_sub(start.offset()))),
            _ => (start, bytes),
        }
    }

    /// A length or an address with something wrong in one of a few cases.
    pub(super) fn blemish(&mut self, start: Place, bytes: u64) -> (u64, u64) {
        match self.random.below(60) {
            0 => (start.plus(1 + self.random.below(PAGE - 1)).0, bytes),
            1 => (start.0, 0),
            2 => (start.0, self.random.pick(&[u64::MAX, 0_u64.wrapping_sub(PAGE)])),
            3 | 4 => (start.0, bytes.saturating_sub(1 + self.random.below(PAGE - 1)).max(1)),
            _ => (start.0, bytes),
        }
    }

    /// The start of a page in something that the process has mapped, towards its ends and table boundaries, and how many
    /// pages follow.
    pub(super) fn target(&mut self, who: u8) -> (Place, u64) {
        let maps = &self.procs[usize::from(who)].maps;
        if maps.is_empty() || self.random.chance(1, 24) {
            return (self.spot(), 1);
        }
        let known = maps[self.random.below(maps.len() as u64) as usize];
        let pages = (known.bytes / PAGE).max(1);
        let to_boundary = (TABLE - known.start.offset() % TABLE) / PAGE;
        let page = match self.random.below(8) {
            0 | 1 => 0,
            2 => pages - 1,
            3 => to_boundary,
            4 => to_boundary.saturating_sub(1),
            5 => pages / 2,
            _ => self.random.below(pages.min(64)),
        };
        let page = page.min(pages - 1);
        (known.start.plus(page * PAGE), pages - page)
    }
}
