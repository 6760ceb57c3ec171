//! Mappings and accesses.

use super::sizes::TABLE;
use super::{Generator, Known, Profile};
use crate::call::NONE;
use crate::place::{ARENA_BYTES, Base};
use crate::{Call, PAGE, Place, SLOTS};
use ptshare_abi::sys::general as abi;

const SHARED: u64 = abi::MAP_SHARED as u64;
const PRIVATE: u64 = abi::MAP_PRIVATE as u64;
const FIXED: u64 = abi::MAP_FIXED as u64;
const ANON: u64 = abi::MAP_ANONYMOUS as u64;
const NORESERVE: u64 = abi::MAP_NORESERVE as u64;
const POPULATE: u64 = abi::MAP_POPULATE as u64;
const NOREPLACE: u64 = abi::MAP_FIXED_NOREPLACE as u64;
const GROWSDOWN: u64 = abi::MAP_GROWSDOWN as u64;
const LOCKED: u64 = abi::MAP_LOCKED as u64;
const HUGETLB: u64 = abi::MAP_HUGETLB as u64;
const MAYMOVE: u64 = abi::MREMAP_MAYMOVE as u64;
const REMAP_FIXED: u64 = abi::MREMAP_FIXED as u64;
const DONTUNMAP: u64 = abi::MREMAP_DONTUNMAP as u64;
/// Populating more than this takes too long.
const POPULATE_MAX: u64 = 48 * PAGE;
const READ_WRITE: u64 = 3;

impl Generator {
    pub(super) fn mmap(&mut self, who: u8) {
        let mut bytes = self.pages() * PAGE;
        let mut prot = self.random.pick(&[3, 3, 3, 3, 3, 3, 3, 1, 1, 0, 5, 7]);
        let huge = self.profile == Profile::Huge && self.random.chance(3, 4);
        let mut flags = if self.random.chance(self.shared_share(), 10) { SHARED } else { PRIVATE };
        let mut fd = NONE;
        let mut offset = 0;
        let wants_file =
            matches!(self.profile, Profile::Files) && self.random.chance(3, 4) || self.random.chance(1, 6);
        match wants_file.then(|| self.some_fd(who)).flatten() {
            Some((slot, file)) => {
                fd = slot;
                let unit = if file.huge { TABLE } else { PAGE };
                bytes = bytes.next_multiple_of(unit).min(2048 * PAGE);
                offset = unit * self.random.pick(&[0, 0, 0, 0, 1, 2, 3, 16]);
            }
            None => {
                flags |= ANON;
                if huge {
                    flags |= HUGETLB;
                }
            }
        }
        // Random flags on top.
        match self.random.below(24) {
            0 => flags |= NORESERVE,
            1 | 2 if bytes <= POPULATE_MAX => flags |= POPULATE,
            3 if self.profile == Profile::Mixed => flags |= GROWSDOWN,
            4 if bytes <= POPULATE_MAX && self.profile == Profile::Advice => flags |= LOCKED,
            5 if self.profile == Profile::Mixed => flags ^= SHARED | PRIVATE,
            6 if self.profile == Profile::Mixed => flags &= !(SHARED | PRIVATE),
            _ => {}
        }
        let kernel_chooses = !huge && bytes < TABLE * 4 && self.random.chance(1, 12);
        let place = if kernel_chooses { None } else { Some(self.mapping_spot(who)) };
        let mut handle = NONE;
        let start = match place {
            None => {
                handle = self.random.below(SLOTS as u64);
                Place::handle(handle as usize, 0)
            }
            Some(place) => {
                flags |= match self.random.below(12) {
                    0 => NOREPLACE,
                    1 => {
                        handle = self.random.below(SLOTS as u64);
                        0
                    }
                    _ => FIXED,
                };
                place
            }
        };
        let (start, bytes) = self.clip(start, bytes);
        let (mut addr, len) = if place.is_some() { self.blemish(start, bytes) } else { (start.0, bytes) };
        if place.is_none() {
            addr = Place::NULL.0;
            prot |= READ_WRITE;
        }
        self.push(who, Call::Mmap, &[addr, len, prot, flags, fd, offset, handle]);
        let in_huge_file = fd != NONE && self.fd_is_huge(who, fd);
        self.know(who, start, bytes, huge && fd == NONE || in_huge_file);
    }

    /// Tenths of the mappings that are shared.
    fn shared_share(&self) -> u64 {
        match self.profile {
            Profile::Cow | Profile::Pieces | Profile::Wide => 1,
            Profile::Shared => 7,
            Profile::Files => 6,
            _ => 3,
        }
    }

    /// Where a new mapping goes: a spot, or the end of another, so that VMAs merge.
    fn mapping_spot(&mut self, who: u8) -> Place {
        let maps = &self.procs[usize::from(who)].maps;
        if !maps.is_empty() && self.random.chance(1, 4) {
            let known = maps[self.random.below(maps.len() as u64) as usize];
            let end = known.start.plus(known.bytes);
            if end.base() == Base::Arena && end.offset() < ARENA_BYTES {
                return end;
            }
        }
        self.spot()
    }

    /// Notes a mapping.
    pub(super) fn know(&mut self, who: u8, start: Place, bytes: u64, huge: bool) {
        let process = self.process(who);
        if let Base::Handle(handle) = start.base() {
            process.maps.retain(|known| known.start.base() != start.base());
            process.handles[handle] = Some(bytes);
        }
        process.maps.retain(|known| known.start != start);
        if process.maps.len() >= 12 {
            process.maps.remove(0);
        }
        process.maps.push(Known { start, bytes, huge });
    }

    /// A handle whose address is known, and its length.
    fn some_handle(&mut self, who: u8) -> Option<(Place, u64)> {
        let at = self.random.below(SLOTS as u64) as usize;
        self.procs[usize::from(who)].handles[at].map(|bytes| (Place::handle(at, 0), bytes))
    }

    pub(super) fn munmap(&mut self, who: u8) {
        if self.random.chance(1, 6)
            && let Some((place, bytes)) = self.some_handle(who)
        {
            self.push(who, Call::Munmap, &[place.0, bytes]);
            self.process(who).maps.retain(|known| known.start != place);
            if let Base::Handle(handle) = place.base() {
                self.process(who).handles[handle] = None;
            }
            return;
        }
        let (start, bytes) = self.arena_range(who);
        let (addr, len) = self.blemish(start, bytes);
        self.push(who, Call::Munmap, &[addr, len]);
        // Most of what is left of it stays known: accesses to holes are wanted, but not too many.
        self.process(who).maps.retain(|known| known.start != start || known.bytes > bytes);
    }

    /// As `range`, in the arena.
    fn arena_range(&mut self, who: u8) -> (Place, u64) {
        let (start, bytes) = self.range(who);
        if start.base() == Base::Arena {
            return (start, bytes);
        }
        let (spot, pages) = (self.spot(), self.pages());
        self.clip(spot, pages * PAGE)
    }

    pub(super) fn mprotect(&mut self, who: u8) {
        let (start, bytes) = self.range(who);
        let prot = self.random.pick(&[0, 1, 1, 1, 3, 3, 3, 3, 5, 7]);
        let (addr, len) = self.blemish(start, bytes);
        self.push(who, Call::Mprotect, &[addr, len, prot]);
    }

    pub(super) fn mremap(&mut self, who: u8) {
        let (old, old_bytes) = self.range(who);
        if let Base::Handle(_) = old.base() {
            return self.move_handle(who, old.at(0));
        }
        let (addr, old_len) = self.blemish(old, old_bytes);
        let new_bytes = match self.random.below(8) {
            0 => old_bytes.div_ceil(2).next_multiple_of(PAGE),
            1 => old_bytes + PAGE * self.random.pick(&[1, 2, 16, 512]),
            2 => self.pages() * PAGE,
            _ => old_bytes,
        };
        let (old_len, new_bytes) =
            if self.random.chance(1, 24) { (0, old_bytes) } else { (old_len, new_bytes) };
        let flags = match self.random.below(16) {
            0 => 0,
            1 => MAYMOVE,
            2 => REMAP_FIXED,
            3 => MAYMOVE | DONTUNMAP,
            4 | 5 => MAYMOVE | REMAP_FIXED | DONTUNMAP,
            _ => MAYMOVE | REMAP_FIXED,
        };
        let new_bytes = if flags & DONTUNMAP != 0 && self.random.chance(7, 8) { old_len } else { new_bytes };
        let spot = self.mapping_spot(who);
        let (new, new_len) = self.clip(spot, new_bytes);
        let target = if flags & (REMAP_FIXED | DONTUNMAP) != 0 { new } else { Place::NULL };
        let handle = self.random.below(SLOTS as u64);
        self.push(who, Call::Mremap, &[addr, old_len, new_len, flags, target.0, handle]);
        let huge = self.procs[usize::from(who)].maps.iter().any(|k| k.start == old && k.huge);
        match flags & REMAP_FIXED {
            0 if flags & MAYMOVE != 0 => self.know(who, Place::handle(handle as usize, 0), new_len, huge),
            0 => {}
            _ => self.know(who, new, new_len, huge),
        }
    }

    fn move_handle(&mut self, who: u8, old: Place) {
        let Base::Handle(from) = old.base() else { return };
        let Some(bytes) = self.procs[usize::from(who)].handles[from] else { return };
        let grown = self.random.pick(&[bytes, bytes + PAGE, bytes.div_ceil(2).next_multiple_of(PAGE)]);
        self.process(who).maps.retain(|known| known.start != old);
        self.process(who).handles[from] = None;
        if self.random.chance(2, 3) {
            let spot = self.spot();
            let (new, len) = self.clip(spot, grown);
            self.push(who, Call::Mremap, &[old.0, bytes, len, MAYMOVE | REMAP_FIXED, new.0, NONE]);
            self.know(who, new, len, false);
        } else {
            let handle = self.random.below(SLOTS as u64);
            self.push(who, Call::Mremap, &[old.0, bytes, grown, MAYMOVE, Place::NULL.0, handle]);
            self.know(who, Place::handle(handle as usize, 0), grown, false);
        }
    }

    pub(super) fn madvise(&mut self, who: u8) {
        let (start, bytes) = self.range(who);
        const DISCARD: u64 = abi::MADV_DONTNEED as u64;
        const POPULATES: [u64; 2] = [abi::MADV_POPULATE_READ as u64, abi::MADV_POPULATE_WRITE as u64];
        let advice = match self.random.below(20) {
            0..=5 => DISCARD,
            6 => abi::MADV_FREE.into(),
            7 | 8 => abi::MADV_REMOVE.into(),
            9 => abi::MADV_DONTFORK.into(),
            10 => abi::MADV_DOFORK.into(),
            11 => abi::MADV_WIPEONFORK.into(),
            12 => abi::MADV_KEEPONFORK.into(),
            13 => POPULATES[0],
            14 | 15 => POPULATES[1],
            16 => abi::MADV_DONTNEED_LOCKED.into(),
            17 => abi::MADV_WILLNEED.into(),
            _ => self.random.pick(&[
                u64::from(abi::MADV_NORMAL),
                abi::MADV_RANDOM.into(),
                abi::MADV_SEQUENTIAL.into(),
                abi::MADV_COLD.into(),
                abi::MADV_PAGEOUT.into(),
                abi::MADV_DONTDUMP.into(),
                abi::MADV_DODUMP.into(),
                abi::MADV_MERGEABLE.into(),
                abi::MADV_UNMERGEABLE.into(),
                abi::MADV_NOHUGEPAGE.into(),
                77,
            ]),
        };
        let bytes = if POPULATES.contains(&advice) { bytes.min(POPULATE_MAX) } else { bytes };
        let (addr, len) = self.blemish(start, bytes);
        self.push(who, Call::Madvise, &[addr, len, advice]);
    }

    pub(super) fn lock(&mut self, who: u8) {
        let (start, bytes) = self.range(who);
        let (addr, len) = self.blemish(start, bytes.min(16 * PAGE));
        match self.random.below(12) {
            0..=3 => self.push(who, Call::Mlock, &[addr, len]),
            4..=5 => {
                let flags = self.random.pick(&[1, 1, 1, 0, 2]);
                self.push(who, Call::Mlock2, &[addr, len, flags]);
            }
            6..=9 => self.push(who, Call::Munlock, &[addr, len]),
            10 => self.push(who, Call::Mlockall, &[(abi::MCL_FUTURE | abi::MCL_ONFAULT).into()]),
            _ => self.push(who, Call::Munlockall, &[]),
        }
    }

    pub(super) fn brk(&mut self, who: u8) {
        let bytes = match self.random.below(4) {
            0 => 0,
            1 => self.random.below(20 * PAGE),
            2 => self.pages().min(1025) * PAGE,
            _ => PAGE * self.random.below(8),
        };
        self.push(who, Call::Brk, &[bytes]);
        if bytes > 0 {
            self.know(who, Place::heap(0), bytes, false);
        }
    }

    pub(super) fn touch(&mut self, who: u8) {
        let (place, pages) = self.target(who);
        let inside = match self.random.below(4) {
            0 => 8 * self.random.below(512),
            1 => PAGE - 8,
            _ => 0,
        };
        let value = self.fresh();
        match self.random.below(16) {
            0..=5 => self.push(who, Call::Store, &[place.plus(inside).0, value]),
            6..=9 => self.push(who, Call::Load, &[place.plus(inside).0]),
            10..=12 => {
                let few = self.few();
                let count = few.min(pages + self.random.below(2));
                self.push(who, Call::Fill, &[place.0, count.max(1), value]);
            }
            13 | 14 => {
                let count = self.few().min(pages + 1);
                self.push(who, Call::Sum, &[place.0, count]);
            }
            _ => {
                self.push(who, Call::Store, &[place.0, 0xc3]);
                self.push(who, Call::Exec, &[place.0]);
            }
        }
    }

    /// mincore, msync, pipes.
    pub(super) fn look(&mut self, who: u8) {
        let (start, bytes) = self.range(who);
        let (addr, len) = self.blemish(start, bytes.min(48 * PAGE));
        match self.random.below(8) {
            0..=3 => self.push(who, Call::Mincore, &[addr, len]),
            4 => {
                let flags = self.random.pick(&[4, 4, 1, 2, 6, 5, 8]);
                self.push(who, Call::Msync, &[addr, len, flags]);
            }
            5 => self.push(who, Call::Maps, &[]),
            how => {
                let call = if how == 6 { Call::PipeOut } else { Call::PipeIn };
                let bytes = self.random.pick(&[8, 100, 2000, PAGE]);
                let inside = 8 * self.random.below((PAGE - bytes) / 8 + 1);
                self.push(who, call, &[start.plus(inside).0, bytes]);
            }
        }
    }
}
