//! Descriptors, files and segments.

use super::sizes::TABLE;
use super::{Descriptor, Generator, Profile};
use crate::call::NONE;
use crate::place::Base;
use crate::{Call, PAGE, Place, SLOTS};
use ptshare_abi::sys::general as abi;

impl Generator {
    /// A descriptor that the process has.
    pub(super) fn some_fd(&mut self, who: u8) -> Option<(u64, Descriptor)> {
        if !self.procs[usize::from(who)].fds.iter().any(Option::is_some) {
            self.open(who);
        }
        let start = self.random.below(SLOTS as u64) as usize;
        let fds = &self.procs[usize::from(who)].fds;
        (0..SLOTS).map(|n| (start + n) % SLOTS).find_map(|slot| Some((slot as u64, fds[slot]?)))
    }

    pub(super) fn fd_is_huge(&self, who: u8, slot: u64) -> bool {
        self.procs[usize::from(who)].fds.get(slot as usize).is_some_and(|fd| fd.is_some_and(|fd| fd.huge))
    }

    /// A new descriptor, of a file in memory or of one of the trace's files, with a first length.
    fn open(&mut self, who: u8) {
        let slot = self.random.below(SLOTS as u64);
        let huge = self.profile == Profile::Huge && self.random.chance(1, 2);
        if self.random.chance(1, 2) || huge {
            let flags = if huge { abi::MFD_HUGETLB.into() } else { self.random.pick(&[0, 1, 2]) };
            self.push(who, Call::Memfd, &[slot, flags]);
        } else {
            let file = self.random.below(3);
            let mode = self.random.pick(&[2, 2, 2, 2, 0, 1]);
            self.push(who, Call::Open, &[slot, file, mode]);
        }
        let bytes = if huge { TABLE * (1 + self.random.below(3)) } else { self.file_bytes() };
        self.process(who).fds[slot as usize] = Some(Descriptor { bytes, huge });
        if self.random.chance(7, 8) {
            self.push(who, Call::Ftruncate, &[slot, bytes]);
        }
    }

    fn file_bytes(&mut self) -> u64 {
        let pages = self.random.pick(&[1, 2, 3, 4, 8, 16, 17, 64, 512, 513, 1024]);
        let rest = self.random.pick(&[0, 0, 0, 1, 8, 2048, 4095]);
        pages * PAGE - rest
    }

    /// An offset in a file, towards its start and its end.
    fn file_offset(&mut self, bytes: u64) -> u64 {
        let page = self.random.below(bytes.div_ceil(PAGE).clamp(1, 40)) * PAGE;
        match self.random.below(6) {
            0 => 0,
            1 => bytes.saturating_sub(PAGE),
            2 => bytes,
            3 => page + 8 * self.random.below(512),
            _ => page,
        }
    }

    pub(super) fn file(&mut self, who: u8) {
        let Some((slot, fd)) = self.some_fd(who) else { return self.open(who) };
        let unit = if fd.huge { TABLE } else { PAGE };
        let value = self.fresh();
        let offset = self.file_offset(fd.bytes);
        match self.random.below(22) {
            0 | 1 => self.open(who),
            2..=5 => {
                let bytes = match (fd.huge, self.random.below(3)) {
                    (true, _) => TABLE * self.random.below(4),
                    (_, 0) => self.random.below(fd.bytes + 1),
                    (_, 1) => fd.bytes / 2 / PAGE * PAGE,
                    _ => self.file_bytes(),
                };
                self.push(who, Call::Ftruncate, &[slot, bytes]);
                self.process(who).fds[slot as usize] = Some(Descriptor { bytes, ..fd });
            }
            6..=9 => {
                let mode = self.random.pick(&[3, 3, 3, 3, 3, 0, 1, 16, 17, 2]);
                let units = self.random.pick(&[1, 1, 2, 3, 8, 16]);
                let len =
                    if mode & 2 == 2 { unit * units * self.random.pick(&[1, 64]) } else { unit * units };
                let (offset, len) = match self.random.below(4) {
                    0 if !fd.huge => (offset + 100, len),
                    1 if !fd.huge => (offset, len - 100),
                    _ => (offset / unit * unit, len),
                };
                self.push(who, Call::Fallocate, &[slot, mode, offset, len]);
            }
            10..=12 if !fd.huge => {
                let len = self.random.pick(&[8, 100, PAGE, PAGE + 8, 3 * PAGE]);
                self.push(who, Call::Pwrite, &[slot, offset, len, value]);
            }
            13..=15 => {
                let len = self.random.pick(&[8, 100, PAGE, 4 * PAGE]);
                self.push(who, Call::Pread, &[slot, offset, len]);
            }
            16 if !fd.huge => self.transfer(who, Call::PwriteFrom, slot, offset),
            17 => self.transfer(who, Call::PreadInto, slot, offset),
            18 => {
                let whence = self.random.pick(&[0, 2, 3, 3, 3, 4, 4, 4]);
                self.push(who, Call::Seek, &[slot, offset, whence]);
            }
            19 => self.push(who, Call::Fstat, &[slot]),
            20 => {
                self.push(who, Call::Close, &[slot]);
                self.process(who).fds[slot as usize] = None;
            }
            _ => self.mmap(who),
        }
    }

    fn transfer(&mut self, who: u8, call: Call, slot: u64, offset: u64) {
        let (place, _) = self.target(who);
        let place = place.plus(self.random.pick(&[0, 0, 8, PAGE - 8]));
        let len = self.random.pick(&[8, 100, PAGE, PAGE + 8, 3 * PAGE]);
        self.push(who, call, &[slot, place.0, len, offset]);
    }

    pub(super) fn segment(&mut self, who: u8) {
        let has = self.procs[usize::from(who)].segments.iter().position(Option::is_some);
        let Some(first) = has else { return self.shmget(who) };
        let start = self.random.below(SLOTS as u64) as usize;
        let segments = &self.procs[usize::from(who)].segments;
        let slot = (0..SLOTS).map(|n| (start + n) % SLOTS).find(|&s| segments[s].is_some()).unwrap_or(first);
        let bytes = segments[slot].unwrap_or(PAGE);
        match self.random.below(12) {
            0 | 1 => self.shmget(who),
            2..=6 => self.shmat(who, slot as u64, bytes),
            7 | 8 => {
                let (place, _) = self.target(who);
                self.push(who, Call::Shmdt, &[place.0]);
                if let Base::Handle(handle) = place.base() {
                    self.process(who).handles[handle] = None;
                }
                self.process(who).maps.retain(|known| known.start != place);
            }
            9 | 10 => {
                self.push(who, Call::Shmrm, &[slot as u64]);
                if self.random.chance(3, 4) {
                    self.process(who).segments[slot] = None;
                }
            }
            _ => self.push(who, Call::Shmstat, &[slot as u64]),
        }
    }

    fn shmget(&mut self, who: u8) {
        let slot = self.random.below(SLOTS as u64);
        let huge = self.profile == Profile::Huge && self.random.chance(1, 2);
        let (bytes, flags) = match huge {
            true => (TABLE * (1 + self.random.below(2)), 0o4000),
            false => (self.file_bytes(), self.random.pick(&[0, 0, 0, 0o10000])),
        };
        self.push(who, Call::Shmget, &[slot, bytes, flags]);
        self.process(who).segments[slot as usize] = Some(bytes);
        self.shmat(who, slot, bytes);
    }

    fn shmat(&mut self, who: u8, slot: u64, bytes: u64) {
        let huge = self.profile == Profile::Huge;
        if self.random.chance(1, 6) {
            let handle = self.random.below(SLOTS as u64);
            self.push(who, Call::Shmat, &[slot, Place::NULL.0, 0, handle]);
            return self.know(who, Place::handle(handle as usize, 0), bytes.next_multiple_of(PAGE), huge);
        }
        let mut place = self.spot();
        // SHM_RDONLY, SHM_RND, SHM_REMAP, SHM_EXEC.
        let flags = self.random.pick(&[0, 0, 0o40000, 0o40000, 0o40000, 0o50000, 0o60000, 0o10000, 0o100000]);
        if flags & 0o20000 != 0 {
            place = place.plus(self.random.below(PAGE));
        }
        self.push(who, Call::Shmat, &[slot, place.0, flags, NONE]);
        self.know(who, place.page(), bytes.next_multiple_of(PAGE), huge);
    }
}
